"""Jobs in DynamoDB: how each begins, ends, is cancelled, retried and repaired.

A job's stages are stored with it. Whatever ends, cancels or retries a job writes its open stages in
the same transaction, and the start of a stage asks for nothing but its own item: so they see one
another, and stages that start at once touch no common item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import Write
from provisioner.jobs.job_reader import UNFINISHED, JobReader, utc_now
from provisioner.jobs.lease import lease_of
from provisioner.jobs.models import (
    CANCEL_REQUESTED,
    JOB_SUBJECT,
    JOB_WAITS,
    REPAIRED,
    Job,
    JobStatus,
    StageClosed,
    StageRecord,
    StageStatus,
    StoredError,
    cancelled_while_waiting,
)
from provisioner.jobs.records import (
    JOB,
    PAYLOAD,
    NewJob,
    canonical_json,
    payload_digest,
    stored,
    to_job,
)
from provisioner.jobs.slots import SLOTS, SlotUse, hand_over_slot, release_slot, slot_use
from provisioner.jobs.transitions import RETRY_SOURCES, job_sources
from provisioner.jobs.unit_of_work import RefusedError, UnitOfWork

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

#: Stage and history items live for the job's retention, counted from their own writing, and the job
#: this much longer: more than an execution can last. DynamoDB removes what has expired in no order;
#: what is left when the job is gone has then expired as well, and counts as absent, so that a new
#: job of the same id does not take for its own what expired before it began.
_JOB_MARGIN = timedelta(days=4)

#: What says that the end of a job waits.
_END_WAITS = ("waiting_for", "waiting_since", "waits_until")

#: What a job says no more that begins its next attempt.
_OF_ATTEMPT = (
    *("started_at", "finished_at", "cancel_requested_at", "expires_at", "result", "error"),
    *("other_errors", "held_until", "resent_at", "dispatch_error", "remaining"),
)


@dataclass(frozen=True, slots=True)
class BadEnd:
    """How a job ends that has failed, or was cancelled."""

    #: The job's error first, then the others in stage order.
    errors: Sequence[StoredError]
    #: The stages to fail, with their errors.
    close: Mapping[str, StoredError]
    #: FAILED or CANCELLED.
    status: JobStatus = JobStatus.FAILED
    #: The job that removes what this one has made; None where nothing is to be removed.
    cleanup: NewJob | None = None
    #: What may be left where this job was to remove it, one resource each.
    remaining: Sequence[str] = ()
    #: Whether no run of a stage can be at work any more.
    ends_leases: bool = False
    #: What had gone wrong and is put right by it, as the history has it; empty where nothing had.
    repair: str = ""
    #: Further writes of the same transaction.
    also: Sequence[Write] = ()


class JobStore(JobReader):
    """Reads and writes jobs; `StageStore` writes what their stages say."""

    def __init__(
        self,
        client: DynamoDBClient,
        table: str,
        *,
        retention_days: int = 91,
        maximum_running_jobs: int = 100,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Bind the store to a table.

        Args:
            client: DynamoDB.
            table: the jobs table.
            retention_days: days that a finished job is kept, at least.
            maximum_running_jobs: the slots of jobs that run at once.
            clock: where the time comes from.
        """
        super().__init__(client, table, clock=clock)
        self._retention = timedelta(days=retention_days)
        self.maximum_running_jobs = maximum_running_jobs

    def work(self) -> UnitOfWork:
        """Begin writes that belong together."""
        return UnitOfWork(self._client, self._table, self.now(), self._retention)

    def slots(self) -> SlotUse:
        """Read who has the slots of the jobs that run at once, and who waits, by one Query."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="job_id = :slots",
            ExpressionAttributeValues=dynamodb.to_item({":slots": SLOTS}),
            ConsistentRead=True,
        )
        items = (dynamodb.from_answer(i, {"job_id": SLOTS}) for p in pages for i in p["Items"])
        return slot_use(items, self.maximum_running_jobs, self.now())

    # How a job begins.

    def create(self, new: NewJob, *, delay_seconds: int = 0) -> Job:
        """Store a job as QUEUED, or return the one that has its id already, without its parts.

        Args:
            new: the job.
            delay_seconds: how long its message is held back.
        """
        work = self.work()
        until = work.at + timedelta(seconds=delay_seconds) if delay_seconds else None
        item = self._add_queued(work, new, until)
        # It is refused where the message was delivered before, or is delivered in this moment.
        try:
            work.write()
        except RefusedError as refused:
            found = refused.found(new.job_id, JOB)
            if not found:
                raise
            is_same = found["payload_digest"] == item["payload_digest"]
            return to_job(found, payload=new.payload if is_same else None)
        return to_job(item, payload=new.payload)

    def _add_queued(
        self, work: UnitOfWork, new: NewJob, held_until: datetime | None = None
    ) -> Mapping[str, Any]:
        """Add the writes of a job that is QUEUED, with its stages; return its item."""
        values = {UNFINISHED: "yes", "held_until": held_until}
        item = self._add_new(work, new, JobStatus.QUEUED, values)
        work.tell(new.job_id, JOB_SUBJECT, JobStatus.QUEUED, attempt=1)
        for stage in new.stages:
            work.put_stage(new.job_id, StageRecord(str(stage)))
        return item

    def _add_new(
        self, work: UnitOfWork, new: NewJob, status: JobStatus, values: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        given = {
            "job_id": new.job_id,
            "job_type": new.job_type,
            "status": status,
            "attempt": 1,
            "payload_digest": payload_digest(new.payload),
            "project_id": new.project_id,
            "parent_id": new.parent_id,
            "slot": new.slot,
            "stages": list(map(str, new.stages)),
            "created_at": work.at,
            "updated_at": work.at,
            **values,
        }
        item = {name: stored(value) for name, value in given.items() if stored(value) is not None}
        work.put(new.job_id, JOB, item, is_new=True)
        text = canonical_json(new.payload)
        # Kept for as long as a job that ends in the time that it has.
        payload = {"payload": text, "expires_at": self._job_expires(work.at)}
        work.put(new.job_id, PAYLOAD, payload, is_new=False)
        return item

    def create_failed(self, new: NewJob, error: StoredError) -> None:
        """Store a job that failed before it could start; one that exists stays as it is."""
        work = self.work()
        values = {
            "error": error,
            "finished_at": work.at,
            "expires_at": self._job_expires(work.at),
        }
        self._add_new(work, new, JobStatus.FAILED, values)
        work.tell_error(new.job_id, JOB_SUBJECT, JobStatus.FAILED, error, attempt=1)
        with suppress(RefusedError):
            work.write()

    def retry(self, job: Job) -> None:
        """Make a job that has failed, or was cancelled, QUEUED again, as its next attempt.

        Its clean-up stays its own, should the attempt end without another one.

        Args:
            job: the job with its stages, as it was read.

        Raises:
            RefusedError: it is in another status, or its clean-up is under way.
        """
        work = self.work()
        attempt = job.attempt + 1
        values = {"status": JobStatus.QUEUED, "attempt": attempt, UNFINISHED: "yes"}
        work.change_job(job.job_id, job.attempt, values | dict.fromkeys(_OF_ATTEMPT), RETRY_SOURCES)
        if job.cleanup_job_id:
            ended = (status for status in JobStatus if status.is_terminal)
            # It may be stored no more.
            work.check(job.cleanup_job_id, JOB, {"status": (None, *ended)})
        work.tell(job.job_id, JOB_SUBJECT, JobStatus.QUEUED, attempt=attempt)
        kept = {"expires_at": self._job_expires(work.at)}
        work.change(job.job_id, PAYLOAD, kept, {"job_id": job.job_id})
        for record in job.stages:
            anew = StageRecord(record.stage, job_attempt=attempt, superseded_until=lease_of(record))
            work.put_stage(job.job_id, anew)
        work.write()

    # How it ends.

    def fail(self, job: Job, end: BadEnd) -> None:
        """End a job badly: it, the stages that have not ended, and what follows.

        Args:
            job: the job with its stages, as it was read.
            end: how it ends.

        Raises:
            RefusedError: the job is terminal already, or is to be FAILED and is being cancelled, or
                a stage or what is written beside it has changed.
        """
        self._end(job, end, job_sources(end.status))

    def fail_queued(self, job: Job, error: StoredError) -> None:
        """Fail a job that no execution runs; one that has started stays as it is.

        So does a clean-up, which may hold the project from before it starts: the reconciler ends
        it, and releases that.
        """
        if job.parent_id:
            return
        with suppress(RefusedError):
            self._end(job, BadEnd([error], {}), (JobStatus.QUEUED,))

    def cancel_queued(self, job: Job, error: StoredError) -> None:
        """Cancel a job that has not begun.

        Raises:
            RefusedError: it has begun, or has ended.
        """
        close = {
            wait.stage: replace(
                error, stage=wait.stage, message=cancelled_while_waiting(wait.waiting_for)
            )
            for wait in job.waits
        }
        end = BadEnd([error], close, JobStatus.CANCELLED)
        self._end(job, end, (JobStatus.QUEUED,))

    def _end(self, job: Job, end: BadEnd, sources: Sequence[JobStatus]) -> None:
        work = self.work()
        error, *others = end.errors
        values = self.end_values(work.at, end.status) | {
            "error": error,
            "other_errors": others,
            "remaining": list(end.remaining),
        }
        if end.cleanup is not None:
            values["cleanup_job_id"] = end.cleanup.job_id
        not_cancelled = {} if end.status is JobStatus.CANCELLED else {"cancel_requested_at": None}
        must = {"slot": job.slot, **not_cancelled}
        work.change_job(job.job_id, job.attempt, values, sources, **must)
        said = {"attempt": job.attempt, "remaining": tuple(end.remaining)}
        work.tell_error(job.job_id, JOB_SUBJECT, end.status, error, **said)
        for record in job.stages:
            if not record.status.is_terminal:
                _close(work, job.job_id, record, end)
        if end.repair:
            work.tell(job.job_id, JOB_SUBJECT, REPAIRED, attempt=job.attempt, note=end.repair)
        if end.cleanup is not None:
            self._add_queued(work, replace(end.cleanup, slot=job.slot))
        if job.slot is not None and end.cleanup is None:
            release_slot(work, job.slot, job.job_id)
        elif job.slot is not None and end.cleanup is not None:
            hand_over_slot(work, job.slot, job.job_id, end.cleanup.job_id)
        work.also(end.also)
        work.write()

    def end_values(self, at: datetime, status: JobStatus) -> dict[str, Any]:
        """Return what every end of a job changes of it."""
        return {
            "status": status,
            "finished_at": at,
            "expires_at": self._job_expires(at),
            UNFINISHED: None,
            "slot": None,
            **dict.fromkeys(_END_WAITS),
        }

    def request_cancel(self, job: Job) -> None:
        """Ask a job that has begun to stop: from now on none of its stages starts.

        Args:
            job: the job with its stages, as it was read.

        Raises:
            RefusedError: it has not begun, has ended, or was asked before; or a stage has ended.
        """
        work = self.work()
        values = {"cancel_requested_at": work.at}
        work.change_job(
            job.job_id, job.attempt, values, (JobStatus.RUNNING,), cancel_requested_at=None
        )
        work.tell(job.job_id, JOB_SUBJECT, CANCEL_REQUESTED, attempt=job.attempt)
        for record in job.stages:
            if not record.status.is_terminal:
                work.close_stage(job.job_id, record, StageClosed.JOB_CANCELLED)
        work.write()

    def wait_to_end(self, job: Job, waiting_for: str, waits_until: datetime) -> bool:
        """Record that the end of a job that has not ended waits, and for what.

        Returns:
            Whether that was written: it may be stored already, or the job have ended.
        """
        before = next((wait for wait in job.waits if not wait.stage), None)
        if before is not None and before.waiting_for == waiting_for:
            return False
        work = self.work()
        values = {"waiting_for": waiting_for, "waits_until": waits_until}
        if before is None:
            values["waiting_since"] = work.at
        sources = tuple(status for status in JobStatus if not status.is_terminal)
        known = None if before is None else before.waiting_for
        work.change_job(job.job_id, job.attempt, values, sources, waiting_for=known)
        said = {"attempt": job.attempt, "note": waiting_for, "waits_until": waits_until}
        work.tell(job.job_id, JOB_SUBJECT, JOB_WAITS, **said)
        try:
            work.write()
        except RefusedError:
            return False
        return True

    # The dispatch of a message, whose job may not be stored.

    def note_dispatch_failure(self, job_id: str, error: StoredError) -> None:
        """Keep why a job's message could not be dispatched last; the job shows it while QUEUED."""
        work = self.work()
        work.change(job_id, JOB, {"dispatch_error": error}, {"status": JobStatus.QUEUED})
        with suppress(RefusedError):
            work.write()

    def _job_expires(self, at: datetime) -> int:
        return int((at + self._retention + _JOB_MARGIN).timestamp())


def _close(work: UnitOfWork, job_id: str, record: StageRecord, end: BadEnd) -> None:
    """Add the end of a stage with its job: FAILED where it has an error."""
    lease_until = None if end.ends_leases else record.lease_until
    after = replace(record, closed=StageClosed.ENDED, lease_until=lease_until)
    error = end.close.get(record.stage)
    if error is not None:
        after = replace(
            after,
            status=StageStatus.FAILED,
            finished_at=work.at,
            next_attempt_before=None,
            waiting_for="",
            waiting_since=None,
            waits_until=None,
            error=error,
        )
        said = {"attempt": error.attempt, "job_attempt": record.job_attempt}
        work.tell_error(job_id, record.stage, StageStatus.FAILED, error, **said)
    work.change_stage(job_id, record, after)
