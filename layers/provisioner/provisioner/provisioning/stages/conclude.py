"""FINALIZING of the job types that hold nothing: every stage has reported its check."""

from __future__ import annotations

from typing import Any

from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.stages.finalize import checked


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
