"""The API-keys function's parts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from provisioner.api_keys.store import ApiKeyStore
from provisioner.composition.deployment import naming, project_reader
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import stages_of
from provisioner.jobs.job_reader import utc_now
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.provisioning.functions import API_KEYS
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.runtime import aws
from provisioner.runtime.settings import ApiKeysSettings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


class Resources(TypedDict):
    """What the stages of the function may take, by the names of their parameters."""

    secrets_manager: SecretsManagerClient
    store: ApiKeyStore
    projects: ProjectReader
    naming: Naming
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
    jobs = job_store(settings)
    return StageRunner(jobs, stages(settings), definitions=JOB_TYPES)
