"""The database function's parts: the only ones that reach the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.composition.cluster_catalogue import cluster_catalogue
from provisioner.composition.deployment import StoreResources, naming, project_store
from provisioner.composition.job_store import job_store
from provisioner.composition.server_certificates import with_certificates
from provisioner.composition.stage_code import run_stages, stages_of
from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.mysql import removal_obstacles as mysql_obstacles
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.drivers.obstacles import Obstacles
from provisioner.drivers.postgresql import removal_obstacles as postgresql_obstacles
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore
from provisioner.ownership import Claim
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import AdminLogins
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import DATABASE
from provisioner.runtime import aws
from provisioner.runtime.settings import DatabaseSettings, ServerSettings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

    from provisioner.provisioning.database_access import Engines
    from provisioner.provisioning.stages.check_data import DatabaseLook, DatabaseLooks


class Resources(StoreResources):
    """What the stages of the function may take, by the names of their parameters."""

    jobs: JobStore
    catalogue: ClusterCatalogue
    secrets_manager: SecretsManagerClient
    logins: AdminLogins
    engines: Engines
    looks: DatabaseLooks


def _look_at_mysql(settings: ServerSettings) -> DatabaseLook:
    def look(
        admin: AdminConnection, names: TenantNames, claim: Claim, *, with_dump: bool
    ) -> Obstacles:
        admin = with_certificates(admin, settings)
        return mysql_obstacles.look_at_database(admin, names, claim, with_dump=with_dump)

    return look


def stages(settings: DatabaseSettings, jobs: JobStore) -> JobStages:
    """Bind the stages to their clients."""
    resources: Resources = {
        "jobs": jobs,
        "projects": project_store(settings),
        "catalogue": cluster_catalogue(settings),
        "secrets_manager": aws.client("secretsmanager"),
        "logins": AdminLogins(aws.client("secretsmanager")),
        "engines": {
            Engine.POSTGRESQL: PostgresqlEngine,
            Engine.MYSQL: lambda admin: MysqlEngine(with_certificates(admin, settings)),
        },
        "looks": {
            Engine.POSTGRESQL: postgresql_obstacles.look_at_database,
            Engine.MYSQL: _look_at_mysql(settings),
        },
        "naming": naming(settings),
    }
    return stages_of(DATABASE, resources)


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = DatabaseSettings.from_environment()
    jobs = job_store(settings)
    return run_stages(jobs, stages(settings, jobs))
