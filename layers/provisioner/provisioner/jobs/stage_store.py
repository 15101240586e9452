"""What the runs of stages say: the word with which each has ended.

A word is one transaction, and nothing is read: what a run has written it holds, and where something
has changed under it, the refused write brings that along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from provisioner.errors import ErrorType, failure
from provisioner.jobs.lease import Lease, lease_of
from provisioner.jobs.models import (
    CANCELLED,
    JOB_SUBJECT,
    JobStatus,
    StageClosed,
    StageRecord,
    StageStatus,
    StoredError,
)
from provisioner.jobs.records import JOB, STAGE, to_stage
from provisioner.jobs.retries import STAGE_RETRY
from provisioner.jobs.slots import preferred_slot, release_slot
from provisioner.jobs.stage import Completion, StageOutcome
from provisioner.jobs.stage_start import NO_WAIT, refuse_closed
from provisioner.jobs.store import JobStore
from provisioner.jobs.transitions import STAGE_TRANSITIONS, job_sources
from provisioner.jobs.unit_of_work import NotAfter, RefusedError, UnitOfWork, optimistically

#: The check of a stage that the one before it does not ask for.
NOT_ASKED_FOR = "the job does not ask for it"

#: Makes of a stage as it is what a run has to say, and adds what is written beside it.
type _Word = Callable[[UnitOfWork, StageRecord], StageRecord]


class LeaseOpenError(Exception):
    """A job cannot complete yet: a run of another stage may still be at work."""

    def __init__(self, lease: Lease) -> None:
        """Keep which."""
        super().__init__(lease.waiting_for)
        self.lease = lease


@dataclass(frozen=True, slots=True)
class Completed:
    """How a job ends well, with a stage of it."""

    completion: Completion
    #: Its stages before that one, which have ended, and those after it, of which none begins.
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    #: Whether it must not complete while a run of another stage may be at work.
    asks_leases: bool = True


@dataclass(frozen=True, slots=True)
class Said:
    """What became of the word of a run."""

    #: The stage as it is stored.
    record: StageRecord
    #: Whether that is by this word; else another run has followed, or the job has ended.
    is_written: bool


class StageStore:
    """Writes what the runs of stages say.

    A run holds its stage as its start returned it. Its word holds only while no other run has
    followed, and while the job has not ended: else it changes nothing.
    """

    def __init__(self, store: JobStore) -> None:
        """Bind it to the jobs."""
        self._store = store

    def now(self) -> datetime:
        """Return the time of the store's clock."""
        return self._store.now()

    def fail(self, job_id: str, held: StageRecord, error: StoredError, *, retryable: bool) -> Said:
        """Record that an attempt failed: RETRYING if its error is retryable, else FAILED.

        The state machine counts the errors of each retrier apart, so that an attempt of which AWS
        Lambda lost the answer takes none of these away. One that died does, and leaves as little
        behind: where one of the two has happened, another attempt is taken to be left.

        Without `next_attempt_before` no attempt is left. Of a job that is being cancelled no error
        is waited out: the stage has failed with JOB_CANCELLED.
        """

        def word(work: UnitOfWork, before: StageRecord) -> StageRecord:
            is_waited_out = retryable and before.closed is None
            said = error if is_waited_out or not retryable else _cancelled(error)
            failures = before.failures + 1
            is_left = is_waited_out and STAGE_RETRY.longest_delay(failures) is not None
            # No wait is shorter than the one before: as if each attempt had been counted.
            counted = min(before.attempt, STAGE_RETRY.max_attempts)
            delay = STAGE_RETRY.longest_delay(counted) if is_left else None
            after = replace(
                before,
                **NO_WAIT,
                status=StageStatus.RETRYING if is_waited_out else StageStatus.FAILED,
                failures=failures,
                error=said,
                next_attempt_before=None if delay is None else work.at + timedelta(seconds=delay),
                max_attempts=before.max_attempts
                if delay is None
                else max(STAGE_RETRY.attempts_in_all, before.attempt + 1),
                finished_at=None if is_waited_out else work.at,
                waits_until=before.waits_until if is_waited_out else None,
            )
            work.tell_error(
                job_id,
                before.stage,
                after.status,
                said,
                attempt=before.attempt,
                job_attempt=before.job_attempt,
                next_attempt_before=after.next_attempt_before,
            )
            return after

        return self._say(job_id, held, word)

    def wait(self, job_id: str, held: StageRecord, waiting_for: str, waits_until: datetime) -> Said:
        """Record that a stage is WAITING, and what for where that is new.

        Raises:
            JOB_CANCELLED: the job is being cancelled.
        """

        def word(work: UnitOfWork, before: StageRecord) -> StageRecord:
            refuse_closed(before)
            if before.waiting_for != waiting_for:
                work.tell(
                    job_id,
                    before.stage,
                    StageStatus.WAITING,
                    attempt=before.attempt,
                    note=waiting_for,
                    job_attempt=before.job_attempt,
                    waits_until=waits_until,
                )
            return replace(
                before,
                status=StageStatus.WAITING,
                waiting_for=waiting_for,
                waiting_since=before.waiting_since or work.at,
                waits_until=waits_until,
            )

        return self._say(job_id, held, word)

    def end(
        self, job_id: str, held: StageRecord, outcome: StageOutcome, *, skips: str | None = None
    ) -> Said:
        """Record that a stage ended well.

        Args:
            job_id: the job.
            held: the stage, as the start of its run returned it.
            outcome: how it ended.
            skips: the stage after it that it does not ask for, if any: SKIPPED with its end.
        """

        def word(work: UnitOfWork, before: StageRecord) -> StageRecord:
            if skips is not None:
                _skip(work, job_id, skips, before.job_attempt)
            return _ended(work, job_id, before, outcome)

        return self._say(job_id, held, word)

    def complete(
        self, job_id: str, held: StageRecord, outcome: StageOutcome, completed: Completed
    ) -> Said:
        """End a job well, with a stage of it.

        Raises:
            LeaseOpenError: a run of another stage may still be at work.
            JOB_CANCELLED: the job is being cancelled.
            CONFLICT: what is written beside it was refused.
        """
        also = list(completed.completion.also)
        # Mostly it is this one; else the refused write says which.
        slot: int | None = preferred_slot(job_id, self._store.maximum_running_jobs)

        def word(work: UnitOfWork, before: StageRecord) -> StageRecord:
            refuse_closed(before)
            self._complete(work, job_id, before.job_attempt, slot, completed)
            work.also(also)
            return _ended(work, job_id, before, outcome)

        def blocked(refused: RefusedError) -> Exception | None:
            nonlocal slot
            job = refused.found(job_id, JOB)
            if job and job.get("slot") != slot:
                slot = job.get("slot")
                return None
            found = (
                refused.found(job_id, f"{STAGE}{stage}")
                for stage in (*completed.before, *completed.after)
            )
            leases = [
                Lease(record.stage, until)
                for record in map(to_stage, filter(None, found))
                if (until := lease_of(record)) is not None
            ]
            if leases and completed.asks_leases:
                return LeaseOpenError(max(leases, key=lambda lease: lease.until))
            if completed.completion.only_releases and also:
                also.clear()
                return None
            return failure(
                ErrorType.CONFLICT,
                "The project is no longer locked by this job, so the job was not completed.",
            )

        return self._say(job_id, held, word, blocked)

    def _complete(
        self, work: UnitOfWork, job_id: str, attempt: int, slot: int | None, completed: Completed
    ) -> None:
        """Add the end of the job, and the conditions that nothing of it is at work any more."""
        leases = ("lease_until", "superseded_until") if completed.asks_leases else ()
        over = dict.fromkeys(leases, NotAfter(work.at))
        for stage in completed.before if over else ():
            work.check(job_id, f"{STAGE}{stage}", over)
        for stage in completed.after:
            record = StageRecord(stage, job_attempt=attempt)
            work.close_stage(job_id, record, StageClosed.ENDED, **over)
        values = self._store.end_values(work.at, JobStatus.COMPLETED)
        # What was left has become part of what the job has made.
        values |= {"result": dict(completed.completion.result), "cleanup_job_id": None}
        work.change_job(job_id, attempt, values, job_sources(JobStatus.COMPLETED), slot=slot)
        if slot is not None:
            release_slot(work, slot, job_id)
        work.tell(job_id, JOB_SUBJECT, JobStatus.COMPLETED, attempt=attempt)

    def _say(
        self,
        job_id: str,
        held: StageRecord,
        word: _Word,
        blocked: Callable[[RefusedError], Exception | None] = lambda refused: refused.error,
    ) -> Said:
        """Write the word of a run, which ends its lease.

        Args:
            job_id: the job.
            held: the stage, as the run holds it.
            word: makes what it says.
            blocked: the error of a write that something else has refused than the stage; None where
                it is made anew.
        """

        def change(refused: RefusedError | None) -> Said:
            before = held
            if refused is not None:
                item = refused.found(job_id, f"{STAGE}{held.stage}")
                error = None if item else blocked(refused)
                if error is not None:
                    raise error
                before = to_stage(item) if item else held
            if not _is_last(before, held):
                return Said(before, is_written=False)
            work = self._store.work()
            after = word(work, before)
            if after.status not in STAGE_TRANSITIONS[before.status]:
                return Said(before, is_written=False)
            # Another run that the same start began may still be at work.
            is_own = before.lease_until == held.lease_until
            superseded = before.superseded_until if is_own else lease_of(before)
            after = replace(after, lease_until=None, superseded_until=superseded)
            work.change_stage(job_id, before, after)
            work.write()
            return Said(after, is_written=True)

        return optimistically(change, "a stage of it said how it ended")


def _ended(
    work: UnitOfWork, job_id: str, before: StageRecord, outcome: StageOutcome
) -> StageRecord:
    status = StageStatus.SKIPPED if outcome.skipped else StageStatus.SUCCEEDED
    work.tell(job_id, before.stage, status, note=outcome.check, job_attempt=before.job_attempt)
    return replace(
        before,
        **NO_WAIT,
        status=status,
        finished_at=work.at,
        output=dict(outcome.output),
        check=outcome.check,
        error=None,
        next_attempt_before=None,
        waits_until=None,
    )


def _skip(work: UnitOfWork, job_id: str, stage: str, job_attempt: int) -> None:
    """Add the end of a stage that does not run, and has not begun."""
    values = {
        "status": StageStatus.SKIPPED,
        "finished_at": work.at,
        "check": NOT_ASKED_FOR,
        "expires_at": work.expires_at,
    }
    must = {"job_attempt": job_attempt, "status": StageStatus.PENDING}
    work.change(job_id, f"{STAGE}{stage}", values, must)
    said = {"note": NOT_ASKED_FOR, "job_attempt": job_attempt}
    work.tell(job_id, stage, StageStatus.SKIPPED, **said)


def _is_last(stored: StageRecord, held: StageRecord) -> bool:
    """Whether a run is the last of its stage, and may still say its word."""
    return (
        (stored.job_attempt, stored.retry_count) == (held.job_attempt, held.retry_count)
        and not stored.status.is_terminal
        and stored.closed is not StageClosed.ENDED
    )


def _cancelled(error: StoredError) -> StoredError:
    """Return what a stage ends with that would be tried again, were its job not cancelled."""
    cause = f"{error.type}: {error.message} {error.cause}"
    return replace(error, type=ErrorType.JOB_CANCELLED, message=CANCELLED, cause=cause)
