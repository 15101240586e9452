"""INITIALIZING and FINALIZING of clean_up_project, and what a failed one leaves."""

from collections.abc import Sequence
from contextlib import suppress

from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job, lease_wait
from provisioner.jobs.stage import Completion, JobInput, StageOutcome, Waiting
from provisioner.jobs.store import JobNotFoundError, JobStore
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.first_run import KNOWN_IDS, known_ids
from provisioner.provisioning.job_types.clean_up_project import (
    INITIALIZING,
    RESOURCES,
    CleanUpProjectPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import Project, ProjectBusyError, ProjectStatus, ProjectStore
from provisioner.provisioning.stages.lifecycle import read_ended_stages
from provisioner.provisioning.stages.provision import resources_of


def ensure_cleanup_begun(
    job: JobInput, *, jobs: JobStore, projects: ProjectStore
) -> StageOutcome | Waiting:
    """Acquire the project, unless it is ours, and wait for what the failed job has left at work.

    The job that failed hands its lock over to its clean-up. One that is run again acquires it anew.
    It counts against no quota: none of the project is usable, and none of it is to be.

    Raises:
        PROJECT_BUSY: another job has the project's lock, and takes up what was left.
        INVALID_PAYLOAD: the payload is wrong, or another job has made use of what was left.
    """
    payload = job.payload_as(CleanUpProjectPayload)
    project = projects.get(payload.project_id)
    if project is not None and project.locked_by != job.job_id:
        _acquire(job, project, projects)
    lease, known = None, {}
    # A job that is stored no more has ended months ago.
    with suppress(JobNotFoundError):
        failed = jobs.get(payload.job_id)
        lease, known = lease_wait(failed, jobs.now()), known_ids(failed.stages)
    if lease is not None and not job.is_last_poll:
        return Waiting(lease.waiting_for)
    return StageOutcome(
        output={KNOWN_IDS: known},
        check=f"nothing of job {payload.job_id} is at work any more",
    )


def _acquire(job: JobInput, project: Project, projects: ProjectStore) -> None:
    if project.locked_by is not None:
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} is locked by job {project.locked_by}, which "
            "takes up what was left; look at that job first.",
        )
    if project.status not in {ProjectStatus.CREATED, ProjectStatus.FAILED}:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"project_id: {project.project_id} is {project.status}; what was left has been "
            "taken up, so nothing is removed.",
        )
    try:
        projects.acquire_to_clean_up(project.project_id, job.job_id)
    except ProjectBusyError:
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} has just been taken up by another job; look at "
            "that job first.",
        ) from None


def ensure_cleaned_up(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """End the clean-up and release the project: it may be provisioned in another region then.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    payload = job.payload_as(CleanUpProjectPayload)
    read_ended_stages(job, jobs)
    return StageOutcome(
        check="every stage has reported that nothing is left",
        completion=Completion(
            {"project_id": payload.project_id, "job_id": payload.job_id},
            projects.build_release_as_failed(
                payload.project_id, job.job_id, removed_all_of=payload.job_id
            ),
            # Nothing is left, whoever deletes the project meanwhile.
            only_releases=True,
        ),
    )


def remaining(job: Job, stage: str, *, naming: Naming) -> Sequence[str]:
    """Name what a stage may have left; nothing where another job has taken it up."""
    if stage not in _REMOVING or not job.payload or _is_taken_up(job):
        return ()
    payload = CleanUpProjectPayload.model_validate(job.payload)
    return resources_of(
        payload.project_id,
        Engine(payload.engine),
        stage,
        naming=naming,
        bucket=naming.bucket(payload.project_id, payload.region),
        is_dedicated=payload.is_dedicated,
    )


def _is_taken_up(job: Job) -> bool:
    """Whether the clean-up was refused since the project, and what is there, is another job's."""
    refused = {ErrorType.PROJECT_BUSY, ErrorType.INVALID_PAYLOAD}
    return any(
        record.stage == INITIALIZING and record.error is not None and record.error.type in refused
        for record in job.stages
    )


#: The stages that remove something.
_REMOVING = {stage for branch in RESOURCES.branches for stage in branch}
