"""Amazon RDS refuses an instance of the project's own, or what operators allow changes.

The instance is moto's. Each of these jobs ends before anything logs in to its server.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from moto.rds.models import rds_backends
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.runtime import aws
from support.changes import plainly_provisioned
from support.dedicated import allow, answered, new_job, parameter, refused, told
from support.places import CLEANUP
from support.rds import make_subnet_group
from support.undoing import assert_nothing_is_left, cleanup_of, repeated_to_its_end, unremoved
from support.workflow import ACCOUNT, REGION, Fault, Point, Workflow

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
    assert (cleanup.status, cleanup.remaining, unremoved(cleanup)) == (
        api.JobStatus.COMPLETED,
        (),
        [],
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


def disallow() -> None:
    aws.client("ssm").delete_parameter(Name=parameter())


def write_nonsense() -> None:
    aws.client("ssm").put_parameter(Name=parameter(), Type="String", Value="{", Overwrite=True)


@pytest.mark.fault(
    "the operator's parameter changed between two stages", where=f"provision_project/{CREATING}"
)
def test_what_is_allowed_changes_before_it_is_settled(workflow: Workflow, rds: Any) -> None:
    for change, error_type, sentence in (
        (lambda: allow(sizes=["db.m7g.large"]), ErrorType.INVALID_PAYLOAD, "one of db.m7g.large."),
        (disallow, ErrorType.INVALID_PAYLOAD, "no sizes are allowed"),
        (write_nonsense, ErrorType.DATABASE_CREATION_FAILED, f"SSM parameter {parameter()},"),
    ):
        allow()
        before(workflow, CREATING, change)
        job = workflow.execute(new_job(workflow))
        assert job.error is not None
        assert (job.error.stage, job.error.type) == (CREATING, error_type)
        assert sentence in job.error.message
        assert_gone(workflow, rds, job)


def before(workflow: Workflow, stage: str, act: Callable[[], object]) -> None:
    """Let something happen before a stage of the next job."""

    def observe(_job: JobInput, running: str) -> None:
        if running == stage:
            act()

    workflow.observers[:] = [observe]


@pytest.mark.fault(
    "the operator's parameter changed between two stages",
    where=[
        f"{'provision_project'}/{provision_project.CREATING_DATABASE}",
        f"{'provision_project'}/{provision_project.CREATING_SCHEMA}",
        f"{CLEANUP}/{clean_up_project.REMOVING_DATABASE}",
    ],
)
def test_the_description_of_a_shared_cluster_changes(workflow: Workflow) -> None:
    ssm = aws.client("ssm")
    name = f"/test/clusters/{REGION}/postgresql/test-1"
    described = ssm.get_parameter(Name=name)["Parameter"]["Value"]

    def describe(value: str) -> None:
        ssm.put_parameter(Name=name, Type="String", Value=value, Overwrite=True)

    def forget() -> None:
        # It is gone already where a stage is tried again.
        with suppress(ssm.exceptions.ParameterNotFound):
            ssm.delete_parameter(Name=name)

    def fails(stage: str, act: Callable[[], object]) -> tuple[api.Job, api.StoredError]:
        before(workflow, stage, act)
        job = workflow.execute(new_job(workflow, database={}))
        assert job.error is not None
        assert job.error.stage == stage
        return job, job.error

    job, error = fails(provision_project.CREATING_DATABASE, lambda: describe("{"))
    assert error.type is ErrorType.DATABASE_CREATION_FAILED
    assert f"SSM parameter {name}," in error.message
    assert_nothing_is_left(workflow, job.project_id)

    # What has its place is not moved; it is removed once its cluster is known again. A stage that
    # is tried again reads what there is.
    describe(described)
    workflow.faults[provision_project.CREATING_SCHEMA] = Fault(Point.BEFORE)
    job, error = fails(provision_project.CREATING_SCHEMA, forget)
    assert "is not described any more" in error.message
    cleanup = cleanup_of(job)
    assert cleanup.error is not None
    assert (cleanup.error.stage, cleanup.other_errors) == (clean_up_project.REMOVING_DATABASE, ())
    describe(described)
    assert repeated_to_its_end(workflow, job, 2).status is api.JobStatus.COMPLETED
    assert_nothing_is_left(workflow, job.project_id)

    # The first run goes by what its function has just read.
    before(workflow, provision_project.CREATING_SCHEMA, forget)
    job = workflow.execute(new_job(workflow, database={}))
    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)


#: The later stages that read it, in an order in which one project meets them all.
_READING = (
    "rotate_database_password/ROTATING_DATABASE_PASSWORD",
    "repair_project/REPAIRING_DATABASE",
    "repair_project/REPAIRING_SCHEMA",
    "deprovision_project/CHECKING_DATA",
    "deprovision_project/TAKING_SNAPSHOT",
    "deprovision_project/REMOVING_DATABASE",
)


@pytest.mark.fault("the operator's parameter changed between two stages", where=_READING)
def test_the_description_of_a_project_s_cluster_goes(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    was, login = api.get_project(project_id), workflow.login(project_id)
    ssm = aws.client("ssm")
    name = f"/test/clusters/{REGION}/postgresql/test-1"
    described = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    for place in _READING:
        job_type, _, stage = place.partition("/")
        before(workflow, stage, lambda: ssm.delete_parameter(Name=name))
        if job_type == "deprovision_project":
            job = workflow.execute_in_process(workflow.new_deprovision_job(project_id))
        else:
            job = workflow.execute_in_process(workflow.new_change(job_type, project_id))
        assert job.error is not None, place
        assert job.error.stage == stage
        assert "is not described any more" in job.error.message, place
        ssm.put_parameter(Name=name, Type="String", Value=described)
        if place != _READING[-1]:
            assert (api.get_project(project_id), workflow.login(project_id)) == (was, login), place
    workflow.observers.clear()
    job = workflow.execute_in_process(workflow.new_deprovision_job(project_id))
    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    assert_nothing_is_left(workflow, project_id)
