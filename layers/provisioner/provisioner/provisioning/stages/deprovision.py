"""INITIALIZING and FINALIZING of deprovision_project, and what a failed one releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job, StageRecord, StageStatus
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import deprovision_project
from provisioner.provisioning.job_types.deprovision_project import (
    REMOVING,
    DeprovisionProjectPayload,
    DeprovisionProjectResult,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.stages.provision import resources_of

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


def ensure_deprovisioned(
    job: JobInput, *, jobs: JobStore, projects: ProjectStore, naming: Naming
) -> StageOutcome:
    """Make the project DEPROVISIONED with the job COMPLETED, and give back its quota.

    Each stage has looked after its removal whether the thing is gone; this one asks for the word
    of every one of them.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
        PROJECT_NOT_FOUND: the project is gone.
        REMOVAL_FAILED: the project still has a place on a cluster.
    """
    payload = validate_payload(DeprovisionProjectPayload, job.payload)
    stored = jobs.get(job.job_id)
    _refuse_unchecked(stored)
    project = projects.get(payload.project_id)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: there is no project {payload.project_id} any more.",
        )
    if project.cluster_id is not None:
        raise failure(
            ErrorType.REMOVAL_FAILED,
            "The project still has a place on a database cluster.",
            f"cluster {project.cluster_id}: still counts the project",
        )
    engine = Engine(project.engine or Engine.POSTGRESQL)
    # The project's item tells of none any more.
    had_instance = any(
        record.stage == deprovision_project.REMOVING_INSTANCE
        and record.status is StageStatus.SUCCEEDED
        for record in stored.stages
    )
    now = jobs.now()
    # Where the database was gone before this job came, the job that removed it took the snapshot.
    snapshot = snapshot_of(stored) or project.snapshot
    result = DeprovisionProjectResult.model_validate(
        {
            "project_id": payload.project_id,
            "snapshot": snapshot,
            "removed": [
                resource
                for stage in REMOVING
                for resource in resources_of(
                    payload.project_id,
                    engine,
                    stage,
                    naming=naming,
                    is_dedicated=had_instance,
                )
            ],
            "deprovisioned_at": now,
        }
    ).model_dump(mode="json", exclude_none=True)
    return StageOutcome(
        output={"result": result},
        check="every stage has reported that nothing is left",
        completion=Completion(
            result=result,
            also=projects.end_removal_items(project, job.job_id, now, snapshot),
        ),
    )


def snapshot_of(job: Job) -> Mapping[str, Any] | None:
    """Return where the snapshot is that a job has taken; None where it has taken none."""
    taking = (
        deprovision_project.TAKING_SNAPSHOT,
        deprovision_project.TAKING_INSTANCE_SNAPSHOT,
    )
    taken = (r.output.get("snapshot") for r in job.stages if r.stage in taking)
    return next((snapshot for snapshot in taken if snapshot is not None), None)


def _refuse_unchecked(job: Job) -> None:
    for record in job.stages:
        if record.stage != deprovision_project.FINALIZING and not _is_checked(record):
            raise failure(
                ErrorType.UNKNOWN_ERROR,
                f"Stage {record.stage} has not reported that nothing is left.",
                f"stage {record.stage}: status {record.status}",
            )


def _is_checked(record: StageRecord) -> bool:
    return record.status in {StageStatus.SUCCEEDED, StageStatus.SKIPPED} and bool(record.check)


def release_after_failed_removal(
    job: Job, *, projects: ProjectStore
) -> Sequence[TransactWriteItemTypeDef]:
    """Build the writes that release the project.

    Where no stage that removes has begun, or the first has only met data that is to stay, the
    project is again what it was, and its API keys verify. Where one may have removed something, it
    stays DEPROVISIONING, for the next deprovision_project job to go on.
    """
    if not job.project_id or not job.stages:
        return []
    return projects.release_removal_items(
        job.project_id,
        job.job_id,
        has_removed=any(
            _may_have_removed(record) for record in job.stages if record.stage in REMOVING
        ),
        snapshot=snapshot_of(job),
    )


def _may_have_removed(record: StageRecord) -> bool:
    # It looks for data before it removes; an attempt before that one may have got further.
    has_refused = record.error is not None and record.error.type is ErrorType.DATA_NOT_EMPTY
    if has_refused and record.attempt == 1:
        return False
    return record.attempt > 0 or record.status.is_terminal
