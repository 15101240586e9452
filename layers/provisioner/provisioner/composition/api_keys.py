"""The API-keys function's parts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from provisioner.api_keys.store import ApiKeyStore
from provisioner.composition.deployment import ReaderResources, naming, project_reader
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import run_stages, stages_of
from provisioner.jobs.job_reader import utc_now
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.provisioning.functions import API_KEYS
from provisioner.runtime import aws
from provisioner.runtime.settings import ApiKeysSettings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


class Resources(ReaderResources):
    """What the stages of the function may take, by the names of their parameters."""

    secrets_manager: SecretsManagerClient
    store: ApiKeyStore
    clock: Callable[[], datetime]


def stages(settings: ApiKeysSettings) -> JobStages:
    """Bind the stages to their clients."""
    resources: Resources = {
        "secrets_manager": aws.client("secretsmanager"),
        "store": ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
        "projects": project_reader(settings),
        "naming": naming(settings),
        "clock": utc_now,
    }
    return stages_of(API_KEYS, resources)


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = ApiKeysSettings.from_environment()
    return run_stages(job_store(settings), stages(settings))
