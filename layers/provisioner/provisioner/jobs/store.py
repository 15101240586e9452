"""Jobs in DynamoDB: one item a job, one a stage, one a history entry, all under the job's id.

Every write of a status is conditional on `transitions` and stands in one transaction with its
history entry: a duplicate or late write fails its condition and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.arguments import shown
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType
from provisioner.jobs.models import (
    CANCEL_REQUESTED,
    JOB_SUBJECT,
    JOB_WAITS,
    HistoryEntry,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
    Wait,
    place_in_transaction,
)
from provisioner.jobs.retries import STAGE_RETRY
from provisioner.jobs.transitions import RETRY_SOURCES, job_sources, stage_sources

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

_JOB = JOB_SUBJECT
_STAGE = "STAGE#"
_HISTORY = "HISTORY#"
_DISPATCH = "DISPATCH"

#: The attribute, and the sparse index, of jobs that someone has something left to do for.
_UNFINISHED = "unfinished"

#: What says that a stage, or the end of a job, waits. A stage keeps for its round until when.
_WAIT = ("waiting_for", "waiting_since", "waits_to_start", "polled")
_WHOLE_WAIT = (*_WAIT, "waits_until")

#: How often a start is written that meets another one.
_START_ATTEMPTS = 3

#: Stage and history items live for the job's retention, counted from their own writing, and the job
#: this much longer: more than an execution can last. DynamoDB removes what has
#: expired in no order; what is left when the job is gone has then expired as well, and counts as
#: absent, so that a new job of the same id does not take for its own what expired before it began.
_JOB_MARGIN = timedelta(days=2)

#: The check of a stage that the one before it does not ask for.
NOT_ASKED_FOR = "the job does not ask for it"

#: What a stage that begins anew says no more of the round before.
_OF_ATTEMPTS = ("finished_at", "output", "check", "error", "failures")

#: The condition that a stage has not begun in this round of this job.
_NOT_BEGUN = "attribute_not_exists(job_id) OR #expires_at <= :expires_at OR #round < :round"


def canonical_json(value: Any) -> str:
    """Serialize so that equal values give equal bytes: sorted keys, no spaces, UTF-8 text.

    The two characters of JSON that SQS takes in no message are escaped here, in JSON's way, and not
    only on the way to the queue: a job's message is no longer than the input of its execution.
    Source: Amazon SQS API Reference, SendMessage.

    Raises:
        ValueError: JSON cannot hold a value: NaN or an infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def payload_digest(payload: Mapping[str, Any]) -> str:
    """Return what tells two payloads apart: SHA-256 of the canonical JSON, in hexadecimal.

    JSON has one kind of number: 1 and 1.0 are the same, and true is none. Source: RFC 8785, section
    3.2.2.3.
    """
    return hashlib.sha256(canonical_json(_in_one_form(payload)).encode()).hexdigest()


def _in_one_form(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {name: _in_one_form(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_in_one_form(inner) for inner in value]
        case _:
            return value


def utc_now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)


class JobNotFoundError(LookupError):
    """No job of that id is stored."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is when it is first stored."""

    job_id: str
    job_type: str
    payload: Mapping[str, Any]
    stages: Sequence[str]
    #: The job that has failed, where this one is its clean-up.
    parent_id: str = ""

    @property
    def project_id(self) -> str:
        """The project that the payload names, or nothing."""
        project_id = self.payload.get("project_id")
        return project_id if isinstance(project_id, str) else ""


@dataclass(frozen=True, slots=True)
class BadEnd:
    """How a job ends that has failed, or was cancelled."""

    #: The job's error first, then the others in stage order.
    errors: Sequence[StoredError]
    #: The stages to close, with their errors.
    close: Mapping[str, StoredError]
    #: FAILED or CANCELLED.
    status: JobStatus = JobStatus.FAILED
    #: The job that removes what this one has made; None where nothing is to be removed.
    cleanup: NewJob | None = None
    #: What may be left where this job was to remove it, one resource each.
    remaining: Sequence[str] = ()
    #: Stages as they were read, of which none may have started since.
    unstarted: Sequence[StageRecord] = ()
    #: Further writes of the same transaction.
    also: Sequence[TransactWriteItemTypeDef] = ()


class JobStore:
    """Reads and writes jobs."""

    def __init__(
        self,
        client: DynamoDBClient,
        table: str,
        *,
        retention_days: int = 91,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Bind the store to a table.

        Args:
            client: DynamoDB.
            table: the jobs table.
            retention_days: days that a finished job is kept, at least.
            clock: where the time comes from.
        """
        self._client = client
        self._table = table
        self._retention = timedelta(days=retention_days)
        self._clock = clock

    def now(self) -> datetime:
        """Return the time of the store's clock."""
        return self._clock()

    # Reading.

    def get(self, job_id: str) -> Job:
        """Read a job with its stages and history by one Query.

        A job that was retried late in its life outlives what it was before:
        such a stage is PENDING, and such history is gone.

        Raises:
            JobNotFoundError: there is none of that id.
        """
        if not dynamodb.is_key(job_id):
            raise JobNotFoundError(f"job {shown(job_id)}: no such job is stored.")
        items: list[dict[str, Any]] = []
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="job_id = :job_id",
            ExpressionAttributeValues=dynamodb.to_item({":job_id": job_id}),
            ConsistentRead=True,
        )
        for page in pages:
            items += [dynamodb.from_answer(item, {"job_id": job_id}) for item in page["Items"]]
        head = next((item for item in items if item["record"] == _JOB), None)
        if head is None:
            raise JobNotFoundError(f"job {shown(job_id)}: no such job is stored.")
        began = datetime.fromisoformat(head["created_at"])
        parts = [item for item in items if item is not head and not _has_expired(item, began)]
        stages = {
            item["stage"]: _to_stage(item) for item in parts if item["record"].startswith(_STAGE)
        }
        history = [history_entry(item) for item in parts if item["record"].startswith(_HISTORY)]
        history.sort(
            key=lambda entry: (entry.at, place_in_transaction(entry.subject, entry.status))
        )
        return _to_job(head, stages, history)

    def get_head(self, job_id: str) -> Job | None:
        """Read a job without its stages and history; None where there is none."""
        item = dynamodb.get(self._client, self._table, {"job_id": job_id, "record": _JOB})
        return None if item is None else _to_job(item, {}, [])

    def list_by_project(self, project_id: str) -> list[Job]:
        """Read a project's jobs without their stages, newest first; each with what it waits for."""
        if not dynamodb.is_key(project_id):
            return []
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName="by_project",
            KeyConditionExpression="project_id = :project_id",
            ExpressionAttributeValues=dynamodb.to_item({":project_id": project_id}),
            ScanIndexForward=False,
        )
        jobs = [
            _to_job(dynamodb.from_answer(item, {"project_id": project_id}), {}, [])
            for page in pages
            for item in page["Items"]
        ]
        # Few are open: one alone may hold the project.
        return [
            job if job.status.is_terminal else replace(job, waits=self.get(job.job_id).waits)
            for job in jobs
        ]

    def list_all(self) -> list[Job]:
        """Read every job without its stages, newest first; each with what it waits for.

        It is a Scan, for people at a small table.
        """
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="#record = :job"
            " OR (begins_with(#record, :stage) AND #status = :waiting)",
            ExpressionAttributeNames={"#record": "record", "#status": "status"},
            ExpressionAttributeValues=dynamodb.to_item(
                {":job": _JOB, ":stage": _STAGE, ":waiting": StageStatus.WAITING}
            ),
        )
        heads: list[dict[str, Any]] = []
        waiting: dict[str, dict[str, StageRecord]] = {}
        for item in (dynamodb.from_item(item) for page in pages for item in page["Items"]):
            if item["record"].startswith(_STAGE):
                waiting.setdefault(item["job_id"], {})[item["stage"]] = _to_stage(item)
            else:
                heads.append(item)
        jobs = [
            replace(_to_job(head, {}, []), waits=_waits(head, waiting.get(head["job_id"], {})))
            for head in heads
        ]
        return sorted(jobs, key=lambda job: job.created_at, reverse=True)

    def list_unfinished(self) -> list[str]:
        """Read the ids of the jobs that have not ended, oldest first.

        What was written a moment ago may be missing.
        """
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName=_UNFINISHED,
            KeyConditionExpression="#unfinished = :yes",
            ExpressionAttributeNames={"#unfinished": _UNFINISHED},
            ExpressionAttributeValues=dynamodb.to_item({":yes": "yes"}),
        )
        items = [item for page in pages for item in page["Items"]]
        return [str(dynamodb.from_answer(item, {_UNFINISHED: "yes"})["job_id"]) for item in items]

    def stage(self, job_id: str, stage: str) -> StageRecord | None:
        """Read one stage; None where it has not started."""
        key = {"job_id": job_id, "record": f"{_STAGE}{stage}"}
        item = dynamodb.get(self._client, self._table, key)
        return None if item is None or _has_expired(item, self.now()) else _to_stage(item)

    # Writing jobs.

    def create(self, new: NewJob, *, delay_seconds: int = 0) -> Job:
        """Store a job as QUEUED, or return the one that has its id already.

        Args:
            new: the job.
            delay_seconds: how long its message is held back.
        """
        existing = self.get_head(new.job_id)
        if existing is not None:
            return existing
        held_until = self.now() + timedelta(seconds=delay_seconds) if delay_seconds else None
        # The condition fails when another delivery of the message stores the job in this moment.
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(
                self._client,
                self._create_items(new, held_until=held_until),
            )
        return self._existing(new.job_id)

    def create_failed(self, new: NewJob, error: StoredError) -> None:
        """Store a job that failed before it could start; one that exists stays as it is."""
        now = self.now()
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(
                self._client,
                [
                    self._put_job(
                        new,
                        JobStatus.FAILED,
                        {
                            "error": asdict(error),
                            "finished_at": _text(now),
                            "expires_at": self._job_expires(now),
                        },
                    ),
                    self._history(new.job_id, _JOB, JobStatus.FAILED, attempt=1, error=error),
                ],
            )

    def fail_queued(self, job_id: str, error: StoredError, *, attempt: int = 1) -> None:
        """Fail a job that no execution runs; one that has started stays as it is.

        So does a clean-up, which may hold the project from before it starts: the reconciler ends
        it, and releases that.
        """
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(
                self._client,
                self._finish_items(
                    job_id,
                    JobStatus.FAILED,
                    (JobStatus.QUEUED,),
                    error=error,
                    attempt=attempt,
                    condition="attribute_not_exists(parent_id)",
                ),
            )

    def cancel_queued(self, job: Job, error: StoredError) -> None:
        """Cancel a job that has not begun.

        Raises:
            ConditionFailedError: it has begun, or has ended.
        """
        dynamodb.transact(
            self._client,
            self._finish_items(
                job.job_id,
                JobStatus.CANCELLED,
                (JobStatus.QUEUED,),
                error=error,
                attempt=job.attempt,
            ),
        )

    def request_cancel(self, job: Job) -> None:
        """Ask a job that has begun to stop: from now on none of its stages starts.

        Raises:
            ConditionFailedError: it has not begun, has ended, or was asked before.
        """
        now = self.now()
        dynamodb.transact(
            self._client,
            [
                self._update_job(
                    job.job_id,
                    {"cancel_requested_at": _text(now), "updated_at": _text(now)},
                    (JobStatus.RUNNING,),
                    attempt=job.attempt,
                    condition="attribute_not_exists(cancel_requested_at)",
                ),
                self._history(job.job_id, _JOB, CANCEL_REQUESTED, attempt=job.attempt),
            ],
        )

    def retry(self, job: Job) -> None:
        """Make a job that has failed, or was cancelled, QUEUED again, as its next attempt.

        Its clean-up stays its own, should the attempt end without another one.

        Raises:
            ConditionFailedError: it is in another status, or its clean-up is under way.
        """
        now = self.now()
        cleanup = [self._ended_item(job.cleanup_job_id)] if job.cleanup_job_id else []
        dynamodb.transact(
            self._client,
            [
                self._update_job(
                    job.job_id,
                    {
                        "status": JobStatus.QUEUED,
                        "attempt": job.attempt + 1,
                        "updated_at": _text(now),
                        _UNFINISHED: "yes",
                    },
                    RETRY_SOURCES,
                    attempt=job.attempt,
                    remove=(
                        *("started_at", "finished_at", "cancel_requested_at", "expires_at"),
                        *("result", "error", "other_errors", "held_until", "resent_at"),
                        *("dispatch_error", "remaining"),
                    ),
                ),
                *cleanup,
                self._history(job.job_id, _JOB, JobStatus.QUEUED, attempt=job.attempt + 1),
            ],
        )

    def complete(
        self,
        job_id: str,
        stage: str,
        *,
        attempt: int = 1,
        output: Mapping[str, Any],
        check: str,
        result: Mapping[str, Any],
        polls_seen: bool = False,
        also: Sequence[TransactWriteItemTypeDef] = (),
    ) -> None:
        """End the job well: its last stage, the job and `also`, in one transaction.

        Raises:
            ConditionFailedError: the job is terminal already, or is being cancelled, or a
                condition of `also` failed.
        """
        now = self.now()
        dynamodb.transact(
            self._client,
            [
                *self._end_stage_items(
                    job_id,
                    stage,
                    StageStatus.SUCCEEDED,
                    output=dict(output),
                    check=check,
                    round_=attempt,
                    polls_seen=polls_seen,
                    at=now,
                ),
                *self._finish_items(
                    job_id,
                    JobStatus.COMPLETED,
                    job_sources(JobStatus.COMPLETED),
                    result=dict(result),
                    attempt=attempt,
                    condition="attribute_not_exists(cancel_requested_at)",
                    at=now,
                ),
                *also,
            ],
        )

    def fail(self, job: Job, end: BadEnd) -> None:
        """End a job badly: it, the stages that never said how they ended, and what follows.

        Raises:
            ConditionFailedError: the job is terminal already, or is to be FAILED and is being
                cancelled, or a stage or what is written beside it has changed.
        """
        not_cancelled = "attribute_not_exists(cancel_requested_at)"
        now = self.now()
        dynamodb.transact(
            self._client,
            [
                *self._close_items(job.job_id, end.close, end.unstarted, job.attempt, at=now),
                *self._finish_items(
                    job.job_id,
                    end.status,
                    job_sources(end.status),
                    error=end.errors[0],
                    other_errors=end.errors[1:],
                    attempt=job.attempt,
                    cleanup=end.cleanup,
                    remaining=end.remaining,
                    condition=not_cancelled if end.status is JobStatus.FAILED else "",
                    at=now,
                ),
                *(self._create_items(end.cleanup) if end.cleanup is not None else ()),
                *end.also,
            ],
        )

    def job_waits(self, job: Job, waiting_for: str, waits_until: datetime) -> bool:
        """Record that the end of a job that has not ended waits, and for what.

        Returns:
            Whether that was written: it may be stored already, or the job have ended.
        """
        now = self.now()
        begins = not any(wait.stage == "" for wait in job.waits)
        items = [
            self._update_job(
                job.job_id,
                {
                    "waiting_for": waiting_for,
                    "waiting_since": _text(now) if begins else None,
                    "waits_until": _text(waits_until),
                    "updated_at": _text(now),
                },
                [status for status in JobStatus if not status.is_terminal],
                attempt=job.attempt,
                condition="(attribute_not_exists(waiting_for) OR waiting_for <> :waiting_for)",
                values={"waiting_for": waiting_for},
            ),
            self._history(
                job.job_id,
                _JOB,
                JOB_WAITS,
                attempt=job.attempt,
                note=waiting_for,
                waits_until=waits_until,
                at=now,
            ),
        ]
        return self._is_written(items)

    # Writing repairs.

    def repair(self, job: Job, note: str, *, also: Sequence[TransactWriteItemTypeDef] = ()) -> None:
        """Write a repair into the history of a job that is still as it was read.

        Raises:
            ConditionFailedError: it has changed, or a condition of `also` failed.
        """
        dynamodb.transact(
            self._client,
            [
                dynamodb.check(
                    self._table,
                    {"job_id": job.job_id, "record": _JOB},
                    condition="#attempt = :attempt AND #status = :status"
                    " AND updated_at = :updated_at",
                    condition_values={
                        "attempt": job.attempt,
                        "status": job.status,
                        "updated_at": _text(job.updated_at),
                    },
                    names={"attempt": "attempt", "status": "status"},
                ),
                self.repair_item(job, note),
                *also,
            ],
        )

    def repair_item(self, job: Job, note: str) -> TransactWriteItemTypeDef:
        """Build the write of a repair into the history, beside what repairs."""
        return self._history(job.job_id, _JOB, "REPAIRED", attempt=job.attempt, note=note)

    def record_resend(self, job: Job, note: str) -> None:
        """Record that the message of a job that has not begun was sent again.

        Raises:
            ConditionFailedError: it has begun, has ended, or was sent again before.
        """
        now = self.now()
        dynamodb.transact(
            self._client,
            [
                self._update_job(
                    job.job_id,
                    {"resent_at": _text(now), "updated_at": _text(now)},
                    (JobStatus.QUEUED,),
                    attempt=job.attempt,
                    condition="attribute_not_exists(resent_at)",
                ),
                self.repair_item(job, note),
            ],
        )

    # Writing stages.

    def start_stage(
        self, job: Job, stage: str, retry_count: int, *, round_: int = 1
    ) -> StageRecord:
        """Record that an attempt starts, and the job with it if it is the first; return the stage.

        A second start of the same attempt, a late one of an earlier attempt, a poll of a stage that
        waits, and a start of a stage that has ended, leave the stage as it is: what is returned
        says whose it is.

        Args:
            job: the job, as `get_head` returned it.
            stage: the stage.
            retry_count: how often the state machine has repeated the stage, from 0.
            round_: the job's attempt; a new one begins the stage anew.
        """
        begun = (job.attempt, job.status.is_terminal)
        is_stored = False
        for _ in range(_START_ATTEMPTS):
            before = self.stage(job.job_id, stage) or StageRecord(stage=stage)
            is_late = before.retry_count >= retry_count or before.status.is_terminal
            # A poll counts no attempt.
            is_polled = before.status is StageStatus.WAITING and not before.waits_to_start
            if before.round > round_ or (before.round == round_ and (is_late or is_polled)):
                return before
            if before.round < round_:
                before = StageRecord(stage=stage, round=before.round)
            try:
                dynamodb.transact(
                    self._client, self._start_items(job, before, retry_count, round_=round_)
                )
            except dynamodb.ConditionFailedError:
                # Another start of the stage, or the first of the job, has come between.
                job = self.get_head(job.job_id) or job
                if (job.attempt, job.status.is_terminal) != begun:
                    break
            else:
                is_stored = True
                break
        started = self.stage(job.job_id, stage) or StageRecord(stage=stage)
        return replace(started, is_start_stored=is_stored)

    def _start_items(
        self, job: Job, before: StageRecord, retry_count: int, *, round_: int
    ) -> list[TransactWriteItemTypeDef]:
        """Build the writes of an attempt's start, where the stage still is as it was read."""
        now = self.now()
        stage = before.stage
        items = [
            dynamodb.update(
                self._table,
                {"job_id": job.job_id, "record": f"{_STAGE}{stage}"},
                set_values={
                    "stage": stage,
                    "round": round_,
                    "status": StageStatus.RUNNING,
                    "started_at": _text(now),
                    "attempt": before.attempt + 1,
                    "max_attempts": max(STAGE_RETRY.attempts_in_all, before.attempt + 1),
                    "retry_count": retry_count,
                    "expires_at": self._part_expires(now),
                },
                remove=(
                    "next_attempt_before",
                    *(_WHOLE_WAIT if before.waits_to_start or not before.attempt else _WAIT),
                    *(() if before.attempt else _OF_ATTEMPTS),
                ),
                condition=(
                    f"{_NOT_BEGUN} OR "
                    f"(#round = :round AND {_any_of('status', stage_sources(StageStatus.RUNNING))}"
                    " AND #retry_count < :retry_count AND #attempt = :attempt)"
                ),
                condition_values={
                    **_statuses(stage_sources(StageStatus.RUNNING)),
                    "retry_count": retry_count,
                    "attempt": before.attempt,
                    "round": round_,
                    "expires_at": _seconds(now),
                },
                names={
                    name: name
                    for name in ("status", "retry_count", "attempt", "round", "expires_at")
                },
            ),
            self._history(
                job.job_id,
                stage,
                StageStatus.RUNNING,
                attempt=before.attempt + 1,
                round_=round_,
                at=now,
            ),
        ]
        # Before its first stage: as it is written, the stream mostly delivers it.
        return [*self._begin_items(job, now), *items]

    def _begin_items(self, job: Job, now: datetime) -> list[TransactWriteItemTypeDef]:
        """Build the writes of the beginning of a job that has not begun."""
        if job.status is not JobStatus.QUEUED:
            return []
        return [
            self._update_job(
                job.job_id,
                {
                    "status": JobStatus.RUNNING,
                    "started_at": _text(now),
                    "updated_at": _text(now),
                },
                job_sources(JobStatus.RUNNING),
                attempt=job.attempt,
            ),
            self._history(job.job_id, _JOB, JobStatus.RUNNING, attempt=job.attempt, at=now),
        ]

    def stage_waits(
        self,
        job: Job,
        before: StageRecord,
        waiting_for: str,
        waits_until: datetime,
        *,
        retry_count: int,
        round_: int = 1,
        to_start: bool = False,
    ) -> bool:
        """Record what a stage waits for: WAITING.

        Args:
            job: the job, as it was read.
            before: the stage, as it was read: that of the attempt that waits.
            waiting_for: what for, in one sentence.
            waits_until: when the wait ends at the latest.
            retry_count: how often the state machine has repeated the stage, from 0.
            round_: the job's attempt.
            to_start: whether it waits before it starts, so that none of its code has run.

        Returns:
            Whether that was written: it may be stored already, or another have gone on.
        """
        now = self.now()
        sources = stage_sources(StageStatus.WAITING)
        condition = (
            f"#round = :round AND {_any_of('status', sources)} AND #attempt = :attempt"
            " AND #retry_count <= :retry_count"
            f" AND (#status <> :{StageStatus.WAITING} OR waiting_for <> :waiting_for)"
        )
        names = ["round", "status", "attempt", "retry_count"]
        values = _statuses(sources) | {
            "round": round_,
            "attempt": before.attempt,
            "retry_count": retry_count,
            "waiting_for": waiting_for,
        }
        if to_start:
            condition = f"{_NOT_BEGUN} OR ({condition})"
            names.append("expires_at")
            values["expires_at"] = _seconds(now)
        begins = before.status is not StageStatus.WAITING
        is_next = begins or before.polled == retry_count - 1
        stage = before.stage
        return self._is_written(
            [
                *(self._begin_items(job, now) if to_start else ()),
                dynamodb.update(
                    self._table,
                    {"job_id": job.job_id, "record": f"{_STAGE}{stage}"},
                    set_values={
                        "stage": stage,
                        "round": round_,
                        "status": StageStatus.WAITING,
                        "attempt": before.attempt,
                        "max_attempts": before.max_attempts,
                        "retry_count": retry_count,
                        "waiting_for": waiting_for,
                        "waiting_since": _text(now) if begins else None,
                        "waits_until": _text(waits_until),
                        "waits_to_start": to_start or None,
                        "polled": retry_count if is_next and not to_start else None,
                        "expires_at": self._part_expires(now),
                    },
                    remove=("next_attempt_before", *(() if before.attempt else _OF_ATTEMPTS)),
                    condition=condition,
                    condition_values=values,
                    names={name: name for name in names},
                ),
                self._history(
                    job.job_id,
                    stage,
                    StageStatus.WAITING,
                    attempt=0 if to_start else before.attempt,
                    note=waiting_for,
                    round_=round_,
                    waits_until=waits_until,
                    at=now,
                ),
            ]
        )

    def stage_polled(
        self, job: Job, before: StageRecord, *, retry_count: int, round_: int = 1
    ) -> None:
        """Record that a poll of a stage that waits has said that it still does.

        Where the one before it has not, nothing is written: that one may be at work.

        Args:
            job: the job, as it was read.
            before: the stage, as it was read: that of the attempt that waits.
            retry_count: how often the state machine has repeated the stage, from 0.
            round_: the job's attempt.
        """
        if before.polled != retry_count - 1:
            return
        self._is_written(
            [
                dynamodb.update(
                    self._table,
                    {"job_id": job.job_id, "record": f"{_STAGE}{before.stage}"},
                    set_values={"polled": retry_count},
                    condition=(
                        "#round = :round AND #status = :waiting AND #attempt = :attempt"
                        " AND polled = :before"
                    ),
                    condition_values={
                        "round": round_,
                        "waiting": StageStatus.WAITING,
                        "attempt": before.attempt,
                        "before": before.polled,
                    },
                    names={name: name for name in ("round", "status", "attempt")},
                )
            ]
        )

    def _is_written(self, items: Sequence[TransactWriteItemTypeDef]) -> bool:
        """Write all items where their conditions hold; return whether they did."""
        try:
            dynamodb.transact(self._client, items)
        except dynamodb.ConditionFailedError:
            return False
        return True

    def end_stage(
        self,
        job_id: str,
        stage: str,
        status: StageStatus,
        *,
        output: Mapping[str, Any],
        check: str,
        round_: int = 1,
        skipped: str | None = None,
        polls_seen: bool = False,
    ) -> StageRecord:
        """Record that a stage ended well; return it as it is stored, whoever ended it.

        Args:
            job_id: the job.
            stage: the stage.
            status: SUCCEEDED or SKIPPED.
            output: what it made.
            check: what answered.
            round_: the job's attempt.
            skipped: the stage after it that it does not ask for, if any: SKIPPED with its end.
            polls_seen: whether it has waited, and every poll has said its word.
        """
        now = self.now()
        items = self._end_stage_items(
            job_id,
            stage,
            status,
            output=dict(output),
            check=check,
            round_=round_,
            polls_seen=polls_seen,
            at=now,
        )
        if skipped is not None:
            items += self._skip_items(job_id, skipped, round_, at=now)
        # The condition fails when another run has ended it: what that one stored is the one truth.
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, items)
        return self.stage(job_id, stage) or StageRecord(stage=stage)

    def stage_failed(
        self,
        job_id: str,
        error: StoredError,
        *,
        retry_count: int,
        retryable: bool,
        round_: int = 1,
        polls_seen: bool = False,
    ) -> bool:
        """Record that an attempt failed: RETRYING if its error is retryable, else FAILED.

        The state machine counts the errors of each retrier apart, so that an attempt of which AWS
        Lambda lost the answer takes none of these away. One that died does, and leaves as little
        behind: where one of the two has happened, another attempt is taken to be left.

        Returns:
            Whether another attempt is left.
        """
        now = self.now()
        status = StageStatus.RETRYING if retryable else StageStatus.FAILED
        before = self.stage(job_id, error.stage)
        failures = 1 if before is None else before.failures + 1
        is_left = retryable and STAGE_RETRY.longest_delay(failures) is not None
        # No wait is shorter than the one before: as if each attempt had been counted.
        counted = min(error.attempt, STAGE_RETRY.max_attempts)
        delay = STAGE_RETRY.longest_delay(counted) if is_left else None
        items = self._end_stage_items(
            job_id,
            error.stage,
            status,
            error=error,
            round_=round_,
            retry_count=retry_count,
            failures=failures,
            polls_seen=polls_seen,
            next_attempt_before=None if delay is None else now + timedelta(seconds=delay),
        )
        # The condition fails for the word of an attempt that another has superseded.
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, items)
        return is_left

    # The dispatch of a message, whose job may not be stored.

    def note_dispatch_failure(self, job_id: str, error: StoredError) -> None:
        """Keep why the last dispatch of a job's message failed, for when the queue gives it up.

        A job that is QUEUED shows it too.
        """
        now = self.now()
        item = {
            "job_id": job_id,
            "record": _DISPATCH,
            "at": _text(now),
            "error": asdict(error),
            "expires_at": self._part_expires(now),
        }
        self._client.put_item(TableName=self._table, Item=dynamodb.to_item(item))
        shown = dynamodb.update(
            self._table,
            {"job_id": job_id, "record": _JOB},
            set_values={"dispatch_error": asdict(error)},
            condition=_any_of("status", (JobStatus.QUEUED,)),
            condition_values=_statuses((JobStatus.QUEUED,)),
            names={"status": "status"},
        )
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, [shown])

    def dispatch_failure(self, job_id: str) -> StoredError | None:
        """Return why the last dispatch of a job's message failed; None where nothing was kept."""
        key = {"job_id": job_id, "record": _DISPATCH}
        item = dynamodb.get(self._client, self._table, key)
        return None if item is None or _has_expired(item, self.now()) else _to_error(item["error"])

    # Items.

    def _create_items(
        self, new: NewJob, *, held_until: datetime | None = None
    ) -> list[TransactWriteItemTypeDef]:
        """Build the writes of a job that is QUEUED."""
        values = {_UNFINISHED: "yes", "held_until": _text(held_until)}
        return [
            self._put_job(new, JobStatus.QUEUED, values),
            self._history(new.job_id, _JOB, JobStatus.QUEUED, attempt=1),
        ]

    def _ended_item(self, job_id: str) -> TransactWriteItemTypeDef:
        """Build the condition that a job has ended, or is stored no more."""
        ended = [status for status in JobStatus if status.is_terminal]
        return dynamodb.check(
            self._table,
            {"job_id": job_id, "record": _JOB},
            condition=f"attribute_not_exists(job_id) OR {_any_of('status', ended)}",
            condition_values=_statuses(ended),
            names={"status": "status"},
        )

    def _put_job(
        self, new: NewJob, status: JobStatus, values: Mapping[str, Any]
    ) -> TransactWriteItemTypeDef:
        now = _text(self.now())
        item = {
            "job_id": new.job_id,
            "record": _JOB,
            "job_type": new.job_type,
            "status": status,
            "attempt": 1,
            "payload": canonical_json(new.payload),
            "project_id": new.project_id or None,
            "parent_id": new.parent_id or None,
            "stages": list(new.stages),
            "created_at": now,
            "updated_at": now,
            **values,
        }
        return dynamodb.put_new(self._table, item, "job_id")

    def _update_job(
        self,
        job_id: str,
        set_values: Mapping[str, Any],
        sources: Sequence[JobStatus],
        *,
        attempt: int,
        condition: str = "",
        values: Mapping[str, Any] | None = None,
        remove: Sequence[str] = (),
    ) -> TransactWriteItemTypeDef:
        """Build a write of the job that holds only for one attempt, in one of these statuses."""
        conditions = ["#attempt = :of_attempt", _any_of("status", sources), condition]
        return dynamodb.update(
            self._table,
            {"job_id": job_id, "record": _JOB},
            set_values=set_values,
            condition=" AND ".join(part for part in conditions if part),
            condition_values=_statuses(sources) | {"of_attempt": attempt} | dict(values or {}),
            names={"status": "status", "attempt": "attempt"},
            remove=remove,
        )

    def _finish_items(
        self,
        job_id: str,
        status: JobStatus,
        sources: Sequence[JobStatus],
        *,
        result: Mapping[str, Any] | None = None,
        error: StoredError | None = None,
        other_errors: Sequence[StoredError] = (),
        attempt: int = 1,
        cleanup: NewJob | None = None,
        remaining: Sequence[str] = (),
        condition: str = "",
        at: datetime | None = None,
    ) -> list[TransactWriteItemTypeDef]:
        now = at or self.now()
        return [
            self._update_job(
                job_id,
                {
                    "status": status,
                    "finished_at": _text(now),
                    "updated_at": _text(now),
                    "result": result,
                    "error": None if error is None else asdict(error),
                    "other_errors": [asdict(other) for other in other_errors] or None,
                    "expires_at": self._job_expires(now),
                    "cleanup_job_id": None if cleanup is None else cleanup.job_id,
                    "remaining": list(remaining) or None,
                },
                sources,
                attempt=attempt,
                condition=condition,
                remove=(
                    *_WHOLE_WAIT,
                    _UNFINISHED,
                    # What was left has become part of what the job has made.
                    *(("cleanup_job_id",) if status is JobStatus.COMPLETED else ()),
                ),
            ),
            self._history(
                job_id, _JOB, status, attempt=attempt, error=error, remaining=remaining, at=now
            ),
        ]

    def _end_stage_items(
        self,
        job_id: str,
        stage: str,
        status: StageStatus,
        *,
        output: Mapping[str, Any] | None = None,
        check: str | None = None,
        error: StoredError | None = None,
        round_: int = 1,
        retry_count: int | None = None,
        failures: int | None = None,
        next_attempt_before: datetime | None = None,
        polls_seen: bool = False,
        unstarted: StageRecord | None = None,
        at: datetime | None = None,
    ) -> list[TransactWriteItemTypeDef]:
        now = at or self.now()
        sources = stage_sources(status)
        condition = f"#round = :round AND {_any_of('status', sources)}"
        names = {"status": "status", "round": "round"}
        values = _statuses(sources) | {"round": round_}
        if retry_count is not None and error is not None:
            # A poll is of the attempt that waits, however often that was repeated before it.
            condition += (
                f" AND (#retry_count = :retry_count OR (#status = :{StageStatus.WAITING}"
                " AND #attempt = :attempt AND #retry_count < :retry_count))"
            )
            names |= {"retry_count": "retry_count", "attempt": "attempt"}
            values |= {"retry_count": retry_count, "attempt": error.attempt}
        elif StageStatus.PENDING in sources:
            condition = f"{_NOT_BEGUN} OR ({condition})"
            names["expires_at"] = "expires_at"
            values["expires_at"] = _seconds(now)
        if unstarted is not None:
            is_unstarted, of_attempt = _unstarted(unstarted, now)
            condition = f"({condition}) AND ({is_unstarted})"
            names |= {name: name for name in of_attempt}
            values |= of_attempt
        return [
            dynamodb.update(
                self._table,
                {"job_id": job_id, "record": f"{_STAGE}{stage}"},
                set_values={
                    "stage": stage,
                    "round": round_,
                    "status": status,
                    "finished_at": _text(now) if status.is_terminal else None,
                    "next_attempt_before": _text(next_attempt_before),
                    "output": output,
                    "check": check,
                    "error": None if error is None else asdict(error),
                    # Closed without ever having started in this round.
                    "attempt": 0 if error is not None and error.attempt == 0 else None,
                    "failures": failures,
                    "retry_count": retry_count,
                    "max_attempts": None
                    if error is None or next_attempt_before is None
                    else max(STAGE_RETRY.attempts_in_all, error.attempt + 1),
                    "expires_at": self._part_expires(now),
                },
                remove=(
                    *(_WHOLE_WAIT if status.is_terminal else _WAIT),
                    *(() if next_attempt_before else ("next_attempt_before",)),
                    *(() if output is not None else ("output",)),
                    *(() if check is not None else ("check",)),
                    *(() if error else ("error",)),
                ),
                condition=condition,
                condition_values=values,
                names=names,
            ),
            self._history(
                job_id,
                stage,
                status,
                attempt=error.attempt if error else 0,
                note=check or "",
                error=error,
                round_=round_,
                next_attempt_before=next_attempt_before,
                polls_seen=polls_seen,
                at=now,
            ),
        ]

    def _skip_items(
        self, job_id: str, stage: str, round_: int, *, at: datetime
    ) -> list[TransactWriteItemTypeDef]:
        """Build the writes of a stage that does not run in this round, and has not begun in it."""
        return [
            dynamodb.update(
                self._table,
                {"job_id": job_id, "record": f"{_STAGE}{stage}"},
                set_values={
                    "stage": stage,
                    "round": round_,
                    "status": StageStatus.SKIPPED,
                    "attempt": 0,
                    "retry_count": 0,
                    "finished_at": _text(at),
                    "check": NOT_ASKED_FOR,
                    "expires_at": self._part_expires(at),
                },
                remove=(
                    *("started_at", "max_attempts", "next_attempt_before", *_WHOLE_WAIT),
                    *("output", "error", "failures"),
                ),
                condition=_NOT_BEGUN,
                condition_values={"round": round_, "expires_at": _seconds(at)},
                names={name: name for name in ("round", "expires_at")},
            ),
            self._history(
                job_id, stage, StageStatus.SKIPPED, note=NOT_ASKED_FOR, round_=round_, at=at
            ),
        ]

    def _close_items(
        self,
        job_id: str,
        close: Mapping[str, StoredError],
        unstarted: Sequence[StageRecord],
        round_: int,
        *,
        at: datetime,
    ) -> list[TransactWriteItemTypeDef]:
        """Build the closing of stages, and the conditions that none of `unstarted` has started.

        A transaction has one item of a key: a stage that is closed carries its own condition.
        """
        records = {record.stage: record for record in unstarted}
        closed = [
            item
            for stage, error in close.items()
            for item in self._end_stage_items(
                job_id,
                stage,
                StageStatus.FAILED,
                error=error,
                round_=round_,
                unstarted=records.get(stage),
                at=at,
            )
        ]
        others = [record for record in unstarted if record.stage not in close]
        return closed + self._unstarted_items(job_id, others, round_)

    def _unstarted_items(
        self, job_id: str, records: Sequence[StageRecord], round_: int
    ) -> list[TransactWriteItemTypeDef]:
        """Build the conditions that none of these stages has started since it was read."""
        items = []
        now = self.now()
        for record in records:
            condition, of_attempt = _unstarted(record, now)
            values = {"round": round_} | of_attempt
            items.append(
                dynamodb.check(
                    self._table,
                    {"job_id": job_id, "record": f"{_STAGE}{record.stage}"},
                    condition=condition,
                    condition_values=values,
                    names={name: name for name in values},
                )
            )
        return items

    def _history(
        self,
        job_id: str,
        subject: str,
        status: str,
        *,
        attempt: int = 0,
        note: str = "",
        error: StoredError | None = None,
        round_: int | None = None,
        remaining: Sequence[str] = (),
        next_attempt_before: datetime | None = None,
        waits_until: datetime | None = None,
        polls_seen: bool = False,
        at: datetime | None = None,
    ) -> TransactWriteItemTypeDef:
        now = at or self.now()
        return dynamodb.put_new(
            self._table,
            {
                "job_id": job_id,
                "record": f"{_HISTORY}{_text(now)}#{subject}#{status}#{attempt}",
                "at": _text(now),
                "subject": subject,
                "status": status,
                "attempt": attempt,
                "note": note if error is None else error.message,
                "error_type": None if error is None else error.type,
                "error_stage": None if error is None else error.stage or None,
                "error_attempt": None if error is None else error.attempt or None,
                "round": round_,
                "remaining": list(remaining) or None,
                "next_attempt_before": _text(next_attempt_before),
                "waits_until": _text(waits_until),
                "polls_seen": polls_seen or None,
                "expires_at": self._part_expires(now),
            },
            "job_id",
        )

    def _part_expires(self, now: datetime) -> int:
        return _seconds(now + self._retention)

    def _job_expires(self, now: datetime) -> int:
        return _seconds(now + self._retention + _JOB_MARGIN)

    def _existing(self, job_id: str) -> Job:
        job = self.get_head(job_id)
        if job is None:
            raise JobNotFoundError(f"job {shown(job_id)}: no such job is stored.")
        return job


def _text(at: datetime | None) -> str | None:
    """Write a time as ISO 8601 in UTC with microseconds, so that texts sort as times do."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="microseconds")


def _seconds(at: datetime) -> int:
    """Write a time as DynamoDB's time to live has it."""
    return int(at.timestamp())


def _has_expired(part: Mapping[str, Any], at: datetime) -> bool:
    """Whether a part of a job counts as absent, though DynamoDB may not have removed it yet."""
    return bool(part["expires_at"] <= _seconds(at))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _any_of(name: str, statuses: Sequence[str]) -> str:
    return f"#{name} IN ({', '.join(f':{status}' for status in statuses)})"


def _statuses(statuses: Sequence[str]) -> dict[str, Any]:
    return {str(status): str(status) for status in statuses}


def _unstarted(record: StageRecord, now: datetime) -> tuple[str, dict[str, int]]:
    """Say, as a condition with its values, that a stage has not started since it was read."""
    if record.status is not StageStatus.PENDING:
        return "#round = :round AND #attempt = :attempt", {"attempt": record.attempt}
    return _NOT_BEGUN, {"expires_at": _seconds(now)}


def _to_error(item: Mapping[str, Any] | None) -> StoredError | None:
    if item is None:
        return None
    return StoredError(
        type=ErrorType(item["type"]),
        stage=item["stage"],
        attempt=item["attempt"],
        message=item["message"],
        cause=item["cause"],
    )


def _to_stage(item: Mapping[str, Any]) -> StageRecord:
    return StageRecord(
        stage=item["stage"],
        status=StageStatus(item["status"]),
        round=item["round"],
        attempt=item.get("attempt", 0),
        failures=item.get("failures", 0),
        retry_count=item.get("retry_count", 0),
        max_attempts=item.get("max_attempts", STAGE_RETRY.attempts_in_all),
        started_at=_time(item.get("started_at")),
        finished_at=_time(item.get("finished_at")),
        next_attempt_before=_time(item.get("next_attempt_before")),
        waiting_for=item.get("waiting_for", ""),
        waiting_since=_time(item.get("waiting_since")),
        waits_until=_time(item.get("waits_until")),
        waits_to_start=item.get("waits_to_start", False),
        polled=item.get("polled"),
        output=item.get("output", {}),
        check=item.get("check", ""),
        error=_to_error(item.get("error")),
    )


def history_entry(item: Mapping[str, Any]) -> HistoryEntry:
    """Return the change that an item of the table holds."""
    return HistoryEntry(
        at=datetime.fromisoformat(item["at"]),
        subject=item["subject"],
        status=item["status"],
        attempt=item["attempt"],
        note=item["note"],
        error_type=ErrorType(item["error_type"]) if "error_type" in item else None,
        round=item.get("round", 0),
        remaining=tuple(item.get("remaining", ())),
        error_stage=item.get("error_stage", ""),
        error_attempt=item.get("error_attempt", 0),
        next_attempt_before=_time(item.get("next_attempt_before")),
        waits_until=_time(item.get("waits_until")),
        polls_seen=item.get("polls_seen", False),
    )


def _to_job(
    item: Mapping[str, Any], stages: Mapping[str, StageRecord], history: Sequence[HistoryEntry]
) -> Job:
    return Job(
        job_id=item["job_id"],
        job_type=item["job_type"],
        status=JobStatus(item["status"]),
        payload=json.loads(item["payload"]),
        project_id=item.get("project_id", ""),
        created_at=datetime.fromisoformat(item["created_at"]),
        updated_at=datetime.fromisoformat(item["updated_at"]),
        held_until=_time(item.get("held_until")),
        dispatch_error=_to_error(item.get("dispatch_error"))
        if item["status"] == JobStatus.QUEUED
        else None,
        resent_at=_time(item.get("resent_at")),
        attempt=item["attempt"],
        started_at=_time(item.get("started_at")),
        finished_at=_time(item.get("finished_at")),
        cancel_requested_at=_time(item.get("cancel_requested_at")),
        result=item.get("result"),
        error=_to_error(item.get("error")),
        other_errors=tuple(
            error for error in map(_to_error, item.get("other_errors", [])) if error is not None
        ),
        parent_id=item.get("parent_id", ""),
        cleanup_job_id=item.get("cleanup_job_id", ""),
        remaining=tuple(item.get("remaining", ())),
        stages=_of_round(item["stages"], stages, item["attempt"]),
        waits=_waits(item, stages),
        history=tuple(history),
    )


def _waits(item: Mapping[str, Any], stages: Mapping[str, StageRecord]) -> tuple[Wait, ...]:
    """Return what a job waits for: its stages, then its end."""
    records = _of_round(item["stages"], stages, item["attempt"])
    waits = [
        Wait(record.stage, record.waiting_for, record.waiting_since, record.waits_until)
        for record in records
        if record.status is StageStatus.WAITING and record.waiting_since and record.waits_until
    ]
    if "waiting_for" in item:
        since, until = (
            datetime.fromisoformat(item[name]) for name in ("waiting_since", "waits_until")
        )
        waits.append(Wait("", item["waiting_for"], since, until))
    return tuple(waits)


def _of_round(
    names: Sequence[str], stages: Mapping[str, StageRecord], round_: int
) -> tuple[StageRecord, ...]:
    """Return the stages in order; what an earlier round says of one counts for nothing."""
    return tuple(
        stages[name]
        if name in stages and stages[name].round == round_
        else StageRecord(stage=name, max_attempts=STAGE_RETRY.attempts_in_all)
        for name in names
    )
