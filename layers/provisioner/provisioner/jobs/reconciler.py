"""Looks after jobs that went silent: does for them what whoever should have done it did not.

It compares what is stored of a job with the execution that should be at it. An event only says
where to look: one that comes late, or twice, finds nothing to do.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit, single_metric

from provisioner.drivers.aws_errors import AWS_ERRORS
from provisioner.drivers.dynamodb import Write
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.definition import JobDefinitions
from provisioner.jobs.execution import Execution, Executions, ExecutionStatus, job_id_of
from provisioner.jobs.failure import FailurePolicy, FailureRecorder, metric_of, waited_out
from provisioner.jobs.job_reader import JobNotFoundError
from provisioner.jobs.lease import open_lease
from provisioner.jobs.models import (
    CANCELLED,
    JOB_SUBJECT,
    REPAIRED,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
    cancelled_while_waiting,
)
from provisioner.jobs.queue import JobQueue
from provisioner.jobs.records import JOB
from provisioner.jobs.registry import UnknownJobTypeError, of_job_type
from provisioner.jobs.slots import release_slot
from provisioner.jobs.store import JobStore
from provisioner.jobs.unit_of_work import RefusedError, optimistically
from provisioner.runtime.observability import logger, metrics

#: A job that runs without an execution runs in someone's process. After this long without a word
#: that process is gone: it is longer than any wait between two attempts.
_PROCESS_IS_GONE_AFTER = timedelta(hours=1)

#: Characters of an execution's own cause that are kept.
_CAUSE_LENGTH = 1000

_ENDS: dict[ExecutionStatus | None, tuple[ErrorType, str]] = {
    ExecutionStatus.TIMED_OUT: (
        ErrorType.TIMEOUT,
        "The job did not end in the time that it had.",
    ),
    ExecutionStatus.ABORTED: (
        ErrorType.UNKNOWN_ERROR,
        "The job was stopped by hand before it had ended.",
    ),
    ExecutionStatus.FAILED: (ErrorType.UNKNOWN_ERROR, "The job ended without saying why."),
    ExecutionStatus.SUCCEEDED: (ErrorType.UNKNOWN_ERROR, "The job ended without a result."),
    None: (ErrorType.UNKNOWN_ERROR, "The process that ran the job is gone."),
}

_STAGE_SILENT = "The stage ended without saying why."


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was done for a job."""

    #: What had gone wrong and was put right, as the job's history has it; empty where nothing had.
    repair: str = ""
    #: The metric that counts the end of the job, where that was written.
    metric: str = ""
    #: The error that the job was ended with.
    error: StoredError | None = None


_NOTHING = Reconciled()


class Reconciler:
    """Reconciles jobs. Doing it twice, or beside whoever it stands in for, is as good as once."""

    def __init__(
        self,
        *,
        store: JobStore,
        queue: JobQueue,
        executions: Executions,
        policies: Mapping[str, FailurePolicy],
        holders: Callable[[], Sequence[str]],
        release_abandoned: Callable[[str], Sequence[str]],
        queued_limit: timedelta,
        definitions: JobDefinitions,
    ) -> None:
        """Bind the reconciler.

        Args:
            store: the jobs.
            queue: where a message is sent again.
            executions: the executions of the jobs.
            policies: what follows a failure, by job type.
            holders: returns the ids of the jobs that hold something that only one job may hold.
            release_abandoned: gives back what a job still holds that is stored no more; returns
                the names of it.
            queued_limit: how long a job may be QUEUED before its message is sent again, and then
                before it has failed.
            definitions: the job types.
        """
        self._store = store
        self._queue = queue
        self._executions = executions
        self._policies = policies
        self._failures = FailureRecorder(store, policies)
        self._holders = holders
        self._release_abandoned = release_abandoned
        self._queued_limit = queued_limit
        self._definitions = definitions

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Reconcile the job that an event of EventBridge is about, or, on schedule, all that are.

        Returns:
            reconciled and repaired, how many jobs that was.

        Raises:
            Exception: whatever may pass by waiting, where the event is about one job; AWS Lambda
                then hands it over again.
        """
        ended: Execution | None = None
        job_id: str | None = None
        match event:
            case {"detail-type": "Scheduled Event"}:
                return self._sweep()
            case {"source": "aws.states", "detail": {"executionArn": arn, "status": status}}:
                detail = event["detail"]
                ended = Execution(
                    arn,
                    ExecutionStatus(status),
                    detail.get("error") or "",
                    detail.get("cause") or "",
                )
                # Left out of the event where it is long.
                known = None if detail.get("input") else self._executions.find(arn)
                job_id = job_id_of(detail.get("input") or (known.input if known else ""))
            case {"detail": {"job_id": str(of_job)}}:
                job_id = of_job
        if job_id is None:
            logger.warning("event is about no job")
            return {"reconciled": 0, "repaired": 0}
        return {"reconciled": 1, "repaired": int(self._reconcile_and_report(job_id, ended))}

    def reconcile(
        self, job_id: str, ended: Execution | None = None, *, slot: int | None = None
    ) -> Reconciled:
        """Compare a job with its execution, and do what is left to be done for it.

        Args:
            job_id: the job.
            ended: an execution of which an event says that it has ended: Step Functions' own answer
                may be older.
            slot: the slot that named the job a moment ago, if one did.

        Raises:
            JobNotFoundError: there is no such job.
            UnknownJobTypeError: its job type is not defined in this version of the code.
            TIMEOUT: the job kept changing.
        """

        def change(_: RefusedError | None) -> Reconciled:
            job = self._store.get(job_id)
            if not job.stages:
                # Refused as it came: it never held anything.
                return _NOTHING
            of_job_type(self._definitions, job)
            if job.status.is_terminal:
                return self._reconcile_ended(job, slot)
            return self._reconcile_open(job, ended)

        return optimistically(change, "it was reconciled")

    def _sweep(self) -> dict[str, Any]:
        """Reconcile every job that is unfinished, or holds what only one may hold."""
        slots = {job_id: slot for slot, job_id in self._store.slots().holders.items()}
        unfinished = self._store.list_unfinished()
        job_ids = list(dict.fromkeys([*unfinished, *self._holders(), *slots]))
        repaired = unreconciled = 0
        for job_id in job_ids:
            try:
                repaired += self._reconcile_and_report(job_id, None, slots.get(job_id))
            # The others are reconciled all the same, and this one again by the next sweep.
            except Exception as error:  # noqa: BLE001  # each is logged, and an alarm misses the sweep
                logger.warning("job not reconciled", cause=_cause(error))
                unreconciled += 1
        if unreconciled == 0:
            # Whatever keeps sweeps from their end cannot say so itself: an alarm misses this.
            metrics.add_metric("SweepsCompleted", MetricUnit.Count, 1)
        return {"reconciled": len(job_ids), "repaired": repaired}

    def _reconcile_and_report(
        self, job_id: str, ended: Execution | None, slot: int | None = None
    ) -> bool:
        logger.append_keys(job_id=job_id)
        try:
            reconciled = self.reconcile(job_id, ended, slot=slot)
        except UnknownJobTypeError as error:
            # Only its definition says how it ends: no repetition helps, and no alarm.
            logger.warning("job of an unknown job type", cause=str(error))
            return False
        except JobNotFoundError:
            released = list(self._release_abandoned(job_id))
            if slot is not None and _release_abandoned_slot(self._store, slot, job_id):
                released.append(f"slot {slot}")
            if not released:
                logger.warning("no such job is stored")
                return False
            # There is no history to tell it.
            reconciled = Reconciled(
                f"It is stored no more and still held {', '.join(released)}: that was given back."
            )
        if reconciled.error is not None:
            with single_metric(name=reconciled.metric, unit=MetricUnit.Count, value=1) as metric:
                metric.add_dimension("error_type", reconciled.error.type)
            logger.error(
                "job ended by the reconciler",
                error_type=reconciled.error.type,
                error_message=reconciled.error.message,
                cause=reconciled.error.cause,
            )
        if reconciled.metric:
            metrics.add_metric(reconciled.metric, MetricUnit.Count, 1)
        if reconciled.repair:
            metrics.add_metric("Repairs", MetricUnit.Count, 1)
            logger.warning("job repaired", repair=reconciled.repair)
        return bool(reconciled.repair)

    # Jobs that have not ended.

    def _reconcile_open(self, job: Job, ended: Execution | None) -> Reconciled:
        arn = self._executions.arn(job)
        execution = self._find(arn, ended)
        if execution is None and job.status is JobStatus.QUEUED:
            return self._reconcile_unstarted(job)
        if execution is None:
            # What waits says nothing meanwhile.
            words = [*(entry.at for entry in job.history), *(wait.until for wait in job.waits)]
            last_word = max(words, default=job.updated_at)
            is_over = self._store.now() - last_word > _PROCESS_IS_GONE_AFTER
        else:
            is_over = execution.status is not ExecutionStatus.RUNNING
        was_cancelled = job.cancel_requested_at is not None
        if not is_over and not (was_cancelled and any(map(_is_open, job.stages))):
            return _NOTHING
        if self._keeps_from_ending(job):
            return _NOTHING
        now = self._store.now()
        if is_over and not was_cancelled:
            how = "gone" if execution is None else execution.status
            repair = f"Nobody had told of its end: its execution was {how}."
            return self._end(job, _errors(job, execution, now), repair)
        # Ended first: should this process stop here, the execution finds that after its wait.
        reconciled = self._end(job, [*_failed_stages(job), *_open_stages(job, now)])
        self._executions.stop(arn, CANCELLED)
        return reconciled

    def _end(self, job: Job, errors: Sequence[StoredError], repair: str = "") -> Reconciled:
        """End a job that nobody is at any more, and start its clean-up."""
        self._failures.end(job, errors, repair=repair)
        ended = self._store.get(job.job_id)
        if ended.cleanup_job_id not in {"", job.cleanup_job_id}:
            # Nobody else starts it: what was to start it has ended.
            self._queue.send(self._store.get(ended.cleanup_job_id), message_group=None)
        return Reconciled(repair, metric_of(ended), ended.error)

    def _reconcile_unstarted(self, job: Job) -> Reconciled:
        """Send a message again that nothing has come of for long, and then fail its job."""
        # What waits for a slot, in a process that has no execution, is polled.
        waits = (wait.until for wait in job.waits)
        since = max(job.updated_at, job.held_until or job.updated_at, *waits)
        if self._store.now() - since < self._queued_limit:
            return _NOTHING
        if job.resent_at is None:
            self._queue.send(job, message_group=None)
            repair = "It had not begun for long: its message was sent again."
            record_resend(self._store, job, repair)
            return Reconciled(repair)
        repair = "It had not begun, though its message was sent again."
        error = StoredError(
            ErrorType.TIMEOUT, "", 0, "The job did not begin in the time that it had.", ""
        )
        return self._end(job, [error], repair)

    # Jobs that have ended.

    def _reconcile_ended(self, job: Job, slot: int | None) -> Reconciled:
        held = of_job_type(self._policies, job).release(job)
        if slot is not None and self._store.slots().holders.get(slot) != job.job_id:
            # It has ended since, and released it.
            slot = None
        if not held and slot is None:
            return _NOTHING
        repair = "It still held what it should have given back."
        record_repair(self._store, job, repair, slot, held)
        return Reconciled(repair)

    def _find(self, arn: str, ended: Execution | None) -> Execution | None:
        return ended if ended is not None and ended.arn == arn else self._executions.find(arn)

    def _keeps_from_ending(self, job: Job) -> bool:
        """Whether a run of a stage may be at work that nobody is to meet.

        Where a clean-up follows, that one has the project, and waits itself for the runs that
        others followed.
        """
        lease = open_lease(job, self._store.now(), last_runs_only=self._failures.is_cleaned_up(job))
        if lease is not None and any(map(_waits, job.stages)):
            # What is polled says nothing of that.
            self._store.wait_to_end(job, lease.waiting_for, lease.until)
        return lease is not None


def record_repair(
    store: JobStore, job: Job, note: str, slot: int | None = None, also: Sequence[Write] = ()
) -> None:
    """Write a repair into the history of a job that is still as it was read.

    Args:
        store: the jobs.
        job: the job.
        note: what had gone wrong.
        slot: the slot that it still has though it has ended, if any, which is released.
        also: further writes of the same transaction.

    Raises:
        RefusedError: it has changed, or its slot, or a condition of `also` failed.
    """
    work = store.work()
    must = {"attempt": job.attempt, "status": job.status, "updated_at": job.updated_at}
    work.check(job.job_id, JOB, must)
    work.tell(job.job_id, JOB_SUBJECT, REPAIRED, attempt=job.attempt, note=note)
    if slot is not None:
        release_slot(work, slot, job.job_id)
    work.also(also)
    work.write()


def _release_abandoned_slot(store: JobStore, slot: int, job_id: str) -> bool:
    """Release the slot of a job that is stored no more; return whether it still had it."""
    work = store.work()
    release_slot(work, slot, job_id)
    try:
        work.write()
    except RefusedError:
        return False
    return True


def record_resend(store: JobStore, job: Job, note: str) -> None:
    """Record that the message of a job that has not begun was sent again.

    Raises:
        RefusedError: it has begun, has ended, or was sent again before.
    """
    work = store.work()
    work.change_job(
        job.job_id, job.attempt, {"resent_at": work.at}, (JobStatus.QUEUED,), resent_at=None
    )
    work.tell(job.job_id, JOB_SUBJECT, REPAIRED, attempt=job.attempt, note=note)
    work.write()


def _cause(error: Exception) -> str:
    """Name what kept a job from being reconciled; of a text that is not ours, only its place."""
    if isinstance(error, (*AWS_ERRORS, ProvisioningError)):
        return f"{type(error).__name__}: {error}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {where.filename}:{where.lineno}"


def _waits(record: StageRecord) -> bool:
    return record.status is StageStatus.WAITING


def _is_open(record: StageRecord) -> bool:
    """Whether a stage waits, for its next attempt or another thing, or has died without a word."""
    return record.status in {StageStatus.RUNNING, StageStatus.WAITING} or (
        record.status is StageStatus.RETRYING and record.next_attempt_before is not None
    )


def _errors(job: Job, execution: Execution | None, now: datetime) -> list[StoredError]:
    """Return the errors of a job whose execution has ended without telling, the reason first."""
    failed, opened = _failed_stages(job), _open_stages(job, now)
    status = None if execution is None else execution.status
    if status is ExecutionStatus.FAILED and failed:
        # It ended because of them, and could not say so.
        return [*failed, *opened]
    error_type, message = _ENDS[status]
    said = () if execution is None else (execution.status, execution.error, execution.cause)
    cause = ": ".join(filter(None, said))
    return [StoredError(error_type, "", 0, message, cause[:_CAUSE_LENGTH]), *failed, *opened]


def _failed_stages(job: Job) -> list[StoredError]:
    """Return the errors of the stages that have no attempt left."""
    return [
        _stage_error(record)
        for record in job.stages
        if record.status in {StageStatus.FAILED, StageStatus.RETRYING} and not _is_open(record)
    ]


def _open_stages(job: Job, now: datetime) -> list[StoredError]:
    """Return the errors of the stages that wait, or have died."""
    errors = []
    for record in filter(_is_open, job.stages):
        if record.status is not StageStatus.WAITING:
            errors.append(_stage_error(record))
        elif job.cancel_requested_at is None:
            errors.append(waited_out(record, now))
        else:
            message = cancelled_while_waiting(record.waiting_for)
            errors.append(
                StoredError(ErrorType.JOB_CANCELLED, record.stage, record.attempt, message, "")
            )
    return errors


def _stage_error(record: StageRecord) -> StoredError:
    """Return what the last attempt said, or say that it said nothing."""
    if record.error is not None and record.error.attempt == record.attempt:
        return record.error
    return StoredError(ErrorType.UNKNOWN_ERROR, record.stage, record.attempt, _STAGE_SILENT, "")
