"""Which code a function runs: that of its stages, and that of what follows a failure."""

from collections.abc import Callable, Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.composition.deployment import WRITER, Makers
from provisioner.composition.job_store import job_store
from provisioner.jobs.definition import FailureHandling, Function, Resources, bind
from provisioner.jobs.failure import FailurePolicy
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.runtime.settings import JobSettings, ProjectSettings

#: AWS Lambda's function of an event: the event and the context to the result.
type ContextStep = Callable[[Mapping[str, Any], LambdaContext], dict[str, Any]]


def run_stages[Settings: JobSettings](
    function: Function, makers: Makers[Settings], settings: Settings
) -> StageRunner:
    """Return what runs the stages of a function.

    Args:
        function: the function.
        makers: make what its stages may take besides the jobs.
        settings: the function's.
    """
    jobs = job_store(settings)
    stages = stages_of(function, {"jobs": jobs, **make_all(makers, settings)})
    return StageRunner(jobs, stages, definitions=JOB_TYPES)


def make_all[Settings](makers: Makers[Settings], settings: Settings) -> Resources:
    """Make what code may take, each once."""
    return {name: make(settings) for name, make in makers.items()}


def stages_of(function: Function, resources: Resources) -> JobStages:
    """Load the stages of every job type that a function runs.

    Args:
        function: the function.
        resources: what it has; a stage takes of it what its keyword-only parameters name.

    Raises:
        DefinitionError: a stage takes what the function does not have.
    """
    return {
        name: {
            stage: bind(stage.code, resources, **stage.arguments)
            for stage in definition.stages
            if stage.function == function
        }
        for name, definition in JOB_TYPES.items()
    }


def failure_policies(settings: ProjectSettings) -> dict[str, FailurePolicy]:
    """Say what each job type of a deployment does when a job of it fails."""
    return failure_policies_of(make_all(WRITER, settings))


def failure_policies_of(resources: Resources) -> dict[str, FailurePolicy]:
    """Load what each job type does when a job of it fails."""
    return {name: _policy(d.on_failure, resources) for name, d in JOB_TYPES.items()}


def _policy(on_failure: FailureHandling, resources: Resources) -> FailurePolicy:
    codes = {
        "release": on_failure.release,
        "describe_cleanup": on_failure.describe_cleanup,
        "remaining_of": on_failure.remaining,
    }
    given: dict[str, Any] = {name: bind(code, resources) for name, code in codes.items() if code}
    return FailurePolicy(cleanup_job_type=JOB_TYPES.get(on_failure.cleanup_job_type), **given)
