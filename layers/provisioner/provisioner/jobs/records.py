"""How jobs are stored: one item a job, its payload, each stage and each change, under its id.

What belongs together is one `UnitOfWork`: what must be true, what changes, what the history says.
Nothing else knows how DynamoDB's transactions are built. Every change of a status is conditional
on the transitions that exist and stands in one transaction with its history entry: a duplicate or
late write fails its condition and changes nothing.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import and_
from typing import Any

from boto3.dynamodb.conditions import Attr, ConditionBase
from pydantic import TypeAdapter

from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb_lists import LISTED_UNDER, partition_of
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import (
    JOB_SUBJECT,
    OPEN_STAGE,
    HistoryEntry,
    Job,
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

#: What a job is listed under that is QUEUED and waits for a slot; all others under their status.
WAITING_FOR_SLOT = "WAITING_FOR_SLOT"


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


def json_object(text: str) -> dict[str, Any]:
    """Return the object that a text holds as JSON; an empty one where it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def payload_digest(payload: Mapping[str, Any]) -> str:
    """Return what tells two payloads apart: SHA-256 of the canonical JSON, in hexadecimal.

    JSON has one kind of number: 1 and 1.0 are the same, and true is none. Source: RFC 8785, section
    3.2.2.3.
    """
    in_one_form = json.loads(canonical_json(payload), parse_float=_number)
    return hashlib.sha256(canonical_json(in_one_form).encode()).hexdigest()


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


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
    return {f.name: stored(getattr(record, f.name)) for f in fields(record) if f.compare}


def history_item(entry: HistoryEntry) -> dict[str, Any]:
    """Return the attributes of a change, with its sort key."""
    at = time_text(entry.at)
    record = f"{HISTORY}{at}#{entry.subject}#{entry.status}#{entry.attempt}"
    return {field.name: stored(getattr(entry, field.name)) for field in fields(entry)} | {
        "record": record
    }


#: Return the stage, and the change, that an item holds: its times and statuses are texts, and its
#: errors mappings. What else it holds is left out.
to_stage = TypeAdapter(StageRecord).validate_python
to_history = TypeAdapter(HistoryEntry).validate_python

_JOB = TypeAdapter(Job)


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


#: Stage and history items live for the job's retention, counted from their own writing, and the job
#: this much longer: more than an execution can last. DynamoDB removes what has expired in no order;
#: what is left when the job is gone has then expired as well, and counts as absent, so that a new
#: job of the same id does not take for its own what expired before it began.
_JOB_MARGIN = timedelta(days=4)

#: How often a change is tried that finds something changed under it.
_ATTEMPTS = 3

#: What tells that a stage is still as it was read.
_STATE_OF_STAGE = ("job_attempt", "status", "closed", "attempt", "retry_count", "lease_until")

#: The attributes of a stage whose change is one of its history; and the statuses with which the
#: entry says why.
_IN_HISTORY = {"status", "attempt", "waiting_for"}
_FAILED_ATTEMPT = {StageStatus.RETRYING, StageStatus.FAILED}


@dataclass(frozen=True, slots=True)
class NotAfter:
    """The condition that a time is absent, or not after another."""

    at: datetime


#: What must be true of an item, by attribute: it has this value, one of these (a tuple, in
#: which None stands for its absence), none at all (None), or is `NotAfter` a time.
type Conditions = Mapping[str, Any]


def optimistically[Result](
    change: Callable[[dynamodb.ConditionFailedError | None], Result], what: str
) -> Result:
    """Let a change look again, and try again, where something was changed under it.

    Args:
        change: the change; it is given what refused the try before.
        what: what was done to the job meanwhile, for the error.

    Raises:
        TIMEOUT: that happened each time.
    """
    refused: dynamodb.ConditionFailedError | None = None
    for _ in range(_ATTEMPTS):
        try:
            return change(refused)
        except dynamodb.ConditionFailedError as error:
            refused = error
    raise failure(ErrorType.TIMEOUT, f"The job kept changing while {what}.")


class UnitOfWork:
    """Writes that are made all at once, or not at all; all of them at the same time."""

    def __init__(
        self, client: DynamoDBClient, table: str, at: datetime, retention: timedelta
    ) -> None:
        """Begin with nothing.

        Args:
            client: DynamoDB.
            table: the jobs table.
            at: the time.
            retention: for how long a part of a job is kept.
        """
        self.at = at
        #: When what is written now expires, as DynamoDB's time to live has it: a part of a job, and
        #: the job.
        self.expires_at = int((at + retention).timestamp())
        self.job_expires_at = int((at + retention + _JOB_MARGIN).timestamp())
        self._client = client
        self._table = table
        self._writes: list[dynamodb.Write] = []

    def put(self, job_id: str, record: str, values: Mapping[str, Any], *, is_new: bool) -> None:
        """Put an item in the place of what there is; where it must be new, there must be none."""
        item = _stored(job_id, record, values)
        self._writes.append(
            dynamodb.build_put(self._table, _key(job_id, record), item, is_new=is_new)
        )

    def change(self, job_id: str, record: str, values: Mapping[str, Any], must: Conditions) -> None:
        """Change attributes of an item; None removes one."""
        changed = _stored(job_id, record, values)
        self._writes.append(
            dynamodb.build_update(self._table, _key(job_id, record), changed, _condition(must))
        )

    def check(self, job_id: str, record: str, must: Conditions) -> None:
        """Ask that something is true of an item that is not written."""
        self._writes.append(
            dynamodb.build_check(self._table, _key(job_id, record), _condition(must))
        )

    def add_history(
        self,
        job_id: str,
        subject: str,
        status: str,
        error: StoredError | None = None,
        **more: Any,
    ) -> None:
        """Add an entry to a job's history, which says why where there is an error.

        Args:
            job_id: the job.
            subject: the stage, or `JOB`, or `NOTICE`.
            status: what it is from now on; of a notice, its name.
            error: why.
            more: what else the entry says; see `HistoryEntry`.
        """
        if error is not None:
            more |= {
                "note": error.message,
                "error_type": error.type,
                "error_stage": error.stage,
                "error_attempt": error.attempt,
            }
        entry = history_item(HistoryEntry(self.at, subject, status, **more))
        item = entry | {"expires_at": self.expires_at}
        self.put(job_id, item["record"], item, is_new=True)

    def also(self, writes: Sequence[dynamodb.Write]) -> None:
        """Add changes of other tables."""
        self._writes += writes

    # Jobs and stages.

    def change_job(
        self,
        job_id: str,
        attempt: int,
        says: str,
        values: Mapping[str, Any],
        must: Conditions,
        **more: Any,
    ) -> None:
        """Change a job that is at this attempt still, and say so in its history.

        Args:
            job_id: the job.
            attempt: its attempt until then.
            says: what the history says: what the status is from now on, or another word.
            values: what changes.
            must: what else must be true: at least, which statuses the job may have.
            more: what else the history says; see `add_history`.
        """
        conditions = {"attempt": attempt, **must}
        self.change(job_id, JOB, {"updated_at": self.at, **values}, conditions)
        begun = values.get("attempt", attempt)
        self.add_history(job_id, JOB_SUBJECT, says, attempt=begun, **more)

    def list_as_waiting(self, job_id: str, must: Conditions) -> None:
        """List a job apart that is QUEUED and waits for a slot, until its status changes."""
        listed = {LISTED_UNDER: partition_of(WAITING_FOR_SLOT, job_id)}
        self.change(job_id, JOB, listed, must)

    def put_stage(self, job_id: str, record: StageRecord) -> None:
        """Put a stage in the place of what there is of it."""
        values = stage_item(record) | {"expires_at": self.expires_at}
        self.put(job_id, f"{STAGE}{record.stage}", values, is_new=False)

    def change_stage(self, job_id: str, before: StageRecord, after: StageRecord) -> None:
        """Change a stage that still is as it was read, and say in the history what is new of it."""
        old, new = stage_item(before), stage_item(after)
        values = {name: value for name, value in new.items() if value != old[name]}
        must = {name: old[name] for name in _STATE_OF_STAGE}
        self.change(
            job_id, f"{STAGE}{before.stage}", values | {"expires_at": self.expires_at}, must
        )
        if values.keys() & _IN_HISTORY:
            self.add_history(
                job_id,
                after.stage,
                after.status,
                # The last error stays while the next attempt runs.
                after.error if after.status in _FAILED_ATTEMPT else None,
                attempt=0 if after.status.is_done else after.attempt,
                note=after.check or after.waiting_for,
                job_attempt=after.job_attempt,
                next_attempt_before=after.next_attempt_before,
                waits_until=after.waits_until if after.status is StageStatus.WAITING else None,
            )

    def close_stage(
        self, job_id: str, stage: str, job_attempt: int, closed: StageClosed, must: Conditions
    ) -> None:
        """Let nothing of a stage start any more that has not ended, however it stands."""
        conditions = {"job_attempt": job_attempt, "status": OPEN_STAGE, **must}
        values = {"closed": closed, "expires_at": self.expires_at}
        self.change(job_id, f"{STAGE}{stage}", values, conditions)

    def write(self) -> None:
        """Write it.

        Raises:
            ConditionFailedError: something is not as it must be.
        """
        dynamodb.transact(self._client, self._writes)

    def write_if_it_holds(self) -> bool:
        """Write it, unless something is not as it must be; return whether it is written."""
        try:
            self.write()
        except dynamodb.ConditionFailedError:
            return False
        return True


def _key(job_id: str, record: str) -> dict[str, str]:
    return {"job_id": job_id, "record": record}


def _stored(job_id: str, record: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as an item holds them; a job is listed under the status that is written."""
    is_status = record == JOB and "status" in values
    listed = {LISTED_UNDER: partition_of(values["status"], job_id)} if is_status else {}
    return {name: stored(value) for name, value in values.items()} | listed


def _condition(must: Conditions) -> ConditionBase:
    """Return conditions as DynamoDB has them."""
    return reduce(and_, (_about(Attr(name), wanted) for name, wanted in must.items()))


def _about(attribute: Attr, wanted: Any) -> ConditionBase:
    match wanted:
        case None:
            return attribute.not_exists()
        case NotAfter(at):
            return attribute.not_exists() | attribute.lte(time_text(at))
        case tuple():
            is_one = attribute.is_in([str(one) for one in wanted if one is not None])
            return attribute.not_exists() | is_one if None in wanted else is_one
        case _:
            return attribute.eq(stored(wanted))
