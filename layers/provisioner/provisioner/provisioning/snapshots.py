"""The final snapshots of a project's databases: what there is, and which one is meant.

They are dumps in the bucket of snapshots, or, of instances of its own, snapshots of Amazon RDS.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from provisioner.aws_types import ObjectTypeDef, RDSClient, S3Client
from provisioner.drivers.aws_errors import translate_errors
from provisioner.drivers.database_engine import Restored
from provisioner.drivers.rds import RdsState
from provisioner.drivers.rds_snapshots import InstanceSnapshot, list_snapshots
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.instances import RDS_ENGINES
from provisioner.provisioning.naming import SNAPSHOT_SUFFIX, Naming
from provisioner.provisioning.projects import Project, ProjectStatus

_FINAL = ErrorType.DATABASE_CHANGE_FAILED

#: The technologies by what Amazon RDS calls them.
_ENGINES = {name: engine for engine, name in RDS_ENGINES.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One dump: an archive in pg_dump's custom format, or SQL of MySQL's in gzip's."""

    project_id: str
    #: The object's name in the bucket of snapshots.
    key: str
    #: The job that took it.
    job_id: str
    #: When it was whole.
    taken_at: datetime
    size_bytes: int
    #: The technology of the database, such as mysql; empty where nothing says.
    engine: str
    #: The version of the server that it was taken of, such as 18.6; empty where nothing says.
    server_version: str


@dataclass(frozen=True, slots=True)
class RestoredSnapshot(Restored):
    """Which snapshot has been restored where."""

    snapshot: Snapshot


class SnapshotNotFoundError(LookupError):
    """The project has no such snapshot, or more than one that begins so."""


def dump_names(key: str) -> Collection[str]:
    """Return what a dump is known by, besides its whole key."""
    name = key.partition("/")[2]
    return name, name.removesuffix(SNAPSHOT_SUFFIX)


def choose[Kind](
    project_id: str, wanted: str | None, named: Sequence[tuple[Kind, Collection[str]]]
) -> Kind:
    """Return one of a project's snapshots.

    Args:
        project_id: the project.
        wanted: a name of it, with or without the project, or a unique beginning of one; the first
            when left out.
        named: the snapshots, each with its names.

    Raises:
        SnapshotNotFoundError: there is none, or more than one.
    """
    if not named:
        raise SnapshotNotFoundError(f"project {project_id}: there is no snapshot of it.")
    if wanted is None:
        return named[0][0]
    name = wanted.removeprefix(f"{project_id}/")
    exact = [one for one, names in named if name in names]
    begin_so = [one for one, names in named if name and any(n.startswith(name) for n in names)]
    match exact or begin_so:
        case [only]:
            return only
        case []:
            raise SnapshotNotFoundError(
                f"snapshot {wanted}: project {project_id} has none of that name; list them."
            )
        case several:
            raise SnapshotNotFoundError(
                f"snapshot {wanted}: {len(several)} of project {project_id} begin so; "
                "write more of it."
            )


class Snapshots:
    """Reads the bucket of snapshots."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        """Bind to the bucket.

        Args:
            client: S3 in the bucket's region.
            bucket: the bucket of snapshots.
        """
        self._client = client
        self._bucket = bucket

    def of_project(self, project_id: str) -> list[Snapshot]:
        """Return a project's snapshots, newest first.

        Raises:
            ProvisioningError: as `translate_errors` says.
        """
        return [self._describe(project_id, found) for found in self._objects(project_id)]

    def find(self, project_id: str, wanted: str | None) -> Snapshot:
        """Return one snapshot of a project.

        Args:
            project_id: the project.
            wanted: its key, with or without the project, or a unique beginning of it; the newest
                snapshot when left out.

        Raises:
            SnapshotNotFoundError: there is none, or more than one.
            ProvisioningError: as `translate_errors` says.
        """
        named = [(each, dump_names(each["Key"])) for each in self._objects(project_id)]
        if not named:
            # It may have snapshots of Amazon RDS.
            raise SnapshotNotFoundError(f"project {project_id}: there is no dump of it.")
        return self._describe(project_id, choose(project_id, wanted, named))

    def _objects(self, project_id: str) -> list[ObjectTypeDef]:
        with translate_errors(_FINAL, "list the snapshots"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{project_id}/"
            )
            objects = [found for page in pages for found in page.get("Contents", [])]
        return sorted(objects, key=lambda each: (each["LastModified"], each["Key"]), reverse=True)

    def _describe(self, project_id: str, found: ObjectTypeDef) -> Snapshot:
        with translate_errors(_FINAL, "read the snapshot"):
            metadata = self._client.head_object(Bucket=self._bucket, Key=found["Key"])["Metadata"]
        job_id = found["Key"].removeprefix(f"{project_id}/").removesuffix(SNAPSHOT_SUFFIX)
        return Snapshot(
            project_id=project_id,
            key=found["Key"],
            job_id=metadata.get("job-id", job_id),
            taken_at=found["LastModified"],
            size_bytes=found["Size"],
            engine=metadata.get("engine", ""),
            server_version=metadata.get("server-version", ""),
        )


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
    owner = naming.owner(project.project_id, job_id="")
    client = rds(project.last_instance["region"])
    listed = list_snapshots(client, claim=owner.owns, final=_FINAL)
    return [found for found in listed if found.state is not RdsState.DELETING]


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
    engine = _ENGINES.get(snapshot.engine)
    if engine is None:
        raise failure(
            _FINAL,
            f"The snapshot {snapshot.identifier} is of a technology that projects cannot have.",
        )
    database = {
        "engine": str(engine),
        "size": size or (project.last_instance or {}).get("size"),
        "storage_gb": storage_gb,
        "snapshot": snapshot.identifier,
    }
    return {
        "project_id": project.project_id,
        "region": snapshot.region,
        "database": {name: value for name, value in database.items() if value is not None},
    }
