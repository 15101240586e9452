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

#: The first stage of a job that changes a project, and the last of one that ends with what its
#: stages have put out.
ACQUIRING = Stage(
    "INITIALIZING",
    "The project is ACTIVE and ours to change.",
    function=LIFECYCLE,
    code="provisioner.provisioning.stages.lifecycle:ensure_acquired",
    state="Initialize",
)
RELEASING = Stage(
    "FINALIZING",
    "The project is released and the job COMPLETED, in one transaction.",
    function=LIFECYCLE,
    code="provisioner.provisioning.stages.lifecycle:ensure_released",
    state="Finalize",
)

#: The code that releases the project of such a job that has failed; what it has changed stays.
RELEASE = "provisioner.provisioning.stages.lifecycle:release_after_failure"

#: The first and the last stage of a job that holds no project.
FINDING = Stage(
    "INITIALIZING",
    "The project is there; nobody's lock is asked for.",
    function=LIFECYCLE,
    code="provisioner.provisioning.stages.find_project:ensure_found",
    state="Initialize",
)
CONCLUDING = Stage(
    "FINALIZING",
    "The job is COMPLETED.",
    function=LIFECYCLE,
    code="provisioner.provisioning.stages.lifecycle:ensure_concluded",
    state="Finalize",
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
        code=f"provisioner.provisioning.stages.{what}:remove_{what}",
        arguments={"only_this_job": only_this_job},
        own_error=ErrorType.REMOVAL_FAILED,
        state=f"Remove{pascal_case(what)}",
        runs_if=runs_if,
    )
