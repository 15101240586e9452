"""Whole projects that are removed, on the real state machine and in one process."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError
from moto.s3.models import s3_backends
from provisioner import api
from provisioner.drivers.postgresql import snapshot as snapshot_module
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import StageStatus
from provisioner.jobs.retries import POLL_SECONDS
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import deprovision_project, provision_project
from provisioner.provisioning.job_types.deprovision_project import REMOVING, SnapshotResult
from provisioner.runtime import aws
from support.calls import DRIVER_ERRORS, SQL
from support.changes import plainly_provisioned
from support.effects import Attempt, Effect, effects
from support.mysql import Connection
from support.mysql_tenants import thread_of
from support.project import longest_run
from support.removal import end_of, error_of, keys_of, provisioned, snapshots, statuses, verifying
from support.tenant_server import OnMysql, each_engine, on_mysql, run_as_tenant
from support.workflow import ACCOUNT, REGION, Fault, FunctionEnded, Point, Workflow


@each_engine
def test_nothing_is_left_but_the_snapshot_and_the_id_can_be_provisioned_again(
    workflow: Workflow,
) -> None:
    first = provisioned(workflow)
    project_id = first.project_id
    keys = keys_of(workflow, project_id)
    claimed: list[str] = []
    api.claim_api_keys(project_id, claimed.extend)
    assert verifying(keys) == [True, True]

    job = workflow.execute(workflow.new_deprovision_job(project_id))

    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    assert statuses(job) == {
        stage: StageStatus.SKIPPED if stage.runs_if else StageStatus.SUCCEEDED
        for stage in deprovision_project.JOB_TYPE.stages
    }
    result = api.DeprovisionProjectResult.model_validate(job.result)
    assert isinstance(result.snapshot, SnapshotResult)
    assert result.snapshot.key == f"{project_id}/{job.job_id}.dump"
    assert snapshots() == [result.snapshot.key]
    left = workflow.snapshot(job)
    assert not any(workflow.server.snapshot(workflow.tenant(project_id)).values())
    assert set(re.findall(r": (\[.*?\])", left["services"])) == {"[]"}
    assert (left["secrets"], left["api_keys"]) == ("{}", "[]")
    assert set(re.findall(r"'used': {'N': '(\d+)'}", left["quotas"])) == {"0"}
    assert verifying(keys) == [False, False]
    project = api.get_project(project_id)
    assert (project.status, project.owner_id) == (api.ProjectStatus.DEPROVISIONED, "ada")
    assert project.snapshot == result.snapshot.model_dump()

    again = workflow.execute(workflow.new_job(project_id))

    assert again.status is api.JobStatus.COMPLETED
    same = ("tenant", "services", "secrets", "api_keys")
    new = workflow.snapshot(again)
    assert {n: new[n] for n in same} == {n: workflow.reference()[n] for n in same}
    assert verifying(keys) == [False, False]
    assert verifying(keys_of(workflow, project_id)) == [True, True]
    # It can be made, so that nothing of before is there.
    run_as_tenant(workflow.server, workflow.login(project_id), "CREATE TABLE note (id integer)")


#: No stage changes AWS more often in one attempt; the test below sees to it.
MOST_CALLS = 5


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        *((Engine.POSTGRESQL, number) for number in range(1, MOST_CALLS + 1)),
        # The engine's own tests go through every statement.
        (Engine.MYSQL, 3),
    ],
)
def test_every_stage_may_meet_an_error_and_die_at_any_call(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, removed: dict[str, Any], number: int
) -> None:
    """At its n-th call or statement the first attempt meets an error; the second dies there."""
    project_id = provisioned(workflow).project_id

    def go_wrong(effect: Effect, _attempt: Attempt) -> None:
        if effect.number != number:
            return
        if effect.retry_count == 0 and effect.name == SQL:
            raise DRIVER_ERRORS[workflow.engine].lost()
        if effect.retry_count == 0:
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, effect.name)
        if effect.retry_count == 1:
            raise FunctionEnded("Runtime.ExitError")

    with effects(workflow, monkeypatch, go_wrong) as attempts:
        job = workflow.execute(workflow.new_deprovision_job(project_id))

    assert workflow.waits
    assert end_of(workflow, job) == removed
    # One more records that an attempt has failed.
    assert max(len(attempt.calls) for attempt in attempts) <= MOST_CALLS + 1


def test_a_failed_job_is_run_again_as_its_second_attempt(workflow: Workflow) -> None:
    job = workflow.new_deprovision_job(provisioned(workflow).project_id)
    workflow.faults["REMOVING_DATABASE"] = Fault(
        Point.AFTER, lambda: failure(ErrorType.CONFLICT, "Injected.")
    )
    failed = workflow.execute(job)
    assert failed.status is api.JobStatus.FAILED

    workflow.jobs.retry(failed)
    completed = workflow.execute(workflow.jobs.get(job.job_id))

    assert (completed.status, completed.attempt) == (api.JobStatus.COMPLETED, 2)
    assert completed.result is not None
    assert completed.result["snapshot"]["key"] == f"{job.project_id}/{job.job_id}.dump"
    assert api.get_project(job.project_id).status is api.ProjectStatus.DEPROVISIONED


def put_object(workflow: Workflow, project_id: str) -> None:
    """Put an object into the project's bucket."""
    s3, bucket = aws.client("s3", REGION), workflow.bucket(project_id)
    # moto refuses every request by this one, whatever its condition says.
    policy = s3.get_bucket_policy(Bucket=bucket)["Policy"]
    s3.delete_bucket_policy(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="photo", Body=b"x")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy)


def _hold_data(workflow: Workflow, project_id: str) -> None:
    put_object(workflow, project_id)


def _protect(_workflow: Workflow, project_id: str) -> None:
    api.protect_project(project_id, enabled=True)


@pytest.mark.parametrize(
    ("prevent", "error_type"),
    [(_hold_data, ErrorType.DATA_NOT_EMPTY), (_protect, ErrorType.PROJECT_PROTECTED)],
    ids=["data", "protection"],
)
def test_what_is_refused_is_refused_before_anything_is_removed(
    workflow: Workflow, prevent: Callable[[Workflow, str], None], error_type: ErrorType
) -> None:
    first = provisioned(workflow)
    prevent(workflow, first.project_id)
    before = workflow.snapshot(first)

    job = workflow.execute(workflow.new_deprovision_job(first.project_id))

    assert (job.status, error_of(job).type) == (api.JobStatus.FAILED, error_type)
    assert workflow.snapshot(first) == before
    assert verifying(keys_of(workflow, first.project_id)) == [True, True]
    assert snapshots() == []


def lock_object(workflow: Workflow, project_id: str) -> tuple[str, str]:
    """Put an object with a legal hold into the project's bucket; return its key and version."""
    s3, bucket = aws.client("s3", REGION), workflow.bucket(project_id)
    # As in `put_object`.
    allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    s3.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    )
    # moto has Object Lock only in buckets that are made with it.
    s3_backends[ACCOUNT]["aws"].buckets[bucket].object_lock_enabled = True
    version = s3.put_object(Bucket=bucket, Key="photo", Body=b"x")["VersionId"]
    lock = {"Bucket": bucket, "Key": "photo", "VersionId": version}
    s3.put_object_legal_hold(**lock, LegalHold={"Status": "ON"})
    return "photo", version


@pytest.fixture
def unretained(workflow: Workflow) -> Iterator[Workflow]:
    """Return the deployment, where S3 says of every object that it is not retained.

    moto has no such operation.
    """
    response = SimpleNamespace(status_code=404, headers={}, content=b"")
    error = {"Error": {"Code": "NoSuchObjectLockConfiguration", "Message": "None."}}

    def answer(**_: Any) -> Any:
        return response, error | {"ResponseMetadata": {"HTTPStatusCode": 404}}

    events = aws.client("s3", REGION).meta.events
    events.register("before-call.s3.GetObjectRetention", answer)
    yield workflow
    events.unregister("before-call.s3.GetObjectRetention", answer)


def pool_with_a_domain(workflow: Workflow, project_id: str) -> str:
    cognito, name = aws.client("cognito-idp", REGION), workflow.names(project_id).user_pool
    pools = cognito.list_user_pools(MaxResults=60)["UserPools"]
    (pool_id,) = (pool["Id"] for pool in pools if pool["Name"] == name)
    cognito.create_user_pool_domain(Domain=project_id, UserPoolId=pool_id)
    return str(pool_id)


def test_all_that_is_in_the_way_is_named_at_once_and_the_next_attempt_looks_anew(
    unretained: Workflow,
) -> None:
    workflow = unretained
    first = provisioned(workflow)
    project_id, names = first.project_id, workflow.names(first.project_id)
    key, version = lock_object(workflow, project_id)
    pool_id = pool_with_a_domain(workflow, project_id)
    login = workflow.secret(names.database_secret)["connection_string"]
    with psycopg.connect(login, autocommit=True) as tenant:
        tenant.execute("ALTER TABLE note ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        tenant.execute("BEGIN")
        tenant.execute("CREATE TABLE half (id integer)")
        tenant.execute("PREPARE TRANSACTION 'half'")
    before = workflow.snapshot(first)

    with workflow.cluster.connect(names.tenants[Engine.POSTGRESQL].database) as superuser:
        job = workflow.execute(workflow.new_deprovision_job(project_id))
        pid = superuser.info.backend_pid

    error = error_of(job)
    assert (error.type, error.stage, error.attempt) == (
        ErrorType.REMOVAL_FAILED,
        "CHECKING_DATA",
        1,
    )
    for part in (
        "(1) delete_data: the bucket",
        f'(2) object "{key}" of bucket {workflow.bucket(project_id)}, version "{version}", has a',
        f'(3) user pool {pool_id} has the domain "{project_id}"',
        "(4) transaction 'half' of role",
        "(5) row-level security holds for table app.note",
        f"(6) session {pid} of role",
        f"`provision retry {job.job_id}`",
    ):
        assert part in error.message
    assert api.get_project(project_id).status is api.ProjectStatus.ACTIVE
    assert verifying(keys_of(workflow, project_id)) == [True, True]
    assert workflow.snapshot(first) == before
    assert snapshots() == []

    s3 = aws.client("s3", REGION)
    s3.put_object_legal_hold(
        Bucket=workflow.bucket(project_id), Key=key, VersionId=version, LegalHold={"Status": "OFF"}
    )
    s3.delete_object(Bucket=workflow.bucket(project_id), Key=key, VersionId=version)
    aws.client("cognito-idp", REGION).delete_user_pool_domain(Domain=project_id, UserPoolId=pool_id)
    with psycopg.connect(login, autocommit=True) as tenant:
        tenant.execute("ROLLBACK PREPARED 'half'")
        tenant.execute("ALTER TABLE note NO FORCE ROW LEVEL SECURITY")
    workflow.jobs.retry(job)
    completed = workflow.execute(workflow.jobs.get(job.job_id))
    assert (completed.status, completed.attempt) == (api.JobStatus.COMPLETED, 2)


def test_a_session_that_may_not_be_ended_is_waited_for_before_anything_is_removed(
    workflow: Workflow,
) -> None:
    first = provisioned(workflow)
    database = workflow.names(first.project_id).tenants[Engine.POSTGRESQL].database
    before = workflow.snapshot(first)
    with workflow.cluster.connect(database) as superuser:
        failed = workflow.execute(workflow.new_deprovision_job(first.project_id))
        pid = superuser.info.backend_pid
    error = error_of(failed)
    assert (error.type, error.stage, error.attempt) == (ErrorType.TIMEOUT, "CHECKING_DATA", 3)
    assert f"pg_terminate_backend({pid})" in error.message
    assert workflow.snapshot(first) == before

    # One that ends meanwhile is seen to be gone by the next attempt.
    passing = workflow.cluster.connect(database)
    workflow.on_wait = passing.close
    job = workflow.execute(workflow.new_deprovision_job(first.project_id))
    assert job.status is api.JobStatus.COMPLETED
    checked = next(r for r in job.stages if r.stage == deprovision_project.CHECKING_DATA)
    assert checked.attempt == 2


def _end(session: Connection) -> None:
    """End the session's transaction, and return once the server does not tell of it any more.

    Source: MySQL 8.0 Reference Manual, "Persistence and Consistency of InnoDB Transaction and
    Locking Information": it looks again once nobody has asked for a tenth of a second.
    """
    session.rollback()
    deadline = time.monotonic() + 10
    with session.cursor() as cursor:
        while cursor.execute(
            "SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = %s",
            (thread_of(session),),
        ):
            assert time.monotonic() < deadline
            time.sleep(0.15)


@on_mysql
def test_a_transaction_of_someone_else_is_waited_for_before_anything_is_removed(
    workflow: Workflow,
) -> None:
    """What the session above is to PostgreSQL: on MySQL one that does nothing is not in the way."""
    first = provisioned(workflow)
    tenant = workflow.tenant(first.project_id)
    before = workflow.snapshot(first)
    assert isinstance(workflow.server, OnMysql)
    with workflow.server.server.connect(tenant.database) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT COUNT(*) FROM note")
        failed = workflow.execute_in_process(workflow.new_deprovision_job(first.project_id))
        error = error_of(failed)
        assert (error.type, error.stage, error.attempt) == (ErrorType.TIMEOUT, "CHECKING_DATA", 3)
        assert f"type KILL {thread_of(other)}" in error.message
        assert workflow.snapshot(first) == before

        # One that ends meanwhile is seen to be gone by the next attempt.
        workflow.on_wait = partial(_end, other)
        job = workflow.execute_in_process(workflow.new_deprovision_job(first.project_id))
    assert job.status is api.JobStatus.COMPLETED, job.error
    checked = next(r for r in job.stages if r.stage == deprovision_project.CHECKING_DATA)
    assert checked.attempt == 2


def test_what_comes_into_the_way_later_is_named_by_the_stage_that_meets_it(
    unretained: Workflow,
) -> None:
    workflow = unretained
    project_id = provisioned(workflow).project_id
    names = workflow.names(project_id)
    login = workflow.secret(names.database_secret)["connection_string"]
    held: list[tuple[str, str]] = []

    def come(_job: JobInput, stage: str) -> None:
        if stage == "REMOVING_STORAGE" and not held:
            held.append(lock_object(workflow, project_id))
        if stage == "REMOVING_DATABASE" and len(held) == 1:
            held.append(("", ""))
            with psycopg.connect(login, autocommit=True) as tenant:
                tenant.execute("BEGIN")
                tenant.execute("CREATE TABLE half (id integer)")
                tenant.execute("PREPARE TRANSACTION 'half'")

    workflow.observers.append(come)
    job = workflow.execute(workflow.new_deprovision_job(project_id, delete_data=True))

    error = error_of(job)
    assert (error.type, error.stage) == (ErrorType.REMOVAL_FAILED, "REMOVING_STORAGE")
    assert "has a legal hold" in error.message
    assert "AccessDenied" in error.cause
    assert api.get_project(project_id).status is api.ProjectStatus.DEPROVISIONING
    key, version = held[0]
    aws.client("s3", REGION).put_object_legal_hold(
        Bucket=workflow.bucket(project_id), Key=key, VersionId=version, LegalHold={"Status": "OFF"}
    )

    workflow.jobs.retry(job)
    error = error_of(workflow.execute(workflow.jobs.get(job.job_id)))

    assert (error.type, error.stage) == (ErrorType.REMOVAL_FAILED, "REMOVING_DATABASE")
    assert "ROLLBACK PREPARED 'half'" in error.message
    assert "55006" in error.cause
    with psycopg.connect(login, autocommit=True) as tenant:
        tenant.execute("ROLLBACK PREPARED 'half'")
    workflow.jobs.retry(workflow.jobs.get(job.job_id))
    completed = workflow.execute(workflow.jobs.get(job.job_id))
    assert (completed.status, completed.attempt) == (api.JobStatus.COMPLETED, 3)


def test_data_that_comes_during_the_snapshot_keeps_the_project_as_it_was(
    workflow: Workflow,
) -> None:
    first = provisioned(workflow)
    before = workflow.snapshot(first)

    def put(_job: JobInput, stage: str) -> None:
        if stage == "REMOVING_REALTIME":
            put_object(workflow, first.project_id)

    workflow.observers.append(put)
    job = workflow.execute(workflow.new_deprovision_job(first.project_id))

    assert (error_of(job).type, error_of(job).stage) == (
        ErrorType.DATA_NOT_EMPTY,
        "REMOVING_REALTIME",
    )
    after = workflow.snapshot(first)
    for name in ("tenant", "services", "secrets", "api_keys"):
        assert after[name] == before[name], name
    assert api.get_project(first.project_id).status is api.ProjectStatus.ACTIVE
    assert verifying(keys_of(workflow, first.project_id)) == [True, True]


def test_data_goes_where_the_payload_asks_for_it_and_no_snapshot_is_taken_where_it_does_not(
    workflow: Workflow,
) -> None:
    project_id = provisioned(workflow).project_id
    put_object(workflow, project_id)
    aws.client("s3", REGION).delete_bucket_policy(Bucket=workflow.bucket(project_id))

    job = workflow.execute(
        workflow.new_deprovision_job(project_id, delete_data=True, final_snapshot=False)
    )

    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    skipped = {s for s, status in statuses(job).items() if status is StageStatus.SKIPPED}
    assert skipped == {"TAKING_SNAPSHOT", "TAKING_INSTANCE_SNAPSHOT", "REMOVING_INSTANCE"}
    assert job.result is not None
    assert "snapshot" not in job.result
    assert snapshots() == []
    assert set(re.findall(r": (\[.*?\])", workflow.snapshot(job)["services"])) == {"[]"}


def test_a_server_that_is_newer_ends_the_job_before_anything_is_removed(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = provisioned(workflow)
    before = workflow.snapshot(first)
    program = tmp_path / "pg_dump"
    program.write_text('#!/bin/sh\necho "pg_dump (PostgreSQL) 14.1"\n')
    program.chmod(0o755)
    monkeypatch.setattr(snapshot_module, "installed_program", lambda _name, _final: program)

    job = workflow.execute(workflow.new_deprovision_job(first.project_id))

    assert (error_of(job).type, error_of(job).stage) == (
        ErrorType.SNAPSHOT_FAILED,
        "TAKING_SNAPSHOT",
    )
    assert "version 14" in error_of(job).message
    assert workflow.snapshot(first) == before


def test_a_cancelled_job_leaves_the_project_as_it_was(workflow: Workflow) -> None:
    first = provisioned(workflow)
    before = workflow.snapshot(first)
    job = workflow.new_deprovision_job(first.project_id)

    def cancel(running: JobInput, stage: str) -> None:
        if stage == "TAKING_SNAPSHOT" and running.job_id == job.job_id:
            workflow.jobs.request_cancel(workflow.jobs.get(job.job_id))

    workflow.observers.append(cancel)
    ended = workflow.execute(job)

    assert (ended.status, error_of(ended).type) == (
        api.JobStatus.CANCELLED,
        ErrorType.JOB_CANCELLED,
    )
    # The stage that ran was let end, and what it took is kept.
    assert statuses(ended)["TAKING_SNAPSHOT"] is StageStatus.SUCCEEDED
    assert statuses(ended)["REMOVING_REALTIME"] is StageStatus.PENDING
    project = api.get_project(first.project_id)
    assert project.snapshot is not None
    assert project.snapshot["key"] in snapshots()
    after = workflow.snapshot(first)
    del before["project"], after["project"]
    assert after == before


@pytest.mark.parametrize(
    ("stage", "fails"),
    [
        (deprovision_project.TAKING_SNAPSHOT, True),
        (deprovision_project.REMOVING_DATABASE, True),
        (deprovision_project.REMOVING_DATABASE, False),
    ],
)
def test_a_removal_holds_its_project_for_as_long_as_a_stage_of_it_may_be_at_work(
    workflow: Workflow, stage: str, *, fails: bool
) -> None:
    """A function whose answer got lost is not to meet what the next job makes."""
    project_id = plainly_provisioned(workflow)
    job = workflow.new_deprovision_job(project_id)
    conflict = Fault(Point.BEFORE, lambda: failure(ErrorType.CONFLICT, "Injected."))
    workflow.faults[stage] = Fault(
        Point.BEFORE, lambda: FunctionEnded("Lambda.Unknown"), then=conflict if fails else None
    )
    held: list[bool] = []

    def look() -> None:
        at_work, project = workflow.jobs.get(job.job_id), api.get_project(project_id)
        held.append(
            not at_work.status.is_terminal
            and project.status is api.ProjectStatus.DEPROVISIONING
            and project.locked_by == job.job_id
        )

    workflow.on_pause = look
    ended = workflow.execute(job)

    assert ended.status is (api.JobStatus.FAILED if fails else api.JobStatus.COMPLETED)
    assert api.get_project(project_id).locked_by is None
    assert held
    assert all(held)
    interval = POLL_SECONDS
    assert (
        longest_run("deprovision_project", stage) - interval
        < sum(workflow.pauses)
        < longest_run("deprovision_project", stage) + interval
    )
    final = statuses(ended)[deprovision_project.FINALIZING]
    assert final is (StageStatus.PENDING if fails else StageStatus.SUCCEEDED)


@pytest.mark.fault("two jobs at once for one project", where="deprovision_project/INITIALIZING")
def test_two_jobs_at_once_remove_a_project_once(workflow: Workflow) -> None:
    project_id = provisioned(workflow).project_id
    jobs = [workflow.new_deprovision_job(project_id) for _ in range(2)]
    runs = [threading.Thread(target=workflow.execute, args=(job,)) for job in jobs]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    ended = [workflow.jobs.get(job.job_id) for job in jobs]

    done = [job for job in ended if job.status is api.JobStatus.COMPLETED]
    assert done
    # The slower one found the project held, or removed already.
    assert all(error_of(job).type is ErrorType.PROJECT_BUSY for job in ended if job not in done)
    assert api.get_project(project_id).status is api.ProjectStatus.DEPROVISIONED
    assert len(snapshots()) == 1


def test_a_job_for_a_deprovisioned_project_completes_at_once(workflow: Workflow) -> None:
    project_id = provisioned(workflow).project_id
    first = workflow.execute_in_process(workflow.new_deprovision_job(project_id))

    second = workflow.execute(workflow.new_deprovision_job(project_id))

    assert second.status is api.JobStatus.COMPLETED
    entered = [
        event["stateEnteredEventDetails"]["name"]
        for event in workflow.history(second)
        if event["type"].endswith("StateEntered")
    ]
    assert entered == ["Initialize", "AfterInitialize", "Completed"]
    assert first.result is not None
    assert second.result == first.result | {"removed": []}


def test_a_failed_project_is_removed_with_whatever_it_has(workflow: Workflow) -> None:
    project_id = workflow.new_project(owner_id="ada")
    workflow.faults[provision_project.CREATING_SCHEMA] = Fault(
        Point.BEFORE, lambda: failure(ErrorType.CONFLICT, "Injected.")
    )
    failed = workflow.execute(workflow.new_job(project_id, on_failure="keep"))
    assert failed.status is api.JobStatus.FAILED

    job = workflow.execute(workflow.new_deprovision_job(project_id))

    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    assert not any(workflow.server.snapshot(workflow.tenant(project_id)).values())
    assert set(re.findall(r": (\[.*?\])", workflow.snapshot(job)["services"])) == {"[]"}
    assert len(snapshots()) == 1


def test_the_handler_removes_a_project_in_this_process(workflow: Workflow) -> None:
    project_id = provisioned(workflow).project_id

    result = api.get_job_handler("deprovision_project")(
        {"project_id": project_id, "confirm": project_id}
    )

    assert result.project_id == project_id
    assert result.snapshot is not None
    assert snapshots() == [result.snapshot.key]
    assert api.get_project(project_id).status is api.ProjectStatus.DEPROVISIONED
    (job,) = (j for j in api.list_jobs(project_id) if j.job_type == "deprovision_project")
    assert job.status is api.JobStatus.COMPLETED


def test_nothing_that_a_job_leaves_holds_a_secret(workflow: Workflow) -> None:
    first = provisioned(workflow)
    names = workflow.names(first.project_id)
    secrets = [
        workflow.secret(names.database_secret)["password"],
        workflow.secret("nm/clusters/test")["password"],
        *keys_of(workflow, first.project_id),
    ]
    for stage in ("TAKING_SNAPSHOT", *REMOVING):
        workflow.faults[stage] = Fault(Point.AFTER)

    with workflow.logged() as log:
        job = workflow.execute(workflow.new_deprovision_job(first.project_id))

    assert job.status is api.JobStatus.COMPLETED
    tables = [
        workflow.settings.jobs_table,
        workflow.settings.projects_table,
        workflow.settings.api_keys_table,
        workflow.settings.quotas_table,
    ]
    traces = [
        json.dumps(workflow.history(job), default=str),
        json.dumps([aws.client("dynamodb").scan(TableName=name) for name in tables]),
        log.getvalue(),
        workflow.server.log.read_text(),
    ]
    assert all(job.project_id in trace for trace in traces[:3])
    for secret in secrets:
        assert [secret in trace for trace in traces] == [False] * 4
