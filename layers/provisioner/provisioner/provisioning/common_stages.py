"""The stages that job types have in common: how jobs begin and end, and what a removal takes."""

from typing import Any

from provisioner.errors import ErrorType
from provisioner.jobs.definition import Stage, pascal_case
from provisioner.provisioning.functions import (
    API_KEYS,
    DATABASE,
    INSTANCE_REMOVAL_SECONDS,
    INSTANCES,
    LIFECYCLE,
    SERVICES,
)

_STAGES = "provisioner.provisioning.stages"


def first_stage(meaning: str, code: str, **more: Any) -> Stage:
    """Define how a job begins.

    Args:
        meaning: what holds then.
        code: the stage's, below the package of stages.
        more: further fields of `Stage`.
    """
    return Stage(
        "INITIALIZING",
        meaning,
        function=LIFECYCLE,
        code=f"{_STAGES}.{code}",
        state="Initialize",
        **more,
    )


def last_stage(meaning: str, code: str) -> Stage:
    """Define how a job ends; the arguments are as of `first_stage`."""
    return Stage(
        "FINALIZING", meaning, function=LIFECYCLE, code=f"{_STAGES}.{code}", state="Finalize"
    )


#: The first stage of a job that changes a project, and the last of one that ends with what its
#: stages have put out.
ACQUIRING = first_stage("The project is ACTIVE and ours to change.", "lifecycle:ensure_acquired")
RELEASING = last_stage(
    "The project is released and the job COMPLETED, in one transaction.",
    "lifecycle:ensure_released",
)

#: The code that releases the project of such a job that has failed; what it has changed stays.
RELEASE = f"{_STAGES}.lifecycle:release_after_failure"

#: The first and the last stage of a job that holds no project.
FINDING = first_stage(
    "The project is there; nobody's lock is asked for.", "find_project:ensure_found"
)
CONCLUDING = last_stage("The job is COMPLETED.", "lifecycle:ensure_concluded")


def instance_stage(
    name: str, meaning: str, code: str, *, own_error: ErrorType, state: str, waits_seconds: int
) -> Stage:
    """Define a stage that waits for the project's own instance; it runs only where it has one.

    Args:
        name: the stage's.
        meaning: what holds once it has ended well.
        code: the name of a function of the module of instances.
        own_error: as of `Stage`, and so is the rest.
        state: likewise.
        waits_seconds: likewise.
    """
    return Stage(
        name,
        meaning,
        function=INSTANCES,
        code=f"{_STAGES}.instance:{code}",
        own_error=own_error,
        state=state,
        runs_if="is_dedicated",
        waits_seconds=waits_seconds,
    )


#: What removes something: the fields of its stage, by the last words of the stage's name, and of
#: its code's.
_REMOVALS: dict[str, dict[str, Any]] = {
    "api_keys": {
        "meaning": "The API keys, and the secret that hands them over, are gone.",
        "function": API_KEYS,
    },
    "storage": {"meaning": "The S3 bucket is gone, if it was empty.", "function": SERVICES},
    "realtime": {
        "meaning": "The AppSync Event API is gone, with its channel namespace.",
        "function": SERVICES,
    },
    "auth": {
        "meaning": "The Cognito user pool is gone, with its app client.",
        "function": SERVICES,
    },
    "database": {
        "meaning": "The tenant database is gone, with its roles, its secret and its place on the "
        "cluster.",
        "function": DATABASE,
    },
    "instance": {
        "meaning": "The project's own database instance is gone, with its secret and its place.",
        "function": INSTANCES,
        "waits_seconds": INSTANCE_REMOVAL_SECONDS,
    },
}


def removal_stage(what: str, *, only_this_job: bool, runs_if: str = "") -> Stage:
    """Define a stage that removes something.

    Args:
        what: what it removes, as `_REMOVALS` names it.
        only_this_job: whether what other jobs of the project made stays.
        runs_if: as of `Stage`.
    """
    return Stage(
        f"REMOVING_{what.upper()}",
        **_REMOVALS[what],
        code=f"{_STAGES}.{what}:remove_{what}",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state=f"Remove{pascal_case(what)}",
        runs_if=runs_if,
    )
