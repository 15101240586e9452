"""Every stage in one process: what a job's handler runs when it is called."""

import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from provisioner.composition import api_keys, database, instances, lifecycle, services, snapshot
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import failure_policies, make_all, stages_of
from provisioner.errors import failure
from provisioner.jobs.definition import JobDefinition
from provisioner.jobs.execution import job_input
from provisioner.jobs.failure import FailureRecorder
from provisioner.jobs.in_process import InProcessRun
from provisioner.jobs.models import Job
from provisioner.jobs.records import NewJob
from provisioner.jobs.stage_run import JobStages, StageFunction, StageRunner, Step
from provisioner.jobs.store import JobStore
from provisioner.provisioning.functions import FUNCTIONS
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.runtime.observability import metrics
from provisioner.runtime.platform import PlatformSettings, current_settings

#: Seconds of a dump in a process that is no Lambda function: it ends with time to spare before the
#: reconciler takes a process that has said nothing for an hour for gone.
SNAPSHOT_SECONDS = 3000.0


def run_job[Payload: BaseModel](definition: JobDefinition[Payload], payload: Payload) -> Job:
    """Run a job in this process and return it as it has ended.

    It is stored like any other, so that its progress can be read while it runs.

    Raises:
        ProvisioningError: the error that the job ended with.
    """
    settings = current_settings()
    jobs = job_store(settings)
    stored = jobs.create(
        NewJob(
            job_id=str(uuid.uuid4()),
            job_type=definition.name,
            payload=payload.model_dump(mode="json"),
            stages=definition.stages,
        )
    )
    run_stage = StageRunner(
        jobs,
        all_stages(settings, jobs),
        definitions=JOB_TYPES,
        is_process=True,
    )
    record_failure = FailureRecorder(jobs, failure_policies(settings), is_process=True)
    run = InProcessRun(JOB_TYPES, _unmeasured(run_stage), _unmeasured(record_failure))
    run(job_input(stored, stored.attempt))
    ended = jobs.get(stored.job_id)
    if ended.error is not None:
        raise failure(ended.error.type, ended.error.message, ended.error.cause)
    return ended


def all_stages(settings: PlatformSettings, jobs: JobStore) -> JobStages:
    """Bind the stages of every function, as one process runs them."""
    merged: dict[str, dict[str, StageFunction]] = {}
    of_a_process = {"jobs": jobs, "time_left": lambda: SNAPSHOT_SECONDS}
    for part in (lifecycle, database, instances, services, api_keys, snapshot):
        function = FUNCTIONS[part.__name__.rpartition(".")[2]]
        resources = {**make_all(part.RESOURCES, settings), **of_a_process}
        for job_type, of_type in stages_of(function, resources).items():
            merged.setdefault(job_type, {}).update(of_type)
    return merged


def _unmeasured(step: Step) -> Step:
    """Let a step leave no metrics: they are read from a function's log, and here would pile up."""

    def run(event: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return step(event)
        finally:
            metrics.clear_metrics()

    return run
