"""How jobs are stored: one item a job, its payload, each stage and each change, under its id."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from provisioner.jobs.models import JOB_SUBJECT, HistoryEntry, Job, StageRecord, StoredError, Wait

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


#: What is stored as a mapping within an item.
_PART: TypeAdapter[StoredError | Wait] = TypeAdapter(StoredError | Wait)


def time_text(at: datetime) -> str:
    """Write a time as ISO 8601 in UTC with microseconds, so that texts sort as times do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def stored(value: Any) -> Any:
    """Return a value as an item holds it; None, which is not stored, for what says nothing."""
    match value:
        case datetime():
            return time_text(value)
        case StoredError() | Wait():
            return _PART.dump_python(value, mode="json")
        case "" | () | []:
            return None
        case tuple() | list():
            return [stored(inner) for inner in value]
        case _:
            return value


def stage_item(record: StageRecord) -> dict[str, Any]:
    """Return the attributes of a stage; None stands for those that are absent."""
    kept = (field.name for field in fields(record) if field.compare)
    return {name: stored(getattr(record, name)) for name in kept}


def history_item(entry: HistoryEntry) -> dict[str, Any]:
    """Return the attributes of a change, with its sort key."""
    at = time_text(entry.at)
    record = f"{HISTORY}{at}#{entry.subject}#{entry.status}#{entry.attempt}"
    return {field.name: stored(getattr(entry, field.name)) for field in fields(entry)} | {
        "record": record
    }


#: How an item is read: its times and statuses are texts, its errors mappings. What else it holds is
#: left out.
_STAGE_RECORD = TypeAdapter(StageRecord)
_HISTORY_ENTRY = TypeAdapter(HistoryEntry)
_JOB = TypeAdapter(Job)


def to_stage(item: Mapping[str, Any]) -> StageRecord:
    """Return the stage that an item holds."""
    return _STAGE_RECORD.validate_python(item)


def to_history(item: Mapping[str, Any]) -> HistoryEntry:
    """Return the change that an item holds."""
    return _HISTORY_ENTRY.validate_python(item)


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
    # A job that was refused as it came has no stages.
    names = item.get("stages", ())
    records = [known.get(name) or StageRecord(name, job_attempt=item["attempt"]) for name in names]
    parts = {"payload": payload or {}, "stages": records, "history": history}
    return _JOB.validate_python({"project_id": "", **item, **parts})
