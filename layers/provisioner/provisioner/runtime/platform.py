"""Which deployment the public API talks to."""

import os
from collections.abc import Mapping
from functools import cache

from provisioner.arguments import check_characters
from provisioner.errors import ErrorType, failure
from provisioner.runtime import aws
from provisioner.runtime.settings import (
    ApiKeysSettings,
    DatabaseSettings,
    DeadLettersSettings,
    InstancesSettings,
    LifecycleSettings,
    ReconcilerSettings,
    ServicesSettings,
    SnapshotSettings,
)

#: The stack's output of each setting.
_OUTPUTS = {
    "JOBS_TABLE": "JobsTableName",
    "PROJECTS_TABLE": "ProjectsTableName",
    "API_KEYS_TABLE": "ApiKeysTableName",
    "QUOTAS_TABLE": "QuotasTableName",
    "QUEUE_URL": "QueueUrl",
    "DEAD_LETTER_QUEUE_URL": "DeadLetterQueueUrl",
    "CLUSTER_PARAMETER_PREFIX": "ClusterParameterPrefix",
    "RESOURCE_PREFIX": "ResourcePrefix",
    "RESOURCE_NAMESPACE": "ResourceNamespace",
    "BUCKET_NAMESPACE": "BucketNamespace",
    "KMS_KEY_ARN": "KmsKeyArn",
    "DEFAULT_PROJECT_QUOTA": "DefaultProjectQuota",
    "JOB_RETENTION_DAYS": "JobRetentionDays",
    "MAXIMUM_RUNNING_JOBS": "MaximumRunningJobs",
    "STATE_MACHINE_ARN_PREFIX": "StateMachineArnPrefix",
    "SNAPSHOTS_BUCKET": "SnapshotsBucketName",
}


#: Characters of a stack's name, or of its ARN, and of a region.
_STACK_NAME_LENGTH = 1024
_REGION_LENGTH = 32


class PlatformSettings(
    LifecycleSettings,
    DatabaseSettings,
    InstancesSettings,
    ServicesSettings,
    ApiKeysSettings,
    SnapshotSettings,
    ReconcilerSettings,
    DeadLettersSettings,
):
    """What a process outside AWS Lambda needs: all of it."""


_connected: list[PlatformSettings] = []


def connect(settings: PlatformSettings) -> None:
    """Let the public API of this process talk to a deployment.

    Raises:
        INVALID_PAYLOAD: the settings are none.
    """
    if not isinstance(settings, PlatformSettings):
        raise failure(ErrorType.INVALID_PAYLOAD, "settings: must be PlatformSettings.")
    _connected[:] = [settings]


def connect_to_stack(stack_name: str, region: str | None = None) -> PlatformSettings:
    """Let the public API of this process talk to the deployment of a CloudFormation stack.

    Args:
        stack_name: the stack.
        region: where it is deployed; the process's own region when left out.

    Raises:
        AwsSettingsError: a setting of the AWS SDK is missing or wrong.
        NETWORK_ERROR: the answer is of another stack.
        botocore.exceptions.ClientError: there is no such stack, or it may not be described.
    """
    check_characters("stack_name", stack_name, longest=_STACK_NAME_LENGTH)
    if region is not None:
        check_characters("region", region, longest=_REGION_LENGTH)
        os.environ["AWS_DEFAULT_REGION"] = region
        aws.reset()
    stack = aws.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"][0]
    if stack_name not in {stack["StackName"], stack["StackId"]}:
        raise failure(
            ErrorType.NETWORK_ERROR,
            "AWS answered another question while we tried to read the stack; ask again.",
            "CloudFormation: a stack of another name",
        )
    settings = settings_of({o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])})
    connect(settings)
    return settings


def settings_of(outputs: Mapping[str, str]) -> PlatformSettings:
    """Read the settings from the outputs of a stack."""
    return PlatformSettings.from_environment(
        {name: outputs[output] for name, output in _OUTPUTS.items() if output in outputs}
    )


def current_settings() -> PlatformSettings:
    """Return the deployment that the process is connected to, or that its environment names.

    Raises:
        SettingsError: it is connected to none, and the environment does not name one.
    """
    return _connected[0] if _connected else _from_environment()


@cache
def _from_environment() -> PlatformSettings:
    return PlatformSettings.from_environment()
