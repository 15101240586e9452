"""The snapshot function's parts: pg_dump, and the bucket that its archives go to."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.composition.clusters import cluster_catalogue
from provisioner.composition.deployment import READER, Makers
from provisioner.composition.servers import servers
from provisioner.composition.stage_code import ContextStep, run_stages
from provisioner.drivers.mysql.snapshot import MysqlDumper
from provisioner.drivers.postgresql.snapshot import PostgresqlDumper
from provisioner.provisioning.functions import SNAPSHOT
from provisioner.runtime import aws
from provisioner.runtime.settings import SnapshotSettings

#: Seconds of the function's time that are no dump's: for giving up an upload and storing the error.
_RESERVE_SECONDS = 60.0


#: The context of the invocation that runs.
_INVOCATION: ContextVar[LambdaContext] = ContextVar("invocation")

#: What the stage of the function may take, by the names of its parameters.
RESOURCES: Makers[SnapshotSettings] = {
    **READER,
    "catalogue": cluster_catalogue,
    "dumpers": lambda settings: servers(settings, PostgresqlDumper, MysqlDumper),
    "s3": lambda _settings: aws.client("s3"),
    "bucket": lambda settings: settings.snapshots_bucket,
    "time_left": lambda _settings: (
        lambda: _INVOCATION.get().get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS
    ),
}


def build() -> ContextStep:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    run_stage = run_stages(SNAPSHOT, RESOURCES, SnapshotSettings.from_environment())

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        _INVOCATION.set(context)
        return run_stage(event)

    return run
