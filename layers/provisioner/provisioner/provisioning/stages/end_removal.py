"""FINALIZING of deprovision_project: every stage has reported that nothing is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.fail import resources_of


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
