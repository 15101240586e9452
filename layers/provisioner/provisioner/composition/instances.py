"""The instances function's parts: the only one with rights on Amazon RDS."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.composition.clusters import cluster_catalogue
from provisioner.composition.deployment import WRITER, Makers
from provisioner.composition.stage_code import ContextStep, run_stages
from provisioner.jobs.store import utc_now
from provisioner.provisioning.functions import INSTANCES
from provisioner.provisioning.snapshot_retention import (
    REMOVE_EXPIRED_SNAPSHOTS,
    remove_expired_snapshots,
)
from provisioner.runtime import aws
from provisioner.runtime.settings import InstancesSettings

#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[InstancesSettings] = {
    **WRITER,
    "catalogue": cluster_catalogue,
    "secrets_manager": lambda _settings: aws.client("secretsmanager"),
    "kms_key_arn": lambda settings: settings.kms_key_arn,
    "rds": lambda _settings: aws.client_of_region("rds"),
}


def build() -> ContextStep:
    """Put the function together from the environment: stages, and what a schedule asks for daily.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = InstancesSettings.from_environment()
    run_stage = run_stages(INSTANCES, RESOURCES, settings)
    catalogue, rds = cluster_catalogue(settings), aws.client_of_region("rds")

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        if event.get("task") != REMOVE_EXPIRED_SNAPSHOTS:
            return run_stage(event)
        return remove_expired_snapshots(
            catalogue=catalogue,
            rds=rds,
            namespace=settings.resource_namespace,
            today=utc_now().date(),
            time_left=lambda: context.get_remaining_time_in_millis() / 1000,
        )

    return run
