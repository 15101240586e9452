"""The lifecycle function's parts: how jobs begin and end, and the step that records a failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from provisioner.composition.cluster_catalogue import cluster_catalogue
from provisioner.composition.deployment import StoreResources, naming, project_store
from provisioner.composition.failure import failure_policies
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import run_stages, stages_of
from provisioner.jobs.failure import FailureRecorder
from provisioner.jobs.job_reader import utc_now
from provisioner.jobs.stage_run import RECORD_FAILURE, JobStages, Step
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.runtime.settings import LifecycleSettings


class Resources(StoreResources):
    """What the stages of the function may take, by the names of their parameters."""

    jobs: JobStore
    catalogue: ClusterCatalogue
    default_project_quota: int
    clock: Callable[[], datetime]


def stages(settings: LifecycleSettings, jobs: JobStore) -> JobStages:
    """Bind the stages to their clients."""
    resources: Resources = {
        "jobs": jobs,
        "projects": project_store(settings),
        "catalogue": cluster_catalogue(settings),
        "naming": naming(settings),
        "default_project_quota": settings.default_project_quota,
        "clock": utc_now,
    }
    return stages_of(LIFECYCLE, resources)


def build() -> Step:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = LifecycleSettings.from_environment()
    jobs = job_store(settings)
    run_stage = run_stages(jobs, stages(settings, jobs))
    record_failure = FailureRecorder(jobs, failure_policies(settings))

    def run(event: Mapping[str, Any]) -> dict[str, Any]:
        step = record_failure if event["stage"] == RECORD_FAILURE else run_stage
        return step(event)

    return run
