"""FINALIZING of the job types that hold nothing, and what every FINALIZING has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.drivers.dynamodb import Write
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import StageRecord, StageStatus
from provisioner.jobs.stage import Completion, JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.contract import ProjectReference


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
