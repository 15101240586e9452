"""The snapshot function's parts: pg_dump, and the bucket that its archives go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.drivers.postgresql.snapshot import PostgresqlDumper
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import OWN_ERRORS, DeprovisionStage
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.take_snapshot import ensure_snapshot
from provisioner.runtime import aws
from provisioner.runtime.settings import SnapshotSettings

#: Seconds of the function's time that are no dump's: for giving up an upload and storing the error.
_RESERVE_SECONDS = 60.0

#: AWS Lambda's function of an event: the event and the context to the result.
type ContextStep = Callable[[Mapping[str, Any], LambdaContext], dict[str, Any]]


def stages(settings: SnapshotSettings, time_left: Callable[[], float]) -> JobStages:
    """Bind the stage to its clients.

    Args:
        settings: the function's.
        time_left: says how many seconds a dump may take.
    """
    return {
        JobType.DEPROVISION_PROJECT: {
            DeprovisionStage.TAKING_SNAPSHOT: partial(
                ensure_snapshot,
                projects=ProjectReader(aws.client("dynamodb"), settings.projects_table),
                catalogue=ClusterCatalogue(aws.client("ssm"), settings.cluster_parameter_prefix),
                secrets_manager=aws.client("secretsmanager"),
                dumper=PostgresqlDumper,
                s3=aws.client("s3"),
                bucket=settings.snapshots_bucket,
                naming=Naming(settings.resource_prefix, settings.resource_namespace),
                time_left=time_left,
            )
        }
    }


def build() -> ContextStep:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = SnapshotSettings.from_environment()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    # Made at the start, as the other functions make theirs.
    for service in ("s3", "secretsmanager", "ssm"):
        aws.client(service)

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        def time_left() -> float:
            return context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS

        return StageRunner(jobs, stages(settings, time_left), own_errors=OWN_ERRORS)(event)

    return run
