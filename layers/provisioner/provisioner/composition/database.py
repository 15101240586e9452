"""The database function's parts: the only ones that reach the clusters."""

from provisioner.composition.clusters import cluster_catalogue
from provisioner.composition.deployment import WRITER, Makers
from provisioner.composition.servers import servers
from provisioner.composition.stage_code import run_stages
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.jobs.stage_run import StageRunner
from provisioner.provisioning.functions import DATABASE
from provisioner.provisioning.login_locks import LoginLocks
from provisioner.runtime import aws
from provisioner.runtime.settings import DatabaseSettings

#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[DatabaseSettings] = {
    **WRITER,
    "catalogue": cluster_catalogue,
    "secrets_manager": lambda _settings: aws.client("secretsmanager"),
    "kms_key_arn": lambda settings: settings.kms_key_arn,
    "servers": lambda settings: servers(settings, PostgresqlEngine, MysqlEngine),
    "login_locks": lambda settings: LoginLocks(aws.client("dynamodb"), settings.quotas_table),
}


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    return run_stages(DATABASE, RESOURCES, DatabaseSettings.from_environment())
