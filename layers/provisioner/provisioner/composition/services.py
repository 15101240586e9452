"""The services function's parts: Cognito, AppSync and S3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from provisioner.composition.deployment import ReaderResources, naming, project_reader
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import run_stages, stages_of
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.provisioning.functions import SERVICES
from provisioner.runtime import aws
from provisioner.runtime.settings import ServicesSettings

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient
    from mypy_boto3_s3.client import S3Client

#: Seconds in which objects are deleted, of the 120 that the function has.
_EMPTYING_SECONDS = 90.0


class Resources(ReaderResources):
    """What the stages of the function may take, by the names of their parameters."""

    #: These give the client of a region.
    cognito: Callable[[str], CognitoIdentityProviderClient]
    appsync: Callable[[str], AppSyncClient]
    s3: Callable[[str], S3Client]
    #: For which objects are deleted, in one attempt.
    seconds: float


def stages(settings: ServicesSettings) -> JobStages:
    """Bind the stages to their clients; those of other regions are made when a job names them."""
    for service in ("cognito-idp", "appsync", "s3"):
        aws.client(service, aws.session().region_name)
    resources: Resources = {
        "cognito": partial(aws.client, "cognito-idp"),
        "appsync": partial(aws.client, "appsync"),
        "s3": partial(aws.client, "s3"),
        "projects": project_reader(settings),
        "naming": naming(settings),
        "seconds": _EMPTYING_SECONDS,
    }
    return stages_of(SERVICES, resources)


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = ServicesSettings.from_environment()
    return run_stages(job_store(settings), stages(settings))
