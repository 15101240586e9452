"""The database function's parts: the only ones that reach the clusters."""

from __future__ import annotations

from functools import partial

from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.removal_obstacles import look_at_database
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import (
    OWN_ERRORS,
    CleanupStage,
    DeprovisionStage,
    RotateDatabasePasswordStage,
    Stage,
)
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.check_data import ensure_removal_is_possible
from provisioner.provisioning.stages.create_database import ensure_database
from provisioner.provisioning.stages.create_schema import ensure_schema
from provisioner.provisioning.stages.remove_database import remove_database
from provisioner.provisioning.stages.rotate_database_password import ensure_password_rotated
from provisioner.runtime import aws
from provisioner.runtime.settings import DatabaseSettings


def stages(settings: DatabaseSettings, jobs: JobStore) -> JobStages:
    """Bind the stages to their clients."""
    projects = ProjectStore(aws.client("dynamodb"), settings.projects_table, settings.quotas_table)
    catalogue = ClusterCatalogue(aws.client("ssm"), settings.cluster_parameter_prefix)
    naming = Naming(settings.resource_prefix, settings.resource_namespace)
    return {
        JobType.PROVISION_PROJECT: {
            Stage.CREATING_DATABASE: partial(
                ensure_database,
                projects=projects,
                catalogue=catalogue,
                secrets_manager=aws.client("secretsmanager"),
                engine=PostgresqlEngine,
                naming=naming,
            ),
            Stage.CREATING_SCHEMA: partial(
                ensure_schema,
                projects=projects,
                catalogue=catalogue,
                secrets_manager=aws.client("secretsmanager"),
                engine=PostgresqlEngine,
                naming=naming,
            ),
            CleanupStage.REMOVING_DATABASE: partial(
                remove_database,
                projects=projects,
                catalogue=catalogue,
                secrets_manager=aws.client("secretsmanager"),
                engine=PostgresqlEngine,
                look=look_at_database,
                naming=naming,
                only_this_job=True,
            ),
        },
        JobType.DEPROVISION_PROJECT: {
            DeprovisionStage.CHECKING_DATA: partial(
                ensure_removal_is_possible,
                jobs=jobs,
                projects=projects,
                catalogue=catalogue,
                secrets_manager=aws.client("secretsmanager"),
                look=look_at_database,
                naming=naming,
            ),
            DeprovisionStage.REMOVING_DATABASE: partial(
                remove_database,
                projects=projects,
                catalogue=catalogue,
                secrets_manager=aws.client("secretsmanager"),
                engine=PostgresqlEngine,
                look=look_at_database,
                naming=naming,
                only_this_job=False,
            ),
        },
        JobType.ROTATE_DATABASE_PASSWORD: {
            RotateDatabasePasswordStage.ROTATING_DATABASE_PASSWORD: partial(
                ensure_password_rotated,
                projects=projects,
                catalogue=catalogue,
                secrets_manager=aws.client("secretsmanager"),
                engine=PostgresqlEngine,
                naming=naming,
            ),
        },
    }


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = DatabaseSettings.from_environment()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    return StageRunner(jobs, stages(settings, jobs), own_errors=OWN_ERRORS)
