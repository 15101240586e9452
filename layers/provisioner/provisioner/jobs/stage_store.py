"""How the runs of stages start, and how each records its end.

A first start is one transaction, and so is an end; nothing is read: a run holds what its start has
written. Only where that is refused, and for what the state machine repeats, the job is read, and
the start or the end is made of what is stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from botocore.exceptions import ClientError

from provisioner.drivers.aws_errors import is_throttled, short_cause
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, failure, final_failure
from provisioner.jobs.models import (
    CANCELLED_MESSAGE,
    NO_WAIT,
    STAGE_TRANSITIONS,
    Job,
    JobStatus,
    StageClosed,
    StageRecord,
    StageStatus,
    StoredError,
    job_sources,
    lease_of,
    lease_wait,
    waited_in_vain,
)
from provisioner.jobs.records import STAGE, NotAfter, UnitOfWork, optimistically
from provisioner.jobs.retries import SLOT_WAIT_SECONDS, STAGE_RETRY
from provisioner.jobs.slots import SlotUse, preferred_slot, stand_in_line, take_slot
from provisioner.jobs.stage import Completion, StageEvent, StageOutcome
from provisioner.jobs.store import JobNotFoundError, JobStore

#: What has refused a write before, if anything.
type _Refused = ConditionFailedError | None


@dataclass
class StageStart:
    """The start of a run. A poll, and the same start once more, count no attempt."""

    store: JobStore
    event: StageEvent
    #: For how long it may be at work.
    lease: timedelta
    #: Whether the stage is among the first of its job, which needs a slot.
    begins_job: bool
    #: Whose share of the slots the job takes.
    share: str = ""
    #: Whether the runs of a stage follow one another, in one process.
    is_alone: bool = False
    #: Who has the slots, once that was read.
    _use: SlotUse | None = field(default=None, init=False)
    #: The stage, as far as it is known, while the run may be one that only looks for a slot.
    _waits: StageRecord | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Take a run that may begin its job for one that looks for a slot, until more is known."""
        if self.begins_job:
            self._waits = StageRecord(self.event.stage, job_attempt=self.event.job.attempt)

    def write(self) -> StageRecord | None:
        """Record that the run starts, and the job with it if it is the first.

        A look for a slot that AWS throttles is one that finds none: as long as a job waits, that is
        no error of its stage.

        Returns:
            the stage: as the run holds it, as it has ended, or, with attempt 0, WAITING for a slot;
            None where a later run has begun.

        Raises:
            INVALID_PAYLOAD: this attempt of the job has ended, or the job is not stored.
            JOB_CANCELLED: the job is being cancelled.
            TIMEOUT: the job has waited for a slot for too long.
        """
        try:
            return optimistically(self._try, "a stage of it was started")
        except ClientError as error:
            if self._waits is None or not is_throttled(error):
                raise
            self._end_wait_in_time(self._waits)
            cause = f"AWS serves later: {short_cause(error)}."
            return replace(self._waits, status=StageStatus.WAITING, waiting_for=cause)

    def _try(self, refused: _Refused) -> StageRecord | None:
        job, before = self._read(refused)
        if before.status.is_terminal:
            return before
        if not _takes(before, self.event.retry_count):
            return None
        begins_job = (
            self.begins_job
            and before.attempt == 0
            and (job is None or job.status is JobStatus.QUEUED)
        )
        slot = None if job is None else job.slot
        takes_slot = begins_job and slot is None
        self._waits = before if takes_slot else None
        if takes_slot:
            slot = self._find_slot(job)
            if slot is None:
                return self._wait(before)
        # Made after the look, so that by its time, too, the job begins after the one before it.
        work = self.store.work()
        if begins_job and slot is not None:
            self._begin_job(work, slot, takes_slot=takes_slot)
        after = self._started(before, work.at)
        work.change_stage(self.event.job.job_id, before, after)
        work.write()
        return replace(after, is_start_stored=after.attempt > before.attempt)

    def _read(self, refused: _Refused) -> tuple[Job | None, StageRecord]:
        """Return the job and the stage as they are, unless no run of it starts any more.

        For a first start nothing is read: the stage has not begun, and the job is not known.
        """
        given = self.event.job
        if refused is None and self.event.retry_count == 0:
            return None, StageRecord(self.event.stage, job_attempt=given.attempt)
        try:
            job = self.store.get(given.job_id)
        except JobNotFoundError:
            job = None
        stored = None if job is None else job.stage(self.event.stage)
        if job is None or stored is None:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                "job_id: no such job is stored; send the job through the queue.",
            )
        if job.attempt != given.attempt:
            refuse_closed(StageClosed.ENDED)
        if not stored.status.is_terminal:
            refuse_closed(stored.closed)
        return job, stored

    def _find_slot(self, job: Job | None) -> int | None:
        """Return a slot that the job may take; None where it has to wait for one."""
        if job is None:
            return preferred_slot(self.event.job.job_id, self.store.maximum_running_jobs)
        if self._use is not None:
            # Another job was quicker: what was read is past. This one is polled again in seconds.
            self._use = None
            return None
        self._use = self.store.slots()
        return self._use.free_for(job.job_id, self.share)

    def _begin_job(self, work: UnitOfWork, slot: int, *, takes_slot: bool) -> None:
        """Add that the job begins; unless it has its slot from its parent, it takes it."""
        given = self.event.job
        if takes_slot:
            take_slot(work, slot, given.job_id, self.share, self._use)
        values = {
            "status": JobStatus.RUNNING,
            "started_at": work.at,
            "slot": slot,
            "dispatch_error": None,
        }
        must = {"status": job_sources(JobStatus.RUNNING), "slot": None if takes_slot else slot}
        # As it is written before its first stage, the stream mostly delivers it so.
        work.change_job(given.job_id, given.attempt, JobStatus.RUNNING, values, must)

    def _wait(self, before: StageRecord) -> StageRecord:
        """Record that the stage waits for a slot, and stand in the line if that tells anybody.

        Raises:
            TIMEOUT: it has waited for too long.
        """
        given = self.event.job
        work = self.store.work()
        after = before
        if before.status is StageStatus.PENDING:
            most = f"{self.store.maximum_running_jobs} jobs run at once at most"
            until = work.at + timedelta(seconds=SLOT_WAIT_SECONDS)
            after = begin_wait(before, work.at, f"{most}, and it is not its turn yet.", until)
            must = {"attempt": given.attempt, "status": JobStatus.QUEUED, "slot": None}
            work.list_as_waiting(given.job_id, must)
            work.change_stage(given.job_id, before, after)
        else:
            self._end_wait_in_time(before)
        use = self._use
        stands = use is not None and stand_in_line(work, use, given.job_id, self.share)
        if stands or after is not before:
            work.write()
        return after

    def _end_wait_in_time(self, before: StageRecord) -> None:
        """Let a stage wait for a slot no longer than it may.

        Raises:
            TIMEOUT: it has waited for too long.
        """
        if before.waits_until is not None and self.store.now() >= before.waits_until:
            raise final_failure(
                ErrorType.TIMEOUT, waited_in_vain(before.waiting_for, SLOT_WAIT_SECONDS)
            )

    def _started(self, before: StageRecord, at: datetime) -> StageRecord:
        """Return a stage of which a run begins: an attempt, a poll, or the last run once more."""
        retry_count = self.event.retry_count
        begun = replace(
            before,
            retry_count=retry_count,
            lease_until=at + self.lease,
            # Only time ends the lease of a run that never recorded its end.
            superseded_until=before.superseded_until if self.is_alone else lease_of(before),
        )
        is_again = before.retry_count == retry_count
        if before.attempt > 0 and (is_again or before.status is StageStatus.WAITING):
            return begun
        if before.attempt == 0:
            # Its wait for a slot is over, if it had one; its own has not begun.
            begun = replace(begun, **NO_WAIT, waits_until=None, retries_before=retry_count)
        return replace(
            begun,
            status=StageStatus.RUNNING,
            started_at=at,
            attempt=before.attempt + 1,
            next_attempt_before=None,
        )


def _takes(before: StageRecord, retry_count: int) -> bool:
    """Whether a run may follow what is known of its stage: no later one has begun, or failed."""
    if before.status is StageStatus.RETRYING:
        return retry_count > before.retry_count
    return before.attempt == 0 or retry_count >= before.retry_count


def begin_wait(
    before: StageRecord, at: datetime, waiting_for: str, waits_until: datetime
) -> StageRecord:
    """Return a stage as one that is WAITING."""
    return replace(
        before,
        status=StageStatus.WAITING,
        waiting_for=waiting_for,
        waiting_since=before.waiting_since or at,
        waits_until=waits_until,
    )


#: What is said of a run whose stage is closed.
_CLOSED = {
    StageClosed.JOB_CANCELLED: (ErrorType.JOB_CANCELLED, CANCELLED_MESSAGE),
    StageClosed.ENDED: (
        ErrorType.INVALID_PAYLOAD,
        "job_id: this job has ended; send a new job.",
    ),
}


def refuse_closed(closed: StageClosed | None) -> None:
    """Let nothing start of a stage of a job that has ended, or is being cancelled.

    Raises:
        INVALID_PAYLOAD: the attempt of the job has ended.
        JOB_CANCELLED: it is being cancelled.
    """
    if closed is not None:
        raise failure(*_CLOSED[closed])


_NOT_LOCKED = "The project is no longer locked by this job, so the job was not completed."

#: The check of a stage that the one before it does not ask for.
NOT_ASKED_FOR = "the job does not ask for it"

#: Makes of a stage as it is the stage as a run leaves it, and adds what is written beside it. Where
#: the write was refused before, it is given what has refused it, and the job as it was read since.
type _End = Callable[[UnitOfWork, StageRecord, _Refused, Job | None], StageRecord]


@dataclass(frozen=True, slots=True)
class EndOfRun:
    """What became of the end of a run."""

    #: The stage as it is stored.
    record: StageRecord
    #: Whether this run has written it; else another run has followed, or the job has ended.
    is_written: bool


@dataclass(frozen=True)
class StageStore:
    """Records how the runs of stages end.

    A run holds its stage as its start returned it. Its end counts only while no other run has
    followed, and while the job has not ended: else it changes nothing.
    """

    store: JobStore

    def fail(
        self, job_id: str, held: StageRecord, error: StoredError, *, retryable: bool
    ) -> EndOfRun:
        """Record that an attempt failed: RETRYING if its error is retryable, else FAILED.

        The state machine counts the errors of each retrier apart, so that an attempt of which AWS
        Lambda lost the answer takes none of these away. One that died does, and leaves as little
        behind: where one of the two has happened, another attempt is taken to be left.

        Without `next_attempt_before` no attempt is left. Of a job that is being cancelled no error
        is waited out: the stage has failed with JOB_CANCELLED.
        """

        def end(work: UnitOfWork, before: StageRecord, *_: object) -> StageRecord:
            is_waited_out = retryable and before.closed is None
            stored = error if is_waited_out or not retryable else _cancelled(error)
            failures = before.failures + 1
            is_left = is_waited_out and STAGE_RETRY.longest_delay(failures) is not None
            # No wait is shorter than the one before: as if each attempt had been counted.
            counted = min(before.attempt, STAGE_RETRY.max_attempts)
            delay = STAGE_RETRY.longest_delay(counted) if is_left else None
            return replace(
                before,
                **NO_WAIT,
                status=StageStatus.RETRYING if is_waited_out else StageStatus.FAILED,
                failures=failures,
                error=stored,
                next_attempt_before=None if delay is None else work.at + timedelta(seconds=delay),
                finished_at=None if is_waited_out else work.at,
                waits_until=before.waits_until if is_waited_out else None,
            )

        return self._record(job_id, held, end)

    def wait(
        self, job_id: str, held: StageRecord, waiting_for: str, waits_until: datetime
    ) -> EndOfRun:
        """Record that a stage is WAITING, and what for where that is new.

        Raises:
            JOB_CANCELLED: the job is being cancelled.
        """

        def end(work: UnitOfWork, before: StageRecord, *_: object) -> StageRecord:
            refuse_closed(before.closed)
            return begin_wait(before, work.at, waiting_for, waits_until)

        return self._record(job_id, held, end)

    def end(
        self, job_id: str, held: StageRecord, outcome: StageOutcome, *, skips: str | None = None
    ) -> EndOfRun:
        """Record that a stage ended well.

        Args:
            job_id: the job.
            held: the stage, as the start of its run returned it.
            outcome: how it ended.
            skips: the stage after it that it does not ask for, if any: SKIPPED with its end.
        """

        def end(work: UnitOfWork, before: StageRecord, *_: object) -> StageRecord:
            if skips is not None:
                # It has not begun, and is closed where this one is.
                pending = StageRecord(skips, job_attempt=before.job_attempt, closed=before.closed)
                skipped = StageOutcome(check=NOT_ASKED_FOR, skipped=True)
                work.change_stage(job_id, pending, _ended(pending, work.at, skipped))
            return _ended(before, work.at, outcome)

        return self._record(job_id, held, end)

    def complete(
        self,
        job_id: str,
        held: StageRecord,
        outcome: StageOutcome,
        stages: Sequence[str],
        *,
        asks_leases: bool,
    ) -> EndOfRun:
        """End a job well, with a stage of it, or let that wait.

        Args:
            job_id: the job.
            held: the stage, as the start of its run returned it.
            outcome: how it ended; where it says no result, that is its output.
            stages: the job's, in order. Those before that one have ended, and none begins of those
                after it.
            asks_leases: whether the stage is WAITING while a run of another may be at work.

        Raises:
            JOB_CANCELLED: the job is being cancelled.
            CONFLICT: what is written beside it was refused.
        """
        completion = outcome.completion or Completion(outcome.output)
        also = list(completion.also)

        def end(
            work: UnitOfWork, before: StageRecord, refused: _Refused, job: Job | None
        ) -> StageRecord:
            refuse_closed(before.closed)
            lease = lease_wait(job if asks_leases else None, work.at, besides=before.stage)
            if lease is not None:
                return begin_wait(before, work.at, lease.waiting_for, lease.until)
            if refused is not None and any("job_id" not in key for key in refused.keys):
                if not completion.only_releases:
                    raise failure(ErrorType.CONFLICT, _NOT_LOCKED)
                also.clear()
            _close_others(work, job_id, before, stages, asks_leases=asks_leases)
            self.store.add_completion(work, job_id, before.job_attempt, completion.result, job)
            work.also(also)
            return _ended(before, work.at, outcome)

        return self._record(job_id, held, end)

    def _record(self, job_id: str, held: StageRecord, end: _End) -> EndOfRun:
        """Write the end of a run, which ends its lease.

        Args:
            job_id: the job.
            held: the stage, as the run holds it.
            end: makes the stage as the run leaves it.
        """

        def change(refused: _Refused) -> EndOfRun:
            job = None if refused is None else self.store.get(job_id)
            before = (job and job.stage(held.stage)) or held
            if not _is_last(before, held):
                return EndOfRun(before, is_written=False)
            work = self.store.work()
            after = end(work, before, refused, job)
            if after.status not in STAGE_TRANSITIONS[before.status]:
                return EndOfRun(before, is_written=False)
            # Another run that the same start began may still be at work.
            is_own = before.lease_until == held.lease_until
            superseded = before.superseded_until if is_own else lease_of(before)
            after = replace(after, lease_until=None, superseded_until=superseded)
            work.change_stage(job_id, before, after)
            work.write()
            return EndOfRun(after, is_written=True)

        return optimistically(change, "the end of a stage of it was recorded")


def _close_others(
    work: UnitOfWork, job_id: str, ended: StageRecord, stages: Sequence[str], *, asks_leases: bool
) -> None:
    """Add that none of the stages after one begins, and that no run of another is at work."""
    leases = ("lease_until", "superseded_until") if asks_leases else ()
    over = dict.fromkeys(leases, NotAfter(work.at))
    place = stages.index(ended.stage)
    for stage in stages[:place] if over else ():
        work.check(job_id, f"{STAGE}{stage}", over)
    for stage in stages[place + 1 :]:
        work.close_stage(job_id, stage, ended.job_attempt, StageClosed.ENDED, over)


def _ended(before: StageRecord, at: datetime, outcome: StageOutcome) -> StageRecord:
    return replace(
        before,
        **NO_WAIT,
        status=StageStatus.SKIPPED if outcome.skipped else StageStatus.SUCCEEDED,
        finished_at=at,
        output=dict(outcome.output),
        check=outcome.check,
        error=None,
        next_attempt_before=None,
        waits_until=None,
    )


def _is_last(stored: StageRecord, held: StageRecord) -> bool:
    """Whether a run is the last of its stage, and may still record its end."""
    return (
        (stored.job_attempt, stored.retry_count) == (held.job_attempt, held.retry_count)
        and not stored.status.is_terminal
        and stored.closed is not StageClosed.ENDED
    )


def _cancelled(error: StoredError) -> StoredError:
    """Return what a stage ends with that would be tried again, were its job not cancelled."""
    cause = f"{error.type}: {error.message} {error.cause}"
    return replace(error, type=ErrorType.JOB_CANCELLED, message=CANCELLED_MESSAGE, cause=cause)
