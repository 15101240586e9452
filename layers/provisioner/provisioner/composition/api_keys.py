"""The API-keys function's parts."""

from __future__ import annotations

from functools import partial

from provisioner.api_keys.store import ApiKeyStore
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore, utc_now
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import (
    OWN_ERRORS,
    CleanupStage,
    DeprovisionStage,
    RevokeApiKeyStage,
    RotateApiKeysStage,
    Stage,
)
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.generate_api_keys import ensure_api_keys
from provisioner.provisioning.stages.remove_api_keys import remove_api_keys
from provisioner.provisioning.stages.revoke_api_key import ensure_api_key_revoked
from provisioner.provisioning.stages.rotate_api_keys import ensure_api_keys_rotated
from provisioner.runtime import aws
from provisioner.runtime.settings import ApiKeysSettings


def stages(settings: ApiKeysSettings) -> JobStages:
    """Bind the stages to their clients."""
    return {
        JobType.PROVISION_PROJECT: {
            Stage.GENERATING_API_KEYS: partial(
                ensure_api_keys,
                secrets_manager=aws.client("secretsmanager"),
                store=ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
                projects=ProjectReader(aws.client("dynamodb"), settings.projects_table),
                naming=Naming(settings.resource_prefix, settings.resource_namespace),
                clock=utc_now,
            ),
            CleanupStage.REMOVING_API_KEYS: partial(
                remove_api_keys,
                secrets_manager=aws.client("secretsmanager"),
                store=ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
                naming=Naming(settings.resource_prefix, settings.resource_namespace),
                only_this_job=True,
            ),
        },
        JobType.DEPROVISION_PROJECT: {
            DeprovisionStage.REMOVING_API_KEYS: partial(
                remove_api_keys,
                secrets_manager=aws.client("secretsmanager"),
                store=ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
                naming=Naming(settings.resource_prefix, settings.resource_namespace),
                only_this_job=False,
            ),
        },
        JobType.ROTATE_API_KEYS: {
            RotateApiKeysStage.ROTATING_API_KEYS: partial(
                ensure_api_keys_rotated,
                secrets_manager=aws.client("secretsmanager"),
                store=ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
                naming=Naming(settings.resource_prefix, settings.resource_namespace),
                clock=utc_now,
            ),
        },
        JobType.REVOKE_API_KEY: {
            RevokeApiKeyStage.REVOKING_API_KEY: partial(
                ensure_api_key_revoked,
                store=ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
            ),
        },
    }


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = ApiKeysSettings.from_environment()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    return StageRunner(jobs, stages(settings), own_errors=OWN_ERRORS)
