"""The services function's parts: Cognito, AppSync and S3."""

from provisioner.composition.deployment import READER, Makers
from provisioner.composition.stage_code import run_stages
from provisioner.jobs.stage_run import StageRunner
from provisioner.provisioning.functions import SERVICES
from provisioner.runtime import aws
from provisioner.runtime.settings import ServicesSettings

#: Seconds in which objects are deleted in one attempt, of the 120 that the function has.
_EMPTYING_SECONDS = 90.0

#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[ServicesSettings] = {
    **READER,
    "cognito": lambda _settings: aws.client_of_region("cognito-idp"),
    "appsync": lambda _settings: aws.client_of_region("appsync"),
    "s3": lambda _settings: aws.client_of_region("s3"),
    "seconds": lambda _settings: _EMPTYING_SECONDS,
}


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    return run_stages(SERVICES, RESOURCES, ServicesSettings.from_environment())
