"""Snapshots of projects' own instances: which there are, and how one becomes an instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from provisioner.drivers import rds_snapshots as driver
from provisioner.drivers.rds import RdsState
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.instances import RDS_ENGINES
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import Project, ProjectStatus

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient

_FINAL = ErrorType.DATABASE_CHANGE_FAILED

#: The technologies by what Amazon RDS calls them.
_ENGINES = {name: engine for engine, name in RDS_ENGINES.items()}


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """One snapshot of Amazon RDS, of an instance of a project's own."""

    project_id: str
    region: str
    #: Its name in RDS.
    identifier: str
    #: The job that took it; empty where nothing says.
    job_id: str
    #: When it was taken; None until it has been.
    taken_at: datetime | None
    #: RDS's word, such as `available`.
    status: str
    #: The technology of the databases in it; None where the platform has none such.
    engine: Engine | None
    #: The version of the server that it was taken of, such as 18.1.
    server_version: str
    #: Gibibytes that the instance had, which one that is made of it needs at least.
    storage_gb: int
    #: The last day on which it is kept; None where nothing says, and then it stays.
    kept_until: date | None


def list_instance_snapshots(
    project: Project, *, rds: Callable[[str], RDSClient], naming: Naming
) -> list[InstanceSnapshot]:
    """Return a project's snapshots, newest first, of the region where its last instance was.

    Nothing is asked for of a project that has had no instance.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    if project.last_instance is None:
        return []
    region = project.last_instance["region"]
    owner = naming.owner(project.project_id, job_id="")
    return [
        InstanceSnapshot(
            project_id=project.project_id,
            region=region,
            identifier=found.identifier,
            job_id=found.job_id,
            taken_at=found.taken_at,
            status=found.status,
            engine=_ENGINES.get(found.engine),
            server_version=found.version,
            storage_gb=found.storage_gb,
            kept_until=found.kept_until,
        )
        for found in driver.list_snapshots(rds(region), claim=owner.owns, final=_FINAL)
        if found.state is not RdsState.DELETING
    ]


def build_restore_payload(
    project: Project, snapshot: InstanceSnapshot, *, size: str | None, storage_gb: int | None
) -> dict[str, Any]:
    """Return the payload of a provision_project job that makes an instance of a snapshot.

    Args:
        project: the project.
        snapshot: a snapshot of it.
        size: the instance class; that of the project's last instance when left out.
        storage_gb: gibibytes; what the job takes when left out.

    Raises:
        DATABASE_CHANGE_FAILED: the project is provisioned, or the platform has not the snapshot's
            technology.
    """
    if project.status is ProjectStatus.ACTIVE:
        raise failure(
            _FINAL,
            f"project_id: {project.project_id} is ACTIVE, and the snapshot {snapshot.identifier} "
            "becomes an instance of its own; deprovision the project first.",
        )
    if snapshot.engine is None:
        raise failure(
            _FINAL,
            f"The snapshot {snapshot.identifier} is of a technology that projects cannot have.",
        )
    database = {
        "engine": str(snapshot.engine),
        "size": size or (project.last_instance or {}).get("size"),
        "storage_gb": storage_gb,
        "snapshot": snapshot.identifier,
    }
    return {
        "project_id": project.project_id,
        "region": snapshot.region,
        "database": {name: value for name, value in database.items() if value is not None},
    }
