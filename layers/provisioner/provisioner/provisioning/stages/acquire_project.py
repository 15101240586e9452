"""INITIALIZING of the job types that change a project: it is ACTIVE, and ours to change."""

from __future__ import annotations

from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.stages.find_project import found


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
