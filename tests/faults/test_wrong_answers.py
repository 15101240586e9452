"""Answers that are wrong and can be read: no job completes by them, nobody's things are touched."""

from __future__ import annotations

from typing import Any

import pytest
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.provisioning.job_types import JOB_TYPES
from support.calls import (
    SQL,
    Act,
    At,
    Within,
    changed,
    emptied,
    empty,
    first_call,
    operation,
    row,
)
from support.changes import check_changed, logs_in, new_change, plainly_provisioned
from support.places import CHANGES, CLEANUP, STAGES, places
from support.removal import end_of, provisioned
from support.tenant_server import on_mysql
from support.undoing import (
    OWNER,
    assert_nothing_is_left,
    assert_undone,
    cleanup_of,
    fail,
    repeated_to_its_end,
)
from support.workflow import NO_SERVICES, Fault, Workflow

#: What the platform's login is read from, and holds no login.
_NO_JSON = (
    operation("GetSecretValue", "clusters"),
    changed(lambda _: {"SecretString": "correct horse"}),
)
_NO_PASSWORD = (
    operation("GetSecretValue", "clusters"),
    changed(lambda _: {"SecretString": '{"username": "provisioner"}'}),
)


def _untagged(answer: Any) -> Any:
    return {"UserPool": answer["UserPool"] | {"UserPoolTags": {}}}


_PROVISION = f"{'provision_project'}/"
_DEPROVISION = f"{'deprovision_project'}/"

#: Wrong answers of stages that can meet them in one job, and what the stage fails with.
type Wrong = dict[str, tuple[At, Act, ErrorType]]

PROVISIONING: dict[str, Wrong] = {
    "empty": {
        f"{_PROVISION}CREATING_DATABASE": (
            operation("CreateSecret"),
            emptied,
            ErrorType.DATABASE_CREATION_FAILED,
        ),
        f"{_PROVISION}REGISTERING_AUTH": (
            first_call,
            empty,
            ErrorType.SERVICE_REGISTRATION_FAILED,
        ),
        f"{_PROVISION}REGISTERING_REALTIME": (
            first_call,
            empty,
            ErrorType.SERVICE_REGISTRATION_FAILED,
        ),
        f"{_PROVISION}REGISTERING_STORAGE": (
            first_call,
            empty,
            ErrorType.SERVICE_REGISTRATION_FAILED,
        ),
        f"{_PROVISION}GENERATING_API_KEYS": (
            first_call,
            empty,
            ErrorType.API_KEY_GENERATION_FAILED,
        ),
    },
    "unrelated": {
        # A pooler leads to another database.
        f"{_PROVISION}CREATING_DATABASE": (
            operation(SQL, "SELECT pg_catalog.current_database(), SESSION_USER"),
            row("postgres", "someone"),
            ErrorType.DATABASE_CREATION_FAILED,
        ),
        # What was just made is told of without its marker: it may be someone else's.
        f"{_PROVISION}REGISTERING_AUTH": (
            operation("DescribeUserPool"),
            changed(_untagged),
            ErrorType.CONFLICT,
        ),
        f"{_PROVISION}REGISTERING_REALTIME": (
            operation("GetApi"),
            changed(lambda _: {"api": {}}),
            ErrorType.SERVICE_REGISTRATION_FAILED,
        ),
        f"{_PROVISION}REGISTERING_STORAGE": (
            operation("GetBucketTagging"),
            changed(lambda _: {"TagSet": [{"Key": "owner", "Value": "someone"}]}),
            ErrorType.CONFLICT,
        ),
        f"{_PROVISION}GENERATING_API_KEYS": (
            operation("CreateSecret"),
            emptied,
            ErrorType.API_KEY_GENERATION_FAILED,
        ),
    },
    # The operator describes clusters, and AWS tells of none.
    "no_clusters": {
        f"{_PROVISION}CREATING_DATABASE": (
            operation("GetParametersByPath"),
            empty,
            ErrorType.DATABASE_CREATION_FAILED,
        )
    },
    "no_login": {f"{_PROVISION}CREATING_DATABASE": (*_NO_JSON, ErrorType.DATABASE_CREATION_FAILED)},
    "no_project": {f"{_PROVISION}INITIALIZING": (first_call, empty, ErrorType.PROJECT_NOT_FOUND)},
    "another_version": {
        f"{_PROVISION}CREATING_SCHEMA": (
            operation(SQL, "SELECT pg_catalog.max(version) FROM"),
            row(99),
            ErrorType.SCHEMA_CREATION_FAILED,
        )
    },
    "no_stages": {f"{_PROVISION}FINALIZING": (first_call, empty, ErrorType.UNKNOWN_ERROR)},
}

REMOVING: Wrong = {
    "REMOVING_API_KEYS": (operation("DescribeSecret"), empty, ErrorType.REMOVAL_FAILED),
    "REMOVING_STORAGE": (operation("GetBucketTagging"), empty, ErrorType.REMOVAL_FAILED),
    "REMOVING_REALTIME": (operation("GetApi"), empty, ErrorType.REMOVAL_FAILED),
    "REMOVING_AUTH": (operation("DescribeUserPool"), empty, ErrorType.REMOVAL_FAILED),
    "REMOVING_DATABASE": (*_NO_PASSWORD, ErrorType.REMOVAL_FAILED),
}

#: Of the clean-up, by its attempts: stages of which one comes after the other fail one at a time.
#: It has to ask whether there is an instance; nobody knows whose item that is.
_NO_ITEM = changed(lambda _: {"Item": {}})
CLEANING_UP: tuple[Wrong, ...] = (
    REMOVING,
    {"INITIALIZING": (operation("GetItem"), _NO_ITEM, ErrorType.NETWORK_ERROR)},
    {"REMOVING_INSTANCE": (first_call, _NO_ITEM, ErrorType.NETWORK_ERROR)},
    {"FINALIZING": (first_call, empty, ErrorType.UNKNOWN_ERROR)},
)

DEPROVISIONING: Wrong = {
    "INITIALIZING": (first_call, empty, ErrorType.PROJECT_NOT_FOUND),
    "CHECKING_SERVICES": (operation("GetBucketTagging"), empty, ErrorType.REMOVAL_FAILED),
    "CHECKING_DATA": (*_NO_JSON, ErrorType.REMOVAL_FAILED),
    "TAKING_SNAPSHOT": (*_NO_JSON, ErrorType.SNAPSHOT_FAILED),
    **REMOVING,
    "FINALIZING": (first_call, empty, ErrorType.UNKNOWN_ERROR),
}

#: Of the stages of the job types that change a project, by name or by place. One that is not told
#: of is to fail, by whatever error, where its first answer is empty.
CHANGING: Wrong = {
    "ROTATING_API_KEYS": (
        operation("DescribeSecret"),
        empty,
        ErrorType.API_KEY_GENERATION_FAILED,
    ),
    "REVOKING_API_KEY": (first_call, empty, ErrorType.API_KEY_GENERATION_FAILED),
    # The role is not there, says the server.
    "ROTATING_DATABASE_PASSWORD": (
        operation(SQL, "FROM pg_catalog.pg_roles"),
        empty,
        ErrorType.DATABASE_CHANGE_FAILED,
    ),
    "REPAIRING_DATABASE": (
        operation(SQL, "FROM pg_catalog.pg_roles"),
        empty,
        ErrorType.DATABASE_CHANGE_FAILED,
    ),
    "REPAIRING_SCHEMA": (
        operation(SQL, "FROM pg_catalog.pg_roles AS owner_role"),
        empty,
        ErrorType.SCHEMA_CREATION_FAILED,
    ),
    "REPAIRING_AUTH": (first_call, empty, ErrorType.PROJECT_NOT_FOUND),
    "REPAIRING_REALTIME": (first_call, empty, ErrorType.PROJECT_NOT_FOUND),
    "REPAIRING_STORAGE": (first_call, empty, ErrorType.PROJECT_NOT_FOUND),
    "INITIALIZING": (first_call, empty, ErrorType.PROJECT_NOT_FOUND),
    "FINALIZING": (first_call, empty, ErrorType.UNKNOWN_ERROR),
}

#: The same as for PostgreSQL, by place.
ON_MYSQL: Wrong = {
    # A proxy leads to another database.
    f"{_PROVISION}CREATING_DATABASE": (
        operation(SQL, "SELECT DATABASE(), CURRENT_USER()"),
        row("other", "someone@%", "10.11"),
        ErrorType.DATABASE_CREATION_FAILED,
    ),
    f"{_PROVISION}CREATING_SCHEMA": (
        operation(SQL, "SELECT DATABASE()"),
        row("other"),
        ErrorType.SCHEMA_CREATION_FAILED,
    ),
    # The user is not there, says the server.
    **{
        place: (
            operation(SQL, "SELECT Host FROM mysql.user"),
            empty,
            ErrorType.DATABASE_CHANGE_FAILED,
        )
        for place in (
            "repair_project/REPAIRING_DATABASE",
            "repair_project/REPAIRING_SCHEMA",
            "rotate_database_password/ROTATING_DATABASE_PASSWORD",
        )
    },
}


def answer_wrongly(workflow: Workflow, wrong: Wrong) -> None:
    """Let stages be answered wrongly, however often they ask."""
    workflow.faults |= {
        place.rpartition("/")[2]: Fault(Within(at, act), times=3)
        for place, (at, act, _) in wrong.items()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(
            wrong, id=name, marks=pytest.mark.fault("wrong answer", where=wrong, lasting=True)
        )
        for name, wrong in PROVISIONING.items()
    ],
)
def test_a_project_is_not_provisioned(workflow: Workflow, wrong: Wrong) -> None:
    answer_wrongly(workflow, wrong)
    job = workflow.execute(workflow.new_job(workflow.new_project(**OWNER)))
    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    met = {f"{job.job_type}/{e.stage}": e.type for e in (job.error, *job.other_errors)}
    assert met == {place: error_type for place, (_, _, error_type) in wrong.items()}
    cleanup = cleanup_of(job) if job.cleanup_job_id else None
    assert cleanup is None or cleanup.status is api.JobStatus.COMPLETED
    assert_nothing_is_left(workflow, job.project_id)


@pytest.mark.fault("wrong answer", where=places(CLEANUP), lasting=True)
def test_what_is_said_not_to_be_there_is_not_taken_for_removed(workflow: Workflow) -> None:
    fail(workflow)
    job = workflow.new_job(workflow.new_project(**OWNER))
    for attempt, wrong in enumerate(CLEANING_UP, 1):
        answer_wrongly(workflow, wrong)
        if attempt == 1:
            job = workflow.execute(job)
        else:
            repeated_to_its_end(workflow, job, attempt)
        workflow.faults.clear()
        cleanup = cleanup_of(job)
        assert cleanup.status is api.JobStatus.FAILED
        assert cleanup.error is not None
        met = {e.stage: e.type for e in (cleanup.error, *cleanup.other_errors)}
        assert met == {stage: error_type for stage, (_, _, error_type) in wrong.items()}
        if attempt == 1:
            assert {"databases", "roles", "pools", "apis", "buckets", "secrets", "api_keys"} <= set(
                workflow.remains(job.project_id)
            )

    repeated_to_its_end(workflow, job, len(CLEANING_UP) + 1)
    assert_undone(workflow, job)


@pytest.mark.fault("wrong answer", where=places("deprovision_project"), lasting=True)
def test_a_project_is_not_deprovisioned(workflow: Workflow, removed: dict[str, Any]) -> None:
    project_id = provisioned(workflow).project_id
    for stage in STAGES["deprovision_project"]:
        wrong = DEPROVISIONING[stage]
        answer_wrongly(workflow, {stage: wrong})
        job = workflow.execute(workflow.new_deprovision_job(project_id))
        workflow.faults.clear()
        assert job.status is api.JobStatus.FAILED, stage
        assert job.error is not None
        assert (job.error.stage, job.error.type) == (stage, wrong[2])
        assert api.get_project(project_id).locked_by is None, stage
    end = end_of(workflow, workflow.execute(workflow.new_deprovision_job(project_id)))
    for name in ("quotas", "tenant", "services", "secrets", "api_keys"):
        assert end[name] == removed[name], name


@pytest.mark.fault("wrong answer", where=places(*CHANGES), lasting=True)
def test_a_project_is_not_changed(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow, keys=4)
    before = api.get_project(project_id), api.list_api_keys(project_id)
    for place in places(*CHANGES):
        job_type, _, stage = place.partition("/")
        at, act, error_type = (
            CHANGING.get(place) or CHANGING.get(stage) or (first_call, empty, None)
        )
        workflow.faults[stage] = Fault(Within(at, act), times=3)
        job = workflow.execute(new_change(workflow, job_type, project_id))
        workflow.faults.clear()
        assert job.error is not None, (
            f"{place}: the job is {job.status} although the stage is answered wrongly: say in "
            "CHANGING of tests/faults/test_wrong_answers.py which wrong answer it must not take."
        )
        assert job.status is api.JobStatus.FAILED, place
        assert (job.error.stage, job.error.type) == (stage, error_type or job.error.type), place
        assert logs_in(workflow, project_id), place
        if stage != JOB_TYPES[job_type].last:
            assert (api.get_project(project_id), api.list_api_keys(project_id)) == before, place
        workflow.jobs.retry(job)
        check_changed(workflow, workflow.execute(workflow.jobs.get(job.job_id)))
        before = api.get_project(project_id), api.list_api_keys(project_id)


@on_mysql
@pytest.mark.fault("wrong answer", where=ON_MYSQL, lasting=True)
def test_no_stage_goes_on_by_a_wrong_answer_of_mysql(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    before = workflow.remains(project_id)
    for place, wrong in ON_MYSQL.items():
        job_type = place.partition("/")[0]
        if job_type == "provision_project":
            job = workflow.new_job(workflow.new_project(**OWNER), services=NO_SERVICES)
        else:
            job = workflow.new_change(job_type, project_id)
        answer_wrongly(workflow, {place: wrong})
        failed = workflow.execute_in_process(job)
        workflow.faults.clear()
        assert failed.error is not None, place
        assert (f"{job_type}/{failed.error.stage}", failed.error.type) == (place, wrong[2])
        cleanup = cleanup_of(failed) if failed.cleanup_job_id else None
        assert cleanup is None or cleanup.status is api.JobStatus.COMPLETED, place
        assert workflow.remains(project_id) == before, place
        assert logs_in(workflow, project_id), place
