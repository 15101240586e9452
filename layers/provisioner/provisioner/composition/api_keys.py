"""The API-keys function's parts."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.api_keys.hand_over import HandOverStore
from provisioner.api_keys.store import ApiKeyStore
from provisioner.composition.deployment import READER, Makers, naming, project_reader
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import ContextStep, run_stages
from provisioner.jobs.store import utc_now
from provisioner.provisioning.functions import API_KEYS
from provisioner.provisioning.unclaimed_keys import EXPIRE_UNCLAIMED_KEYS, UnclaimedKeys
from provisioner.runtime import aws
from provisioner.runtime.settings import ApiKeysSettings


def hand_over_store(settings: ApiKeysSettings) -> HandOverStore:
    """Bind the hand-overs of keys to a deployment."""
    return HandOverStore(aws.client("dynamodb"), settings.api_keys_table)


#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[ApiKeysSettings] = {
    **READER,
    "secrets_manager": lambda _settings: aws.client("secretsmanager"),
    "kms_key_arn": lambda settings: settings.kms_key_arn,
    "store": lambda settings: ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
    "hand_overs": hand_over_store,
    "clock": lambda _settings: utc_now,
}


def build() -> ContextStep:
    """Put the function together from the environment: stages, and what a schedule asks for.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = ApiKeysSettings.from_environment()
    run_stage = run_stages(API_KEYS, RESOURCES, settings)
    take_next_steps = UnclaimedKeys(
        hand_over_store(settings),
        project_reader(settings),
        job_store(settings),
        aws.client("secretsmanager"),
        naming(settings),
    )

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        if event.get("task") != EXPIRE_UNCLAIMED_KEYS:
            return run_stage(event)
        return take_next_steps(lambda: context.get_remaining_time_in_millis() / 1000)

    return run
