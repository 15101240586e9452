"""How jobs begin and end: with the project's lock, or without one; and how they fail.

INITIALIZING and FINALIZING of the job types that change a project or hold nothing, and what every
FINALIZING has in common.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner.drivers.dynamodb import Write
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job, StageRecord, StageStatus
from provisioner.jobs.stage import Completion, JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.contract import ProjectReference
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.stages.find_project import read_project


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
    project = read_project(job, projects)
    if project.locked_by != job.job_id:
        acquire(job, project, projects, by=projects.acquire, refuse=_refuse)
    return StageOutcome(
        output={"is_dedicated": project.instance is not None} if asks_for_instance else {},
        check="the project is ACTIVE and locked by this job",
    )


def acquire(
    job: JobInput,
    project: Project,
    projects: ProjectStore,
    *,
    by: Callable[[Project, str], None],
    refuse: Callable[[Project], None],
) -> None:
    """Give a job the lock of a project that it does not have yet.

    Args:
        job: the job.
        project: the project, as it was read.
        projects: holds the project.
        by: writes the lock; raises ProjectBusyError where the project has changed.
        refuse: raises where the job must not have the project as it is.

    Raises:
        PROJECT_BUSY: another job holds the project, or has just changed it.
        ProvisioningError: what `refuse` raises.
    """
    _refuse_held(project)
    refuse(project)
    try:
        by(project, job.job_id)
    except ProjectBusyError:
        # Another run of this job may have been first.
        now = read_project(job, projects)
        if now.locked_by == job.job_id:
            return
        _refuse_held(now)
        refuse(now)
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} has just been changed by another job; "
            "send the job again.",
        ) from None


def _refuse_held(project: Project) -> None:
    if project.locked_by is not None:
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} is locked by job {project.locked_by}; "
            "wait until that job has ended.",
        )


def _refuse(project: Project) -> None:
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
    result = merge_outputs(job, jobs)
    project_id = result["project_id"]
    project = projects.get(project_id)
    known = (project and project.result) or {}
    kept = known | {name: value for name, value in result.items() if name in known}
    return complete(result, projects.build_release(project_id, job.job_id, kept or None))


def release_after_failure(job: Job, *, projects: ProjectStore) -> Sequence[Write]:
    """Build the write that releases the project; none where the job does not hold it."""
    project = projects.get(job.project_id) if job.project_id else None
    if project is None or project.locked_by != job.job_id:
        return []
    return projects.build_release(job.project_id, job.job_id)


def ensure_concluded(job: JobInput, *, jobs: JobStore) -> StageOutcome:
    """End the job with what the stages before have put out.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    return complete(merge_outputs(job, jobs))


def complete(result: Mapping[str, Any], also: Sequence[Write] = ()) -> StageOutcome:
    """End a job, every other stage of which has reported its check.

    Args:
        result: the job's.
        also: writes of the same transaction.
    """
    return StageOutcome(
        output={"result": result},
        check="every stage has reported its check",
        completion=Completion(result, also),
    )


def merge_outputs(job: JobInput, jobs: JobStore) -> dict[str, Any]:
    """Return the project's id with what the stages before the last have put out.

    Raises:
        UNKNOWN_ERROR: one of them has not reported its check.
    """
    result = {"project_id": job.payload_as(ProjectReference).project_id}
    for record in read_ended_stages(job, jobs):
        result |= record.output
    return result


def read_ended_stages(job: JobInput, jobs: JobStore) -> tuple[StageRecord, ...]:
    """Return the stages before the last, each of which has ended well.

    Raises:
        UNKNOWN_ERROR: one of them has not reported its check.
    """
    *before, _ = jobs.get(job.job_id).stages
    for record in before:
        if record.status not in {StageStatus.SUCCEEDED, StageStatus.SKIPPED} or not record.check:
            raise failure(
                ErrorType.UNKNOWN_ERROR,
                f"Stage {record.stage} has not reported its check.",
                f"stage {record.stage}: status {record.status}",
            )
    return tuple(before)
