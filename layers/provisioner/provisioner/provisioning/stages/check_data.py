"""CHECKING_DATA: nothing that can be known beforehand stands in the way of the removal."""

from provisioner.drivers.database_engine import DatabaseEngine
from provisioner.drivers.obstacles import Obstacles
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.models import StageStatus
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.job_types.deprovision_project import (
    CHECKING_SERVICES,
    DeprovisionProjectPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import cluster_of
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.removal import refusal
from provisioner.provisioning.stages.find_project import Location, locate


def ensure_removal_is_possible(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectReader,
    catalogue: ClusterCatalogue,
    servers: Servers[DatabaseEngine],
    naming: Naming,
) -> StageOutcome:
    """Look at the database too, and refuse to go on where anything stands in the way.

    Raises:
        REMOVAL_FAILED: something stays in the way until someone acts; the message names all.
        DATA_NOT_EMPTY: only objects are in the way that the payload does not ask to be deleted.
        SNAPSHOT_FAILED: something keeps only the final snapshot, until someone acts.
        INSUFFICIENT_PERMISSIONS: something could not be looked at.
        TIMEOUT: what is in the way can pass.
        UNKNOWN_ERROR: CHECKING_SERVICES has not reported.
        ProvisioningError: as `translate` and `translate_errors` say.
    """
    payload = job.payload_as(DeprovisionProjectPayload)
    data, services = _found_by_services(job, jobs)
    location = locate(job, projects, naming)
    try:
        database = _look_at_database(location, catalogue, servers, with_dump=payload.final_snapshot)
    except ProvisioningError as error:
        if not data and not services.staying:
            raise
        # It is refused whatever the database would say.
        database = Obstacles(unseen=(f"the database: {error.message.removesuffix('.')}",))
    refused = refusal(job, data, services + database)
    if refused is not None:
        raise refused
    return StageOutcome(check="nothing was found that stands in the way of the removal")


def _look_at_database(
    location: Location,
    catalogue: ClusterCatalogue,
    servers: Servers[DatabaseEngine],
    *,
    with_dump: bool,
) -> Obstacles:
    project = location.project
    is_dedicated = project is not None and project.instance is not None
    # Nothing in an instance keeps it from going, nor from being copied as a whole.
    cluster = None if is_dedicated else cluster_of(project, catalogue, ErrorType.REMOVAL_FAILED)
    if cluster is None:
        return Obstacles()
    return servers.connect(cluster, ErrorType.REMOVAL_FAILED).find_obstacles(
        location.names.tenants[cluster.engine], location.owner.owns, with_dump=with_dump
    )


def _found_by_services(job: JobInput, jobs: JobStore) -> tuple[str, Obstacles]:
    """Return what CHECKING_SERVICES has found in this attempt of the job."""
    record = jobs.get(job.job_id).stage(CHECKING_SERVICES)
    if (
        record is None
        or record.status is not StageStatus.SUCCEEDED
        or record.job_attempt != job.attempt
    ):
        raise failure(
            ErrorType.UNKNOWN_ERROR,
            "Stage CHECKING_SERVICES has not reported what it has found.",
            f"stage CHECKING_SERVICES: {'no record' if record is None else record.status}",
        )
    found = record.output
    return found["data"], Obstacles(tuple(found["staying"]), unseen=tuple(found["unseen"]))
