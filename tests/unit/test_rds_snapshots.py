"""The driver of Amazon RDS: snapshots, and instances that are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from moto.rds.models import rds_backends
from provisioner.drivers.rds import RdsState
from provisioner.drivers.rds_snapshots import KEPT_UNTIL_TAG, InstanceSnapshot
from provisioner.errors import ErrorType
from support.core import ACCOUNT, REGION, aws_error, deployment, meanwhile, times
from support.drivers import LATER, OWNER, each_foreign, errors, refused, tag_list
from support.rds import DESCRIPTION, FINAL, KEPT_UNTIL, NAME, SNAPSHOT, Database, with_subnet_group


@pytest.fixture
def database() -> Iterator[Database]:
    """Return the project's part, with its instance."""
    with deployment() as core:
        made = with_subnet_group(core)
        made.ensure(deletion_protection=False)
        core.calls.clear()
        yield made


def kept(identifier: str = SNAPSHOT) -> Any:
    """Return where moto keeps a snapshot."""
    return rds_backends[ACCOUNT][REGION].database_snapshots[identifier]


def identifiers() -> set[str]:
    return {
        identifier
        for identifier, snapshot in rds_backends[ACCOUNT][REGION].database_snapshots.items()
        if snapshot.snapshot_type == "manual"
    }


def one(found: InstanceSnapshot | None) -> InstanceSnapshot:
    assert found is not None
    return found


def take(database: Database, tags: dict[str, str], identifier: str = SNAPSHOT) -> None:
    """Take a snapshot as someone else does, who gives it these tags alone."""
    database.client.create_db_snapshot(DBSnapshotIdentifier=identifier, DBInstanceIdentifier=NAME)
    kept(identifier).tags = tag_list(tags)


def test_a_snapshot_is_taken_with_the_marker(database: Database) -> None:
    assert database.find_snapshot() is None
    snapshot = one(database.snapshot())
    assert database.find_snapshot() == snapshot
    assert database.list_snapshots() == [snapshot]
    assert snapshot == InstanceSnapshot(
        identifier=SNAPSHOT,
        region=REGION,
        project_id=OWNER.project_id,
        instance=NAME,
        status="available",
        state=RdsState.READY,
        engine="postgres",
        server_version="16",
        storage_gb=20,
        taken_at=snapshot.taken_at,
        job_id=OWNER.job_id,
        kept_until=KEPT_UNTIL,
    )
    assert snapshot.taken_at is not None
    assert snapshot.taken_at.tzinfo is not None
    assert database.core.calls_of("rds.CreateDBSnapshot") == [
        {
            "DBSnapshotIdentifier": SNAPSHOT,
            "DBInstanceIdentifier": NAME,
            "Tags": tag_list(OWNER.tags() | {KEPT_UNTIL_TAG: "2026-02-26"}),
        }
    ]


def test_a_second_run_only_reads(database: Database) -> None:
    snapshot = database.snapshot()
    database.core.calls.clear()
    assert database.snapshot() == snapshot
    assert database.core.changes() == []


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("creating", RdsState.PENDING),
        ("never-heard-of", RdsState.PENDING),
        ("available", RdsState.READY),
        ("deleting", RdsState.DELETING),
    ],
)
def test_a_snapshot_tells_how_far_it_is(database: Database, status: str, state: RdsState) -> None:
    database.snapshot()
    kept().status = status
    assert one(database.snapshot()).state is state


def test_a_snapshot_that_is_being_taken_has_no_time_yet(database: Database) -> None:
    database.snapshot()
    (told,) = database.client.describe_db_snapshots(DBSnapshotIdentifier=SNAPSHOT)["DBSnapshots"]
    del told["SnapshotCreateTime"]
    told |= {"Status": "creating", "PercentProgress": 40}
    database.core.answers["rds.DescribeDBSnapshots"] = lambda _: (200, {"DBSnapshots": [told]})
    found = one(database.find_snapshot())
    assert found.taken_at is None


def test_a_snapshot_that_failed_goes_so_that_the_job_can_run_again(database: Database) -> None:
    database.snapshot()
    kept().status = "failed"
    error = refused(database.snapshot)
    assert (error.type, error.cause) == (FINAL, f"snapshot {SNAPSHOT}: failed")
    assert identifiers() == set()
    assert one(database.snapshot()).state is RdsState.READY


@each_foreign
def test_a_foreign_snapshot_is_a_conflict_and_stays(
    database: Database, tags: dict[str, str]
) -> None:
    take(database, tags)
    database.core.calls.clear()
    error = refused(database.snapshot)
    assert error.type is ErrorType.CONFLICT
    assert error.message.startswith(f"A snapshot named {SNAPSHOT} exists and is not of this")
    assert database.find_snapshot() is None
    assert database.remove_snapshot() is None
    assert database.list_snapshots() == []
    assert database.core.changes() == []
    assert identifiers() == {SNAPSHOT}


def test_a_snapshot_of_another_instance_is_a_conflict(database: Database) -> None:
    database.snapshot()
    kept().db_instance_identifier = "nm-another"
    assert refused(database.snapshot).type is ErrorType.CONFLICT


def test_the_snapshot_that_another_run_begins_meanwhile_is_the_one(database: Database) -> None:
    database.core.answers["rds.CreateDBSnapshot"] = meanwhile(lambda: database.snapshot(LATER))
    assert one(database.snapshot()).job_id == LATER.job_id
    assert len(identifiers()) == 1


def test_a_snapshot_that_comes_and_goes_meanwhile_is_taken_later(database: Database) -> None:
    database.core.answers["rds.CreateDBSnapshot"] = aws_error("DBSnapshotAlreadyExists")
    assert database.snapshot() is None


@pytest.mark.parametrize("status", ["creating", "backing-up", "modifying", "starting"])
def test_a_status_in_which_rds_takes_none_is_awaited(database: Database, status: str) -> None:
    database.kept.status = status
    assert database.snapshot() is None
    assert database.core.changes() == []
    database.kept.status = "storage-optimization"
    assert database.snapshot() is not None


def test_a_status_that_changes_meanwhile_is_awaited(database: Database) -> None:
    database.core.answers["rds.CreateDBSnapshot"] = times(1, aws_error("InvalidDBInstanceState"))
    assert database.snapshot() is None
    assert database.snapshot() is not None


def test_an_instance_that_was_stopped_is_started_first(database: Database) -> None:
    database.kept.status = "stopped"
    assert database.snapshot() is None
    assert database.core.changes() == ["rds.StartDBInstance"]
    assert database.snapshot() is not None


@pytest.mark.parametrize("status", ["incompatible-parameters", "failed", "deleting"])
def test_a_status_that_stays_is_told(database: Database, status: str) -> None:
    database.kept.status = status
    error = refused(database.snapshot)
    assert (error.type, error.cause) == (FINAL, f"instance {NAME}: {status}")
    assert database.core.changes() == []


def test_there_is_no_snapshot_of_what_is_not_there(database: Database) -> None:
    database.remove()
    database.make({})
    error = refused(database.snapshot)
    assert error.type is FINAL
    assert "is not there" in error.message
    assert "without a final snapshot" in error.message
    assert identifiers() == set()


def test_snapshots_are_listed_newest_first_the_whole_region_page_by_page(
    database: Database,
) -> None:
    for day, name in enumerate(("first", "second", "third"), start=1):
        database.snapshot(identifier=name)
        kept(name).created = datetime(2026, 1, day, tzinfo=UTC)
    take(database, {}, "foreign")
    assert [snapshot.identifier for snapshot in database.list_snapshots()] == [
        "third",
        "second",
        "first",
    ]
    (asked,) = database.core.calls_of("rds.DescribeDBSnapshots")[-1:]
    assert asked == {"SnapshotType": "manual", "MaxRecords": 100}
    told = database.client.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    pages = [{"DBSnapshots": told[:1], "Marker": "1"}, {"DBSnapshots": told[1:]}]
    database.core.answers["rds.DescribeDBSnapshots"] = lambda parameters: (
        200,
        dict(pages[int(parameters.get("Marker", "0"))]),
    )
    assert len(database.list_snapshots()) == 3


def test_one_that_is_still_being_taken_is_the_newest(database: Database) -> None:
    database.snapshot(identifier="first")
    (told,) = database.client.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    pending = {**told, "DBSnapshotIdentifier": "second"}
    del pending["SnapshotCreateTime"]
    database.core.answers["rds.DescribeDBSnapshots"] = lambda _: (
        200,
        {"DBSnapshots": [told, pending]},
    )
    assert [snapshot.identifier for snapshot in database.list_snapshots()] == ["second", "first"]


def test_a_snapshot_outlasts_its_instance_and_is_removed_alone(database: Database) -> None:
    database.snapshot()
    assert database.remove() is None
    assert database.find_snapshot() is not None
    assert database.remove_snapshot() is None
    assert database.find_snapshot() is None
    database.core.calls.clear()
    assert database.remove_snapshot() is None
    assert database.core.changes() == []


def test_a_snapshot_that_is_being_taken_is_removed_later(database: Database) -> None:
    database.snapshot()
    database.core.answers["rds.DeleteDBSnapshot"] = times(1, aws_error("InvalidDBSnapshotState"))
    assert database.remove_snapshot() is not None
    assert database.remove_snapshot() is None


def test_a_snapshot_that_another_run_removes_meanwhile_is_gone(database: Database) -> None:
    database.snapshot()
    database.core.answers["rds.DeleteDBSnapshot"] = meanwhile(database.remove_snapshot)
    assert database.remove_snapshot() is None


def test_an_instance_is_made_of_a_snapshot(database: Database) -> None:
    database.snapshot()
    database.remove()
    database.core.calls.clear()
    instance = database.restore(owner=LATER, size="db.m7g.large", storage_gb=40)
    assert database.find(LATER) == instance
    assert instance.is_ready
    assert (instance.size, instance.storage_gb) == ("db.m7g.large", 40)
    assert database.core.changes() == ["rds.RestoreDBInstanceFromDBSnapshot"]
    (asked,) = database.core.calls_of("rds.RestoreDBInstanceFromDBSnapshot")
    assert asked == {
        "DBSnapshotIdentifier": SNAPSHOT,
        "DBInstanceIdentifier": NAME,
        "DBInstanceClass": "db.m7g.large",
        "AllocatedStorage": 40,
        "StorageType": "gp3",
        "Port": 5432,
        "DBSubnetGroupName": "databases",
        "VpcSecurityGroupIds": ["sg-1", "sg-2"],
        "PubliclyAccessible": False,
        "MultiAZ": False,
        "AutoMinorVersionUpgrade": True,
        "CACertificateIdentifier": "rds-ca-rsa2048-g1",
        "BackupRetentionPeriod": 7,
        "DeletionProtection": True,
        "CopyTagsToSnapshot": True,
        "Tags": tag_list(LATER.tags()),
    }
    database.core.calls.clear()
    assert database.restore(owner=LATER, size="db.m7g.large", storage_gb=40) == instance
    assert database.core.changes() == []


def test_an_instance_that_comes_without_its_tags_gets_them(database: Database) -> None:
    database.snapshot()
    database.remove()
    restore = database.client.restore_db_instance_from_db_snapshot

    def without_tags(parameters: Any) -> tuple[int, dict[str, Any]] | None:
        database.core.answers.clear()
        made = restore(**{**parameters, "Tags": []})["DBInstance"]
        arn = made["DBInstanceArn"]
        database.client.remove_tags_from_resource(ResourceName=arn, TagKeys=list(OWNER.tags()))
        return 200, {"DBInstance": {**made, "TagList": []}}

    database.core.answers["rds.RestoreDBInstanceFromDBSnapshot"] = without_tags
    database.restore(owner=LATER)
    tags = {tag["Key"]: tag["Value"] for tag in database.described()["TagList"]}
    assert tags == LATER.tags()


@each_foreign
def test_nothing_is_restored_over_a_foreign_instance(
    database: Database, tags: dict[str, str]
) -> None:
    database.snapshot()
    database.remove()
    database.make(tags)
    database.core.calls.clear()
    assert refused(database.restore).type is ErrorType.CONFLICT
    assert database.core.changes() == []


def test_a_snapshot_of_another_engine_is_not_taken_for_the_asked_one(database: Database) -> None:
    database.snapshot()
    database.remove()
    database.description = dataclasses.replace(DESCRIPTION, engine="mysql", version="8.4")
    database.restore()
    assert refused(database.restore).type is FINAL


ACTS: dict[str, Callable[[Database], object]] = {
    "CreateDBSnapshot": Database.snapshot,
    "DescribeDBSnapshots": Database.list_snapshots,
    "DeleteDBSnapshot": Database.remove_snapshot,
    "RestoreDBInstanceFromDBSnapshot": Database.restore,
}


@pytest.mark.parametrize("operation", ACTS)
def test_each_error_is_of_the_table(database: Database, operation: str) -> None:
    if operation != "CreateDBSnapshot":
        database.snapshot()
    if operation == "RestoreDBInstanceFromDBSnapshot":
        database.remove()
    for met, (answer, expected) in errors(FINAL).items():
        database.core.answers[f"rds.{operation}"] = answer
        assert refused(lambda: ACTS[operation](database)).type is expected, met


@pytest.mark.parametrize("operation", ["CreateDBSnapshot", "RestoreDBInstanceFromDBSnapshot"])
def test_a_quota_says_what_to_do(database: Database, operation: str) -> None:
    if operation == "RestoreDBInstanceFromDBSnapshot":
        database.snapshot()
        database.remove()
    database.core.answers[f"rds.{operation}"] = aws_error("SnapshotQuotaExceeded")
    error = refused(lambda: ACTS[operation](database))
    assert error.type is ErrorType.QUOTA_EXCEEDED
    assert '"Manual DB instance snapshots"' in error.message


@pytest.mark.parametrize(
    "told",
    [{"DBSnapshots": []}, {"DBSnapshots": [{"DBSnapshotIdentifier": "another"}]}],
    ids=["none", "another"],
)
def test_an_answer_of_another_snapshot_is_none(database: Database, told: dict[str, Any]) -> None:
    database.snapshot()
    database.core.calls.clear()
    database.core.answers["rds.DescribeDBSnapshots"] = lambda _: (200, dict(told))
    acts: list[Callable[[], object]] = [
        database.snapshot,
        database.find_snapshot,
        database.remove_snapshot,
    ]
    for act in acts:
        assert refused(act).type is ErrorType.NETWORK_ERROR
    assert database.core.changes() == []


def test_an_instance_that_is_another_is_not_taken_for_the_restored_one(database: Database) -> None:
    database.snapshot()
    database.remove()
    told = {"DBInstanceIdentifier": "another", "DBInstanceStatus": "creating"}
    answer = {"DBInstance": {**told, "DBInstanceArn": "arn:of:another"}}
    database.core.answers["rds.RestoreDBInstanceFromDBSnapshot"] = lambda _: (200, dict(answer))
    assert refused(database.restore).type is ErrorType.NETWORK_ERROR
    assert database.core.calls_of("rds.AddTagsToResource") == []


def test_a_taken_snapshot_that_is_another_is_not_taken_for_it(database: Database) -> None:
    told = {"DBSnapshot": {"DBSnapshotIdentifier": "another"}}
    database.core.answers["rds.CreateDBSnapshot"] = lambda _: (200, told)
    assert refused(database.snapshot).type is ErrorType.NETWORK_ERROR
