"""A project's own database instance: what it is to be, settled before AWS is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Never, Self

from provisioner.drivers.server_versions import (
    is_of_major_version,
    is_of_version,
    keeps_version,
)
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.engine import Engine

if TYPE_CHECKING:
    from provisioner.drivers.rds_snapshots import InstanceSnapshot
    from provisioner.provisioning.clusters import InstanceAllowance
    from provisioner.provisioning.job_types.provision_project import (
        DatabaseRequest,
        ProvisionProjectPayload,
    )
    from provisioner.provisioning.naming import ResourceNames

#: What Amazon RDS calls a technology.
RDS_ENGINES = {Engine.POSTGRESQL: "postgres", Engine.MYSQL: "mysql"}


@dataclass(frozen=True, slots=True)
class DedicatedInstance:
    """What the project's item keeps of it.

    All that AWS is asked for stands here, so that what an operator changes later changes no job
    that has begun.
    """

    identifier: str
    region: str
    engine: Engine
    version: str
    #: The instance class.
    size: str
    storage_gb: int
    sslmode: str
    #: The secret with the master user's `username` and `password`.
    admin_secret: str
    subnet_group: str
    security_group_ids: tuple[str, ...]
    backup_days: int
    deletion_protection: bool
    #: The job that it was settled for.
    job_id: str
    #: The snapshot of Amazon RDS that it is made of, if it is.
    snapshot: str | None = None
    #: The resource id of the instance whose master user AWS was asked to give the password of the
    #: secret, where it is made of a snapshot, which brings another.
    password_asked_of: str | None = None
    #: Where it is reached, once AWS has said so.
    host: str | None = None
    port: int | None = None

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Self:
        """Read it as the project's item keeps it."""
        return cls(
            **{
                **item,
                "engine": Engine(item["engine"]),
                "security_group_ids": tuple(item["security_group_ids"]),
            }
        )

    def to_item(self) -> dict[str, Any]:
        """Return it as the project's item keeps it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def quota(self) -> str:
        """What the instances of its region and engine are counted under."""
        return f"instances#{self.region}/{self.engine}"


# Longer than other functions, as a line stands for each attribute.
def wanted_instance(
    payload: ProvisionProjectPayload,
    allowance: InstanceAllowance | None,
    names: ResourceNames,
    *,
    job_id: str,
    snapshot: InstanceSnapshot | None = None,
) -> DedicatedInstance:
    """Return the instance that a payload asks for, with the operator's word where it is silent.

    Args:
        payload: asks for an instance by its `database.size`.
        allowance: what the operator allows in the region; None where that is nothing.
        names: the project's.
        job_id: the job.
        snapshot: what the instance is made of, once that has been looked at: its version is the
            instance's, and its storage the least.

    Raises:
        INVALID_PAYLOAD: it is not allowed, or the snapshot is of another technology or version, or
            too large; the message lists what is.
    """
    database = payload.database
    where = f"for a {database.engine} instance in {payload.region}"
    if allowance is None:
        _refuse(f"database.size: no sizes are allowed {where}; leave it out for a shared cluster.")
    if database.size not in allowance.sizes:
        _refuse(
            f"database.size: {database.size} is not allowed {where}; choose one of "
            f"{', '.join(allowance.sizes)}."
        )
    version = (
        _allowed_version(database, allowance, where)
        if snapshot is None
        else _version_of(snapshot, database, allowance, where)
    )
    return DedicatedInstance(
        identifier=names.instance,
        region=payload.region,
        engine=database.engine,
        version=version,
        size=database.size,
        storage_gb=_storage_gb(database, allowance, snapshot, where),
        sslmode=allowance.sslmode,
        admin_secret=names.instance_secret,
        subnet_group=allowance.subnet_group,
        security_group_ids=tuple(allowance.security_group_ids),
        backup_days=allowance.backup_days,
        deletion_protection=allowance.deletion_protection,
        job_id=job_id,
        snapshot=database.snapshot,
    )


def _allowed_version(database: DatabaseRequest, allowance: InstanceAllowance, where: str) -> str:
    versions = [v for v in allowance.versions if is_of_version(v, database.version or v)]
    if not versions:
        _refuse(
            f"database.version: {database.version} is not allowed {where}; choose one of "
            f"{', '.join(allowance.versions)}, or leave it out."
        )
    return versions[0]


def _version_of(
    snapshot: InstanceSnapshot, database: DatabaseRequest, allowance: InstanceAllowance, where: str
) -> str:
    """Return the version of a snapshot, which an instance that is made of it has.

    One whose major version is allowed is: the minor version is that of the data, and RDS puts newer
    ones in by itself.
    """
    name, engine, version = snapshot.identifier, snapshot.engine, snapshot.server_version
    if engine != RDS_ENGINES[database.engine]:
        _refuse(
            f"database.snapshot: {name} is of {engine}, and database.engine asks for "
            f"{database.engine}; name the snapshot's."
        )
    if database.version is not None and not keeps_version(engine, version, database.version):
        _refuse(
            f"database.version: the snapshot {name} is of version {version}, not "
            f"{database.version}; leave it out."
        )
    if not any(is_of_major_version(engine, version, allowed) for allowed in allowance.versions):
        _refuse(
            f"database.snapshot: {name} is of version {version}, which is not allowed {where}; "
            f"choose one of version {', '.join(allowance.versions)}, or have its version allowed."
        )
    return version


def _storage_gb(
    database: DatabaseRequest,
    allowance: InstanceAllowance,
    snapshot: InstanceSnapshot | None,
    where: str,
) -> int:
    storage = allowance.storage_gb
    least = max(storage.minimum, 0 if snapshot is None else snapshot.storage_gb)
    if snapshot is not None and least > storage.maximum:
        _refuse(
            f"database.snapshot: {snapshot.identifier} needs {least} GB, and at most "
            f"{storage.maximum} are allowed {where}; have more allowed."
        )
    asked = database.storage_gb
    storage_gb = max(storage.default, least) if asked is None else asked
    if not least <= storage_gb <= storage.maximum:
        of = "" if snapshot is None else f" of the snapshot {snapshot.identifier}"
        _refuse(
            f"database.storage_gb: {storage_gb} is not allowed {where}{of}; choose "
            f"{least} to {storage.maximum}."
        )
    return storage_gb


def _refuse(sentence: str) -> Never:
    raise failure(ErrorType.INVALID_PAYLOAD, sentence)
