"""Tells the world what happens to jobs: each entry of a job's history becomes an event on a bus.

The history is the outbox: an entry is written in one transaction with the status that it tells of,
and the table's stream hands it over until it is published. So no event goes before its status, and
none is lost.
"""

import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from provisioner.aws_types import EventBridgeClient, PutEventsRequestEntryTypeDef
from provisioner.drivers import dynamodb
from provisioner.drivers.aws_errors import AWS_ERRORS, short_cause
from provisioner.errors import ErrorType
from provisioner.jobs.models import (
    JOB_SUBJECT,
    JOB_WAITS,
    NOTICE_SUBJECT,
    HistoryEntry,
    Job,
    JobStatus,
    StageStatus,
    place_in_transaction,
)
from provisioner.jobs.records import to_history
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, metrics

#: Who the events say that they are from.
SOURCE = "project-provisioner"

#: Makes an event's id of the history entry that it tells of: the same entry gives the same id.
_ID_NAMESPACE = uuid.UUID("a2f8b1f0-5a3e-4d0c-9a55-0a6a4f6f3c11")

#: Entries of one call. Source: Amazon EventBridge API Reference, PutEvents.
_MAX_ENTRIES = 10

#: The item that is written on schedule: no job has such an id. Its record is what the filter of the
#: stream names.
HEARTBEATS = "#events"
HEARTBEAT = "HEARTBEAT"


class EventType(StrEnum):
    """What has happened: the detail type of an event."""

    #: The job is stored, or begins its next attempt; its message is on the way.
    QUEUED = "job.queued"
    #: Its first stage has started.
    STARTED = "job.started"
    #: A stage of the job has started, waits for something, or has ended.
    STAGE_CHANGED = "job.stage_changed"
    #: An attempt of a stage has failed, and the next one is going to start.
    RETRYING = "job.retrying"
    #: The end of the job waits for something.
    WAITING = "job.waiting"
    #: Everything that the job makes answers.
    COMPLETED = "job.completed"
    #: The job has failed.
    FAILED = "job.failed"
    #: The job was cancelled, and has ended.
    CANCELLED = "job.cancelled"


class JobEvent(BaseModel):
    """What every event says of its job."""

    model_config = ConfigDict(frozen=True)

    version: Annotated[Literal[1], Field(description="Of this schema; fields are only added.")]
    event_id: Annotated[
        str, Field(description="The same however often the event is delivered: drop duplicates.")
    ]
    job_id: str
    job_type: str
    job_attempt: Annotated[int, Field(ge=1, description="Counted from 1; a retry begins the next.")]
    project_id: Annotated[str, Field(description="Empty where the job's payload names none.")]
    parent_job_id: Annotated[
        str | None, Field(description="The failed job, where this one is its clean-up.")
    ] = None
    cancelling: Annotated[
        bool, Field(description="Someone has asked to cancel the job, and it has not ended yet.")
    ]
    at: Annotated[AwareDatetime, Field(description="When it happened.")]


class JobEndedEvent(JobEvent):
    """Says why a job has ended otherwise than well."""

    error_type: Annotated[ErrorType, Field(description="Why; docs/errors.md says what each means.")]
    message: Annotated[str, Field(description="The real cause, safe to show a customer.")]
    stage: Annotated[
        str | None, Field(description="The stage that failed; left out where none had started.")
    ] = None
    attempt: Annotated[int | None, Field(ge=1, description="The attempt of that stage.")] = None
    remaining: Annotated[
        list[str] | None, Field(description="What a clean-up may have left, one resource each.")
    ] = None


class StageStatusEvent(JobEvent):
    """Says how a stage stands."""

    stage: str
    stage_status: StageStatus
    attempt: Annotated[
        int | None, Field(ge=1, description="Of the stage; left out where it ended well.")
    ] = None
    error_type: Annotated[ErrorType | None, Field(description="Why the attempt failed.")] = None
    message: Annotated[
        str | None, Field(description="The real cause, safe to show a customer.")
    ] = None


class StageChangedEvent(StageStatusEvent):
    """Says how a stage stands, and what it waits for where it does."""

    waiting_for: Annotated[
        str | None, Field(description="What a stage that is WAITING waits for, in one sentence.")
    ] = None
    waits_until: Annotated[
        AwareDatetime | None, Field(description="When that wait ends at the latest.")
    ] = None


class WaitingEvent(JobEvent):
    """Says what the end of a job waits for."""

    waiting_for: Annotated[str, Field(description="In one sentence.")]
    waits_until: Annotated[AwareDatetime, Field(description="When it ends at the latest.")]


class RetryingEvent(StageStatusEvent):
    """Says when a stage is tried again."""

    next_attempt_before: Annotated[
        AwareDatetime, Field(description="The latest time at which the next attempt starts.")
    ]


class NoticeEvent(JobEvent):
    """Says what becomes of something that a job has made."""

    message: Annotated[str, Field(description="In one sentence, safe to show a customer.")]
    deadline: Annotated[AwareDatetime, Field(description="The time that it is about.")]


#: What the detail of each type looks like.
DETAILS: dict[EventType, type[JobEvent]] = {
    EventType.QUEUED: JobEvent,
    EventType.STARTED: JobEvent,
    EventType.STAGE_CHANGED: StageChangedEvent,
    EventType.RETRYING: RetryingEvent,
    EventType.WAITING: WaitingEvent,
    EventType.COMPLETED: JobEvent,
    EventType.FAILED: JobEndedEvent,
    EventType.CANCELLED: JobEndedEvent,
}

_EVENT_OF_STATUS: dict[str, EventType] = {
    JobStatus.QUEUED: EventType.QUEUED,
    JobStatus.RUNNING: EventType.STARTED,
    JobStatus.COMPLETED: EventType.COMPLETED,
    JobStatus.FAILED: EventType.FAILED,
    JobStatus.CANCELLED: EventType.CANCELLED,
    JOB_WAITS: EventType.WAITING,
}


def event_type(entry: HistoryEntry) -> EventType | None:
    """Return the type of the event of a change; None where it has none."""
    if entry.subject == JOB_SUBJECT:
        return _EVENT_OF_STATUS.get(entry.status)
    if entry.next_attempt_before is not None:
        return EventType.RETRYING
    return EventType.STAGE_CHANGED if entry.status in StageStatus else None


def detail(model: type[JobEvent], job: Job, entry: HistoryEntry, event_id: str) -> JobEvent:
    """Say what has changed; the technical cause of an error is no part of it."""
    is_of_job, is_notice = entry.subject == JOB_SUBJECT, entry.subject == NOTICE_SUBJECT
    # Each model takes of it the fields that it has.
    values: dict[str, Any] = {
        "version": 1,
        "event_id": event_id,
        "job_id": job.job_id,
        "job_type": job.job_type,
        # A notice is of what the job has made, in whichever attempt.
        "job_attempt": entry.attempt if is_of_job else entry.job_attempt or job.attempt,
        "project_id": job.project_id,
        "parent_job_id": job.parent_id or None,
        "cancelling": job.cancel_requested_at is not None and not job.status.is_terminal,
        "at": entry.at,
        "stage": (entry.error_stage if is_of_job else entry.subject) or None,
        "stage_status": entry.status,
        "attempt": (entry.error_attempt if is_of_job else entry.attempt) or None,
        "error_type": entry.error_type,
        "message": entry.note if is_notice or entry.error_type is not None else None,
        "next_attempt_before": entry.next_attempt_before,
        "waiting_for": entry.note if entry.waits_until is not None else None,
        "waits_until": entry.waits_until,
        "remaining": list(entry.remaining) or None,
        "deadline": entry.deadline,
    }
    return model.model_validate(values)


@dataclass(frozen=True, slots=True)
class _Change:
    """A history entry as the stream delivers it, not read yet."""

    #: Where the record stands in its stream; the numbers of a stream only grow.
    sequence_number: str
    job_id: str
    #: The entry's sort key.
    record: str
    #: When it happened.
    at: str
    #: Where it belongs among the changes of one transaction: the stream does not keep that.
    place: int
    image: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """An event that waits to be published."""

    #: The position of its change in the batch.
    position: int
    job_id: str
    entry: PutEventsRequestEntryTypeDef


@dataclass(frozen=True, slots=True)
class EventPublisher:
    """Publishes what a batch of the jobs table's stream says, in order for each job."""

    store: JobStore
    client: EventBridgeClient
    bus_name: str
    _: KW_ONLY
    #: The detail type of the further event that a completed job of a type is published as, by job
    #: type.
    completions: Mapping[str, str]
    #: The detail type that a notice is published as, by its name.
    notices: Mapping[str, str]

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a batch up to the first change that cannot be published; on schedule, beat.

        A record after that one may be of the same job, so that none is tried: the stream goes on
        from the record that is named. What was published before it may come a second time.

        Returns:
            AWS Lambda's partial batch response, with the record of the lowest sequence number
            that is left; nothing on schedule. Source: AWS Lambda Developer Guide, "Configuring
            partial batch response with DynamoDB and Lambda".
        """
        if event.get("detail-type") == "Scheduled Event":
            self._beat()
            return {}
        records = [record for record in event["Records"] if not _is_heartbeat(record)]
        # Counted whatever becomes of the changes: the stream has reached this function.
        if beats := len(event["Records"]) - len(records):
            metrics.add_metric("Heartbeats", "Count", beats)
        changes = _arranged(map(_change, records))
        left = changes[self._publish(*self._read(changes)) :]
        metrics.add_metric("EventsNotPublished", "Count", len(left))
        lowest = sorted((change.sequence_number for change in left), key=int)[:1]
        return {"batchItemFailures": [{"itemIdentifier": number} for number in lowest]}

    def _beat(self) -> None:
        """Write what the stream then hands over: an alarm misses it where nothing reads the stream.

        It differs each time, by its time: DynamoDB tells of no write that changes nothing. Source:
        Amazon DynamoDB Developer Guide, "Change data capture for DynamoDB Streams".
        """
        work = self.store.work()
        work.put(HEARTBEATS, HEARTBEAT, {"at": work.at}, is_new=False)
        work.write()

    def _read(self, changes: Sequence[_Change]) -> tuple[list[_Outgoing], int]:
        """Return the events of the changes that can be read, and how many of them can."""
        # Read after the batch was handed over: what a job says is at least as new as its changes.
        find_job = cache(self.store.get_head)
        outgoing: list[_Outgoing] = []
        for position, change in enumerate(changes):
            try:
                entries = list(self._entries(change, find_job(change.job_id)))
            except Exception as error:  # noqa: BLE001  # whatever it is, the stream goes on from here
                _report(change.job_id, short_cause(error))
                return outgoing, position
            outgoing += [_Outgoing(position, change.job_id, entry) for entry in entries]
        return outgoing, len(changes)

    def _entries(self, change: _Change, job: Job | None) -> Iterator[PutEventsRequestEntryTypeDef]:
        entry = to_history(dynamodb.from_item(change.image))
        if job is None:
            return
        for detail_type, model in self._types(job, entry):
            name = f"{change.job_id}/{change.record}/{detail_type}"
            published = detail(model, job, entry, str(uuid.uuid5(_ID_NAMESPACE, name)))
            yield {
                "EventBusName": self.bus_name,
                "Source": SOURCE,
                "DetailType": detail_type,
                "Time": entry.at,
                "Detail": published.model_dump_json(exclude_none=True),
            }

    def _types(self, job: Job, entry: HistoryEntry) -> Iterator[tuple[str, type[JobEvent]]]:
        """Yield as what a change is published, each type with the model of its detail."""
        if entry.subject == NOTICE_SUBJECT:
            if entry.status in self.notices:
                yield self.notices[entry.status], NoticeEvent
            return
        changed = event_type(entry)
        if changed is None:
            return
        yield str(changed), DETAILS[changed]
        if changed is EventType.COMPLETED and job.job_type in self.completions:
            yield self.completions[job.job_type], DETAILS[changed]

    def _publish(self, outgoing: Sequence[_Outgoing], readable: int) -> int:
        """Publish events; return how many of the readable changes are published."""
        for group in _groups(outgoing):
            try:
                answer = self.client.put_events(Entries=[one.entry for one in group])
            except AWS_ERRORS as error:
                _report(group[0].job_id, short_cause(error))
                return group[0].position
            # Events that failed have an ErrorCode in their entries: the call itself has succeeded.
            for one, result in zip(group, answer["Entries"], strict=True):
                if "ErrorCode" in result:
                    _report(one.job_id, result["ErrorCode"])
                    return one.position
            metrics.add_metric("EventsPublished", "Count", len(group))
        return readable


def _is_heartbeat(record: Mapping[str, Any]) -> bool:
    return bool(record["dynamodb"]["Keys"]["record"]["S"] == HEARTBEAT)


def _change(record: Mapping[str, Any]) -> _Change:
    change = record["dynamodb"]
    job_id, key = (change["Keys"][name]["S"] for name in ("job_id", "record"))
    # `HISTORY#<time>#<subject>#<status>#<attempt>`.
    _, at, subject, status, _ = key.split("#")
    place = place_in_transaction(subject, status)
    return _Change(change["SequenceNumber"], job_id, key, at, place, change["NewImage"])


def _arranged(changes: Iterable[_Change]) -> list[_Change]:
    """Put the changes of one transaction in order, as far as they stand together."""
    return [
        change
        for _, together in itertools.groupby(changes, key=lambda change: (change.job_id, change.at))
        for change in sorted(together, key=lambda change: change.place)
    ]


def _groups(outgoing: Iterable[_Outgoing]) -> Iterator[list[_Outgoing]]:
    """Cut events into calls of which each has at most one of a job.

    The bus may take one event of a call and not another: of one job, the later one might get ahead.
    """
    group: list[_Outgoing] = []
    for one in outgoing:
        if len(group) == _MAX_ENTRIES or one.job_id in {other.job_id for other in group}:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _report(job_id: str, cause: str) -> None:
    logger.warning("events not published", job_id=job_id, cause=cause)
