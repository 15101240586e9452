"""How a run of a stage starts, and with its first stage the job, which takes a slot then.

A first start is one transaction, and nothing is read: where something is not as it is expected to
be, the refused write brings that along.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.errors import ErrorType, ProvisioningError, failure, final_failure
from provisioner.jobs.lease import lease_of
from provisioner.jobs.models import (
    CANCELLED,
    JOB_SUBJECT,
    Job,
    JobStatus,
    StageClosed,
    StageRecord,
    StageRun,
    StageStatus,
    waited_in_vain,
)
from provisioner.jobs.records import JOB, STAGE, to_job, to_stage
from provisioner.jobs.retries import SLOT_WAIT_SECONDS, STAGE_RETRY
from provisioner.jobs.slots import SLOTS, SlotUse, preferred_slot, stand_in_line, take_slot
from provisioner.jobs.transitions import job_sources
from provisioner.jobs.unit_of_work import RefusedError, UnitOfWork, optimistically

if TYPE_CHECKING:
    from provisioner.jobs.store import JobStore

#: What a stage says no more that does not wait any more. Until when it may wait in all is kept.
NO_WAIT: dict[str, Any] = {"waiting_for": "", "waiting_since": None}


@dataclass
class StageStart:
    """The start of a run. A poll, and the same start once more, count no attempt."""

    store: JobStore
    run: StageRun
    #: For how long it may be at work.
    lease: timedelta
    #: Whether the stage is among the first of its job, which needs a slot.
    begins_job: bool
    #: Whose share of the slots the job takes.
    share: str = ""
    #: Whether the runs of a stage follow one another, in one process.
    is_alone: bool = False
    #: The stage as it was met last.
    _met: StageRecord | None = field(default=None, init=False)
    #: Who has the slots, once that was read, and whether another job was quicker after that.
    _use: SlotUse | None = field(default=None, init=False)
    _is_late: bool = field(default=False, init=False)

    def write(self) -> StageRecord | None:
        """Record that the run starts, and the job with it if it is the first.

        Returns:
            the stage: as the run holds it, as it has ended, or, with attempt 0, WAITING for a slot;
            None where a later run has begun.

        Raises:
            INVALID_PAYLOAD: this attempt of the job has ended, or the job is not stored.
            JOB_CANCELLED: the job is being cancelled.
            TIMEOUT: the job has waited for a slot for too long.
        """
        return optimistically(self._try, "a stage of it was started")

    def _try(self, refused: RefusedError | None) -> StageRecord | None:
        run = self.run
        before = self._met = self._before(refused)
        if before.status.is_terminal:
            return before
        if not _takes(before, run):
            return None
        is_first = self.begins_job and before.attempt == 0
        job = self._job(before, refused) if is_first else None
        slot = None if job is None else job.slot
        begins_job = is_first and (job is None or job.status is JobStatus.QUEUED)
        takes_slot = begins_job and slot is None
        if takes_slot:
            slot = self._find_slot(refused)
            if slot is None:
                return self._wait(before)
        # Made after the look, so that by its time, too, the job begins after the one before it.
        work = self.store.work()
        if begins_job and slot is not None:
            self._begin_job(work, slot, takes_slot=takes_slot)
        after = self._started(before, work.at)
        work.change_stage(run.job_id, before, after)
        if after.attempt > before.attempt:
            said = {"attempt": after.attempt, "job_attempt": run.job_attempt}
            work.tell(run.job_id, run.stage, StageStatus.RUNNING, **said)
        work.write()
        return replace(after, is_start_stored=after.attempt > before.attempt)

    def _before(self, refused: RefusedError | None) -> StageRecord:
        """Return the stage as it is known to be, unless none ever starts of it any more."""
        run = self.run
        before = self._met or StageRecord(run.stage, job_attempt=run.job_attempt)
        if refused is not None:
            item = refused.found(run.job_id, f"{STAGE}{run.stage}")
            if item is None:
                return before
            stored = to_stage(item) if item else None
        elif run.retry_count:
            stored = self.store.stage(run.job_id, run.stage)
        else:
            return before
        if stored is None:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                "job_id: no such job is stored; send the job through the queue.",
            )
        if stored.job_attempt != run.job_attempt:
            raise _job_has_ended()
        if not stored.status.is_terminal:
            refuse_closed(stored)
        return stored

    def _job(self, before: StageRecord, refused: RefusedError | None) -> Job | None:
        """Return the job where it is not known to be QUEUED and without a slot."""
        if refused is not None:
            found = refused.found(self.run.job_id, JOB)
            return to_job(found) if found else None
        # Beside a stage that waits another one may have begun the job.
        waits = before.status is StageStatus.WAITING
        return self.store.get_head(self.run.job_id) if waits else None

    def _find_slot(self, refused: RefusedError | None) -> int | None:
        """Return a slot that the job may take; None where it has to wait for one."""
        is_taken = refused is not None and refused.is_of(SLOTS)
        self._is_late |= is_taken and self._use is not None
        if self._is_late:
            # It is polled again in seconds.
            return None
        if self._use is None and (is_taken or self.run.retry_count):
            self._use = self.store.slots()
        if self._use is None:
            return preferred_slot(self.run.job_id, self.store.maximum_running_jobs)
        return self._use.free_for(self.run.job_id, self.share)

    def _begin_job(self, work: UnitOfWork, slot: int, *, takes_slot: bool) -> None:
        """Add that the job begins; unless it has its slot from its parent, it takes it."""
        run = self.run
        if takes_slot:
            take_slot(work, slot, run.job_id, self.share, self._use)
        values = {"status": JobStatus.RUNNING, "started_at": work.at, "slot": slot}
        sources = job_sources(JobStatus.RUNNING)
        had = None if takes_slot else slot
        # As it is written before its first stage, the stream mostly delivers it so.
        work.change_job(run.job_id, run.job_attempt, values, sources, slot=had)
        work.tell(run.job_id, JOB_SUBJECT, JobStatus.RUNNING, attempt=run.job_attempt)

    def _wait(self, before: StageRecord) -> StageRecord:
        """Record that the stage waits for a slot, and stand in the line of its share.

        Raises:
            TIMEOUT: it has waited for too long.
        """
        run = self.run
        work = self.store.work()
        after = before
        if before.status is StageStatus.PENDING:
            maximum = self.store.maximum_running_jobs
            after = replace(
                before,
                status=StageStatus.WAITING,
                waiting_for=f"{maximum} jobs run at once at most, and it is not its turn yet.",
                waiting_since=work.at,
                waits_until=work.at + timedelta(seconds=SLOT_WAIT_SECONDS),
            )
            must = {"attempt": run.job_attempt, "status": JobStatus.QUEUED, "slot": None}
            work.check(run.job_id, JOB, must)
            work.change_stage(run.job_id, before, after)
            said = {"job_attempt": run.job_attempt, "waits_until": after.waits_until}
            work.tell(run.job_id, run.stage, after.status, note=after.waiting_for, **said)
        elif before.waits_until is not None and work.at >= before.waits_until:
            raise final_failure(
                ErrorType.TIMEOUT, waited_in_vain(before.waiting_for, SLOT_WAIT_SECONDS)
            )
        use = self._use or self.store.slots()
        place = use.place_for(run.job_id, self.share)
        if place is not None:
            stand_in_line(work, place, run.job_id, self.share)
        if place is not None or after is not before:
            work.write()
        return after

    def _started(self, before: StageRecord, at: datetime) -> StageRecord:
        """Return a stage of which a run begins: an attempt, a poll, or the last run once more."""
        run = self.run
        begun = replace(
            before,
            retry_count=run.retry_count,
            lease_until=at + self.lease,
            # Only time ends the lease of a run that never said its word.
            superseded_until=before.superseded_until if self.is_alone else lease_of(before),
        )
        is_again = before.retry_count == run.retry_count
        if before.attempt > 0 and (is_again or before.status is StageStatus.WAITING):
            return begun
        if before.attempt == 0:
            # Its wait for a slot is over, if it had one; its own has not begun.
            begun = replace(begun, **NO_WAIT, waits_until=None, retries_before=run.retry_count)
        return replace(
            begun,
            status=StageStatus.RUNNING,
            started_at=at,
            attempt=before.attempt + 1,
            max_attempts=max(STAGE_RETRY.attempts_in_all, before.attempt + 1),
            next_attempt_before=None,
        )


def _takes(before: StageRecord, run: StageRun) -> bool:
    """Whether a run may follow what is known of its stage: no later one has begun, or failed."""
    if before.status is StageStatus.RETRYING:
        return run.retry_count > before.retry_count
    return before.attempt == 0 or run.retry_count >= before.retry_count


def refuse_closed(record: StageRecord) -> None:
    """Let nothing start of a stage of a job that has ended, or is being cancelled.

    Raises:
        INVALID_PAYLOAD: the attempt of the job has ended.
        JOB_CANCELLED: it is being cancelled.
    """
    if record.closed is StageClosed.JOB_CANCELLED:
        raise failure(ErrorType.JOB_CANCELLED, CANCELLED)
    if record.closed is StageClosed.ENDED:
        raise _job_has_ended()


def _job_has_ended() -> ProvisioningError:
    return failure(ErrorType.INVALID_PAYLOAD, "job_id: this job has ended; send a new job.")
