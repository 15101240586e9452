"""The database function's parts: the only ones that reach the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.composition.clusters import cluster_catalogue, with_certificates
from provisioner.composition.deployment import WRITER, Makers
from provisioner.composition.stage_code import run_stages
from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.mysql import removal_obstacles as mysql_obstacles
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.drivers.obstacles import Obstacles
from provisioner.drivers.postgresql import removal_obstacles as postgresql_obstacles
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.jobs.stage_run import StageRunner
from provisioner.ownership import Claim
from provisioner.provisioning.database_access import AdminLogins
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import DATABASE
from provisioner.runtime import aws
from provisioner.runtime.settings import DatabaseSettings, ServerSettings

if TYPE_CHECKING:
    from provisioner.provisioning.database_access import Engines
    from provisioner.provisioning.stages.check_data import DatabaseLook, DatabaseLooks


def _engines(settings: ServerSettings) -> Engines:
    return {
        Engine.POSTGRESQL: PostgresqlEngine,
        Engine.MYSQL: lambda admin: MysqlEngine(with_certificates(admin, settings)),
    }


def _looks(settings: ServerSettings) -> DatabaseLooks:
    return {
        Engine.POSTGRESQL: postgresql_obstacles.look_at_database,
        Engine.MYSQL: _look_at_mysql(settings),
    }


def _look_at_mysql(settings: ServerSettings) -> DatabaseLook:
    def look(
        admin: AdminConnection, names: TenantNames, claim: Claim, *, with_dump: bool
    ) -> Obstacles:
        admin = with_certificates(admin, settings)
        return mysql_obstacles.look_at_database(admin, names, claim, with_dump=with_dump)

    return look


#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[DatabaseSettings] = {
    **WRITER,
    "catalogue": cluster_catalogue,
    "secrets_manager": lambda _settings: aws.client("secretsmanager"),
    "logins": lambda _settings: AdminLogins(aws.client("secretsmanager")),
    "engines": _engines,
    "looks": _looks,
}


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    return run_stages(DATABASE, RESOURCES, DatabaseSettings.from_environment())
