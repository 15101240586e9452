"""A job with hostile metadata is a job like any: nothing reads what it carries."""

from __future__ import annotations

import json
from typing import Any

from provisioner.jobs.models import JobStatus
from support import hostile
from support.workflow import SHARED_STAGES, Workflow


def test_metadata_reaches_every_stage_as_it_is_and_changes_nothing(workflow: Workflow) -> None:
    carried: list[Any] = []
    workflow.observers.append(lambda job, _stage: carried.append(job.payload["metadata"]))
    project_id = workflow.new_project()

    with workflow.logged() as log:
        job = workflow.execute(workflow.new_job(project_id, metadata=hostile.METADATA))

    assert job.status is JobStatus.COMPLETED
    assert job.payload["metadata"] == hostile.METADATA
    assert len(carried) == len(SHARED_STAGES)
    assert all(metadata == hostile.METADATA for metadata in carried)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert {line["project_id"] for line in lines} == {project_id}
    assert "forged" not in log.getvalue()
    assert workflow.snapshot(job) == workflow.reference()
