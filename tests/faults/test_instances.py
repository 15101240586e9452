"""Faults of an instance of the project's own: Amazon RDS refuses it, or somebody is in its way.

The instance is moto's. Each of these jobs ends before anything logs in to a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from moto.rds.models import rds_backends
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types import provision_project
from support.dedicated import allow, answered, new_job, refused, told
from support.rds import make_subnet_group
from support.undoing import assert_nothing_is_left, cleanup_of
from support.workflow import ACCOUNT, REGION, Workflow

CREATING = provision_project.CREATING_INSTANCE


@pytest.fixture
def rds(workflow: Workflow) -> Any:
    """Return moto's RDS, in which a subnet group stands."""
    del workflow
    allow()
    make_subnet_group()
    return rds_backends[ACCOUNT][REGION]


def assert_gone(workflow: Workflow, rds: Any, job: api.Job) -> None:
    """See that a job has left neither an instance nor anything else of its project."""
    assert rds.databases == {}
    cleanup = cleanup_of(job)
    assert (cleanup.status, cleanup.left_over, cleanup.unremoved) == (
        api.CleanupStatus.DONE,
        (),
        (),
    )
    assert_nothing_is_left(workflow, job.project_id)
    assert api.get_project(job.project_id).instance is None


@dataclass(frozen=True)
class Refusal:
    """How RDS refuses, and what the job fails with."""

    code: str
    error_type: ErrorType
    attempts: int


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Refusal("InstanceQuotaExceeded", ErrorType.QUOTA_EXCEEDED, 1),
            id="quota",
            marks=pytest.mark.fault(
                "Amazon RDS refuses by a quota", where=f"provision_project/{CREATING}"
            ),
        ),
        pytest.param(
            Refusal("InsufficientDBInstanceCapacity", ErrorType.NETWORK_ERROR, 3),
            id="capacity",
            marks=pytest.mark.fault(
                "Amazon RDS has no capacity", where=f"provision_project/{CREATING}", lasting=True
            ),
        ),
    ],
)
def test_rds_refuses_an_instance(workflow: Workflow, rds: Any, refusal: Refusal) -> None:
    with answered(refused(refusal.code), "CreateDBInstance"):
        job = workflow.execute(new_job(workflow))
    assert job.error is not None
    assert (job.error.stage, job.error.type, job.error.attempt) == (
        CREATING,
        refusal.error_type,
        refusal.attempts,
    )
    assert refusal.code in job.error.cause
    assert_gone(workflow, rds, job)


@pytest.mark.fault("cancel at every stage", where=f"provision_project/{CREATING}")
@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_job_is_cancelled_while_it_waits(workflow: Workflow, rds: Any, looks: int) -> None:
    job = new_job(workflow)
    seen: list[str] = []

    def cancel(running: JobInput, stage: str) -> None:
        if running.job_id == job.job_id and stage == CREATING:
            seen.append(stage)
            if len(seen) == looks:
                api.cancel_job(job.job_id)

    workflow.observers.append(cancel)
    # It is RDS's word while the clean-up looks, too.
    with answered(told(*["creating"] * 4), "CreateDBInstance", "DescribeDBInstances"):
        ended = workflow.execute(job)
    assert ended.status is api.JobStatus.CANCELLED
    assert len(seen) == looks
    assert_gone(workflow, rds, ended)


@pytest.mark.fault(
    "the operator's parameter changed between two stages", where=f"provision_project/{CREATING}"
)
def test_what_is_allowed_changes_before_the_instance_is_made(workflow: Workflow, rds: Any) -> None:
    def change(_job: JobInput, stage: str) -> None:
        if stage == CREATING:
            allow(sizes=["db.m7g.large"])

    workflow.observers.append(change)
    job = workflow.execute(new_job(workflow))
    assert job.error is not None
    assert (job.error.stage, job.error.type) == (CREATING, ErrorType.INVALID_PAYLOAD)
    assert "db.m7g.large" in job.error.message
    assert_gone(workflow, rds, job)
