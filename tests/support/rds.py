"""A project's part of Amazon RDS, on moto."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from datetime import date
from types import SimpleNamespace
from typing import Any

from moto.rds.models import DBInstance, rds_backends
from provisioner.drivers import rds, rds_snapshots
from provisioner.drivers.drift import Repairs
from provisioner.drivers.rds import Instance
from provisioner.drivers.rds_description import InstanceDescription
from provisioner.drivers.rds_snapshots import InstanceSnapshot
from provisioner.errors import ErrorType
from provisioner.ownership import Ownership
from support.core import ACCOUNT, REGION, Core
from support.drivers import OWNER, tag_list

NAME = "nm-shop"
PASSWORD = "ThePassword0123456789abcdefghijklmnopqrst"  # kingfisher:ignore
FINAL = ErrorType.DATABASE_CREATION_FAILED

DESCRIPTION = InstanceDescription(
    identifier=NAME,
    engine="postgres",
    version="16",
    size="db.t4g.micro",
    storage_gb=20,
    user="provisioner",
    password=PASSWORD,
    port=5432,
    subnet_group="databases",
    security_group_ids=("sg-1", "sg-2"),
    backup_days=7,
    deletion_protection=True,
)

#: The last day of what the project's snapshots are kept.
KEPT_UNTIL = date(2026, 2, 26)

#: The snapshot of the project's instance.
SNAPSHOT = "nm-shop-job-1"

_make = DBInstance.__init__


def _make_with_an_id(instance: DBInstance, *arguments: Any, **options: Any) -> None:
    """Make an instance with a resource id of its own: moto gives all the same."""
    _make(instance, *arguments, **options)
    instance.dbi_resource_id = f"db-{uuid.uuid4().hex[:26].upper()}"


_instances: Any = DBInstance
_instances.__init__ = _make_with_an_id


@dataclass
class Database:
    """The project's part of RDS."""

    core: Core
    description: InstanceDescription = DESCRIPTION

    @property
    def client(self) -> Any:
        return self.core.client("rds")

    @property
    def kept(self) -> Any:
        """Where moto keeps the instance."""
        return rds_backends[ACCOUNT][REGION].databases[NAME]

    def ensure(self, owner: Ownership = OWNER, **other: Any) -> Instance:
        description = dataclasses.replace(self.description, **other)
        return rds.ensure_instance(self.client, description, owner, final=FINAL)

    def restore(self, snapshot: str = SNAPSHOT, owner: Ownership = OWNER, **other: Any) -> Instance:
        description = dataclasses.replace(self.description, **other)
        return rds.ensure_instance(self.client, description, owner, snapshot=snapshot, final=FINAL)

    def find(self, owner: Ownership = OWNER) -> Instance | None:
        return rds.find_instance(self.client, NAME, claim=owner.owns, final=FINAL)

    def remove(self, owner: Ownership = OWNER) -> Instance | None:
        return rds.remove_instance(self.client, NAME, claim=owner.owns, final=FINAL)

    def repair(self, owner: Ownership = OWNER) -> tuple[Instance, Repairs]:
        return rds.repair_instance(self.client, self.description, owner, final=FINAL)

    def change_password(self, password: str = PASSWORD) -> None:
        description = dataclasses.replace(self.description, password=password)
        rds.change_master_password(self.client, description, claim=OWNER.owns, final=FINAL)

    def make(self, tags: dict[str, str], **other: Any) -> None:
        """Make an instance as someone else does."""
        self.client.create_db_instance(
            DBInstanceIdentifier=NAME,
            DBInstanceClass="db.t4g.micro",
            Engine="postgres",
            AllocatedStorage=20,
            Tags=tag_list(tags),
            **other,
        )

    def described(self) -> dict[str, Any]:
        """Return what RDS tells of the instance, without the time, which goes on."""
        (found,) = self.client.describe_db_instances(DBInstanceIdentifier=NAME)["DBInstances"]
        return {name: value for name, value in found.items() if name != "LatestRestorableTime"}

    def snapshot(
        self, owner: Ownership = OWNER, identifier: str = SNAPSHOT
    ) -> InstanceSnapshot | None:
        return rds_snapshots.ensure_snapshot(
            self.client,
            identifier,
            instance=NAME,
            owner=owner,
            kept_until=KEPT_UNTIL,
            final=FINAL,
        )

    def find_snapshot(self) -> InstanceSnapshot | None:
        return rds_snapshots.find_snapshot(self.client, SNAPSHOT, claim=OWNER.owns, final=FINAL)

    def list_snapshots(self) -> list[InstanceSnapshot]:
        return rds_snapshots.list_snapshots(self.client, claim=OWNER.owns, final=FINAL)

    def remove_snapshot(self) -> InstanceSnapshot | None:
        return rds_snapshots.remove_snapshot(self.client, SNAPSHOT, claim=OWNER.owns, final=FINAL)


def with_subnet_group(core: Core) -> Database:
    """Return the project's part, beside the operator's subnet group."""
    make_subnet_group()
    return Database(core)


def make_subnet_group() -> None:
    """Make the subnet group `databases`, as an operator does."""
    subnets = [
        SimpleNamespace(
            id=f"subnet-{number}",
            vpc_id="vpc-1",
            availability_zone=f"{REGION}{zone}",
            _availability_zone=SimpleNamespace(name=f"{REGION}{zone}"),
        )
        for number, zone in enumerate("ab")
    ]
    rds_backends[ACCOUNT][REGION].create_subnet_group("databases", "", subnets, [])
