"""The life of a project with an instance of its own, on the real state machines.

What the driver of Amazon RDS does, and each stage alone, is shown by the tests of units; what
faults and cancels come to, and what people do by hand, by tests/faults/test_instance*.py.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import boto3
import pytest
from provisioner import api
from provisioner.drivers.rds_snapshots import KEPT_UNTIL_TAG
from provisioner.errors import ErrorType, failure
from provisioner.jobs.retries import POLL_SECONDS
from provisioner.ownership import JOB_TAG
from provisioner.provisioning.clusters import SNAPSHOT_DAYS
from provisioner.provisioning.job_types import deprovision_project, provision_project
from provisioner.runtime import aws
from support.dedicated import SIZE, Rds, allow, answered, new_job, parameter, refused
from support.removal import error_of
from support.tenant_server import each_engine, run_as_tenant
from support.undoing import assert_nothing_is_left, cleanup_of, unremoved
from support.workflow import REGION, Fault, Point, Run, Workflow

CREATING = provision_project.CREATING_INSTANCE
REMOVING = deprovision_project.REMOVING_INSTANCE

#: Minutes that AWS takes.
MINUTES = {"creating": 3, "snapshot": 2, "deleting": 1, "starting": 2, "password": 2}


def transitions(workflow: Workflow, job: api.Job) -> tuple[int, int]:
    """Return how many states a job has entered, and how often one was repeated: AWS bills both."""
    types = [event["type"] for event in workflow.history(job)]
    return sum(t.endswith("StateEntered") for t in types), types.count("TaskFailed")


def polls(job: api.Job, stage: str) -> int:
    """Return how many minutes a stage has waited, one poll each."""
    at = {
        entry.status: entry.at
        for entry in job.history
        if (entry.subject, entry.job_attempt) == (stage, job.attempt)
    }
    return int((at["SUCCEEDED"] - at["WAITING"]).total_seconds()) // POLL_SECONDS


def completed(job: api.Job) -> dict[str, Any]:
    assert job.status is api.JobStatus.COMPLETED, job.error
    assert job.result is not None
    return job.result


def provisioned(rds: Rds, project_id: str | None = None, **payload: Any) -> api.Job:
    """Provision a project for what is to be shown of it, or to show that it can be; it is quick."""
    job = rds.workflow.execute_in_process(new_job(rds.workflow, project_id, **payload))
    completed(job)
    return job


def deprovisioned(rds: Rds, project_id: str, run: Run = Workflow.execute_in_process) -> api.Job:
    job = run(rds.workflow, rds.workflow.new_deprovision_job(project_id))
    completed(job)
    return job


def places(rds: Rds) -> int:
    """Return how many instances the operator's maximum counts."""
    return rds.workflow.projects.quotas.used(f"instances#{REGION}/{rds.workflow.engine}")


# --- Provisioning ---------------------------------------------------------------------------------


@each_engine
def test_a_project_gets_an_instance_once_aws_has_made_it(rds: Rds) -> None:
    workflow = rds.workflow
    rds.minutes = MINUTES
    polled: list[int] = []

    def look() -> None:
        (waiting,) = (s for s in workflow.jobs.get(job.job_id).stages if s.stage == CREATING)
        polled.append(waiting.retry_count)
        # What was settled holds, whatever the operator allows from now on.
        if waiting.retry_count == 0:
            allow(workflow.engine, sizes=["db.m7g.large"], versions=["99"], maximum=0)
        elif waiting.retry_count == 1:
            aws.client("ssm").delete_parameter(Name=parameter(workflow.engine))

    workflow.on_pause = look
    job = new_job(workflow, services={})
    job = workflow.execute(job)

    result = completed(job)
    assert transitions(workflow, job) == (13, 3)
    assert polled == [0, 1, 2]
    assert polls(job, CREATING) == 3
    assert workflow.waits == []
    names = workflow.names(job.project_id)
    (instance,) = rds.instances()
    assert (instance["DBInstanceIdentifier"], instance["MasterUsername"]) == (
        names.instance,
        "provisioner",
    )
    told, login = result["database"], workflow.login(job.project_id)
    assert told["instance"] == {
        "identifier": names.instance,
        "size": SIZE,
        "storage_gb": instance["AllocatedStorage"],
    }
    tenant = workflow.tenant(job.project_id)
    assert workflow.server.whoami(login)[:2] == (tenant.database, tenant.app_role)
    ((version,),) = run_as_tenant(workflow.server, login, "SELECT version()")
    assert told["version"] in version
    endpoint = (instance["Endpoint"]["Address"], instance["Endpoint"]["Port"])
    for found in (told, login):
        assert (found["engine"], found["host"], found["port"]) == (workflow.engine, *endpoint)
    assert set(result["services"]) == {"auth", "realtime", "storage"}
    assert places(rds) == 1

    deprovisioned(rds, job.project_id)
    assert_nothing_is_left(workflow, job.project_id)


def test_an_instance_that_never_gets_ready_fails_the_job_and_goes(
    rds: Rds, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow, most = rds.workflow, 5
    workflow.let_wait(CREATING, most * POLL_SECONDS, monkeypatch)
    # The clean-up waits as well, until AWS lets it go.
    rds.minutes = {"creating": most + 5, "deleting": 2}

    job = workflow.execute(new_job(workflow))

    error = error_of(job)
    assert (job.status, error.type, error.stage) == (
        api.JobStatus.FAILED,
        ErrorType.TIMEOUT,
        CREATING,
    )
    named = workflow.names(job.project_id).instance
    told = f"seconds in vain: the database instance {named} is creating"
    assert error.message.endswith(told)
    # The last poll fails, and is not repeated.
    assert transitions(workflow, job)[1] == most + 1
    cleanup = cleanup_of(job)
    assert (cleanup.status, cleanup.remaining) == (api.JobStatus.COMPLETED, ())
    assert len(workflow.pauses) == most + 5 + 2
    assert_nothing_is_left(workflow, job.project_id)


# --- Changes --------------------------------------------------------------------------------------


def test_a_password_is_rotated(rds: Rds) -> None:
    job = provisioned(rds)
    names = rds.workflow.names(job.project_id)
    before = [rds.workflow.secret(n) for n in (names.database_secret, names.instance_secret)]

    completed(
        rds.workflow.execute(rds.workflow.new_change("rotate_database_password", job.project_id))
    )

    after = [rds.workflow.secret(n) for n in (names.database_secret, names.instance_secret)]
    # The master user keeps the password, which no customer knows.
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]
    assert [rds.workflow.server.takes(login[0]) for login in (before, after)] == [False, True]


@pytest.mark.parametrize("region", [REGION, "us-east-1"])
def test_an_instance_and_its_login_are_under_the_key_of_the_deployment(
    rds: Rds, region: str
) -> None:
    key = boto3.client("kms", region).create_key()["KeyMetadata"]["Arn"]
    rds.workflow.deploy(kms_key_arn=key)
    job = provisioned(rds)
    names = rds.workflow.names(job.project_id)
    secret = aws.client("secretsmanager").describe_secret(SecretId=names.instance_secret)
    assert secret["KmsKeyId"] == key
    (instance,) = aws.client("rds", REGION).describe_db_instances()["DBInstances"]
    assert instance["StorageEncrypted"]
    # A key encrypts in its own region alone: elsewhere the account's does.
    assert (instance["KmsKeyId"] == key) == (region == REGION)


def test_a_repair_of_an_instance_in_order_changes_nothing(rds: Rds) -> None:
    project_id = provisioned(rds).project_id
    rds.asked.clear()

    job = rds.workflow.execute(rds.workflow.new_change("repair_project", project_id))

    result = completed(job)
    assert (result["repaired"], result["remaining"]) == ([], [])
    named = f"database instance {rds.workflow.names(project_id).instance}"
    assert result["checked"][0].startswith(named)
    assert set(rds.asked) == {"DescribeDBInstances"}


def test_a_repair_waits_for_an_instance_that_was_stopped_and_then_puts_it_right(rds: Rds) -> None:
    project_id = provisioned(rds).project_id
    rds.minutes = MINUTES
    client, instance = aws.client("rds", REGION), rds.workflow.names(project_id).instance
    client.modify_db_instance(
        DBInstanceIdentifier=instance,
        DBInstanceClass="db.m7g.large",
        DeletionProtection=False,
        PubliclyAccessible=True,
        ApplyImmediately=True,
    )
    client.stop_db_instance(DBInstanceIdentifier=instance)

    job = rds.workflow.execute(rds.workflow.new_change("repair_project", project_id))

    result = completed(job)
    # Two, the instance, the Parallel state with five in it, and three.
    assert transitions(rds.workflow, job) == (12, 2)
    assert polls(job, "REPAIRING_INSTANCE") == 2
    of = f"database instance {instance}"
    assert sorted((drift["resource"], drift["what"]) for drift in result["repaired"]) == [
        (of, "DeletionProtection"),
        (of, "PubliclyAccessible"),
        (of, "was stopped"),
    ]
    assert [(d["resource"], d["what"]) for d in result["remaining"]] == [(of, "DBInstanceClass")]


# --- Removal --------------------------------------------------------------------------------------


def test_a_project_is_removed_but_for_its_snapshot_and_comes_back(rds: Rds) -> None:
    workflow = rds.workflow
    project_id = provisioned(rds).project_id
    (instance,) = rds.instances()
    assert instance["DeletionProtection"]
    rds.minutes = MINUTES

    job = deprovisioned(rds, project_id, Workflow.execute)

    stages = deprovision_project.TAKING_INSTANCE_SNAPSHOT, REMOVING
    assert [polls(job, stage) for stage in stages] == [2, 1]
    assert transitions(workflow, job)[1] == 3
    assert_nothing_is_left(workflow, project_id)
    (snapshot,) = rds.snapshots()
    result = completed(job)
    kept_until = (workflow.jobs.now().date() + timedelta(days=SNAPSHOT_DAYS)).isoformat()
    assert result["snapshot"] == {
        "region": REGION,
        "identifier": snapshot["DBSnapshotIdentifier"],
        "engine": workflow.server.engine,
        "size": instance["DBInstanceClass"],
        "storage_gb": instance["AllocatedStorage"],
        "server_version": instance["EngineVersion"],
        "kept_until": kept_until,
    }
    assert api.get_project(project_id).snapshot == result["snapshot"]
    kept = {tag["Key"]: tag["Value"] for tag in snapshot["TagList"]}
    given = {tag["Key"]: tag["Value"] for tag in instance["TagList"]}
    assert kept == given | {JOB_TAG: job.job_id, KEPT_UNTIL_TAG: kept_until}
    names = workflow.names(project_id)
    for removed in (f"database instance {names.instance}", f"secret {names.instance_secret}"):
        assert removed in result["removed"]

    again = provisioned(rds, project_id)
    assert completed(again)["database"]["instance"]["identifier"] == names.instance
    assert workflow.server.takes(workflow.login(project_id))
    job = workflow.new_deprovision_job(project_id, final_snapshot=False)
    assert "snapshot" not in completed(workflow.execute_in_process(job))
    assert_nothing_is_left(workflow, project_id)
    assert rds.snapshots() == [snapshot]

    # It comes back with the master user's password of that time, and waits until it has its own.
    restored = {"size": SIZE, "snapshot": result["snapshot"]["identifier"]}
    job = workflow.execute(new_job(workflow, project_id, database=restored))
    assert completed(job)["database"]["instance"]["identifier"] == names.instance
    assert transitions(workflow, job) == (13, 3 + 2)
    assert workflow.server.takes(workflow.login(project_id))
    assert rds.asked.count("RestoreDBInstanceFromDBSnapshot") == 1


def test_a_removal_that_stopped_while_aws_deletes_is_ended_by_the_next_job(rds: Rds) -> None:
    workflow = rds.workflow
    project_id = provisioned(rds).project_id
    rds.minutes = MINUTES
    job = workflow.new_deprovision_job(project_id)

    def cancel() -> None:
        if [wait.stage for wait in workflow.jobs.get(job.job_id).waits] == [REMOVING]:
            api.cancel_job(job.job_id)

    workflow.on_pause = cancel
    assert workflow.execute(job).status is api.JobStatus.CANCELLED
    assert api.get_project(project_id).status is api.ProjectStatus.DEPROVISIONING

    result = completed(deprovisioned(rds, project_id))
    # That took no snapshot of what goes already: it names the one that the first has taken.
    (snapshot,) = rds.snapshots()
    assert result["snapshot"]["identifier"] == snapshot["DBSnapshotIdentifier"]
    assert {"Key": JOB_TAG, "Value": job.job_id} in snapshot["TagList"]
    assert_nothing_is_left(workflow, project_id)


def test_a_project_whose_instance_aws_never_made_is_removed(rds: Rds) -> None:
    with answered(refused("InstanceQuotaExceeded"), "CreateDBInstance"):
        failed = rds.workflow.execute(new_job(rds.workflow, on_failure="keep"))
    assert (error_of(failed).type, places(rds)) == (ErrorType.QUOTA_EXCEEDED, 1)

    job = deprovisioned(rds, failed.project_id)

    assert ("snapshot" in completed(job), rds.snapshots()) == (False, [])
    assert_nothing_is_left(rds.workflow, failed.project_id)


# --- Jobs that fail -------------------------------------------------------------------------------


def fail_later(rds: Rds, **payload: Any) -> api.Job:
    """Run a job that fails once the instance is there."""
    rds.workflow.faults[provision_project.CREATING_SCHEMA] = Fault(
        Point.AFTER, lambda: failure(ErrorType.CONFLICT, "Injected.")
    )
    return rds.workflow.execute(new_job(rds.workflow, **payload))


def fail_while_it_waits(rds: Rds, **payload: Any) -> api.Job:
    """Run a job that fails while AWS still makes the instance."""
    rds.minutes = MINUTES

    def fail() -> None:
        rds.workflow.on_pause = lambda: None
        rds.workflow.faults[CREATING] = Fault(
            Point.BEFORE, lambda: failure(ErrorType.CONFLICT, "Injected.")
        )

    rds.workflow.on_pause = fail
    return rds.workflow.execute(new_job(rds.workflow, **payload))


each_failure = pytest.mark.parametrize("run", [fail_later, fail_while_it_waits])


@each_failure
def test_a_job_that_fails_leaves_nothing(rds: Rds, run: Any) -> None:
    job = run(rds)
    assert error_of(job).message == "Injected."
    cleanup = cleanup_of(job)
    assert (cleanup.status, cleanup.remaining, unremoved(cleanup)) == (
        api.JobStatus.COMPLETED,
        (),
        [],
    )
    assert rds.asked.count("CreateDBInstance") == 1
    assert_nothing_is_left(rds.workflow, job.project_id)


@each_failure
def test_what_a_job_keeps_the_next_one_takes_up(rds: Rds, run: Any) -> None:
    failed = run(rds, on_failure="keep")
    assert (error_of(failed).message, failed.cleanup_job_id) == ("Injected.", "")
    (kept,) = rds.instances()
    secret = rds.workflow.names(failed.project_id).instance_secret
    before = rds.workflow.secret(secret)

    provisioned(rds, failed.project_id)

    assert rds.asked.count("CreateDBInstance") == 1
    (instance,) = rds.instances()
    assert instance["DbiResourceId"] == kept["DbiResourceId"]
    assert rds.workflow.secret(secret) == before
    versions = aws.client("secretsmanager").list_secret_version_ids(SecretId=secret)["Versions"]
    assert (len(versions), places(rds)) == (1, 1)
    deprovisioned(rds, failed.project_id)
    assert_nothing_is_left(rds.workflow, failed.project_id)
