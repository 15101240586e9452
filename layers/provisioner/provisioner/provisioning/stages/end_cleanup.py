"""FINALIZING of clean_up_project, and what a clean-up that fails leaves and releases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.errors import ErrorType
from provisioner.jobs.models import Job
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import clean_up_project
from provisioner.provisioning.job_types.clean_up_project import CleanUpProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.fail import resources_of
from provisioner.provisioning.stages.finalize import checked

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def ensure_cleaned_up(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """End the clean-up and release the project: it may be provisioned in another region then.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    payload = validate_payload(CleanUpProjectPayload, job.payload)
    for record in jobs.get(job.job_id).stages:
        if record.stage != clean_up_project.FINALIZING:
            checked(record)
    return StageOutcome(
        check="every stage has reported that nothing is left",
        completion=Completion(
            {"project_id": payload.project_id, "job_id": payload.job_id},
            projects.release_items(payload.project_id, job.job_id, removed_all_of=payload.job_id),
        ),
    )


def release_after_failed_cleanup(
    job: Job, *, projects: ProjectStore
) -> Sequence[TransactWriteItemTypeDef]:
    """Build the writes that release the project, of which something may be left."""
    return projects.release_items(job.project_id, job.job_id) if job.project_id else []


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
        is_dedicated=payload.is_dedicated,
    )


def _is_taken_up(job: Job) -> bool:
    """Whether the clean-up was refused since the project, and what is there, is another job's."""
    refused = {ErrorType.PROJECT_BUSY, ErrorType.INVALID_PAYLOAD}
    return any(
        record.stage == clean_up_project.INITIALIZING
        and record.error is not None
        and record.error.type in refused
        for record in job.stages
    )


#: The stages that remove something.
_REMOVING = {stage for branch in clean_up_project.RESOURCES.branches for stage in branch}
