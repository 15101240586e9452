"""The driver of Amazon RDS: instances."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto.rds.models import rds_backends
from provisioner.drivers import rds
from provisioner.drivers.aws_errors import translate
from provisioner.drivers.drift import Drift, Repairs
from provisioner.drivers.rds import Instance, RdsState
from provisioner.drivers.rds_description import InstanceDescription
from provisioner.errors import ERROR_RULES, ErrorType
from provisioner.ownership import Ownership
from support.core import ACCOUNT, REGION, answer_lost, aws_error, deployment, meanwhile, times
from support.drivers import LATER, OWNER, each_foreign, errors, refused, text_of
from support.rds import DESCRIPTION, FINAL, NAME, PASSWORD, Database, with_subnet_group

#: Every operation that the drivers of RDS call.
OPERATIONS = [
    "AddTagsToResource",
    "CreateDBInstance",
    "CreateDBSnapshot",
    "DeleteDBInstance",
    "DeleteDBSnapshot",
    "DescribeDBInstances",
    "DescribeDBSnapshots",
    "ModifyDBInstance",
    "RestoreDBInstanceFromDBSnapshot",
    "StartDBInstance",
]

#: Errors that can pass by waiting: a status that changes, and machines that become free.
PASSING = {"InvalidDBInstanceState", "InvalidDBSnapshotState", "InsufficientDBInstanceCapacity"}

QUOTAS = {
    "InstanceQuotaExceeded": '"DB instances"',
    "StorageQuotaExceeded": '"Total storage for all DB instances"',
    "SnapshotQuotaExceeded": '"Manual DB instance snapshots"',
}


@pytest.fixture
def database() -> Iterator[Database]:
    """Return the project's part, beside the operator's subnet group."""
    with deployment() as core:
        yield with_subnet_group(core)


def test_a_project_gets_an_instance_with_the_marker(database: Database) -> None:
    assert database.find() is None
    instance = database.ensure()
    assert database.find() == instance
    assert instance == Instance(
        identifier=NAME,
        resource_id=database.kept.dbi_resource_id,
        status="available",
        state=RdsState.READY,
        host=f"{NAME}.aaaaaaaaaa.{REGION}.rds.amazonaws.com",
        port=5432,
        version="16",
        size="db.t4g.micro",
        storage_gb=20,
        is_protected=True,
    )
    assert instance.is_ready
    (asked,) = database.core.calls_of("rds.CreateDBInstance")
    assert asked == {
        "DBInstanceIdentifier": NAME,
        "Engine": "postgres",
        "EngineVersion": "16",
        "DBInstanceClass": "db.t4g.micro",
        "AllocatedStorage": 20,
        "StorageType": "gp3",
        "StorageEncrypted": True,
        "MasterUsername": "provisioner",
        "MasterUserPassword": PASSWORD,
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
        "Tags": [{"Key": key, "Value": value} for key, value in OWNER.tags().items()],
    }


def test_a_new_instance_is_under_the_key_that_is_given_and_one_that_is_there_stays(
    database: Database,
) -> None:
    key = database.core.client("kms").create_key()["KeyMetadata"]["Arn"]
    database.ensure(kms_key_arn=key)
    (asked,) = database.core.calls_of("rds.CreateDBInstance")
    assert (asked["StorageEncrypted"], asked["KmsKeyId"]) == (True, key)
    database.core.calls.clear()
    database.ensure()
    assert database.core.changes() == []


@pytest.mark.parametrize("owner", [OWNER, LATER], ids=["again", "of_a_later_job"])
def test_a_second_run_only_reads(database: Database, owner: Ownership) -> None:
    instance = database.ensure()
    before = database.described()
    database.core.calls.clear()
    assert database.ensure(owner) == instance
    assert database.core.changes() == []
    assert database.described() == before


@each_foreign
def test_a_foreign_instance_of_the_name_is_a_conflict_and_stays(
    database: Database, tags: dict[str, str]
) -> None:
    database.make(tags, DeletionProtection=True)
    before = database.described()
    database.core.calls.clear()
    error = refused(database.ensure)
    assert (error.type, error.message) == (
        ErrorType.CONFLICT,
        f"A database instance named {NAME} exists and is not this project's; remove or rename it.",
    )
    assert database.find() is None
    assert database.remove() is None
    assert refused(database.repair).type is ErrorType.CONFLICT
    assert refused(database.change_password).type is FINAL
    assert database.core.changes() == []
    assert database.described() == before


def test_the_instance_that_another_run_makes_meanwhile_is_the_one(database: Database) -> None:
    database.core.answers["rds.CreateDBInstance"] = meanwhile(lambda: database.ensure(LATER))
    instance = database.ensure()
    assert instance == database.find(LATER)
    tags = {tag["Key"]: tag["Value"] for tag in database.described()["TagList"]}
    assert tags == LATER.tags()


def test_a_foreign_instance_that_is_made_meanwhile_is_a_conflict(database: Database) -> None:
    database.core.answers["rds.CreateDBInstance"] = meanwhile(lambda: database.make({}))
    assert refused(database.ensure).type is ErrorType.CONFLICT


def test_an_instance_that_comes_and_goes_meanwhile_is_contention(database: Database) -> None:
    database.core.answers["rds.CreateDBInstance"] = aws_error("DBInstanceAlreadyExists")
    assert refused(database.ensure).type is ErrorType.TIMEOUT


def test_a_lost_answer_costs_nothing(database: Database) -> None:
    database.core.answers["rds.CreateDBInstance"] = answer_lost(database.client.create_db_instance)
    assert refused(database.ensure).type is ErrorType.TIMEOUT
    assert database.ensure().is_ready
    assert len(database.core.calls_of("rds.CreateDBInstance")) == 2  # the lost one counts twice


#: What each status of the User Guide means.
STATES = {
    RdsState.READY: """
        available backing-up configuring-enhanced-monitoring configuring-iam-database-auth
        configuring-log-exports storage-config-upgrade storage-initialization storage-optimization
        never-heard-of
    """,
    RdsState.PENDING: """
        converting-to-vpc creating maintenance modifying moving-to-vpc rebooting renaming
        resetting-master-credentials starting stopping upgrading
    """,
    RdsState.STOPPED: "stopped",
    RdsState.DELETING: "delete-precheck deleting",
    RdsState.FAILED: """
        failed inaccessible-encryption-credentials inaccessible-encryption-credentials-recoverable
        incompatible-create incompatible-network incompatible-option-group incompatible-parameters
        incompatible-restore insufficient-capacity restore-error storage-full
        incompatible-never-heard-of
    """,
}
EACH_STATUS = [(status, state) for state, all_of in STATES.items() for status in all_of.split()]


def one(found: Instance | None) -> Instance:
    assert found is not None
    return found


def test_each_status_says_how_far_rds_is(database: Database) -> None:
    database.ensure()
    for status, state in EACH_STATUS:
        database.kept.status = status
        found = one(database.find())
        assert (found.status, found.state) == (status, state)
        assert found.is_ready == (state is RdsState.READY)


@pytest.mark.parametrize("endpoint", [None, {"Port": 5432}], ids=["none", "of_a_port_alone"])
def test_an_instance_without_an_address_is_not_ready(
    database: Database, monkeypatch: pytest.MonkeyPatch, endpoint: dict[str, Any] | None
) -> None:
    database.ensure()
    monkeypatch.setattr(type(database.kept), "endpoint", endpoint)
    for status in ("available", "never-heard-of"):
        database.kept.status = status
        assert one(database.find()).state is RdsState.PENDING
    assert one(database.find()).host is None


def test_a_run_that_finds_a_status_waits_acts_or_says_what_to_do(database: Database) -> None:
    database.ensure()
    for status, state in EACH_STATUS:
        database.kept.status = status
        database.core.calls.clear()
        if state is RdsState.FAILED:
            check_failure(database, status)
        elif state is RdsState.STOPPED:
            assert database.ensure().status == "available"
        else:
            assert database.ensure().state is state
        started = ["rds.StartDBInstance"] if state is RdsState.STOPPED else []
        assert database.core.changes() == started, status


def check_failure(database: Database, status: str) -> None:
    error = refused(database.ensure)
    full = status == "storage-full"
    assert error.type is (ErrorType.QUOTA_EXCEEDED if full else FINAL)
    assert error.cause == f"instance {NAME}: {status}"
    assert error.message.startswith(f"The database instance {NAME} of the project ")
    # Whatever it is, there is something to do.
    assert re.search("[;:] [a-z]", error.message)
    assert refused(database.repair).message == error.message


def test_an_instance_that_another_run_starts_meanwhile_is_awaited(database: Database) -> None:
    database.ensure()
    database.kept.status = "stopped"

    def start() -> None:
        database.kept.status = "starting"

    database.core.answers["rds.StartDBInstance"] = meanwhile(start)
    assert database.ensure().status == "starting"


def test_what_is_being_deleted_is_made_anew_once_it_is_gone(database: Database) -> None:
    database.ensure()
    database.kept.status = "deleting"
    assert database.ensure().state is RdsState.DELETING
    database.kept.status = "available"
    assert database.remove() is None
    assert database.ensure(LATER).is_ready
    assert database.find(LATER) is not None


#: What the project's instance is otherwise than asked for.
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another engine": (
        {"engine": "mysql", "version": "16"},
        {},
        "Its engine is postgres, not mysql",
    ),
    "another major version": ({"version": "17"}, {}, "Its version is 16, not 17"),
    "an older minor version": (
        {"version": "16.4"},
        {"engine_version": "16.2"},
        "Its version is 16.2, not 16.4",
    ),
    "another size": (
        {"size": "db.m7g.large"},
        {},
        "Its size is db.t4g.micro, not db.m7g.large",
    ),
    "less storage": ({"storage_gb": 30}, {}, "Its storage is 20 GB, not 30"),
    "no encryption": ({}, {"storage_encrypted": False}, "It is not encrypted"),
}


@pytest.mark.parametrize(
    ("asked", "kept", "said"),
    DIFFERENT.values(),
    ids=[name.replace(" ", "_") for name in DIFFERENT],
)
def test_an_instance_that_is_another_than_asked_for_is_refused_and_stays(
    database: Database, asked: dict[str, Any], kept: dict[str, Any], said: str
) -> None:
    database.ensure()
    for name, value in kept.items():
        setattr(database.kept, name, value)
    before = database.described()
    database.core.calls.clear()
    error = refused(lambda: database.ensure(**asked))
    assert error.type is FINAL
    assert f"is another than asked for. {said}" in error.message
    assert database.core.changes() == []
    database.description = dataclasses.replace(DESCRIPTION, **asked)
    _, repairs = database.repair()
    assert [remaining.why.startswith(said) for remaining in repairs.remaining] == [True]
    assert database.core.changes() == []
    assert database.described() == before


@pytest.mark.parametrize(
    ("engine", "asked", "is_now"),
    [
        ("postgres", "16", "16.11"),
        ("postgres", "16.9", "16.11"),
        ("mysql", "8.4", "8.4.7"),
        ("mysql", "8.0.9", "8.0.43"),
        ("mysql", "8", "8.4.7"),
        ("mysql", "5.7", "5.7.44-rds.20240408"),
    ],
)
def test_a_newer_minor_version_is_right(
    database: Database, engine: str, asked: str, is_now: str
) -> None:
    database.description = dataclasses.replace(DESCRIPTION, engine=engine, version=asked)
    database.ensure()
    database.kept.engine_version = is_now
    assert database.ensure().version == is_now
    assert database.repair()[1].remaining == ()


@pytest.mark.parametrize(
    ("engine", "asked", "is_now"),
    [("postgres", "16", "17.1"), ("mysql", "8.0", "8.4.7"), ("mysql", "8.4.7", "8.4.5")],
)
def test_another_major_version_or_an_older_one_is_not(
    database: Database, engine: str, asked: str, is_now: str
) -> None:
    database.description = dataclasses.replace(DESCRIPTION, engine=engine, version=asked)
    database.ensure()
    database.kept.engine_version = is_now
    assert refused(database.ensure).type is FINAL


def test_storage_that_has_grown_is_right_and_told(database: Database) -> None:
    database.ensure()
    database.kept.allocated_storage = 50
    assert database.ensure().storage_gb == 50
    _, repairs = database.repair()
    (remaining,) = repairs.remaining
    assert remaining.what == "AllocatedStorage"
    assert "Its storage is 50 GB, not 20" in remaining.why


#: What drifts, as moto keeps it and as RDS takes it.
DRIFTS: dict[str, tuple[str, Any, Any]] = {
    "BackupRetentionPeriod": ("backup_retention_period", 1, 7),
    "DeletionProtection": ("deletion_protection", False, True),
    "PubliclyAccessible": ("publicly_accessible", True, False),
    "CopyTagsToSnapshot": ("copy_tags_to_snapshot", False, True),
    "VpcSecurityGroupIds": ("vpc_security_group_ids", ["sg-1", "sg-3"], ["sg-1", "sg-2"]),
}
each_drift = pytest.mark.parametrize("what", DRIFTS)


@each_drift
def test_what_has_drifted_is_put_right(database: Database, what: str) -> None:
    member, drifted, right = DRIFTS[what]
    database.ensure()
    for act in (database.ensure, database.repair):
        setattr(database.kept, member, drifted)
        database.core.calls.clear()
        act()
        assert database.core.calls_of("rds.ModifyDBInstance") == [
            {"DBInstanceIdentifier": NAME, what: right}
        ]
        assert database.core.changes() == ["rds.ModifyDBInstance"]


@each_drift
def test_a_repair_tells_what_it_has_put_right(database: Database, what: str) -> None:
    database.ensure()
    assert database.repair()[1] == Repairs(checked=f"database instance {NAME} answered: available")
    setattr(database.kept, *DRIFTS[what][:2])
    instance, repairs = database.repair()
    assert instance.is_ready
    assert repairs.repaired == (Drift(f"database instance {NAME}", what),)
    assert repairs.remaining == ()


@each_drift
def test_what_rds_does_not_tell_of_yet_remains(database: Database, what: str) -> None:
    database.ensure()
    setattr(database.kept, *DRIFTS[what][:2])
    answer = {"DBInstance": database.described()}
    database.core.answers["rds.ModifyDBInstance"] = lambda _: (200, answer)
    _, repairs = database.repair()
    assert repairs.repaired == ()
    assert [remaining.what for remaining in repairs.remaining] == [what]


def test_what_is_pending_has_not_drifted(database: Database) -> None:
    database.ensure()
    database.kept.backup_retention_period = 1
    database.kept.db_instance_class = "db.m7g.large"
    told = database.described() | {
        "PendingModifiedValues": {"BackupRetentionPeriod": 7, "DBInstanceClass": "db.t4g.micro"}
    }
    database.core.answers["rds.DescribeDBInstances"] = lambda _: (200, {"DBInstances": [told]})
    database.core.calls.clear()
    database.ensure()
    assert database.repair()[1].remaining == ()
    assert database.core.changes() == []


def test_a_group_that_is_being_removed_is_gone(database: Database) -> None:
    database.ensure()
    told = database.described()
    groups = [*told["VpcSecurityGroups"], {"VpcSecurityGroupId": "sg-9", "Status": "removing"}]
    told |= {"VpcSecurityGroups": groups}
    database.core.answers["rds.DescribeDBInstances"] = lambda _: (200, {"DBInstances": [told]})
    database.core.calls.clear()
    assert database.repair()[1].remaining == ()
    assert database.core.changes() == []


def test_what_an_operator_has_made_stricter_or_larger_stays(database: Database) -> None:
    database.ensure(deletion_protection=False)
    kept = {
        "backup_retention_period": 35,
        "deletion_protection": True,
        "multi_az": True,
        "auto_minor_version_upgrade": False,
        "storage_type": "io2",
        "ca_certificate_identifier": "rds-ca-ecc384-g1",
    }
    for name, value in kept.items():
        setattr(database.kept, name, value)
    before = database.described()
    database.core.calls.clear()
    database.description = dataclasses.replace(DESCRIPTION, deletion_protection=False)
    database.ensure()
    assert database.repair()[1].repaired == ()
    assert database.core.changes() == []
    assert database.described() == before


def test_without_groups_those_of_the_vpc_stay(database: Database) -> None:
    database.description = dataclasses.replace(DESCRIPTION, security_group_ids=())
    database.ensure()
    (asked,) = database.core.calls_of("rds.CreateDBInstance")
    assert "VpcSecurityGroupIds" not in asked
    assert database.repair()[1].repaired == ()


def test_nothing_is_modified_while_rds_is_at_work(database: Database) -> None:
    database.ensure()
    database.kept.deletion_protection = False
    database.core.calls.clear()
    for status in ("backing-up", "modifying", "creating"):
        database.kept.status = status
        assert database.ensure().status == status
    database.kept.status = "modifying"
    assert database.repair()[1].repaired == ()
    assert database.core.changes() == []


def test_a_repair_starts_what_was_stopped_and_puts_the_rest_right_later(
    database: Database,
) -> None:
    database.ensure()
    database.kept.status = "stopped"
    database.kept.deletion_protection = False
    instance, repairs = database.repair()
    assert instance.status == "available"
    what = "was stopped and was started"
    assert repairs.repaired == (Drift(f"database instance {NAME}", what),)
    _, repairs = database.repair()
    assert [drift.what for drift in repairs.repaired] == ["DeletionProtection"]


def test_a_repair_makes_no_empty_instance(database: Database) -> None:
    error = refused(database.repair)
    assert error.type is FINAL
    assert "deleted or renamed" in error.message
    assert database.core.changes() == []


def test_a_renamed_instance_is_not_there(database: Database) -> None:
    database.ensure()
    database.client.modify_db_instance(
        DBInstanceIdentifier=NAME, NewDBInstanceIdentifier="nm-shop-old"
    )
    assert database.find() is None
    assert database.remove() is None
    assert refused(database.repair).type is FINAL
    assert rds_backends[ACCOUNT][REGION].databases.keys() == {"nm-shop-old"}


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "unprotected"])
def test_a_removed_instance_leaves_no_backup(database: Database, protected: bool) -> None:  # noqa: FBT001
    database.ensure(deletion_protection=protected)
    database.core.calls.clear()
    assert database.remove() is None
    asked = {"SkipFinalSnapshot": True, "DeleteAutomatedBackups": True}
    assert database.core.calls_of("rds.DeleteDBInstance") == [
        {"DBInstanceIdentifier": NAME, **asked}
    ]
    modified = [{"DBInstanceIdentifier": NAME, "DeletionProtection": False}] if protected else []
    assert database.core.calls_of("rds.ModifyDBInstance") == modified
    database.core.calls.clear()
    assert database.remove() is None
    assert database.core.changes() == []


def test_only_what_is_claimed_is_removed(database: Database) -> None:
    database.ensure()
    claim = LATER.claim(only_this_job=True)
    assert rds.remove_instance(database.client, NAME, claim=claim, final=FINAL) is None
    assert database.find() is not None


@pytest.mark.parametrize("status", ["creating", "modifying", "delete-precheck", "deleting"])
def test_what_cannot_be_deleted_yet_is_told_of(database: Database, status: str) -> None:
    database.ensure(deletion_protection=False)
    database.kept.status = status
    database.core.answers["rds.DeleteDBInstance"] = times(2, aws_error("InvalidDBInstanceState"))
    database.core.calls.clear()
    for _ in range(2):
        assert one(database.remove()).status == status
    # What is going already is not asked to go.
    is_asked = one(database.find()).state is not RdsState.DELETING
    assert bool(database.core.changes()) == is_asked
    database.kept.status = "available"
    database.core.answers.clear()
    assert database.remove() is None


def test_what_has_failed_is_removed(database: Database) -> None:
    for status in STATES[RdsState.FAILED].split():
        database.ensure()
        database.kept.status = status
        assert database.remove() is None, status


def test_what_another_run_deletes_meanwhile_is_gone(database: Database) -> None:
    database.ensure(deletion_protection=False)
    database.core.answers["rds.DeleteDBInstance"] = meanwhile(database.remove)
    assert database.remove() is None


def test_a_stopped_instance_that_is_protected_is_started_first(database: Database) -> None:
    database.ensure()
    database.kept.status = "stopped"
    database.core.calls.clear()
    assert one(database.remove()).status == "available"
    assert database.core.changes() == ["rds.StartDBInstance"]
    assert database.remove() is None


def test_protection_that_is_not_off_yet_is_no_refusal_for_good(database: Database) -> None:
    database.ensure()
    answer = {"DBInstance": database.described()}
    database.core.answers["rds.ModifyDBInstance"] = times(1, lambda _: (200, answer))
    assert one(database.remove()).is_ready
    assert database.core.calls_of("rds.DeleteDBInstance") == []
    assert database.remove() is None


def test_the_master_user_gets_a_password(database: Database) -> None:
    database.ensure()
    database.change_password("AnotherPassword01")
    assert database.core.calls_of("rds.ModifyDBInstance") == [
        {"DBInstanceIdentifier": NAME, "MasterUserPassword": "AnotherPassword01"}
    ]
    database.core.calls.clear()
    with pytest.raises(ValueError, match=r"^password: RDS takes 8 to 41"):
        database.change_password("short")
    assert database.core.calls == []


def test_no_password_is_given_to_what_is_not_there(database: Database) -> None:
    assert refused(database.change_password).type is FINAL


#: What calls each operation first.
ACTS: dict[str, Callable[[Database], object]] = {
    "CreateDBInstance": lambda database: database.ensure(size="db.m7g.large"),
    "DescribeDBInstances": Database.find,
    "ModifyDBInstance": Database.change_password,
    "StartDBInstance": Database.ensure,
    "DeleteDBInstance": Database.remove,
}


def prepared(database: Database, operation: str) -> Callable[[], object]:
    """Return what calls an operation, with all made that it needs."""
    if operation not in {"CreateDBInstance", "DescribeDBInstances"}:
        database.ensure(deletion_protection=False)
    if operation == "StartDBInstance":
        database.kept.status = "stopped"
    return lambda: ACTS[operation](database)


@pytest.mark.parametrize("operation", ACTS)
def test_each_error_is_of_the_table(database: Database, operation: str) -> None:
    act = prepared(database, operation)
    for met, (answer, expected) in errors(FINAL).items():
        database.core.answers[f"rds.{operation}"] = answer
        error = refused(act)
        assert error.type is expected, met
        assert PASSWORD not in text_of(error)


@pytest.mark.parametrize("operation", ["CreateDBInstance", "DeleteDBInstance"])
def test_a_quota_says_what_is_used_up_and_what_to_do(database: Database, operation: str) -> None:
    act = prepared(database, operation)
    for code, quota in QUOTAS.items():
        database.core.answers[f"rds.{operation}"] = aws_error(code)
        error = refused(act)
        assert error.type is ErrorType.QUOTA_EXCEEDED
        assert f"raise its quota {quota} of Amazon RDS, or delete some." in error.message
        assert error.cause == f"{operation}: {code}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("DBSubnetGroupNotFoundFault", "in the subnet group databases; correct it"),
        ("DBSubnetGroupDoesNotCoverEnoughAZs", "in the subnet group databases; correct it"),
        ("InvalidParameterCombination", "db.t4g.micro of postgres 16 with 20 GB"),
        ("InvalidParameterValue", "db.t4g.micro of postgres 16 with 20 GB"),
    ],
)
def test_what_rds_does_not_make_says_what_to_correct(
    database: Database, code: str, said: str
) -> None:
    database.core.answers["rds.CreateDBInstance"] = aws_error(code)
    error = refused(database.ensure)
    assert error.type is FINAL
    assert said in error.message
    # What RDS itself says is for operators.
    assert error.cause == f"CreateDBInstance: {code}: made by a test"


@pytest.mark.parametrize("operation", ["CreateDBInstance", "StartDBInstance"])
def test_capacity_that_is_short_is_waited_for(database: Database, operation: str) -> None:
    act = prepared(database, operation)
    database.core.answers[f"rds.{operation}"] = aws_error("InsufficientDBInstanceCapacity")
    error = refused(act)
    assert ERROR_RULES[error.type].retryable
    assert "no capacity now" in error.message


def documented() -> Iterator[tuple[str, str, int]]:
    """Yield every error of AWS's own model for what the drivers call."""
    model = boto3.Session().client("rds", region_name=REGION).meta.service_model
    for operation in OPERATIONS:
        for shape in model.operation_model(operation).error_shapes:
            about = shape.metadata["error"]
            yield operation, about["code"], about.get("httpStatusCode", 400)


def documented_error(code: str, status: int) -> ClientError:
    response: Any = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "TheOperation")


def test_every_error_that_aws_documents_is_known_and_only_what_passes_is_retried() -> None:
    found = {
        (code, kind.type)
        for _, code, status in documented()
        for kind in [translate(documented_error(code, status), FINAL, "make the thing")]
    }
    assert len(found) > 40
    retried = {code for code, error_type in found if ERROR_RULES[error_type].retryable}
    assert retried == PASSING
    quotas = {code for code, error_type in found if error_type is ErrorType.QUOTA_EXCEEDED}
    assert quotas >= set(QUOTAS)
    assert {error_type for _, error_type in found} == {
        FINAL,
        ErrorType.QUOTA_EXCEEDED,
        ErrorType.TIMEOUT,
        ErrorType.NETWORK_ERROR,
    }


@pytest.mark.parametrize(
    "told",
    [
        {"DBInstances": []},
        {"DBInstances": [{"DBInstanceIdentifier": "another", "DBInstanceStatus": "available"}]},
    ],
    ids=["none", "another"],
)
def test_an_answer_of_another_instance_is_none(database: Database, told: dict[str, Any]) -> None:
    database.ensure()
    database.core.calls.clear()
    database.core.answers["rds.DescribeDBInstances"] = lambda _: (200, dict(told))
    acts: list[Callable[[], object]] = [
        database.ensure,
        database.find,
        database.remove,
        database.repair,
        database.change_password,
    ]
    for act in acts:
        error = refused(act)
        assert error.type is ErrorType.NETWORK_ERROR
        assert "answered another question" in error.message
    assert database.core.changes() == []


def test_an_empty_answer_does_not_say_that_there_is_none(database: Database) -> None:
    database.core.answers["rds.DescribeDBInstances"] = lambda _: (200, {})
    for act in (database.ensure, database.find, database.remove, database.repair):
        with pytest.raises(KeyError):
            act()


@pytest.mark.parametrize("operation", ["CreateDBInstance", "StartDBInstance"])
def test_a_change_that_tells_of_another_instance_is_not_taken(
    database: Database, operation: str
) -> None:
    act = prepared(database, operation)
    told = {"DBInstanceIdentifier": "another", "DBInstanceStatus": "available"}
    database.core.answers[f"rds.{operation}"] = lambda _: (200, {"DBInstance": told})
    assert refused(act).type is ErrorType.NETWORK_ERROR


IDENTIFIERS = st.from_regex(r"[a-z](-?[a-z0-9]){0,31}", fullmatch=True)


def described(**other: Any) -> InstanceDescription:
    return dataclasses.replace(DESCRIPTION, **other)


@given(
    identifier=IDENTIFIERS,
    user=st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,15}", fullmatch=True),
    port=st.integers(1150, 65535),
    storage_gb=st.integers(20, 65536),
    backup_days=st.integers(0, 35),
)
def test_what_rds_takes_is_described(**other: Any) -> None:
    assert described(**other).identifier == other["identifier"]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "identifier",
            ["", "a--b", "a-", "-a", "1a", "Ab", "a_b", "a.b", "a" * 64, "ä", "a\n", "a b"],
        ),
        ("user", ["", "1a", "_a", "a" * 17, "a-b", "ä", "a\n"]),
        (
            "password",
            ["", "short77", "Secret" * 7, *(f"Secret01{sign}" for sign in "/'\"@ \n\x7fä")],
        ),
        ("port", [0, 1149, 65536]),
        ("storage_gb", [0, 19, 65537]),
        ("backup_days", [-1, 36]),
    ],
)
def test_what_rds_refuses_is_refused_before_it_is_asked(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{field}: RDS takes ") as raised:
            described(**{field: value})
        assert "Secret" not in str(raised.value)


def test_no_password_is_told() -> None:
    assert PASSWORD not in f"{DESCRIPTION!r} {DESCRIPTION}"
