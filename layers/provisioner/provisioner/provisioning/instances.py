"""A project's own database instance: what it is to be, settled before AWS is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Never, Self

from provisioner.drivers.server_versions import is_of_version
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.engine import Engine

if TYPE_CHECKING:
    from provisioner.provisioning.clusters import InstanceAllowance
    from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
    from provisioner.provisioning.naming import ResourceNames


@dataclass(frozen=True, slots=True)
class DedicatedInstance:
    """What the project's item keeps of it.

    All that AWS is told stands here, so that what an operator changes later changes no job that has
    begun.
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


def wanted_instance(
    payload: ProvisionProjectPayload,
    allowance: InstanceAllowance | None,
    names: ResourceNames,
    *,
    job_id: str,
) -> DedicatedInstance:
    """Return the instance that a payload asks for, with the operator's word where it is silent.

    Args:
        payload: asks for an instance by its `database.size`.
        allowance: what the operator allows in the region; None where that is nothing.
        names: the project's.
        job_id: the job.

    Raises:
        INVALID_PAYLOAD: it is not allowed; the message lists what is.
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
    versions = [v for v in allowance.versions if is_of_version(v, database.version or v)]
    if not versions:
        _refuse(
            f"database.version: {database.version} is not allowed {where}; choose one of "
            f"{', '.join(allowance.versions)}, or leave it out."
        )
    storage = allowance.storage_gb
    storage_gb = storage.default if database.storage_gb is None else database.storage_gb
    if not storage.minimum <= storage_gb <= storage.maximum:
        _refuse(
            f"database.storage_gb: {storage_gb} is not allowed {where}; choose "
            f"{storage.minimum} to {storage.maximum}."
        )
    return DedicatedInstance(
        identifier=names.instance,
        region=payload.region,
        engine=database.engine,
        version=versions[0],
        size=database.size,
        storage_gb=storage_gb,
        sslmode=allowance.sslmode,
        admin_secret=names.instance_secret,
        subnet_group=allowance.subnet_group,
        security_group_ids=tuple(allowance.security_group_ids),
        backup_days=allowance.backup_days,
        deletion_protection=allowance.deletion_protection,
        job_id=job_id,
    )


def _refuse(sentence: str) -> Never:
    raise failure(ErrorType.INVALID_PAYLOAD, sentence)
