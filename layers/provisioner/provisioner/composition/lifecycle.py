"""The lifecycle function's parts: how jobs begin and end, and the step that records a failure."""

from collections.abc import Mapping
from typing import Any

from provisioner.composition.clusters import cluster_catalogue
from provisioner.composition.deployment import WRITER, Makers
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import failure_policies, run_stages
from provisioner.jobs.failure import FailureRecorder
from provisioner.jobs.stage_run import RECORD_FAILURE, Step
from provisioner.jobs.store import utc_now
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.runtime.settings import LifecycleSettings

#: What the stages of the function may take, by the names of their parameters.
RESOURCES: Makers[LifecycleSettings] = {
    **WRITER,
    "catalogue": cluster_catalogue,
    "default_project_quota": lambda settings: settings.default_project_quota,
    "clock": lambda _settings: utc_now,
}


def build() -> Step:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = LifecycleSettings.from_environment()
    run_stage = run_stages(LIFECYCLE, RESOURCES, settings)
    record_failure = FailureRecorder(job_store(settings), failure_policies(settings))

    def run(event: Mapping[str, Any]) -> dict[str, Any]:
        step = record_failure if event["stage"] == RECORD_FAILURE else run_stage
        return step(event)

    return run
