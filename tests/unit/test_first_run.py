"""What a provision_project job can have made, by what is recorded of its stages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from provisioner.jobs.models import StageClosed, StageRecord, StageStatus
from provisioner.provisioning.first_run import IS_ONLY, known_ids
from provisioner.provisioning.job_types.provision_project import REGISTERING_AUTH

ONLY = StageRecord(
    REGISTERING_AUTH,
    StageStatus.SUCCEEDED,
    attempt=1,
    output={"tenant_id": "pool", IS_ONLY: True},
)
CLOSED = StageRecord(REGISTERING_AUTH, closed=StageClosed.JOB_CANCELLED)


@pytest.mark.parametrize(
    ("record", "known"),
    [
        (ONLY, {"auth": "pool"}),
        (replace(ONLY, output={"tenant_id": "pool", IS_ONLY: False}), {}),
        (replace(ONLY, superseded_until=datetime(2026, 11, 28, tzinfo=UTC)), {}),
        (replace(ONLY, status=StageStatus.FAILED), {}),
        (replace(ONLY, status=StageStatus.RUNNING), {}),
        (replace(ONLY, status=StageStatus.SKIPPED, output={}), {"auth": ""}),
        (CLOSED, {"auth": ""}),
        (replace(CLOSED, closed=None), {}),
        (replace(CLOSED, attempt=1), {}),
        # What the stage made in an attempt of the job before this one is in no record any more.
        (replace(CLOSED, job_attempt=2), {}),
    ],
)
def test_an_id_is_known_where_no_other_run_can_have_made_anything(
    record: StageRecord, known: dict[str, Any]
) -> None:
    assert known_ids([record]) == known


def test_nothing_is_known_of_a_job_without_stages() -> None:
    assert known_ids([]) == {}
