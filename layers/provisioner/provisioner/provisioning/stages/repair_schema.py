"""REPAIRING_SCHEMA: the tenant schema, its grants and the schema-version table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors import ErrorType
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import Engines, admin_connection
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import known_cluster_of
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.repair_report import outcome, repaired_project

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

_FINAL = ErrorType.DATABASE_CHANGE_FAILED


def ensure_schema_repaired(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    engines: Engines,
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the schema, in the database that REPAIRING_DATABASE found.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: a schema of that name is not the project's.
        DATABASE_CHANGE_FAILED, and what `DatabaseEngine` raises.
    """
    project = repaired_project(job, projects)
    cluster = known_cluster_of(project, catalogue, _FINAL)
    database = engines[cluster.engine](admin_connection(secrets_manager, cluster, _FINAL))
    return outcome(
        database.repair_schema(
            naming.names(project.project_id).tenants[cluster.engine],
            naming.owner(project.project_id, job.job_id),
        )
    )
