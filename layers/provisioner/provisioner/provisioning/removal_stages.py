"""The stages that remove a project's resources, in a clean-up and in a deprovisioning alike."""

from dataclasses import dataclass

from provisioner.errors import ErrorType
from provisioner.jobs.definition import Function, Stage
from provisioner.provisioning.functions import (
    API_KEYS,
    DATABASE,
    INSTANCE_REMOVAL_SECONDS,
    INSTANCES,
    SERVICES,
)


@dataclass(frozen=True, slots=True)
class _Removal:
    meaning: str
    function: Function
    waits_seconds: int = 0


#: By the last words of the stage's name, and of its code's.
_REMOVALS = {
    "api_keys": _Removal("The API keys, and the secret that hands them over, are gone.", API_KEYS),
    "storage": _Removal("The S3 bucket is gone, if it was empty.", SERVICES),
    "realtime": _Removal("The AppSync Event API is gone, with its channel namespace.", SERVICES),
    "auth": _Removal("The Cognito user pool is gone, with its app client.", SERVICES),
    "database": _Removal(
        "The tenant database is gone, with its roles, its secret and its place on the cluster.",
        DATABASE,
    ),
    "instance": _Removal(
        "The project's own database instance is gone, with its secret and its place.",
        INSTANCES,
        INSTANCE_REMOVAL_SECONDS,
    ),
}


def removal_stage(what: str, *, only_this_job: bool, runs_if: str = "") -> Stage:
    """Define a stage that removes something.

    Args:
        what: what it removes, as `_REMOVALS` names it.
        only_this_job: whether what other jobs of the project made stays.
        runs_if: as of `Stage`.
    """
    removal = _REMOVALS[what]
    return Stage(
        f"REMOVING_{what.upper()}",
        removal.meaning,
        function=removal.function,
        code=f"provisioner.provisioning.stages.{what}:remove_{what}",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state="Remove" + "".join(word.capitalize() for word in what.split("_")),
        runs_if=runs_if,
        waits_seconds=removal.waits_seconds,
    )
