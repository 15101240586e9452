"""What people do to an instance of the project's own by hand, and what its server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from moto.rds.models import rds_backends
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.job_types import (
    deprovision_project,
    provision_project,
    repair_project,
)
from provisioner.provisioning.job_types import rotate_database_password as rotate
from provisioner.provisioning.naming import instance_snapshot_name
from provisioner.runtime import aws
from support.calls import SQL, Call, Within, first_statement, operation
from support.changes import logs_in
from support.dedicated import Rds, answered, new_job, refused
from support.drivers import tag_list
from support.postgresql import PreparedCluster
from support.tenant_server import restart
from support.undoing import assert_nothing_is_left, cleanup_of
from support.workflow import ACCOUNT, REGION, Fault

CREATING = provision_project.CREATING_INSTANCE
DATABASE = provision_project.CREATING_DATABASE
REPAIRING = repair_project.REPAIRING_INSTANCE
ROTATING = rotate.ROTATING_DATABASE_PASSWORD
SNAPSHOT = deprovision_project.TAKING_INSTANCE_SNAPSHOT
REMOVING = deprovision_project.REMOVING_INSTANCE


def at(job_type: str, *stages: str) -> list[str]:
    """Name places of the fault table."""
    return [f"{job_type}/{stage}" for stage in stages]


def provisioned(rds: Rds) -> str:
    """Provision a project and return its id."""
    job = rds.workflow.execute_in_process(new_job(rds.workflow))
    assert job.status is api.JobStatus.COMPLETED, job.error
    return job.project_id


def before(rds: Rds, stage: str, act: Callable[[], object], look: int = 1) -> None:
    """Let something happen before the n-th run of a stage."""
    seen: list[str] = []

    def observe(_job: JobInput, running: str) -> None:
        if running == stage:
            seen.append(running)
            if len(seen) == look:
                act()

    rds.workflow.observers.append(observe)


def fails(rds: Rds, job: api.Job, stage: str, error_type: ErrorType) -> api.StoredError:
    """Run a job, see that it fails in a stage, and return its error."""
    ended = rds.workflow.execute_in_process(job)
    assert ended.error is not None
    assert (ended.error.stage, ended.error.type) == (stage, error_type), ended.error
    assert api.get_project(job.project_id).locked_by is None
    return ended.error


def completes(rds: Rds, job: api.Job) -> api.Job:
    ended = rds.workflow.execute_in_process(job)
    assert (ended.status, ended.error) == (api.JobStatus.COMPLETED, None)
    return ended


def assert_gone(rds: Rds, project_id: str) -> None:
    """See that a project has neither an instance nor anything else."""
    assert rds.instances() == []
    assert_nothing_is_left(rds.workflow, project_id)


def vanish() -> None:
    """Let somebody have deleted every instance, with its automated backups."""
    backend = rds_backends[ACCOUNT][REGION]
    backend.databases.clear()
    for name, snapshot in list(backend.database_snapshots.items()):
        if snapshot.snapshot_type != "manual":
            del backend.database_snapshots[name]


def modify(rds: Rds, **settings: Any) -> None:
    """Modify the instance by hand."""
    (instance,) = rds.instances()
    aws.client("rds", REGION).modify_db_instance(
        DBInstanceIdentifier=instance["DBInstanceIdentifier"], **settings
    )


def stop(rds: Rds) -> None:
    """Stop the instance by hand."""
    (instance,) = rds.instances()
    aws.client("rds", REGION).stop_db_instance(
        DBInstanceIdentifier=instance["DBInstanceIdentifier"]
    )


# It vanished, or was renamed.


@pytest.mark.fault("the instance vanished", where=at("provision_project", CREATING))
def test_what_vanishes_while_it_is_waited_for_is_made_again(rds: Rds) -> None:
    rds.minutes["creating"] = 1
    before(rds, CREATING, vanish, look=2)
    project_id = completes(rds, new_job(rds.workflow)).project_id
    assert rds.asked.count("CreateDBInstance") == 2
    assert logs_in(rds.workflow, project_id)


@pytest.mark.fault(
    "the instance vanished",
    where=[
        *at("provision_project", DATABASE),
        *at("rotate_database_password", ROTATING),
        *at("repair_project", REPAIRING),
        *at("deprovision_project", SNAPSHOT, REMOVING),
    ],
)
@pytest.mark.fault(
    "the server of the instance lets no one in",
    where=[*at("provision_project", DATABASE), *at("rotate_database_password", ROTATING)],
)
def test_what_has_vanished_is_told_and_keeps_no_project_from_going(
    rds: Rds, instance_cluster: PreparedCluster
) -> None:
    workflow = rds.workflow
    # Before the database is made.
    job = new_job(workflow)
    with ExitStack() as until_failed:
        before(rds, DATABASE, lambda: until_failed.enter_context(is_away(instance_cluster)))
        before(rds, DATABASE, vanish)
        error = fails(rds, job, DATABASE, ErrorType.NETWORK_ERROR)
    assert error.attempt == 3
    assert cleanup_of(workflow.jobs.get(job.job_id)).status is api.JobStatus.COMPLETED
    assert_gone(rds, job.project_id)
    workflow.observers.clear()

    project_id = provisioned(rds)
    was, login = api.get_project(project_id), workflow.login(project_id)
    with is_away(instance_cluster):
        # AWS says all the while that it is available.
        rotation = workflow.new_change("rotate_database_password", project_id)
        fails(rds, rotation, ROTATING, ErrorType.NETWORK_ERROR)
        vanish()
        repair = workflow.new_change("repair_project", project_id)
        error = fails(rds, repair, REPAIRING, ErrorType.DATABASE_CHANGE_FAILED)
        assert "is not there: it was deleted or renamed" in error.message
        removal = workflow.new_deprovision_job(project_id)
        error = fails(rds, removal, SNAPSHOT, ErrorType.SNAPSHOT_FAILED)
        assert "deprovision the project without a final snapshot" in error.message
        # Nothing was removed, and the login is what it was.
        assert (api.get_project(project_id), workflow.login(project_id)) == (was, login)
        completes(rds, workflow.new_deprovision_job(project_id, final_snapshot=False))
    assert_gone(rds, project_id)


@contextmanager
def is_away(cluster: PreparedCluster) -> Iterator[None]:
    """Let a server answer nobody for a while."""
    cluster.server.stop()
    try:
        yield
    finally:
        cluster.server.start()


@pytest.mark.fault(
    "the instance was renamed by hand",
    where=[*at("repair_project", REPAIRING), *at("deprovision_project", SNAPSHOT, REMOVING)],
)
def test_what_was_renamed_is_not_there_until_it_has_its_name_again(rds: Rds) -> None:
    workflow = rds.workflow
    project_id = provisioned(rds)
    was = api.get_project(project_id)
    modify(rds, NewDBInstanceIdentifier="legacy")
    repair = workflow.new_change("repair_project", project_id)
    error = fails(rds, repair, REPAIRING, ErrorType.DATABASE_CHANGE_FAILED)
    assert "Name it so again" in error.message
    error = fails(
        rds, workflow.new_deprovision_job(project_id), SNAPSHOT, ErrorType.SNAPSHOT_FAILED
    )
    assert "Name it so again" in error.message
    assert api.get_project(project_id) == was
    modify(rds, NewDBInstanceIdentifier=workflow.names(project_id).instance)
    completes(rds, workflow.new_change("repair_project", project_id))

    modify(rds, NewDBInstanceIdentifier="legacy")
    completes(rds, workflow.new_deprovision_job(project_id, final_snapshot=False))
    # It is somebody's now, with all that is in it.
    assert [i["DBInstanceIdentifier"] for i in rds.instances()] == ["legacy"]
    vanish()
    workflow.remove_tenants()
    assert_nothing_is_left(workflow, project_id)


# It was stopped, or modified.


@pytest.mark.fault(
    "the instance was stopped by hand",
    where=[
        *at("provision_project", CREATING),
        *at("repair_project", REPAIRING),
        *at("deprovision_project", SNAPSHOT, REMOVING),
    ],
)
def test_what_was_stopped_is_started_by_each_job_that_needs_it(rds: Rds) -> None:
    workflow = rds.workflow
    rds.minutes = dict.fromkeys(["creating", "starting", "deleting"], 1)
    stopping = partial(stop, rds)
    before(rds, CREATING, stopping, look=2)
    project_id = provisioned(rds)
    stop(rds)
    repaired = completes(rds, workflow.new_change("repair_project", project_id)).result or {}
    identifier = workflow.names(project_id).instance
    assert {"resource": f"database instance {identifier}", "what": "was stopped"} in repaired[
        "repaired"
    ]
    assert repaired["remaining"] == []
    before(rds, SNAPSHOT, stopping)
    before(rds, REMOVING, stopping)
    completes(rds, workflow.new_deprovision_job(project_id))
    assert rds.asked.count("StartDBInstance") == 4
    assert len(rds.snapshots()) == 1
    assert_gone(rds, project_id)


#: What a person changes, and a job puts back.
_LOOSER = {
    "PubliclyAccessible": True,
    "BackupRetentionPeriod": 0,
    "DeletionProtection": False,
    "CopyTagsToSnapshot": False,
}


@pytest.mark.fault(
    "the instance was modified by hand",
    where=[
        *at("provision_project", CREATING),
        *at("repair_project", REPAIRING),
        *at("deprovision_project", SNAPSHOT, REMOVING),
    ],
)
def test_what_was_modified_is_put_right_or_told(rds: Rds) -> None:
    workflow = rds.workflow
    rds.minutes["creating"] = 1
    before(rds, CREATING, lambda: modify(rds, **_LOOSER), look=2)
    project_id = provisioned(rds)
    workflow.observers.clear()
    (as_made,) = rds.instances()
    assert {name: as_made[name] for name in _LOOSER} == {
        "PubliclyAccessible": False,
        "BackupRetentionPeriod": 7,
        "DeletionProtection": True,
        "CopyTagsToSnapshot": True,
    }
    larger = {"DBInstanceClass": "db.m7g.large", "AllocatedStorage": 40, "EngineVersion": "17.2"}
    modify(rds, **_LOOSER, **larger)
    repaired = completes(rds, workflow.new_change("repair_project", project_id)).result or {}
    assert {drift["what"] for drift in repaired["repaired"]} == set(_LOOSER)
    assert {drift["what"] for drift in repaired["remaining"]} == set(larger)
    (now,) = rds.instances()
    assert {name: now[name] for name in (*_LOOSER, *larger)} == larger | {
        name: as_made[name] for name in _LOOSER
    }
    modify(rds, BackupRetentionPeriod=0)
    removed = completes(rds, workflow.new_deprovision_job(project_id)).result or {}
    assert removed["snapshot"]["storage_gb"] == 40
    assert_gone(rds, project_id)


@pytest.mark.fault(
    "the instance was modified by hand", where=at("provision_project", CREATING), lasting=True
)
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"DBInstanceClass": "db.m7g.large"}, "Its size is db.m7g.large, not db.t4g.micro"),
        ({"EngineVersion": "15.2"}, "Its version is 15.2, not 16.4"),
    ],
)
def test_what_is_another_than_asked_for_is_handed_to_nobody(
    rds: Rds, settings: dict[str, Any], sentence: str
) -> None:
    rds.minutes["creating"] = 1
    before(rds, CREATING, lambda: modify(rds, **settings), look=2)
    job = new_job(rds.workflow)
    error = fails(rds, job, CREATING, ErrorType.DATABASE_CREATION_FAILED)
    assert sentence in error.message
    assert_gone(rds, job.project_id)


# A snapshot that cannot be.


@pytest.mark.fault("a snapshot of the instance fails", where=at("deprovision_project", SNAPSHOT))
def test_without_its_snapshot_no_project_is_removed(rds: Rds) -> None:
    workflow = rds.workflow
    project_id = provisioned(rds)
    was = api.get_project(project_id)
    rds.minutes["snapshot"] = 1
    taken = rds_backends[ACCOUNT][REGION].database_snapshots

    def fail_to_be_taken() -> None:
        (snapshot,) = (s for s in taken.values() if s.snapshot_type == "manual")
        snapshot.status = "failed"

    before(rds, SNAPSHOT, fail_to_be_taken, look=2)
    removal = workflow.new_deprovision_job(project_id)
    error = fails(rds, removal, SNAPSHOT, ErrorType.SNAPSHOT_FAILED)
    assert "could not take the snapshot" in error.message
    assert rds.snapshots() == []

    with answered(refused("SnapshotQuotaExceeded"), "CreateDBSnapshot"):
        job = workflow.new_deprovision_job(project_id)
        error = fails(rds, job, SNAPSHOT, ErrorType.QUOTA_EXCEEDED)
    assert "Manual DB instance snapshots" in error.message

    job = workflow.new_deprovision_job(project_id)
    names = workflow.names(project_id)
    name = instance_snapshot_name(names, job.job_id)
    aws.client("rds", REGION).create_db_snapshot(
        DBInstanceIdentifier=names.instance,
        DBSnapshotIdentifier=name,
        Tags=tag_list({"team": "analytics"}),
    )
    error = fails(rds, job, SNAPSHOT, ErrorType.CONFLICT)
    assert "is not of this project's instance" in error.message
    # Nobody else's is deleted.
    assert [snapshot["DBSnapshotIdentifier"] for snapshot in rds.snapshots()] == [name]
    del taken[name]
    assert api.get_project(project_id) == was

    # The first job takes its own at last.
    workflow.jobs.retry(workflow.jobs.get(removal.job_id))
    completes(rds, workflow.jobs.get(removal.job_id))
    assert len(rds.snapshots()) == 1
    assert_gone(rds, project_id)


# Its server.


@pytest.mark.fault(
    "the server of the instance killed in the middle",
    where=[*at("provision_project", DATABASE), *at("rotate_database_password", ROTATING)],
)
def test_the_server_is_killed_in_the_middle(rds: Rds) -> None:
    workflow = rds.workflow
    killed: list[str] = []

    def kill(stage: str, call: Call) -> Any:
        killed.append(stage)
        restart(workflow.server)
        return call.make()

    workflow.faults = {
        DATABASE: Fault(Within(operation(SQL, "GRANT CONNECT"), partial(kill, DATABASE))),
        ROTATING: Fault(Within(first_statement, partial(kill, ROTATING))),
    }
    project_id = provisioned(rds)
    login = workflow.login(project_id)
    completes(rds, workflow.new_change("rotate_database_password", project_id))
    assert killed == [DATABASE, ROTATING]
    assert workflow.login(project_id)["password"] != login["password"]
    assert logs_in(workflow, project_id)
    assert not workflow.server.takes(login)


@pytest.mark.fault(
    "the server of the instance lets no one in", where=at("provision_project", DATABASE)
)
def test_a_server_that_refuses_the_platform_is_removed(
    rds: Rds, instance_cluster: PreparedCluster
) -> None:
    with instance_cluster.connect() as connection:
        before(rds, DATABASE, lambda: connection.execute("ALTER ROLE provisioner NOLOGIN"))
        job = new_job(rds.workflow)
        error = fails(rds, job, DATABASE, ErrorType.INSUFFICIENT_PERMISSIONS)
        connection.execute("ALTER ROLE provisioner LOGIN")
    assert "is not permitted to log in" in error.cause
    assert_gone(rds, job.project_id)
