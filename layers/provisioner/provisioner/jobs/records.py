"""How jobs are stored: one item a job, its payload, each stage and each change, under its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from provisioner.errors import ErrorType
from provisioner.jobs.models import (
    JOB_SUBJECT,
    HistoryEntry,
    Job,
    JobStatus,
    StageClosed,
    StageRecord,
    StageStatus,
    StoredError,
    Wait,
)

#: The sort keys of a job's items; a stage and a change are named after the prefix.
JOB = JOB_SUBJECT
PAYLOAD = "PAYLOAD"
STAGE = "STAGE#"
HISTORY = "HISTORY#"


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


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is when it is first stored."""

    job_id: str
    job_type: str
    payload: Mapping[str, Any]
    stages: Sequence[str]
    #: The job that has failed, where this one is its clean-up, and the slot that it gets from it.
    parent_id: str = ""
    slot: int | None = None

    @property
    def project_id(self) -> str:
        """The project that the payload names, or nothing."""
        project_id = self.payload.get("project_id")
        return project_id if isinstance(project_id, str) else ""


def time_text(at: datetime) -> str:
    """Write a time as ISO 8601 in UTC with microseconds, so that texts sort as times do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def stored(value: Any) -> Any:
    """Return a value as an item holds it; None, which is not stored, for what says nothing."""
    match value:
        case datetime():
            return time_text(value)
        case StoredError():
            # A stage is a text, and a dataclass: it stays as it is.
            return {field.name: getattr(value, field.name) for field in fields(value)}
        case "" | () | []:
            return None
        case tuple() | list():
            return [stored(inner) for inner in value]
        case _:
            return value


def stage_item(record: StageRecord) -> dict[str, Any]:
    """Return the attributes of a stage; None stands for those that are absent."""
    return {name: stored(getattr(record, name)) for name in _STAGE_FIELDS}


def history_item(entry: HistoryEntry) -> dict[str, Any]:
    """Return the attributes of a change, with its sort key."""
    at = time_text(entry.at)
    record = f"{HISTORY}{at}#{entry.subject}#{entry.status}#{entry.attempt}"
    return {field.name: stored(getattr(entry, field.name)) for field in fields(entry)} | {
        "record": record
    }


def to_error(item: Mapping[str, Any]) -> StoredError:
    """Return the error that an item holds."""
    return StoredError(**dict(item) | {"type": ErrorType(item["type"])})


def _to_errors(items: Sequence[Mapping[str, Any]]) -> tuple[StoredError, ...]:
    return tuple(map(to_error, items))


_TIMES: dict[str, Callable[[Any], Any]] = dict.fromkeys(
    (
        *("at", "created_at", "updated_at", "started_at", "finished_at", "held_until", "resent_at"),
        *("cancel_requested_at", "next_attempt_before", "waiting_since", "waits_until"),
        *("lease_until", "superseded_until"),
    ),
    datetime.fromisoformat,
)

#: How an attribute is read that is stored in another form than it has in the code.
_OF_JOB = _TIMES | {
    "status": JobStatus,
    "error": to_error,
    "dispatch_error": to_error,
    "other_errors": _to_errors,
    "remaining": tuple,
}
_OF_STAGE = _TIMES | {"status": StageStatus, "error": to_error, "closed": StageClosed}
_OF_HISTORY = _TIMES | {"error_type": ErrorType, "remaining": tuple}


def _read[Value](
    kind: Callable[..., Value],
    names: Sequence[str],
    item: Mapping[str, Any],
    forms: Mapping[str, Callable[[Any], Any]],
    **given: Any,
) -> Value:
    found = {
        name: forms[name](item[name]) if name in forms else item[name]
        for name in names
        if name in item and name not in given
    }
    return kind(**found, **given)


_JOB_FIELDS = [field.name for field in fields(Job)]
_STAGE_FIELDS = [field.name for field in fields(StageRecord) if field.compare]
_HISTORY_FIELDS = [field.name for field in fields(HistoryEntry)]


def to_stage(item: Mapping[str, Any]) -> StageRecord:
    """Return the stage that an item holds."""
    return _read(StageRecord, _STAGE_FIELDS, item, _OF_STAGE)


def to_history(item: Mapping[str, Any]) -> HistoryEntry:
    """Return the change that an item holds."""
    return _read(HistoryEntry, _HISTORY_FIELDS, item, _OF_HISTORY)


def to_job(
    item: Mapping[str, Any],
    stages: Mapping[str, StageRecord] | None = None,
    history: Sequence[HistoryEntry] = (),
    payload: Mapping[str, Any] | None = None,
) -> Job:
    """Return the job that an item holds, with its parts as far as they are known.

    A stage of which nothing is known is PENDING.
    """
    known = stages or {}
    attempt = item["attempt"]
    # A job that was refused as it came has no stages.
    names = item.get("stages", ())
    records = [known.get(name) or StageRecord(name, job_attempt=attempt) for name in names]
    waits = [
        Wait(record.stage, record.waiting_for, record.waiting_since, record.waits_until)
        for record in records
        if record.status is StageStatus.WAITING and record.waiting_since and record.waits_until
    ]
    if "waiting_for" in item:
        since, until = (_TIMES[name](item[name]) for name in ("waiting_since", "waits_until"))
        waits.append(Wait("", item["waiting_for"], since, until))
    is_queued = item["status"] == JobStatus.QUEUED
    return _read(
        Job,
        _JOB_FIELDS,
        item if is_queued else {name: item[name] for name in item if name != "dispatch_error"},
        _OF_JOB,
        payload=dict(payload or {}),
        project_id=item.get("project_id", ""),
        stages=tuple(records),
        waits=tuple(waits),
        history=tuple(history),
    )
