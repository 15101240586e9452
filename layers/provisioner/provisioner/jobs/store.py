"""Jobs in DynamoDB: how each is read, begins, ends, is cancelled, retried and repaired.

A job's stages are stored with it. Whatever ends, cancels or retries a job writes its open stages in
the same transaction, and the start of a stage asks for nothing but its own item: so they see one
another, and stages that start at once touch no common item.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from provisioner.arguments import shown
from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb, dynamodb_lists
from provisioner.drivers.dynamodb_lists import LISTED_AT, LISTED_UNDER
from provisioner.jobs.models import (
    CANCEL_REQUESTED,
    CANCELLED_ERROR,
    ENDS,
    JOB_SUBJECT,
    JOB_WAITS,
    NO_WAIT,
    REPAIRED,
    RETRY_SOURCES,
    Job,
    JobStatus,
    StageClosed,
    StageRecord,
    StageStatus,
    StoredError,
    Wait,
    cancelled_while_waiting,
    job_sources,
    lease_of,
    place_in_transaction,
)
from provisioner.jobs.records import (
    HISTORY,
    JOB,
    PAYLOAD,
    STAGE,
    WAITING_FOR_SLOT,
    NewJob,
    UnitOfWork,
    canonical_json,
    payload_digest,
    stored,
    time_text,
    to_history,
    to_job,
    to_stage,
)
from provisioner.jobs.slots import SLOTS, SlotUse, preferred_slot, release_slot, slot_use

#: The statuses of the jobs that have not ended; each comes before those that follow it, so that a
#: job which changes while a list is read is rather met twice than not at all.
_UNFINISHED = tuple(status for status in JobStatus if not status.is_terminal)

#: What jobs of a status are listed under besides it.
_LISTED_APART = {JobStatus.QUEUED: (WAITING_FOR_SLOT,)}

#: How many of a project's jobs a page of one status looks at, at most.
_LOOKS_AT = 1000

#: What a job says no more that begins its next attempt.
_OF_ATTEMPT = (
    *("started_at", "finished_at", "cancel_requested_at", "expires_at", "result", "error"),
    *("other_errors", "held_until", "resent_at", "dispatch_error", "remaining"),
)


def utc_now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)


class JobNotFoundError(LookupError):
    """No job of that id is stored."""


class ListedJob(NamedTuple):
    """A job as an index lists it."""

    job_id: str
    #: Its place in every list; a later job has a larger one, and none changes.
    position: str


@dataclass
class JobReader:
    """Reads jobs."""

    client: DynamoDBClient
    #: The jobs table.
    table: str
    _: KW_ONLY
    #: Returns the time.
    now: Callable[[], datetime] = utc_now

    def get(self, job_id: str) -> Job:
        """Read a job with its payload, stages and history by one Query.

        A job that was retried late in its life outlives what it was before: such history is gone.

        Raises:
            JobNotFoundError: there is none of that id.
        """
        items = self._query("job_id", job_id, ConsistentRead=True)
        parts = {item["record"]: item for item in items}
        head = parts.get(JOB)
        if head is None:
            raise JobNotFoundError(f"job {shown(job_id)}: no such job is stored.")
        began = datetime.fromisoformat(head["created_at"])
        left = {r: item for r, item in parts.items() if not _has_expired(item, began)}
        stages = [to_stage(item) for record, item in left.items() if record.startswith(STAGE)]
        history = sorted(
            (to_history(item) for record, item in left.items() if record.startswith(HISTORY)),
            key=lambda entry: (entry.at, place_in_transaction(entry.subject, entry.status)),
        )
        payload = json.loads(parts.get(PAYLOAD, {}).get("payload", "{}"))
        return to_job(head, {stage.stage: stage for stage in stages}, history, payload)

    def get_head(self, job_id: str) -> Job | None:
        """Read a job without its payload, stages and history; None where there is none."""
        item = dynamodb.get(self.client, self.table, {"job_id": job_id, "record": JOB})
        return None if item is None else to_job(item)

    # Lists. What was written a moment ago may be missing, as an index follows its table.

    def list_newest(
        self,
        limit: int,
        *,
        project_id: str | None = None,
        status: JobStatus | None = None,
        after: str = "",
    ) -> tuple[list[Job], str]:
        """Read the newest jobs as `get_head` does; those that have not ended with their stages.

        Each is as it is now: one that has another status by now than was asked for is left out. Of
        the jobs of one project and one status it reads those among the next 1,000 of the project.

        Args:
            limit: how many at most, 1 to 100.
            project_id: only this project's.
            status: only those of this status.
            after: a position; only those behind it, from the newest when empty.

        Returns:
            the jobs, and the position behind which there are more; empty where there are none.
        """
        if project_id is None:
            statuses = JobStatus if status is None else [status]
            listed = self._listed(statuses, after, newest_first=True, at_once=limit + 1)
            keys, position = dynamodb_lists.take(listed, limit, looks_at=limit)
        else:
            of_status = {} if status is None else {"status": str(status)}
            looks_at = _LOOKS_AT if of_status else limit
            of_project = dynamodb_lists.read(
                self.client,
                self.table,
                "by_project",
                ("project_id", LISTED_AT),
                [project_id],
                after=after,
                newest_first=True,
                at_once=looks_at + 1,
            )
            keys, position = dynamodb_lists.take(of_project, limit, looks_at=looks_at, **of_status)
        jobs = self._read([key["job_id"] for key in keys])
        return [job for job in jobs if status in {None, job.status}], position

    def find_ids(self, beginning: str, *, among: int) -> list[str]:
        """Return the ids that begin so, of the newest jobs.

        Args:
            beginning: the beginning.
            among: how many of the newest jobs are looked at.
        """
        ids = (key["job_id"] for key in self._listed(JobStatus, newest_first=True))
        return [job_id for job_id in islice(ids, among) if job_id.startswith(beginning)]

    def list_unfinished(self, after: str = "") -> Iterator[ListedJob]:
        """Yield the jobs that have not ended, oldest first, read as they are asked for.

        The caller may change the jobs meanwhile.

        Args:
            after: a position; only those behind it, from the oldest when empty.
        """
        keys = self._listed(_UNFINISHED, after)
        return (ListedJob(key["job_id"], key[LISTED_AT]) for key in keys)

    def _listed(
        self, statuses: Iterable[JobStatus], after: str = "", **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the keys of the jobs of statuses, as `dynamodb_lists.read` does."""
        keys = (LISTED_UNDER, LISTED_AT)
        groups = [
            group for status in statuses for group in (status, *_LISTED_APART.get(status, ()))
        ]
        partitions = dynamodb_lists.partitions_of(*groups)
        return dynamodb_lists.read(
            self.client, self.table, "by_status", keys, partitions, after=after, **options
        )

    def estimate_waiting(self, most: int) -> int:
        """Return about how many jobs wait for a slot; at least `most`, about, where more do."""
        return dynamodb_lists.estimate(
            self.client, self.table, "by_status", LISTED_UNDER, WAITING_FOR_SLOT, most=most
        )

    def _read(self, job_ids: Sequence[str]) -> Iterator[Job]:
        """Read jobs as lists show them: what an open one waits for is stored with its stages."""
        found = dynamodb.get_all(self.client, self.table, "job_id", job_ids, also={"record": JOB})
        for job in (to_job(found[job_id]) for job_id in job_ids if job_id in found):
            if job.status.is_terminal:
                yield job
            else:
                yield replace(self.get(job.job_id), payload={}, history=())

    def _query(self, name: str, value: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Read the items of a key, of the table or of an index, page by page.

        Raises:
            NETWORK_ERROR: the answer holds another item.
        """
        if not dynamodb.is_key(value):
            # DynamoDB refuses such a key, even to read.
            return iter(())
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression="#key = :key",
            ExpressionAttributeNames={"#key": name},
            ExpressionAttributeValues=dynamodb.to_item({":key": value}),
            **options,
        )
        items = (item for page in pages for item in page["Items"])
        return (dynamodb.from_answer(item, {name: value}) for item in items)


@dataclass(frozen=True, slots=True)
class BadEnd:
    """How a job ends that has failed, or was cancelled."""

    #: The job's error first, then the others in stage order. A stage that has not ended fails with
    #: its own.
    errors: Sequence[StoredError]
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
    also: Sequence[dynamodb.Write] = ()


@dataclass
class JobStore(JobReader):
    """Reads and writes jobs; `StageStore` writes what their stages say."""

    _: KW_ONLY
    #: Days that a finished job is kept, at least.
    retention_days: int = 91
    #: The slots of jobs that run at once.
    maximum_running_jobs: int = 30

    def work(self) -> UnitOfWork:
        """Begin writes that belong together."""
        return UnitOfWork(self.client, self.table, self.now(), timedelta(days=self.retention_days))

    def slots(self) -> SlotUse:
        """Read who has the slots of the jobs that run at once, and who waits, by one Query.

        That is all of them: a page of a Query, a mebibyte, holds a thousand slots and the line
        beside them with names as long as they may be.
        """
        page = self.client.query(
            TableName=self.table,
            KeyConditionExpression="job_id = :slots",
            ExpressionAttributeValues=dynamodb.to_item({":slots": SLOTS}),
            ConsistentRead=True,
        )
        items = (dynamodb.from_answer(item, {"job_id": SLOTS}) for item in page["Items"])
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
        item = self._add(work, new, held_until=until)
        # It is refused where the message was delivered before, or is delivered in this moment.
        try:
            work.write()
        except dynamodb.ConditionFailedError as refused:
            found = refused.items.get(0)
            if not found:
                raise
            is_same = found["payload_digest"] == item["payload_digest"]
            return to_job(found, payload=new.payload if is_same else None)
        return to_job(item, payload=new.payload)

    def create_failed(self, new: NewJob, error: StoredError) -> None:
        """Store a job that failed before it could start; one that exists stays as it is."""
        work = self.work()
        self._add(work, new, error)
        work.write_if_it_holds()

    def _add(
        self,
        work: UnitOfWork,
        new: NewJob,
        error: StoredError | None = None,
        held_until: datetime | None = None,
    ) -> Mapping[str, Any]:
        """Add a job with its stages, QUEUED unless it has failed; return its item."""
        project_id = new.payload.get("project_id")
        queued = {"status": JobStatus.QUEUED, "slot": new.slot}
        given = {
            "job_id": new.job_id,
            "job_type": new.job_type,
            "attempt": 1,
            "payload_digest": payload_digest(new.payload),
            "project_id": project_id if isinstance(project_id, str) else "",
            "parent_id": new.parent_id,
            "stages": list(map(str, new.stages)),
            "created_at": work.at,
            LISTED_AT: dynamodb_lists.position_of(time_text(work.at), new.job_id),
            "updated_at": work.at,
            "held_until": held_until,
            "error": error,
            **(queued if error is None else _end_values(work, JobStatus.FAILED)),
        }
        item = {name: stored(value) for name, value in given.items() if stored(value) is not None}
        work.put(new.job_id, JOB, item, is_new=True)
        # Kept for as long as a job that ends in the time that it has.
        payload = {"payload": canonical_json(new.payload), "expires_at": work.job_expires_at}
        work.put(new.job_id, PAYLOAD, payload, is_new=False)
        work.add_history(new.job_id, JOB_SUBJECT, item["status"], error, attempt=1)
        for stage in new.stages:
            work.put_stage(new.job_id, StageRecord(str(stage)))
        return item

    def retry(self, job: Job) -> None:
        """Make a job that has failed, or was cancelled, QUEUED again, as its next attempt.

        Its clean-up stays its own, should the attempt end without another one.

        Args:
            job: the job with its stages, as it was read.

        Raises:
            ConditionFailedError: it is in another status, or its clean-up is under way.
        """
        work = self.work()
        attempt = job.attempt + 1
        values = {"status": JobStatus.QUEUED, "attempt": attempt}
        work.change_job(
            job.job_id,
            job.attempt,
            JobStatus.QUEUED,
            values | dict.fromkeys(_OF_ATTEMPT),
            {"status": RETRY_SOURCES},
        )
        if job.cleanup_job_id:
            # It may be stored no more.
            work.check(job.cleanup_job_id, JOB, {"status": (None, *ENDS)})
        is_there = {"job_id": job.job_id}
        work.change(job.job_id, PAYLOAD, {"expires_at": work.job_expires_at}, is_there)
        for record in job.stages:
            work.put_stage(
                job.job_id,
                StageRecord(record.stage, job_attempt=attempt, superseded_until=lease_of(record)),
            )
        work.write()

    # How it ends.

    def fail(self, job: Job, end: BadEnd, sources: Sequence[JobStatus] | None = None) -> None:
        """End a job badly: it, the stages that have not ended, and what follows.

        Args:
            job: the job with its stages, as it was read.
            end: how it ends.
            sources: the statuses that it may have until then; by default all that end so.

        Raises:
            ConditionFailedError: the job is terminal already, or is to be FAILED and is being
                cancelled, or a stage or what is written beside it has changed.
        """
        work = self.work()
        error, *others = end.errors
        cleanup_job_id = "" if end.cleanup is None else end.cleanup.job_id
        values = _end_values(work, end.status) | {
            "error": error,
            # A stage that its end has kept from starting has met nothing.
            "other_errors": [e for e in others if e.type != CANCELLED_ERROR.type or e.attempt],
            "remaining": end.remaining,
            "cleanup_job_id": cleanup_job_id or job.cleanup_job_id,
        }
        not_cancelled = {} if end.status is JobStatus.CANCELLED else {"cancel_requested_at": None}
        must = {"status": sources or job_sources(end.status), "slot": job.slot, **not_cancelled}
        remaining = tuple(end.remaining)
        work.change_job(
            job.job_id, job.attempt, end.status, values, must, error=error, remaining=remaining
        )
        for record in job.stages:
            if not record.status.is_terminal:
                _close(work, job.job_id, record, end)
        if end.repair:
            work.add_history(
                job.job_id, JOB_SUBJECT, REPAIRED, attempt=job.attempt, note=end.repair
            )
        if end.cleanup is not None:
            self._add(work, replace(end.cleanup, slot=job.slot))
        release_slot(work, job.slot, job.job_id, to=cleanup_job_id)
        work.also(end.also)
        work.write()

    def fail_queued(self, job: Job, error: StoredError) -> None:
        """Fail a job that no execution runs; one that has started stays as it is.

        So does a clean-up, which may hold the project from before it starts: the reconciler ends
        it, and releases that.
        """
        if job.parent_id:
            return
        with suppress(dynamodb.ConditionFailedError):
            self.fail(job, BadEnd([error]), (JobStatus.QUEUED,))

    def cancel_queued(self, job: Job) -> None:
        """Cancel a job that has not begun.

        Raises:
            ConditionFailedError: it has begun, or has ended.
        """
        waiting = (record for record in job.stages if record.status is StageStatus.WAITING)
        end = BadEnd([CANCELLED_ERROR, *map(cancelled_while_waiting, waiting)], JobStatus.CANCELLED)
        self.fail(job, end, (JobStatus.QUEUED,))

    def add_completion(
        self,
        work: UnitOfWork,
        job_id: str,
        attempt: int,
        result: Mapping[str, Any],
        job: Job | None,
    ) -> None:
        """Add that a job ends well, which was read if it has not the slot that is tried first."""
        preferred = preferred_slot(job_id, self.maximum_running_jobs)
        slot = preferred if job is None else job.slot
        # What was left has become part of what the job has made.
        values = {"result": dict(result), "cleanup_job_id": None}
        must = {"status": job_sources(JobStatus.COMPLETED), "slot": slot}
        values |= _end_values(work, JobStatus.COMPLETED)
        work.change_job(job_id, attempt, JobStatus.COMPLETED, values, must)
        release_slot(work, slot, job_id)

    def request_cancel(self, job: Job) -> None:
        """Ask a job that has begun to stop: from now on none of its stages starts.

        Args:
            job: the job with its stages, as it was read.

        Raises:
            ConditionFailedError: it has not begun, has ended, or was asked before; or a stage has
                ended.
        """
        work = self.work()
        values = {"cancel_requested_at": work.at}
        must = {"status": JobStatus.RUNNING, "cancel_requested_at": None}
        work.change_job(job.job_id, job.attempt, CANCEL_REQUESTED, values, must)
        for record in job.stages:
            if not record.status.is_terminal:
                work.close_stage(
                    job.job_id, record.stage, job.attempt, StageClosed.JOB_CANCELLED, {}
                )
        work.write()

    def wait_to_end(self, job: Job, waiting_for: str, waits_until: datetime) -> bool:
        """Record that the end of a job that has not ended waits, and for what.

        Returns:
            Whether that was written: it may be stored already, or the job have ended.
        """
        before = job.end_wait
        if before is not None and before.waiting_for == waiting_for:
            return False
        work = self.work()
        wait = Wait("", waiting_for, work.at if before is None else before.since, waits_until)
        work.change_job(
            job.job_id,
            job.attempt,
            JOB_WAITS,
            {"end_wait": wait},
            {"status": job_sources(JobStatus.FAILED), "end_wait": before},
            note=waiting_for,
            waits_until=waits_until,
        )
        return work.write_if_it_holds()

    # The dispatch of a message, whose job may not be stored.

    def note_dispatch_failure(self, job_id: str, error: StoredError) -> None:
        """Keep why a job's message could not be dispatched last; the job shows it while QUEUED."""
        work = self.work()
        work.change(job_id, JOB, {"dispatch_error": error}, {"status": JobStatus.QUEUED})
        work.write_if_it_holds()


def _end_values(work: UnitOfWork, status: JobStatus) -> dict[str, Any]:
    """Return what every end of a job changes of it."""
    return {
        "status": status,
        "finished_at": work.at,
        "expires_at": work.job_expires_at,
        **dict.fromkeys(("slot", "end_wait", "dispatch_error")),
    }


def _close(work: UnitOfWork, job_id: str, record: StageRecord, end: BadEnd) -> None:
    """Add the end of a stage with its job: FAILED where it has an error."""
    lease_until = None if end.ends_leases else record.lease_until
    after = replace(record, closed=StageClosed.ENDED, lease_until=lease_until)
    error = next((error for error in end.errors if error.stage == record.stage), None)
    # A stage that a cancelled job never started has not failed.
    is_kept_from_starting = (end.status, record.status) == (
        JobStatus.CANCELLED,
        StageStatus.PENDING,
    )
    if error is not None and not is_kept_from_starting:
        after = replace(
            after,
            status=StageStatus.FAILED,
            finished_at=work.at,
            next_attempt_before=None,
            **NO_WAIT,
            waits_until=None,
            error=error,
        )
    work.change_stage(job_id, record, after)


def _has_expired(part: Mapping[str, Any], at: datetime) -> bool:
    """Whether a part of a job counts as absent, though DynamoDB may not have removed it yet."""
    return "expires_at" in part and bool(part["expires_at"] <= int(at.timestamp()))
