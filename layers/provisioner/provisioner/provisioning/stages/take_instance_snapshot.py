"""TAKING_INSTANCE_SNAPSHOT: an RDS snapshot of the project's own instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.rds import RdsState
from provisioner.drivers.rds_snapshots import ensure_snapshot
from provisioner.errors import ErrorType
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome, Waiting
from provisioner.provisioning.job_types.deprovision_project import (
    DeprovisionProjectPayload,
    InstanceSnapshotResult,
)
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming, instance_snapshot_name
from provisioner.provisioning.projects import ProjectReader

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient


def ensure_instance_snapshot(
    job: JobInput,
    *,
    projects: ProjectReader,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Have AWS take a snapshot of the instance, and wait until it can be restored.

    A dump of an instance can take longer than a function runs; its snapshot takes as long as it
    takes. Run again, the stage finds the snapshot that it has begun.

    Raises:
        SNAPSHOT_FAILED: the snapshot has failed, or the instance is in a state in which AWS takes
            none; and what `translated` raises.
    """
    payload = validate_payload(DeprovisionProjectPayload, job.payload)
    if not payload.final_snapshot:
        return StageOutcome(skipped=True, check="the payload does without a snapshot")
    location = location_of(job, projects)
    names = naming.names(payload.project_id)
    identifier = instance_snapshot_name(names, job.job_id)
    snapshot = ensure_snapshot(
        rds(location.region),
        identifier,
        instance=names.instance,
        owner=naming.owner(payload.project_id, job.job_id),
        final=ErrorType.SNAPSHOT_FAILED,
    )
    if snapshot is None:
        return Waiting(f"the database instance {names.instance} takes no snapshot yet")
    if snapshot.state is not RdsState.READY:
        return Waiting(f"the snapshot {identifier} is {snapshot.status}")
    result = InstanceSnapshotResult(
        region=location.region,
        identifier=identifier,
        storage_gb=snapshot.storage_gb,
        server_version=snapshot.version,
    )
    return StageOutcome(
        output={"snapshot": result.model_dump(mode="json")},
        check=f"the snapshot {identifier} can be restored",
    )
