"""The database function's parts: the only ones that reach the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from provisioner.composition.stage_code import stages_of
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.removal_obstacles import look_at_database
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import DATABASE
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.runtime import aws
from provisioner.runtime.settings import DatabaseSettings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

    from provisioner.provisioning.database_access import Engines
    from provisioner.provisioning.stages.check_data import DatabaseLooks


class Resources(TypedDict):
    """What the stages of the function may take, by the names of their parameters."""

    jobs: JobStore
    projects: ProjectStore
    catalogue: ClusterCatalogue
    secrets_manager: SecretsManagerClient
    engines: Engines
    looks: DatabaseLooks
    naming: Naming


def stages(settings: DatabaseSettings, jobs: JobStore) -> JobStages:
    """Bind the stages to their clients."""
    resources: Resources = {
        "jobs": jobs,
        "projects": ProjectStore(
            aws.client("dynamodb"), settings.projects_table, settings.quotas_table
        ),
        "catalogue": ClusterCatalogue(aws.client("ssm"), settings.cluster_parameter_prefix),
        "secrets_manager": aws.client("secretsmanager"),
        "engines": {Engine.POSTGRESQL: PostgresqlEngine},
        "looks": {Engine.POSTGRESQL: look_at_database},
        "naming": Naming(settings.resource_prefix, settings.resource_namespace),
    }
    return stages_of(DATABASE, resources)


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = DatabaseSettings.from_environment()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    return StageRunner(jobs, stages(settings, jobs), definitions=JOB_TYPES)
