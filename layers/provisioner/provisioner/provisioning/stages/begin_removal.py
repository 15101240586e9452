"""INITIALIZING of deprovision_project: the project may be removed, and is this job's to remove."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types.deprovision_project import (
    DeprovisionProjectPayload,
    DeprovisionProjectResult,
)
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def ensure_removal_begun(
    job: JobInput, *, projects: ProjectStore, clock: Callable[[], datetime]
) -> StageOutcome:
    """Lock the project for this job and make it DEPROVISIONING, in one transaction.

    Its API keys do not verify from that moment on. A project that is deprovisioned already ends
    the job at once, and so does one of which no job has made anything that is left.

    Raises:
        INVALID_PAYLOAD: the payload is wrong.
        PROJECT_NOT_FOUND: there is no such project.
        PROJECT_BUSY: another job holds the project.
        PROJECT_PROTECTED: it is protected against being deprovisioned.
    """
    payload = validate_payload(DeprovisionProjectPayload, job.payload)
    project = _read(payload.project_id, projects)
    if project.status is ProjectStatus.DEPROVISIONED:
        return _ended(project, datetime.fromisoformat(project.deprovisioned_at or ""))
    if project.locked_by != job.job_id:
        _refuse(project)
        if project.has_nothing:
            now = clock()
            return _ended(project, now, projects.retire_items(project, now))
        _lock(project, job.job_id, projects)
    return StageOutcome(
        output={"already_deprovisioned": False},
        check="the project is held by this job and its API keys do not verify any more",
    )


def _read(project_id: str, projects: ProjectStore) -> Project:
    project = projects.get(project_id)
    if project is None:
        raise failure(ErrorType.PROJECT_NOT_FOUND, f"project_id: there is no project {project_id}.")
    return project


def _ended(
    project: Project, at: datetime, also: Sequence[TransactWriteItemTypeDef] = ()
) -> StageOutcome:
    """End the job: the project has nothing that could be removed."""
    result = DeprovisionProjectResult.model_validate(
        {
            "project_id": project.project_id,
            "snapshot": project.snapshot,
            "removed": [],
            "deprovisioned_at": at,
        }
    )
    return StageOutcome(
        output={"already_deprovisioned": True},
        check="the project has nothing to remove",
        completion=Completion(result.model_dump(mode="json", exclude_none=True), also),
    )


def _refuse(project: Project) -> None:
    """Refuse a project that another job holds, or that is protected."""
    if project.locked_by is not None:
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} is held by job {project.locked_by}; "
            "wait until that job has ended.",
        )
    if project.deletion_protection:
        raise failure(
            ErrorType.PROJECT_PROTECTED,
            f"project_id: {project.project_id} is protected against being deprovisioned; "
            "end its deletion protection first.",
        )


def _lock(project: Project, job_id: str, projects: ProjectStore) -> None:
    try:
        projects.begin_removal(project, job_id)
    except ProjectBusyError:
        now = _read(project.project_id, projects)
        if now.locked_by == job_id:
            return
        _refuse(now)
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} has just been changed by another job; "
            "send the job again.",
        ) from None
