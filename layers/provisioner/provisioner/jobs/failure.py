"""Ends a job badly: which error it ends with, and which stages never recorded how they ended."""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Any

from provisioner.drivers.aws_errors import translate_errors
from provisioner.drivers.dynamodb import Write
from provisioner.errors import FINAL_ERROR, ErrorType, failure
from provisioner.jobs.definition import LONGEST_RUN_SECONDS, JobDefinition
from provisioner.jobs.execution import execution_name, job_input
from provisioner.jobs.models import (
    CANCELLED_ERROR,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
    cancelled_while_waiting,
    lease_wait,
    waited_in_vain,
)
from provisioner.jobs.records import NewJob, json_object, optimistically
from provisioner.jobs.registry import of_job_type
from provisioner.jobs.retries import FOREIGN_ERRORS, SLOT_ERROR, WAITING_ERROR
from provisioner.jobs.stage import StageEvent
from provisioner.jobs.stage_run import RECORD_FAILURE, StageWaiting, measure_wait, parse_event
from provisioner.jobs.store import BadEnd, JobStore
from provisioner.runtime.observability import logger, measure_by, metrics

#: Characters of a foreign cause that are kept.
CAUSE_LENGTH = 1000

#: The place that a line of a stack trace names, as Python writes it.
_PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>[0-9]+)')

_SILENT = "The stage ended without saying why."

_FOREIGN_MESSAGES = {
    ErrorType.TIMEOUT: "The stage did not end in the time that it had.",
    ErrorType.UNKNOWN_ERROR: _SILENT,
}

#: The error, if any, with which a stage that is WAITING is polled no more.
_ENDS_WAIT = frozenset({"", FINAL_ERROR, WAITING_ERROR, SLOT_ERROR})

#: What else the end of a job writes in its transaction, such as giving back a lock.
type Release = Callable[[Job], Sequence[Write]]

#: Makes the id of a clean-up of that of the job which has failed, and its attempt.
_CLEANUP_NAMESPACE = uuid.UUID("0d1c6f5e-5f0a-4b57-9a5f-7a3f0c1f6f52")


@dataclass(frozen=True, slots=True)
class CleanupRequest:
    """What a job that has failed asks of its clean-up."""

    payload: Mapping[str, Any]
    #: Hands over to the clean-up what the job has acquired, in the transaction that ends the job.
    hand_over: Sequence[Write]


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What a job type does when a job of it fails."""

    #: Released with the job's end, where no clean-up follows.
    release: Release = lambda _job: ()
    #: Says what the clean-up of this id is to remove; None where what was made stays.
    describe_cleanup: Callable[[Job, str], CleanupRequest | None] = lambda _job, _cleanup_job_id: (
        None
    )
    #: The job type of that clean-up; None where there is none.
    cleanup_job_type: JobDefinition[Any] | None = None
    #: The resources that a stage removes, as people know them.
    remaining_of: Callable[[Job, str], Sequence[str]] = lambda _job, _stage: ()


def cleanup_job_id(job_id: str, attempt: int) -> str:
    """Return the id of the clean-up of an attempt of a job; it is the same each time."""
    return str(uuid.uuid5(_CLEANUP_NAMESPACE, f"{job_id}/{attempt}"))


@dataclass(frozen=True)
class FailureRecorder:
    """The step of the state machine that records a failed or cancelled job."""

    store: JobStore
    #: What follows a failure, by job type.
    policies: Mapping[str, FailurePolicy]
    _: KW_ONLY
    #: Whether it records the end of jobs that this process has run, in which no run outlives its
    #: answer.
    is_process: bool = False

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write the job's end with the first error in stage order; once is as good as twice.

        Returns:
            error_type and message, for the Fail state that ends the execution; and, where
            `has_cleanup`, `cleanup`: the name and the input of the clean-up's execution.

        Raises:
            ProvisioningError: as `translate_errors` says, so that what can pass is tried again.
        """
        parsed = parse_event(event)
        with translate_errors(ErrorType.UNKNOWN_ERROR, "record that the job failed"):
            return optimistically(lambda _: self._record(parsed), "its failure was recorded")

    def _record(self, event: StageEvent) -> dict[str, Any]:
        job = self.store.get(event.job.job_id)
        if job.attempt != event.job.attempt:
            raise failure(
                ErrorType.INVALID_PAYLOAD, "job_id: a later attempt of this job has begun."
            )
        errors = stage_errors(job, event.branches, self.store.now())
        if not job.status.is_terminal:
            self._wait_for_leases(job, event)
            end_badly(self.store, self.policies, job, errors, ends_leases=self.is_process)
        ended = self.store.get(event.job.job_id)
        error = ended.error or errors[0]
        if not job.status.is_terminal:
            _report(ended, error)
        return {
            "error_type": str(error.type),
            "message": error.message,
            **self._start_of_cleanup(ended),
        }

    def _wait_for_leases(self, job: Job, event: StageEvent) -> None:
        """Keep a job from ending while a run of a stage may still be at work.

        With its end a job releases what it has acquired, so that the next may begin: that one must
        not meet what such a run makes or removes. Where a clean-up follows, that one has it, and
        waits itself.

        Raises:
            StageWaiting: it would end too early.
        """
        lease = lease_wait(job, self.store.now())
        # Repeated so often, it has waited for longer than any function runs. The clock says so
        # before, but for where each wait is shortened, as on the local stack.
        is_over = event.has_polled_for(LONGEST_RUN_SECONDS)
        if lease is None or is_over or self.is_process or is_cleaned_up(job, self.policies):
            return
        is_written = self.store.wait_to_end(job, lease.waiting_for, lease.until)
        if is_written and job.end_wait is None:
            measure_by(stage=RECORD_FAILURE)
            metrics.add_metric("StageWaits", "Count", 1)
        logger.info(
            "the end of the job waits",
            waiting_for=lease.waiting_for,
            waits_until=lease.until.isoformat(),
        )
        raise StageWaiting(lease.waiting_for)

    def _start_of_cleanup(self, job: Job) -> dict[str, Any]:
        """Say how the clean-up of this attempt is started, where one waits for that."""
        if job.cleanup_job_id != cleanup_job_id(job.job_id, job.attempt):
            return {"has_cleanup": False, "cleanup": {}}
        cleanup = self.store.get(job.cleanup_job_id)
        return {
            "has_cleanup": True,
            "cleanup": {
                "name": execution_name(cleanup.job_id, cleanup.attempt),
                "input": {"job": job_input(cleanup, cleanup.attempt)},
            },
        }


def is_cleaned_up(job: Job, policies: Mapping[str, FailurePolicy]) -> bool:
    """Whether a clean-up follows the bad end of a job."""
    policy = of_job_type(policies, job)
    return policy.describe_cleanup(job, cleanup_job_id(job.job_id, job.attempt)) is not None


def end_badly(
    store: JobStore,
    policies: Mapping[str, FailurePolicy],
    job: Job,
    errors: Sequence[StoredError],
    *,
    ends_leases: bool = False,
    repair: str = "",
) -> None:
    """End a job that has not ended: FAILED, or CANCELLED where someone has asked for that.

    Args:
        store: the jobs.
        policies: what follows a failure, by job type.
        job: the job as it was read.
        errors: the job's error first, then the others in stage order.
        ends_leases: whether no run of a stage can be at work any more.
        repair: what had gone wrong and is put right by that, if anything.

    Raises:
        ConditionFailedError: something has changed under the write.
    """
    was_cancelled = job.cancel_requested_at is not None
    policy = of_job_type(policies, job)
    cleanup, also = _cleanup(job, policy)
    store.fail(
        job,
        BadEnd(
            [CANCELLED_ERROR, *errors] if was_cancelled else errors,
            JobStatus.CANCELLED if was_cancelled else JobStatus.FAILED,
            cleanup=cleanup,
            # What the stages that have not ended well were to remove.
            remaining=[
                resource
                for record in job.stages
                if not record.status.is_done
                for resource in policy.remaining_of(job, record.stage)
            ],
            ends_leases=ends_leases,
            repair=repair,
            also=also,
        ),
    )
    for wait in job.waits:
        measure_wait(wait.since, store.now())


def _cleanup(job: Job, policy: FailurePolicy) -> tuple[NewJob | None, Sequence[Write]]:
    """Return the clean-up of a job, if any, and what the job's end writes beside it."""
    job_id, definition = cleanup_job_id(job.job_id, job.attempt), policy.cleanup_job_type
    asked = policy.describe_cleanup(job, job_id)
    if asked is None or definition is None:
        return None, policy.release(job)
    cleanup = NewJob(job_id, definition.name, asked.payload, definition.stages, job.job_id)
    return cleanup, asked.hand_over


#: The metric that counts an end, of a job and of a clean-up.
_METRICS = {JobStatus.FAILED: "JobsFailed", JobStatus.CANCELLED: "JobsCancelled"}


def metric_of(job: Job) -> str:
    """Return the metric that counts the bad end of a job; a clean-up that failed has its own."""
    return "CleanupsFailed" if job.parent_id else _METRICS[job.status]


def _report(job: Job, error: StoredError) -> None:
    """Count and log the end of a job: over all, for the alarms, and by its error."""
    measure_by(error_type=error.type)
    metrics.add_metric(metric_of(job), "Count", 1)
    logger.error(
        "job cancelled" if job.status is JobStatus.CANCELLED else "job failed",
        stage=error.stage,
        error_type=error.type,
        error_message=error.message,
        cause=error.cause,
    )


def stage_errors(
    job: Job, branches: Sequence[Mapping[str, Any]], now: datetime
) -> list[StoredError]:
    """Return the errors of the branches that failed, in stage order.

    Args:
        job: the job with its stages.
        branches: how each branch ended; a failed one holds `stage` and the state machine's
            `error` (`Error`, `Cause`).
        now: the time, which says for how long a stage has waited.
    """
    order = [record.stage for record in job.stages]
    failed = sorted(
        (branch for branch in branches if not branch.get("ok")),
        # Of a stage that the job does not have, last.
        key=lambda branch: [*order, branch["stage"]].index(branch["stage"]),
    )
    return [
        stage_error(
            job,
            job.stage(branch["stage"]) or StageRecord(branch["stage"]),
            now,
            branch.get("error", {}),
        )
        for branch in failed
    ] or [stage_error(job, StageRecord(""), now)]


def stage_error(
    job: Job, record: StageRecord, now: datetime, error: Mapping[str, Any] | None = None
) -> StoredError:
    """Return the error of a stage that has failed, or is polled no more, or has died.

    Args:
        job: its job.
        record: the stage.
        now: the time, which says for how long it has waited.
        error: the state machine's error of it (`Error`, `Cause`), where it knows of one.
    """
    name, cause = (str((error or {}).get(field, "")) for field in ("Error", "Cause"))
    # It could not store that it waited too long, or is polled no more.
    if name in _ENDS_WAIT and record.status is StageStatus.WAITING:
        if job.cancel_requested_at is not None:
            return cancelled_while_waiting(record)
        seconds = (now - (record.waiting_since or now)).total_seconds()
        message = waited_in_vain(record.waiting_for, seconds)
        return StoredError(ErrorType.TIMEOUT, record.stage, record.attempt, message, "")
    last = record.error
    is_last = last is not None and last.attempt == record.attempt
    if last is not None and is_last and name in {"", FINAL_ERROR, last.type}:
        return last
    if name in ErrorType:
        # Its sentence is ours; what else it knew, it could not store.
        error_type, technical = ErrorType(name), ""
        message = str(json_object(cause).get("errorMessage") or _SILENT)
    else:
        error_type = FOREIGN_ERRORS.get(name, ErrorType.UNKNOWN_ERROR)
        message, technical = _FOREIGN_MESSAGES[error_type], _technical_cause(name, cause)
    return StoredError(error_type, record.stage, record.attempt, message, technical)


def _technical_cause(name: str, cause: str) -> str:
    """Say what a foreign error was: its name, and, of what AWS Lambda reports of it, what may be.

    A name with a dot is AWS's, and so is its text. Without one it is a class of Python's: its text
    may hold anything, a password too, so that only the place at which it was raised is said.
    """
    # Source of its form: AWS Lambda Developer Guide, "Lambda function errors in Python".
    reported = json_object(cause)
    if "." in name:
        said = f": {reported.get('errorMessage') or cause}"
    elif name == FINAL_ERROR:
        said = f": {reported.get('errorMessage', '')}"
    else:
        frames = reported.get("stackTrace")
        place = _PLACE.search(str(frames[-1])) if isinstance(frames, list) and frames else None
        said = f" at {place['file']}:{place['line']}" if place else ""
    return f"{name}{said}".removesuffix(": ")[:CAUSE_LENGTH]
