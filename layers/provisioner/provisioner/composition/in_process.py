"""Every stage in one process: what `provision_project_handler` runs when it is called."""

from __future__ import annotations

import uuid

from provisioner.composition import api_keys, database, lifecycle, services
from provisioner.errors import failure
from provisioner.jobs.models import Job
from provisioner.jobs.stage_run import StageRunner
from provisioner.jobs.store import JobStore, NewJob
from provisioner.provisioning.in_process import InProcessRun
from provisioner.provisioning.job import JobType, provision_project_handler
from provisioner.provisioning.payload import ProvisionProjectPayload
from provisioner.provisioning.plan import OWN_ERRORS
from provisioner.provisioning.result import ProvisionProjectResult
from provisioner.runtime import aws
from provisioner.runtime.observability import metrics
from provisioner.runtime.platform import current_settings


def provision_project(payload: ProvisionProjectPayload) -> ProvisionProjectResult:
    """Provision a project in this process and return its result.

    The job is stored like any other, so that its progress can be read while it runs.

    Raises:
        ProvisioningError: the error that the job ended with.
    """
    settings = current_settings()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    stored = jobs.create(
        NewJob(
            job_id=str(uuid.uuid4()),
            job_type=JobType.PROVISION_PROJECT,
            payload=payload.model_dump(mode="json"),
            stages=provision_project_handler.stages,
        )
    )
    run_stage = StageRunner(
        jobs,
        {
            **lifecycle.stages(settings, jobs),
            **database.stages(settings),
            **services.stages(settings),
            **api_keys.stages(settings),
        },
        own_errors=OWN_ERRORS,
    )
    try:
        InProcessRun(run_stage, lifecycle.failure_recorder(settings, jobs))(stored)
    finally:
        # Metrics are read from a function's log; here they would only pile up.
        metrics.clear_metrics()
    return result_of(jobs.get(stored.job_id))


def result_of(job: Job) -> ProvisionProjectResult:
    """Return the result of a job that has ended.

    Raises:
        ProvisioningError: the error that it ended with.
    """
    if job.error is not None:
        raise failure(job.error.type, job.error.message, job.error.cause)
    return ProvisionProjectResult.model_validate(job.result)
