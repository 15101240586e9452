"""The API-keys function's parts."""

from provisioner.api_keys.store import ApiKeyStore
from provisioner.composition.deployment import READER, Makers
from provisioner.composition.stage_code import run_stages
from provisioner.jobs.stage_run import StageRunner
from provisioner.jobs.store import utc_now
from provisioner.provisioning.functions import API_KEYS
from provisioner.runtime import aws
from provisioner.runtime.settings import ApiKeysSettings

#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[ApiKeysSettings] = {
    **READER,
    "secrets_manager": lambda _settings: aws.client("secretsmanager"),
    "kms_key_arn": lambda settings: settings.kms_key_arn,
    "store": lambda settings: ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table),
    "clock": lambda _settings: utc_now,
}


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    return run_stages(API_KEYS, RESOURCES, ApiKeysSettings.from_environment())
