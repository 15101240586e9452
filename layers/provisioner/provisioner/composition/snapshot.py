"""The snapshot function's parts: pg_dump, and the bucket that its archives go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.composition.cluster_catalogue import cluster_catalogue
from provisioner.composition.deployment import ReaderResources, naming, project_reader
from provisioner.composition.job_store import job_store
from provisioner.composition.server_certificates import with_certificates
from provisioner.composition.stage_code import ContextStep, run_stages, stages_of
from provisioner.drivers.mysql.snapshot import MysqlDumper
from provisioner.drivers.postgresql.snapshot import PostgresqlDumper
from provisioner.jobs.stage_run import JobStages
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import SNAPSHOT
from provisioner.runtime import aws
from provisioner.runtime.settings import SnapshotSettings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

    from provisioner.provisioning.stages.take_snapshot import Dumpers

#: Seconds of the function's time that are no dump's: for giving up an upload and storing the error.
_RESERVE_SECONDS = 60.0


class Resources(ReaderResources):
    """What the stages of the function may take, by the names of their parameters."""

    catalogue: ClusterCatalogue
    secrets_manager: SecretsManagerClient
    dumpers: Dumpers
    s3: S3Client
    bucket: str
    #: How many seconds a dump may take.
    time_left: Callable[[], float]


def stages(settings: SnapshotSettings, time_left: Callable[[], float]) -> JobStages:
    """Bind the stage to its clients.

    Args:
        settings: the function's.
        time_left: says how many seconds a dump may take.
    """
    resources: Resources = {
        "projects": project_reader(settings),
        "catalogue": cluster_catalogue(settings),
        "secrets_manager": aws.client("secretsmanager"),
        "dumpers": {
            Engine.POSTGRESQL: PostgresqlDumper,
            Engine.MYSQL: lambda admin: MysqlDumper(with_certificates(admin, settings)),
        },
        "s3": aws.client("s3"),
        "bucket": settings.snapshots_bucket,
        "naming": naming(settings),
        "time_left": time_left,
    }
    return stages_of(SNAPSHOT, resources)


class _TimeLeft:
    """Says how many seconds a dump may take, by the context of the invocation that runs."""

    context: LambdaContext

    def __call__(self) -> float:
        return self.context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS


def build() -> ContextStep:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = SnapshotSettings.from_environment()
    jobs = job_store(settings)
    time_left = _TimeLeft()
    run_stage = run_stages(jobs, stages(settings, time_left))

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        # A process of AWS Lambda runs one invocation at a time.
        time_left.context = context
        return run_stage(event)

    return run
