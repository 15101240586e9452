"""FINALIZING of the job types that change a project, and what such a job gives back if it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.jobs.models import Job
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.conclude import reported

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


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
