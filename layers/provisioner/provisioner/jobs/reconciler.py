"""Looks after jobs that went silent: does for them what whoever should have done it did not.

It compares what is stored of a job with the execution that should be at it. An event only says
where to look: one that comes late, or twice, finds nothing to do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit, single_metric

from provisioner.drivers.dynamodb import ConditionFailedError, Write
from provisioner.errors import ErrorType
from provisioner.jobs.execution import Execution, Executions, ExecutionStatus, job_id_of_execution
from provisioner.jobs.failure import (
    CAUSE_LENGTH,
    FailurePolicy,
    end_badly,
    is_cleaned_up,
    metric_of,
    stage_error,
)
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.models import (
    CANCELLED_MESSAGE,
    PROCESS_LEASE,
    REPAIRED,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
    lease_wait,
)
from provisioner.jobs.records import optimistically
from provisioner.jobs.registry import UnknownJobTypeError, of_job_type
from provisioner.jobs.slots import release_slot
from provisioner.jobs.store import JobNotFoundError, JobStore
from provisioner.runtime.observability import logger, metrics

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
    None: (
        ErrorType.UNKNOWN_ERROR,
        "The job has no execution any more, and no process says that it runs it.",
    ),
}


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was done for a job."""

    #: What had gone wrong and was put right, as the job's history has it; empty where nothing had.
    repair: str = ""
    #: The job as it has ended, where it was ended.
    ended: Job | None = None


#: Says whether the execution of a job may be looked at.
type MayLook = Callable[[Job], bool]


def always(_job: Job) -> bool:
    """Let the execution of every job be looked at."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """Reconciles jobs. Doing it twice, or beside whoever it stands in for, is as good as once."""

    store: JobStore
    #: Where a message is sent again.
    queue: JobQueue
    executions: Executions
    #: What follows a failure, by job type.
    policies: Mapping[str, FailurePolicy]
    #: Gives back what a job still holds that is stored no more; returns the names of it.
    release_abandoned: Callable[[str], Sequence[str]]
    #: How long a job may be QUEUED before its message is sent again, and then before it has failed.
    queued_limit: timedelta

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Reconcile the job that an event of EventBridge is about.

        Returns:
            reconciled and repaired, how many jobs that was.

        Raises:
            Exception: whatever may pass by waiting; AWS Lambda then hands the event over again.
        """
        ended = None
        match event:
            case {"source": "aws.states", "detail": {"executionArn": str(arn), "status": status}}:
                said = {name: event["detail"].get(name) or "" for name in ("error", "cause")}
                ended = Execution(arn, ExecutionStatus(status), **said)
                job_id = job_id_of_execution(arn)
            case {"detail": {"job_id": str(job_id)}}:
                pass
            case _:
                logger.warning("event is about no job")
                return {"reconciled": 0, "repaired": 0}
        logger.append_keys(job_id=job_id)
        reconciled = self.look_after(job_id, ended)
        count(reconciled)
        return {"reconciled": 1, "repaired": int(bool(reconciled.repair))}

    def reconcile(
        self,
        job_id: str,
        ended: Execution | None = None,
        *,
        slot: int | None = None,
        may_look: MayLook = always,
    ) -> Reconciled:
        """Compare a job with its execution, and do what is left to be done for it.

        Args:
            job_id: the job.
            ended: an execution of which an event says that it has ended: Step Functions' own answer
                may be older.
            slot: the slot that named the job a moment ago, if one did.
            may_look: says whether the execution of the job, which has not ended, is looked at; else
                nothing is done for it.

        Raises:
            JobNotFoundError: there is no such job.
            UnknownJobTypeError: its job type is not defined in this version of the code.
            TIMEOUT: the job kept changing.
        """

        def change(_: ConditionFailedError | None) -> Reconciled:
            job = self.store.get(job_id)
            if not job.stages:
                # Refused as it came: it never held anything.
                return Reconciled()
            policy = of_job_type(self.policies, job)
            if job.status.is_terminal:
                return self._release(job, policy.release(job), slot)
            return self._reconcile_open(job, ended, may_look)

        return optimistically(change, "it was reconciled")

    def look_after(
        self,
        job_id: str,
        ended: Execution | None = None,
        *,
        slot: int | None = None,
        may_look: MayLook = always,
    ) -> Reconciled:
        """Reconcile a job, or give back what one holds that is stored no more; log what was done.

        Every thread may do so. For the arguments, and what it raises, see `reconcile`.
        """
        try:
            reconciled = self.reconcile(job_id, ended, slot=slot, may_look=may_look)
        except UnknownJobTypeError as error:
            # Only its definition says how it ends: no repetition helps, and no alarm.
            logger.warning("job of an unknown job type", cause=str(error))
            return Reconciled()
        except JobNotFoundError:
            released = list(self.release_abandoned(job_id))
            work = self.store.work()
            release_slot(work, slot, job_id)
            # It may have been released since.
            if slot is not None and work.write_if_it_holds():
                released.append(f"slot {slot}")
            if not released:
                logger.warning("no such job is stored")
                return Reconciled()
            # There is no history to tell it.
            reconciled = Reconciled(
                f"It is stored no more and still held {', '.join(released)}: that was given back."
            )
        _log(reconciled)
        return reconciled

    # Jobs that have not ended.

    def _reconcile_open(self, job: Job, ended: Execution | None, may_look: MayLook) -> Reconciled:
        arn = self.executions.arn(job)
        is_ended = ended is not None and ended.arn == arn
        if not is_ended and not may_look(job):
            return Reconciled()
        execution = ended if is_ended else self.executions.find(arn)
        if execution is None and job.status is JobStatus.QUEUED:
            return self._reconcile_unstarted(job)
        now = self.store.now()
        if execution is None:
            # What waits says nothing meanwhile.
            times = [*(entry.at for entry in job.history), *(wait.until for wait in job.waits)]
            is_over = now - max(times, default=job.updated_at) > PROCESS_LEASE
        else:
            is_over = execution.status is not ExecutionStatus.RUNNING
        was_cancelled = job.cancel_requested_at is not None
        # The others under way wait, for the next attempt or another thing, or died silently.
        failed = [record for record in job.stages if _has_failed(record)]
        waiting = [record for record in job.running_stages if record not in failed]
        only_waits = was_cancelled and bool(waiting)
        if not (is_over or only_waits) or self._wait_to_end(job, now):
            return Reconciled()
        errors = [stage_error(job, record, now) for record in (*failed, *waiting)]
        if was_cancelled:
            # Ended first: should this process stop here, the execution finds that after its wait.
            reconciled = self._end(job, errors)
            self.executions.stop(arn, CANCELLED_MESSAGE)
            return reconciled
        how = "gone" if execution is None else execution.status
        repair = f"Nobody had told of its end: its execution was {how}."
        # It may have ended because of its stages, and could not say so.
        is_because_of_them = execution is not None and execution.status is ExecutionStatus.FAILED
        reasons = [] if is_because_of_them and failed else [_reason(execution)]
        return self._end(job, [*reasons, *errors], repair)

    def _wait_to_end(self, job: Job, now: datetime) -> bool:
        """Let the end of a job wait while a run may be at work that nobody is to meet.

        Where a clean-up follows, that one has the project, and waits itself for the runs that
        others followed.
        """
        lease = lease_wait(job, now, last_runs_only=is_cleaned_up(job, self.policies))
        if lease is not None and StageStatus.WAITING in {record.status for record in job.stages}:
            # What is polled says nothing of that.
            self.store.wait_to_end(job, lease.waiting_for, lease.until)
        return lease is not None

    def _end(self, job: Job, errors: Sequence[StoredError], repair: str = "") -> Reconciled:
        """End a job that nobody is at any more, and start its clean-up."""
        end_badly(self.store, self.policies, job, errors, repair=repair)
        ended = self.store.get(job.job_id)
        if ended.cleanup_job_id not in {"", job.cleanup_job_id}:
            # Nobody else starts it: what was to start it has ended.
            self.queue.send(self.store.get(ended.cleanup_job_id), message_group=None)
        return Reconciled(repair, ended)

    def _reconcile_unstarted(self, job: Job) -> Reconciled:
        """Send a message again that nothing has come of for long, and then fail its job."""
        # What waits for a slot, in a process that has no execution, is polled.
        since = max([queued_since(job, None), *(wait.until for wait in job.waits)])
        now = self.store.now()
        if now - since < self.queued_limit:
            return Reconciled()
        if now - queued_since(job, self.store.slots().held_at) < self.queued_limit:
            return Reconciled()
        if job.resent_at is not None:
            error = StoredError(
                ErrorType.TIMEOUT, "", 0, "The job did not begin in the time that it had.", ""
            )
            return self._end(job, [error], "It had not begun, though its message was sent again.")
        self.queue.send(job, message_group=None)
        repair = "It had not begun for long: its message was sent again."
        record_repair(self.store, job, repair, values={"resent_at": self.store.now()})
        return Reconciled(repair)

    # Jobs that have ended.

    def _release(self, job: Job, held: Sequence[Write], slot: int | None) -> Reconciled:
        """Give back what a job holds beyond its end."""
        if slot is not None and self.store.slots().holders.get(slot) != job.job_id:
            # It has ended since, and released it.
            slot = None
        if not held and slot is None:
            return Reconciled()
        repair = "It still held what it should have given back."
        record_repair(self.store, job, repair, slot=slot, also=held)
        return Reconciled(repair)


def queued_since(job: Job, held_at: datetime | None) -> datetime:
    """Return since when something should have come of a job's message.

    Args:
        job: the job, which is QUEUED.
        held_at: when the dispatcher has last held messages back; the job's may have been among
            those, or behind them.
    """
    return max(filter(None, (job.updated_at, job.held_until, held_at)))


def record_repair(
    store: JobStore,
    job: Job,
    note: str,
    *,
    values: Mapping[str, Any] | None = None,
    slot: int | None = None,
    also: Sequence[Write] = (),
) -> None:
    """Write a repair into the history of a job that is still as it was read.

    Args:
        store: the jobs.
        job: the job.
        note: what had gone wrong.
        values: what changes of the job.
        slot: the slot that it still has though it has ended, if any, which is released.
        also: further writes of the same transaction.

    Raises:
        ConditionFailedError: it has changed, or its slot, or a condition of `also` failed.
    """
    work = store.work()
    must = {"status": job.status, "updated_at": job.updated_at, "resent_at": job.resent_at}
    work.change_job(job.job_id, job.attempt, REPAIRED, values or {}, must, note=note)
    release_slot(work, slot, job.job_id)
    work.also(also)
    work.write()


def count(reconciled: Reconciled) -> None:
    """Count what was done for a job: an end by its error, and over all.

    Not in threads: metrics are not safe in them.
    """
    ended = reconciled.ended
    if ended is not None and ended.error is not None:
        with single_metric(name=metric_of(ended), unit=MetricUnit.Count, value=1) as metric:
            metric.add_dimension("error_type", ended.error.type)
        metrics.add_metric(metric_of(ended), "Count", 1)
    if reconciled.repair:
        metrics.add_metric("Repairs", "Count", 1)


def _log(reconciled: Reconciled) -> None:
    """Log what was done for a job, if anything was."""
    error = None if reconciled.ended is None else reconciled.ended.error
    if error is not None:
        logger.error(
            "job ended by the reconciler",
            error_type=error.type,
            error_message=error.message,
            cause=error.cause,
        )
    if reconciled.repair:
        logger.warning("job repaired", repair=reconciled.repair)


def _has_failed(record: StageRecord) -> bool:
    """Whether a stage has no attempt left."""
    is_given_up = record.status is StageStatus.RETRYING and record.next_attempt_before is None
    return record.status is StageStatus.FAILED or is_given_up


def _reason(execution: Execution | None) -> StoredError:
    """Return why a job has ended whose execution did not tell."""
    error_type, message = _ENDS[None if execution is None else execution.status]
    said = () if execution is None else (execution.status, execution.error, execution.cause)
    cause = ": ".join(filter(None, said))
    return StoredError(error_type, "", 0, message, cause[:CAUSE_LENGTH])
