"""INITIALIZING and FINALIZING of the job types that change a project, and their failure.

Those that change nothing end without the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.stages.find_project import found
from provisioner.provisioning.stages.provision import checked

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def ensure_acquired(
    job: JobInput, *, projects: ProjectStore, asks_for_instance: bool = False
) -> StageOutcome:
    """Lock the project for this job; its status and its quota stay as they are.

    Args:
        job: the job.
        projects: holds the project.
        asks_for_instance: whether a stage follows that runs only where it has its own instance.

    Raises:
        INVALID_PAYLOAD: the payload names no project, or one that is not ACTIVE.
        PROJECT_NOT_FOUND: there is no such project.
        PROJECT_BUSY: another job holds the project.
    """
    project_id = validate_payload(ProjectReference, job.payload).project_id
    project = found(project_id, projects)
    if project.locked_by != job.job_id:
        _refuse(project)
        try:
            projects.acquire(project, job.job_id)
        except ProjectBusyError:
            now = found(project_id, projects)
            if now.locked_by != job.job_id:
                _refuse(now)
                raise failure(
                    ErrorType.PROJECT_BUSY,
                    f"project_id: {project_id} has just been held by another job; send a new job.",
                ) from None
    return StageOutcome(
        output={"is_dedicated": project.instance is not None} if asks_for_instance else {},
        check="the project is ACTIVE and held by this job",
    )


def _refuse(project: Project) -> None:
    """Refuse a project that another job holds, or that is not ACTIVE."""
    if project.locked_by is not None:
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} is held by job {project.locked_by}; "
            "wait until that job has ended.",
        )
    if project.status is not ProjectStatus.ACTIVE:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"project_id: {project.project_id} is {project.status}; "
            "only a project that is ACTIVE can be changed.",
        )


def ensure_released(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """Let go of the project and end the job with what the stages before have put out.

    What the project's own result shows of that is brought up to date: a job that finds the project
    provisioned ends with it.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    result = reported(job, jobs)
    project_id = result["project_id"]
    project = projects.get(project_id)
    known = (project and project.result) or {}
    kept = known | {name: value for name, value in result.items() if name in known}
    return StageOutcome(
        output={"result": result},
        check="every stage has reported its check",
        completion=Completion(
            result, projects.release_active_items(project_id, job.job_id, kept or None)
        ),
    )


def release_after_failure(
    job: Job, *, projects: ProjectStore
) -> Sequence[TransactWriteItemTypeDef]:
    """Build the write that releases the project; none where the job does not hold it."""
    project = projects.get(job.project_id) if job.project_id else None
    if project is None or project.locked_by != job.job_id:
        return []
    return projects.release_active_items(job.project_id, job.job_id)


def ensure_concluded(job: JobInput, *, jobs: JobStore) -> StageOutcome:
    """End the job with what the stages before have put out.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    result = reported(job, jobs)
    return StageOutcome(
        output={"result": result},
        check="every stage has reported its check",
        completion=Completion(result),
    )


def reported(job: JobInput, jobs: JobStore) -> dict[str, Any]:
    """Return the project's id with what the stages before have put out.

    Raises:
        UNKNOWN_ERROR: one of them has not reported its check.
    """
    *before, _ = jobs.get(job.job_id).stages
    result = {"project_id": validate_payload(ProjectReference, job.payload).project_id}
    for record in before:
        result |= checked(record).output
    return result
