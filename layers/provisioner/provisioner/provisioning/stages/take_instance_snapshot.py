"""TAKING_INSTANCE_SNAPSHOT: an RDS snapshot of the project's own instance."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from provisioner.drivers.rds import RdsState, find_instance
from provisioner.drivers.rds_snapshots import ensure_snapshot, find_snapshot
from provisioner.errors import ErrorType
from provisioner.jobs.outcome import StageOutcome, Waiting
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.ownership import Ownership
from provisioner.provisioning.clusters import SNAPSHOT_DAYS, ClusterCatalogue
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.job_types.deprovision_project import (
    DeprovisionProjectPayload,
    InstanceSnapshotResult,
)
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming, instance_snapshot_name
from provisioner.provisioning.projects import Project, ProjectReader, ProjectStatus

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient

_FINAL = ErrorType.SNAPSHOT_FAILED


def ensure_instance_snapshot(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectReader,
    catalogue: ClusterCatalogue,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Have AWS take a snapshot of the instance, and wait until it can be restored.

    A dump of an instance can take longer than a function runs; its snapshot takes as long as it
    takes. Run again, the stage finds the snapshot that it has begun. There is none of an instance
    that AWS never made, or that an earlier job has removed or begun to: that one has seen to it.

    How long it is kept is what the operator says now, and not when the instance was made.

    Raises:
        DATABASE_CREATION_FAILED: the operator's parameter is wrong; the message names it.
        SNAPSHOT_FAILED: the snapshot has failed, or the instance has vanished, or is in a state in
            which AWS takes none; and what `translated` raises.
    """
    payload = validate_payload(DeprovisionProjectPayload, job.payload)
    if not payload.final_snapshot:
        return StageOutcome(skipped=True, check="the payload does without a snapshot")
    location = location_of(job, projects)
    instance = None if location.project is None else location.project.instance
    if instance is None:
        return StageOutcome(skipped=True, check="the project has no instance of its own")
    names = naming.names(payload.project_id)
    identifier = instance_snapshot_name(names, job.job_id)
    client, owner = rds(location.region), naming.owner(payload.project_id, job.job_id)
    if _may_have_no_instance(location.project):
        begun = find_snapshot(client, identifier, claim=owner.owns, final=_FINAL)
        if begun is None and _has_no_instance(client, names.instance, owner):
            check = f"the database instance {names.instance} is gone, or goes, or was never made"
            return StageOutcome(skipped=True, check=check)
    snapshot = ensure_snapshot(
        client,
        identifier,
        instance=names.instance,
        owner=owner,
        kept_until=jobs.now().date() + timedelta(days=_days(instance, catalogue)),
        final=_FINAL,
    )
    if snapshot is None:
        return Waiting(f"the database instance {names.instance} takes no snapshot yet")
    if snapshot.state is not RdsState.READY:
        return Waiting(f"the snapshot {identifier} is {snapshot.status}")
    result = InstanceSnapshotResult(
        region=location.region,
        identifier=identifier,
        engine=instance.engine,
        size=instance.size,
        storage_gb=snapshot.storage_gb,
        server_version=snapshot.version,
        kept_until=snapshot.kept_until,
    )
    return StageOutcome(
        output={"snapshot": result.model_dump(mode="json")},
        check=f"the snapshot {identifier} can be restored",
    )


def _days(instance: DedicatedInstance, catalogue: ClusterCatalogue) -> int:
    """Return for how long a snapshot is kept; the default where no instance is allowed any more."""
    allowance = catalogue.allowance(instance.region, instance.engine)
    return SNAPSHOT_DAYS if allowance is None else allowance.snapshot_days


def _may_have_no_instance(project: Project | None) -> bool:
    """Whether a job has begun to remove the instance, or none has seen it serve."""
    if project is None or project.instance is None or project.instance.host is None:
        return True
    return project.status_before is ProjectStatus.DEPROVISIONING


def _has_no_instance(client: RDSClient, identifier: str, owner: Ownership) -> bool:
    found = find_instance(client, identifier, claim=owner.owns, final=_FINAL)
    return found is None or found.state is RdsState.DELETING
