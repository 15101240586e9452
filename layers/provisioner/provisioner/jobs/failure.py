"""Ends a job badly: which error it ends with, and which stages never said how they ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit

from provisioner.drivers.aws_errors import translated
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job, StageRecord, StoredError
from provisioner.jobs.retries import FOREIGN_ERRORS
from provisioner.jobs.stage_run import StageEvent
from provisioner.runtime.observability import logger, metrics

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from provisioner.jobs.store import JobStore

#: How often the writes are tried anew after a stage has changed under them.
_ATTEMPTS = 3

#: Characters of a foreign cause that are kept.
_CAUSE_LENGTH = 1000

_FOREIGN_MESSAGES = {
    ErrorType.TIMEOUT: "The stage did not end in the time that it had.",
    ErrorType.UNKNOWN_ERROR: "The stage ended without saying why.",
}

#: What else the end of a job writes in its transaction, such as giving back a lock.
type Release = Callable[[Job], Sequence[TransactWriteItemTypeDef]]


class FailureRecorder:
    """The step of the state machine that records a failed job."""

    def __init__(self, store: JobStore, release: Release) -> None:
        """Bind the recorder to the jobs and to what a failed job gives back."""
        self._store = store
        self._release = release

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write the job FAILED with the first error in stage order; once is as good as twice.

        Returns:
            error_type and message, for the Fail state that ends the execution.

        Raises:
            ProvisioningError: as `translated` says, so that what can pass is tried again.
        """
        parsed = StageEvent.model_validate(event)
        logger.append_keys(
            job_id=parsed.job.job_id, project_id=parsed.job.payload.get("project_id", "")
        )
        with translated(ErrorType.UNKNOWN_ERROR, "record that the job failed"):
            return self._record(parsed)

    def _record(self, event: StageEvent) -> dict[str, Any]:
        for _ in range(_ATTEMPTS):
            job = self._store.get(event.job.job_id)
            errors = stage_errors(job, event.branches)
            if job.status.is_terminal:
                error = job.error or errors[0]
                return {"error_type": str(error.type), "message": error.message}
            open_stages = {record.stage for record in job.stages if not record.status.is_terminal}
            try:
                self._store.fail(
                    job.job_id,
                    errors,
                    close={error.stage: error for error in errors if error.stage in open_stages},
                    also=self._release(job),
                )
            except ConditionFailedError:
                continue
            metrics.add_dimension("error_type", errors[0].type)
            metrics.add_metric("JobsFailed", MetricUnit.Count, 1)
            logger.error(
                "job failed",
                stage=errors[0].stage,
                error_type=errors[0].type,
                error_message=errors[0].message,
                cause=errors[0].cause,
            )
            return {"error_type": str(errors[0].type), "message": errors[0].message}
        raise failure(ErrorType.TIMEOUT, "The job kept changing while its failure was recorded.")


def stage_errors(job: Job, branches: Sequence[Mapping[str, Any]]) -> list[StoredError]:
    """Return the errors of the branches that failed, in stage order.

    Args:
        job: the job with its stages.
        branches: how each branch ended; a failed one holds `stage` and the state machine's
            `error` (`Error`, `Cause`).
    """
    order = {record.stage: (i, record) for i, record in enumerate(job.stages)}
    found = [
        (
            order.get(branch["stage"], (len(order), StageRecord(stage=branch["stage"]))),
            branch.get("error", {}),
        )
        for branch in branches
        if not branch.get("ok")
    ]
    found.sort(key=lambda entry: entry[0][0])
    return [_stage_error(record, error) for (_, record), error in found] or [
        StoredError(ErrorType.UNKNOWN_ERROR, "", 0, _FOREIGN_MESSAGES[ErrorType.UNKNOWN_ERROR], "")
    ]


def _stage_error(record: StageRecord, error: Mapping[str, Any]) -> StoredError:
    name, cause = str(error.get("Error", "")), str(error.get("Cause", ""))
    if name in ErrorType:
        told = record.error
        if told is not None and told.type == name and told.attempt == record.attempt:
            return told
        return StoredError(
            ErrorType(name), record.stage, record.attempt, _message(cause), _cause(name, cause)
        )
    error_type = FOREIGN_ERRORS.get(name, ErrorType.UNKNOWN_ERROR)
    return StoredError(
        error_type,
        record.stage,
        record.attempt,
        _FOREIGN_MESSAGES[error_type],
        _cause(name, cause),
    )


def _message(cause: str) -> str:
    """Take the sentence out of what AWS Lambda reports for an exception of ours."""
    try:
        return str(json.loads(cause)["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return _FOREIGN_MESSAGES[ErrorType.UNKNOWN_ERROR]


def _cause(name: str, cause: str) -> str:
    return f"{name}: {cause}"[:_CAUSE_LENGTH]
