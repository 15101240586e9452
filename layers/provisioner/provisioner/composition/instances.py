"""The instances function's parts: the only one with rights on Amazon RDS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.composition.cluster_catalogue import cluster_catalogue
from provisioner.composition.deployment import StoreResources, naming, project_store
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import ContextStep, run_stages, stages_of
from provisioner.jobs.job_reader import utc_now
from provisioner.jobs.stage_run import JobStages
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.functions import INSTANCES
from provisioner.provisioning.snapshot_retention import (
    REMOVE_EXPIRED_SNAPSHOTS,
    remove_expired_snapshots,
)
from provisioner.runtime import aws
from provisioner.runtime.settings import InstancesSettings

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


class Resources(StoreResources):
    """What the stages of the function may take, by the names of their parameters."""

    jobs: JobStore
    catalogue: ClusterCatalogue
    secrets_manager: SecretsManagerClient
    rds: Callable[[str], RDSClient]


def stages(settings: InstancesSettings, jobs: JobStore) -> JobStages:
    """Bind the stages to their clients; those of other regions are made when a job names them."""
    aws.client("rds", aws.session().region_name)
    resources: Resources = {
        "jobs": jobs,
        "projects": project_store(settings),
        "catalogue": cluster_catalogue(settings),
        "secrets_manager": aws.client("secretsmanager"),
        "rds": partial(aws.client, "rds"),
        "naming": naming(settings),
    }
    return stages_of(INSTANCES, resources)


def build() -> ContextStep:
    """Put the function together from the environment: stages, and what a schedule asks for daily.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = InstancesSettings.from_environment()
    jobs = job_store(settings)
    run_stage = run_stages(jobs, stages(settings, jobs))
    catalogue = cluster_catalogue(settings)

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        if event.get("task") != REMOVE_EXPIRED_SNAPSHOTS:
            return run_stage(event)
        return remove_expired_snapshots(
            catalogue=catalogue,
            rds=partial(aws.client, "rds"),
            namespace=settings.resource_namespace,
            today=utc_now().date(),
            time_left=lambda: context.get_remaining_time_in_millis() / 1000,
        )

    return run
