"""CHECKING_DATA: nothing that can be known beforehand stands in the way of the removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.obstacles import Obstacles
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.models import StageStatus
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.ownership import Claim
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import admin_connection
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import deprovision_project
from provisioner.provisioning.job_types.deprovision_project import DeprovisionProjectPayload
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import cluster_of
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.removal import refusal

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


class DatabaseLook(Protocol):
    """Looks at a tenant's database by the platform's login; raises as `DatabaseEngine` does."""

    def __call__(
        self, admin: AdminConnection, names: TenantNames, claim: Claim, *, with_dump: bool
    ) -> Obstacles:
        """Say what keeps the database from going and, if asked, from being dumped before."""


#: For each technology.
type DatabaseLooks = Mapping[Engine, DatabaseLook]


def ensure_removal_is_possible(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectReader,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    looks: DatabaseLooks,
    naming: Naming,
) -> StageOutcome:
    """Look at the database too, and refuse to go on where anything stands in the way.

    Args:
        job: the job.
        jobs: holds what CHECKING_SERVICES has found.
        projects: says where the project is.
        catalogue: the clusters.
        secrets_manager: holds the platform's login on the cluster.
        looks: look at the database.
        naming: the deployment's names.

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

    location = location_of(job, projects)
    is_dedicated = location.project is not None and location.project.instance is not None

    def look_at_database() -> Obstacles:
        if is_dedicated:
            # Nothing in an instance keeps it from going, nor from being copied as a whole.
            return Obstacles()
        cluster = cluster_of(location.project, catalogue, ErrorType.REMOVAL_FAILED)
        if cluster is None:
            return Obstacles()
        return looks[cluster.engine](
            admin_connection(secrets_manager, cluster, ErrorType.REMOVAL_FAILED),
            naming.names(payload.project_id).tenants[cluster.engine],
            naming.owner(payload.project_id, job.job_id).claim(only_this_job=False),
            with_dump=payload.final_snapshot,
        )

    try:
        database = look_at_database()
    except ProvisioningError as error:
        if not data and not services.staying:
            raise
        # It is refused whatever the database would say.
        database = Obstacles(unseen=(f"the database: {error.message.removesuffix('.')}",))
    refused = refusal(job, data, services + database)
    if refused is not None:
        raise refused
    return StageOutcome(check="nothing was found that stands in the way of the removal")


def _found_by_services(job: JobInput, jobs: JobStore) -> tuple[str, Obstacles]:
    """Return what CHECKING_SERVICES has found in this attempt of the job."""
    record = jobs.stage(job.job_id, deprovision_project.CHECKING_SERVICES)
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
