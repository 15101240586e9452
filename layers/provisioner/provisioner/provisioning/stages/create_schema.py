"""CREATING_SCHEMA: the tenant schema, its grants and the schema-version table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.drivers.secrets import read_secret
from provisioner.errors import ErrorType
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.database_access import AdminLogins, Engines, ways_in
from provisioner.provisioning.job_types.provision_project import (
    CREATING_DATABASE,
    ProvisionProjectPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import ensure_placed
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def ensure_schema(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    logins: AdminLogins,
    engines: Engines,
    naming: Naming,
) -> StageOutcome:
    """Make the schema in the database that CREATING_DATABASE has made.

    Raises:
        CONFLICT: a schema of that name is not the project's.
        SCHEMA_CREATION_FAILED, and what `DatabaseEngine` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    tenant = naming.names(payload.project_id).tenants[payload.database.engine]
    cluster = _placed_before(job, payload, catalogue) or ensure_placed(
        payload, projects=projects, catalogue=catalogue
    )
    login = read_secret(
        secrets_manager,
        naming.names(payload.project_id).database_secret,
        final=ErrorType.SCHEMA_CREATION_FAILED,
    )
    ways = ways_in(engines, cluster, logins.connection(cluster))
    ways[0].ensure_schema(tenant, naming.owner(payload.project_id, job.job_id))
    checks = [way.check_schema(tenant, str(login["password"])) for way in ways]
    return StageOutcome(output={"schema_name": tenant.schema}, check=checks[-1])


def _placed_before(
    job: JobInput, payload: ProvisionProjectPayload, catalogue: ClusterCatalogue
) -> Cluster | None:
    """Return the shared cluster that CREATING_DATABASE has just used, if it is still known here."""
    cluster_id = job.outputs.get(CREATING_DATABASE, {}).get("cluster_id")
    if not job.is_first or cluster_id is None or payload.database.size is not None:
        return None
    return catalogue.kept_cluster(payload.region, payload.database.engine, cluster_id)
