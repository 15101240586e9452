"""INITIALIZING and FINALIZING of deprovision_project, and what a failed one releases."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from provisioner.drivers.dynamodb import Write
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job, StageRecord, StageStatus
from provisioner.jobs.stage import Completion, JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.first_run import KNOWN_IDS
from provisioner.provisioning.job_types.deprovision_project import (
    REMOVING,
    REMOVING_INSTANCE,
    TAKING_INSTANCE_SNAPSHOT,
    TAKING_SNAPSHOT,
    DeprovisionProjectPayload,
    DeprovisionProjectResult,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import Project, ProjectStatus, ProjectStore
from provisioner.provisioning.stages.find_project import bucket_of, read_project
from provisioner.provisioning.stages.lifecycle import acquire, complete, read_ended_stages
from provisioner.provisioning.stages.provision import resources_of


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
    job.payload_as(DeprovisionProjectPayload)
    project = read_project(job, projects)
    if project.status is ProjectStatus.DEPROVISIONED:
        return _end_at_once(project, datetime.fromisoformat(project.deprovisioned_at or ""))
    if project.has_nothing and project.locked_by is None:
        _refuse_protected(project)
        now = clock()
        return _end_at_once(project, now, projects.build_retirement(project, now))
    if project.locked_by != job.job_id:
        acquire(job, project, projects, by=projects.begin_removal, refuse=_refuse_protected)
    return StageOutcome(
        output={"already_deprovisioned": False, KNOWN_IDS: project.known_ids},
        check="the project is locked by this job and its API keys do not verify any more",
    )


def _end_at_once(project: Project, at: datetime, also: Sequence[Write] = ()) -> StageOutcome:
    """End the job: the project has nothing that could be removed."""
    return StageOutcome(
        output={"already_deprovisioned": True},
        check="the project has nothing to remove",
        completion=Completion(_result(project, at, project.snapshot), also),
    )


def _result(
    project: Project, at: datetime, snapshot: Mapping[str, Any] | None, *removed: str
) -> dict[str, Any]:
    result = DeprovisionProjectResult.model_validate(
        {
            "project_id": project.project_id,
            "snapshot": snapshot,
            "removed": removed,
            "deprovisioned_at": at,
        }
    )
    return result.model_dump(mode="json", exclude_none=True)


def _refuse_protected(project: Project) -> None:
    if project.deletion_protection:
        raise failure(
            ErrorType.PROJECT_PROTECTED,
            f"project_id: {project.project_id} is protected against being deprovisioned; "
            "end its deletion protection first.",
        )


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
    ended = read_ended_stages(job, jobs)
    project = read_project(job, projects)
    if project.cluster_id is not None:
        raise failure(
            ErrorType.REMOVAL_FAILED,
            "The project still has a place on a database cluster.",
            f"cluster {project.cluster_id}: still counts the project",
        )
    engine = Engine(project.engine or Engine.POSTGRESQL)
    # The project's item tells of none any more.
    had_instance = any(
        record.stage == REMOVING_INSTANCE and record.status is StageStatus.SUCCEEDED
        for record in ended
    )
    bucket = bucket_of(project.project_id, str(project.region), project, naming)
    removed = (
        resource
        for stage in REMOVING
        for resource in resources_of(
            project.project_id,
            engine,
            stage,
            naming=naming,
            bucket=bucket,
            is_dedicated=had_instance,
        )
    )
    # Where the database was gone before this job came, the job that removed it took the snapshot.
    snapshot, now = _snapshot_of(ended) or project.snapshot, jobs.now()
    return complete(
        _result(project, now, snapshot, *removed),
        projects.build_end_of_removal(project, job.job_id, now, snapshot),
    )


def _snapshot_of(stages: Sequence[StageRecord]) -> Mapping[str, Any] | None:
    """Return where the snapshot is that a job has taken; None where it has taken none."""
    taking = {TAKING_SNAPSHOT, TAKING_INSTANCE_SNAPSHOT}
    taken = (record.output.get("snapshot") for record in stages if record.stage in taking)
    return next((snapshot for snapshot in taken if snapshot is not None), None)


def release_after_failed_removal(job: Job, *, projects: ProjectStore) -> Sequence[Write]:
    """Build the writes that release the project.

    Where no stage that removes has begun, or the first has only met data that is to stay, the
    project is again what it was, and its API keys verify. Where one may have removed something, it
    stays DEPROVISIONING, for the next deprovision_project job to go on.
    """
    if not job.project_id or not job.stages:
        return []
    return projects.build_release_from_removal(
        job.project_id,
        job.job_id,
        has_removed=any(
            _may_have_removed(record) for record in job.stages if record.stage in REMOVING
        ),
        snapshot=_snapshot_of(job.stages),
    )


def _may_have_removed(record: StageRecord) -> bool:
    # It looks for data before it removes; an attempt before that one may have got further.
    has_refused = record.error is not None and record.error.type is ErrorType.DATA_NOT_EMPTY
    if has_refused and record.attempt == 1:
        return False
    return record.attempt > 0 or record.status.is_terminal
