"""TAKING_SNAPSHOT: a dump of the tenant database, in the bucket of snapshots."""

from collections.abc import Callable

from provisioner.aws_types import S3Client
from provisioner.drivers.database_engine import DatabaseDumper, Dump
from provisioner.drivers.s3_upload import upload
from provisioner.errors import ErrorType
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types.deprovision_project import (
    DeprovisionProjectPayload,
    SnapshotResult,
)
from provisioner.provisioning.naming import Naming, snapshot_key
from provisioner.provisioning.placement import cluster_of
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.find_project import Location, locate


def ensure_snapshot(
    job: JobInput,
    *,
    projects: ProjectReader,
    catalogue: ClusterCatalogue,
    dumpers: Servers[DatabaseDumper],
    s3: S3Client,
    bucket: str,
    naming: Naming,
    time_left: Callable[[], float],
) -> StageOutcome:
    """Stream a dump of the database into the bucket, unless the payload does without.

    Run again it writes the same object anew, so that the snapshot is as late as can be.

    `s3` and `bucket` are where it goes, and `time_left` says how many seconds it may take.

    Raises:
        SNAPSHOT_FAILED: the dump did not end in time, the server is newer than the program that
            dumps, or refused it; and what `DatabaseDumper` and `translate_errors` raise.
    """
    if not job.payload_as(DeprovisionProjectPayload).final_snapshot:
        return StageOutcome(skipped=True, check="the payload does without a snapshot")
    location = locate(job, projects, naming)
    if location.project is not None and location.project.instance is not None:
        return StageOutcome(
            output={"is_dedicated": True},
            skipped=True,
            check="a snapshot of the project's own instance is taken in its place",
        )
    cluster = cluster_of(location.project, catalogue, ErrorType.SNAPSHOT_FAILED)
    if cluster is None:
        return StageOutcome(skipped=True, check="the project has no database")
    tenant = location.names.tenants[cluster.engine]
    dumper = dumpers.connect(cluster, ErrorType.SNAPSHOT_FAILED)
    with dumper.dump(tenant, location.owner.owns, time_left()) as dump:
        if dump is None:
            return StageOutcome(skipped=True, check="the project has no database")
        snapshot = _store(dump, job, location, s3=s3, bucket=bucket, engine=cluster.engine)
    return StageOutcome(
        output={"snapshot": snapshot.model_dump(mode="json")},
        check=f"the dump of database {tenant.database} ended well and is stored",
    )


def _store(
    dump: Dump, job: JobInput, location: Location, *, s3: S3Client, bucket: str, engine: Engine
) -> SnapshotResult:
    key = snapshot_key(location.project_id, job.job_id)
    upload(
        s3,
        dump,
        bucket=bucket,
        key=key,
        metadata={
            "engine": str(engine),
            "server-version": dump.server_version,
            "job-id": job.job_id,
        },
        final=ErrorType.SNAPSHOT_FAILED,
    )
    return SnapshotResult(
        bucket=bucket, key=key, size_bytes=dump.size, server_version=dump.server_version
    )
