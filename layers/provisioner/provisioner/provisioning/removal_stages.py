"""The stages that remove a project's resources, in a clean-up and in a deprovisioning alike."""

from __future__ import annotations

from provisioner.errors import ErrorType
from provisioner.jobs.definition import Stage
from provisioner.provisioning.functions import (
    API_KEYS,
    DATABASE,
    INSTANCE_REMOVAL_SECONDS,
    INSTANCES,
    SERVICES,
)

_CODE = "provisioner.provisioning.stages"


def removing_api_keys(*, only_this_job: bool) -> Stage:
    """Define the removal of the API keys.

    Args:
        only_this_job: whether what other jobs of the project made stays.
    """
    return Stage(
        "REMOVING_API_KEYS",
        "The API keys, and the secret that hands them over, are gone.",
        function=API_KEYS,
        code=f"{_CODE}.remove_api_keys:remove_api_keys",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state="RemoveApiKeys",
    )


def removing_auth(*, only_this_job: bool) -> Stage:
    """Define the removal of the user pool; see `removing_api_keys`."""
    return Stage(
        "REMOVING_AUTH",
        "The Cognito user pool is gone, with its app client.",
        function=SERVICES,
        code=f"{_CODE}.remove_auth:remove_auth",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state="RemoveAuth",
    )


def removing_database(*, only_this_job: bool) -> Stage:
    """Define the removal of the database; see `removing_api_keys`."""
    return Stage(
        "REMOVING_DATABASE",
        "The tenant database is gone, with its roles, its secret and its place on the cluster.",
        function=DATABASE,
        code=f"{_CODE}.remove_database:remove_database",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state="RemoveDatabase",
    )


def removing_instance(*, only_this_job: bool, runs_if: str = "") -> Stage:
    """Define the removal of the project's own database instance; see `removing_api_keys`."""
    return Stage(
        "REMOVING_INSTANCE",
        "The project's own database instance is gone, with its secret and its place.",
        function=INSTANCES,
        code=f"{_CODE}.remove_instance:remove_instance",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state="RemoveInstance",
        runs_if=runs_if,
        waits_seconds=INSTANCE_REMOVAL_SECONDS,
    )
