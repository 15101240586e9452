"""CREATING_INSTANCE of a project that comes back from a snapshot of Amazon RDS."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import EndpointConnectionError
from moto.rds.models import rds_backends
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.stage import JobInput, StageOutcome, Waiting
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.instance import ensure_instance, remove_instance
from support.core import (
    ACCOUNT,
    REGION,
    Core,
    aws_error,
    cleanup_payload,
    deployment,
    times,
    valid_payload,
)
from support.drivers import FOREIGN, LATER, OWNER, tag_list
from support.rds import with_subnet_group

NAMING = Naming("nm", OWNER.namespace)
NAMES = NAMING.names("shop")
SNAPSHOT = f"{NAMES.instance}-removal"
SIZE = "db.t4g.micro"

#: What changes something, in the stage.
CHANGES = (
    *("dynamodb.TransactWriteItems", "secretsmanager.CreateSecret"),
    *("rds.RestoreDBInstanceFromDBSnapshot", "rds.ModifyDBInstance"),
)


@dataclass
class Restore:
    """A project that was deprovisioned, and the job that provisions it again."""

    core: Core

    @property
    def rds(self) -> Any:
        return self.core.client("rds")

    def job(self, **database: Any) -> JobInput:
        asked = {"size": SIZE, "snapshot": SNAPSHOT} | database
        return JobInput(
            job_id=LATER.job_id,
            job_type="provision_project",
            payload=valid_payload(database=asked).model_dump(mode="json"),
        )

    def run(self, **database: Any) -> StageOutcome | Waiting:
        return ensure_instance(
            self.job(**database),
            projects=self.core.projects,
            catalogue=self.core.catalogue,
            secrets_manager=self.core.client("secretsmanager"),
            kms_key_arn=None,
            rds=lambda region: self.core.client("rds", region),
            naming=NAMING,
        )

    def refused(self, **database: Any) -> ProvisioningError:
        """Run the stage, which is to refuse the job and to make nothing."""
        self.core.calls.clear()
        with pytest.raises(ProvisioningError) as raised:
            self.run(**database)
        assert self.core.changes() == []
        return raised.value

    def instance(self) -> DedicatedInstance | None:
        project = self.core.projects.get("shop")
        assert project is not None
        return project.instance

    def password(self) -> str:
        manager = self.core.client("secretsmanager")
        value = manager.get_secret_value(SecretId=NAMES.instance_secret)["SecretString"]
        return str(json.loads(value)["password"])

    def passwords_set(self) -> list[str]:
        """Return the passwords that RDS was asked for, in order."""
        asked = self.core.calls_of("rds.ModifyDBInstance")
        return [str(call["MasterUserPassword"]) for call in asked if "MasterUserPassword" in call]

    def tell(self, **changes: Any) -> None:
        """Let RDS tell of the instance otherwise."""
        (found,) = self.rds.describe_db_instances(DBInstanceIdentifier=NAMES.instance)[
            "DBInstances"
        ]
        answer = {"DBInstances": [found | changes]}
        self.core.answers["rds.DescribeDBInstances"] = lambda _: (200, dict(answer))

    def kept(self) -> Any:
        return rds_backends[ACCOUNT][REGION].database_snapshots[SNAPSHOT]

    def take(
        self, engine: str = "postgres", version: str = "17.5", tags: Mapping[str, str] | None = None
    ) -> None:
        """Make the snapshot of an instance that is no more."""
        name = {"DBInstanceIdentifier": NAMES.instance}
        self.rds.create_db_instance(
            **name,
            DBInstanceClass=SIZE,
            Engine=engine,
            EngineVersion=version,
            AllocatedStorage=50,
            StorageEncrypted=True,
            MasterUsername="provisioner",
            MasterUserPassword="ThePasswordOfThen0123",  # kingfisher:ignore
        )
        marker = OWNER.tags() if tags is None else tags
        self.rds.create_db_snapshot(**name, DBSnapshotIdentifier=SNAPSHOT, Tags=tag_list(marker))
        self.rds.delete_db_instance(**name, SkipFinalSnapshot=True)


@pytest.fixture
def restore() -> Iterator[Restore]:
    """Return the job, which holds the project."""
    with deployment() as core:
        with_subnet_group(core)
        core.allow_instances()
        core.projects.lock(
            core.new_project(),
            LATER.job_id,
            quota=None,
            default_limit=1,
            region=REGION,
            engine="postgresql",
        )
        yield Restore(core)


def waits_for(outcome: StageOutcome | Waiting) -> str:
    assert isinstance(outcome, Waiting)
    return outcome.waiting_for


def test_an_instance_is_made_of_the_snapshot_and_gets_a_password_of_its_own(
    restore: Restore,
) -> None:
    restore.take()
    restore.core.calls.clear()

    gets = f"the database instance {NAMES.instance} gets its password"
    assert waits_for(restore.run()) == gets
    assert restore.passwords_set() == [restore.password()]
    # AWS has not set it yet, then does.
    restore.tell(PendingModifiedValues={"MasterUserPassword": "****"})
    assert waits_for(restore.run()) == gets
    restore.tell(DBInstanceStatus="resetting-master-credentials")
    assert waits_for(restore.run()).endswith("is resetting-master-credentials")
    restore.core.answers.clear()
    outcome = restore.run()

    assert isinstance(outcome, StageOutcome)
    assert outcome.output == {"identifier": NAMES.instance, "size": SIZE, "storage_gb": 50}
    assert restore.passwords_set() == [restore.password()]
    (made,) = restore.core.calls_of("rds.RestoreDBInstanceFromDBSnapshot")
    assert (made["DBSnapshotIdentifier"], made["Tags"]) == (SNAPSHOT, tag_list(LATER.tags()))
    instance = restore.instance()
    assert instance is not None
    assert (instance.snapshot, instance.version) == (SNAPSHOT, "17.5")
    assert instance.host is not None
    # It may run again.
    restore.core.calls.clear()
    assert restore.run() == outcome
    assert {call for call in restore.core.changes() if call.startswith("rds.")} == set()


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, 7))
def test_whatever_a_crash_leaves_the_next_run_goes_on(
    restore: Restore, number: int, *, has_effect: bool
) -> None:
    """Settle, write the secret, restore, ask for the password, keep that, keep the address."""
    restore.take()
    core, changes = restore.core, itertools.count(1)

    def crash(operation: str) -> Callable[[Mapping[str, Any]], None]:
        service, _, name = operation.partition(".")

        def at(parameters: Mapping[str, Any]) -> None:
            if next(changes) != number:
                return
            core.answers.clear()
            if has_effect:
                getattr(core.client(service), xform_name(name))(**parameters)
            raise EndpointConnectionError(endpoint_url="https://aws.invalid")

        return at

    core.answers |= {operation: crash(operation) for operation in CHANGES}
    core.calls.clear()
    for _ in range(2):
        try:
            while isinstance(restore.run(), Waiting):
                pass
        except (ProvisioningError, EndpointConnectionError):
            continue

    assert core.answers == {}
    instance = restore.instance()
    assert instance is not None
    assert (instance.snapshot, instance.host is None) == (SNAPSHOT, False)
    assert restore.passwords_set()[-1] == restore.password()
    assert core.projects.quotas.used(instance.quota) == 1
    (found,) = restore.rds.describe_db_instances()["DBInstances"]
    assert found["TagList"] == tag_list(LATER.tags())


@pytest.mark.parametrize(
    ("taken", "database", "sentence"),
    [
        (
            {"tags": {}},
            {},
            (
                f"database.snapshot: the project has no snapshot {SNAPSHOT} in {REGION}; choose "
                "one of those that `provision snapshots list shop` shows."
            ),
        ),
        (
            {"engine": "mysql", "version": "8.4.3"},
            {},
            (
                f"database.snapshot: {SNAPSHOT} is of mysql, and database.engine asks for "
                "postgresql; name the snapshot's."
            ),
        ),
        (
            {},
            {"version": "17.7"},
            (
                f"database.version: the snapshot {SNAPSHOT} is of version 17.5, not 17.7; "
                "leave it out."
            ),
        ),
        (
            {"version": "15.2"},
            {},
            (
                f"database.snapshot: {SNAPSHOT} is of version 15.2, which is not allowed for a "
                f"postgresql instance in {REGION}; choose one of version 18.1, 17.7, 16.11, or "
                "have its version allowed."
            ),
        ),
        (
            {},
            {"storage_gb": 49},
            (
                f"database.storage_gb: 49 is not allowed for a postgresql instance in {REGION} of "
                f"the snapshot {SNAPSHOT}; choose 50 to 200."
            ),
        ),
    ],
    ids=["unmarked", "other_engine", "newer_version", "other_version", "too_small"],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    restore: Restore, taken: dict[str, Any], database: dict[str, Any], sentence: str
) -> None:
    restore.take(**taken)

    error = restore.refused(**database)

    assert (error.type, error.message) == (ErrorType.INVALID_PAYLOAD, sentence)


def test_a_snapshot_that_is_not_there_or_not_the_project_s_is_not_restored(
    restore: Restore,
) -> None:
    said = f"database.snapshot: the project has no snapshot {SNAPSHOT} in {REGION};"
    assert restore.refused().message.startswith(said)
    restore.take()
    for tags in FOREIGN.values():
        restore.kept().tags = tag_list(tags)
        assert restore.refused().message.startswith(said)
    restore.kept().tags = tag_list(OWNER.tags())
    restore.kept().status = "failed"
    assert restore.refused().message.startswith(f"database.snapshot: {SNAPSHOT} is failed;")
    restore.core.allow_instances(storage_gb={"maximum": 40, "default": 40})
    restore.kept().status = "available"
    assert restore.refused().message == (
        f"database.snapshot: {SNAPSHOT} needs 50 GB, and at most 40 are allowed for a postgresql "
        f"instance in {REGION}; have more allowed."
    )


def test_a_snapshot_that_is_still_taken_is_waited_for(restore: Restore) -> None:
    restore.take()
    restore.kept().status = "creating"
    restore.core.calls.clear()

    assert waits_for(restore.run()) == f"the snapshot {SNAPSHOT} is creating"
    assert restore.core.changes() == []


@pytest.mark.parametrize(("default", "storage_gb"), [(40, 50), (60, 60)])
def test_the_storage_is_the_larger_of_the_operator_s_word_and_the_snapshot_s(
    restore: Restore, default: int, storage_gb: int
) -> None:
    restore.core.allow_instances(storage_gb={"maximum": 100, "default": default})
    restore.take()

    restore.run()

    instance = restore.instance()
    assert instance is not None
    assert instance.storage_gb == storage_gb


def test_a_snapshot_that_is_deleted_meanwhile_says_so(restore: Restore) -> None:
    restore.take()
    restore.core.answers["rds.RestoreDBInstanceFromDBSnapshot"] = aws_error(
        "DBSnapshotNotFound", 404
    )

    with pytest.raises(ProvisioningError) as raised:
        restore.run()

    assert raised.value.type is ErrorType.DATABASE_CREATION_FAILED
    assert raised.value.message.startswith(f"The snapshot {SNAPSHOT} is gone; choose another ")


def test_an_instance_that_takes_no_password_yet_is_asked_again(restore: Restore) -> None:
    restore.take()
    restore.core.answers["rds.ModifyDBInstance"] = times(1, aws_error("InvalidDBInstanceState"))

    assert waits_for(restore.run()).endswith(" is available")
    assert waits_for(restore.run()).endswith(" gets its password")
    assert isinstance(restore.run(), StageOutcome)


@pytest.mark.parametrize("looks", [1, 2])
def test_what_vanishes_once_it_has_its_password_is_made_again_and_gets_it(
    restore: Restore, looks: int
) -> None:
    restore.take()
    for _ in range(looks):
        restore.run()
    instance = restore.instance()
    assert instance is not None
    assert (instance.password_asked_of is None, instance.host is None) == (False, looks == 1)
    backend = rds_backends[ACCOUNT][REGION]
    backend.databases.clear()
    for name in [n for n, kept in backend.database_snapshots.items() if kept is not restore.kept()]:
        del backend.database_snapshots[name]

    assert waits_for(restore.run()).endswith(" gets its password")
    assert isinstance(restore.run(), StageOutcome)
    assert len(restore.core.calls_of("rds.RestoreDBInstanceFromDBSnapshot")) == 2
    assert restore.passwords_set() == [restore.password()] * 2


def test_a_clean_up_removes_what_was_restored_and_leaves_the_snapshot(restore: Restore) -> None:
    restore.take()
    restore.run()
    dynamodb.transact(
        restore.core.client("dynamodb"),
        restore.core.projects.build_hand_over("shop", LATER.job_id, "cleanup-1"),
    )
    payload = cleanup_payload(LATER.job_id, is_dedicated=True)

    remove_instance(
        JobInput(job_id="cleanup-1", job_type="clean_up_project", payload=payload),
        projects=restore.core.projects,
        secrets_manager=restore.core.client("secretsmanager"),
        rds=lambda region: restore.core.client("rds", region),
        naming=NAMING,
        only_this_job=True,
    )

    assert restore.rds.describe_db_instances()["DBInstances"] == []
    assert restore.kept().status == "available"
    assert restore.instance() is None
    project = restore.core.projects.get("shop")
    assert project is not None
    # Where its snapshots are is known from then on.
    assert (project.cluster_id, project.last_instance) == (None, {"region": REGION, "size": SIZE})


def test_an_older_run_does_not_forget_where_the_instance_is(restore: Restore) -> None:
    restore.take()
    restore.run()
    before = restore.instance()
    assert before is not None
    restore.run()

    restore.core.projects.places.keep_instance("shop", before)

    instance = restore.instance()
    assert instance is not None
    assert instance.host is not None
