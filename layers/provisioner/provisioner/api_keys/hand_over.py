"""How a project's newest API keys are handed over: until when, and how that has ended.

One item a project, beside the digests. While the secret waits to be claimed, or is being deleted,
the item is in the sparse index `unclaimed` at the time of its next step: who looks for what is due
reads that and nothing else, however many projects and keys there are.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from typing import Any

from boto3.dynamodb.conditions import Attr, ConditionBase

from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb, dynamodb_lists
from provisioner.drivers.dynamodb import ConditionFailedError, Write

#: For how long new keys wait to be claimed. Their secret holds them in plaintext and costs $0.40 a
#: month; someone who wants them claims them within days, and who was on leave for three weeks still
#: can. New ones cost one rotation.
CLAIM_TIME = timedelta(days=30)

#: How long before that ends the notice is given: a working week, whichever day it is.
NOTICE_TIME = timedelta(days=7)

#: For how long a claim that has begun is let be: until it has handed the keys over, which it may do
#: at a person's pace, and has deleted the secret.
_CLAIM_LASTS = timedelta(days=1)

#: What the history of the job that made the keys says of them: that this time ends soon, and that
#: it was over, and their secret is deleted.
API_KEYS_EXPIRING = "API_KEYS_EXPIRING"
API_KEYS_EXPIRED = "API_KEYS_EXPIRED"

#: What the keys of these items begin with; no digest does.
_PREFIX = "#hand-over#"

#: The keys of the index.
_DUE_UNDER, _DUE_AT = "due_under", "due_at"
_UNCLAIMED = "UNCLAIMED"
_NOT_DUE: dict[str, None] = dict.fromkeys((_DUE_UNDER, _DUE_AT))

#: How many items one Query of the index reads, in each of its partitions.
_AT_ONCE = 25


class HandOverStatus(StrEnum):
    """Where the hand-over of a set of keys stands."""

    #: The secret waits to be claimed.
    WAITING = "WAITING"
    #: The secret is gone: the keys were handed over, or someone has deleted it.
    CLAIMED = "CLAIMED"
    #: Nobody has claimed the keys in time; the secret is being deleted.
    EXPIRING = "EXPIRING"
    #: Nobody had claimed the keys in time; the secret is deleted.
    EXPIRED = "EXPIRED"


#: From each status of a hand-over, the statuses that may follow. A new set of keys begins anew.
HAND_OVER_TRANSITIONS: dict[HandOverStatus, frozenset[HandOverStatus]] = {
    HandOverStatus.WAITING: frozenset({HandOverStatus.CLAIMED, HandOverStatus.EXPIRING}),
    HandOverStatus.CLAIMED: frozenset(),
    HandOverStatus.EXPIRING: frozenset({HandOverStatus.EXPIRING, HandOverStatus.EXPIRED}),
    HandOverStatus.EXPIRED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class HandOver:
    """The hand-over of a project's newest set of keys."""

    project_id: str
    #: The job whose set it is.
    job_id: str
    status: HandOverStatus
    #: When the secret is deleted if nobody has claimed it.
    claim_before: datetime
    #: When the next step is due; None where none is left.
    due_at: datetime | None
    #: While it is EXPIRING: until when the secret may still be deleted by who has begun that.
    expiring_until: datetime | None = None

    @property
    def has_expired(self) -> bool:
        """Whether it is too late for a claim."""
        return self.status in {HandOverStatus.EXPIRING, HandOverStatus.EXPIRED}

    def is_expiring_at(self, moment: datetime) -> bool:
        """Whether the secret of that name may be deleted at a moment, whatever it holds by then."""
        return self.expiring_until is not None and moment < self.expiring_until


def new_hand_over(project_id: str, job_id: str, now: datetime) -> HandOver:
    """Return the hand-over of a set of keys that a job stores now."""
    claim_before = now + CLAIM_TIME
    return HandOver(
        project_id, job_id, HandOverStatus.WAITING, claim_before, claim_before - NOTICE_TIME
    )


class HandOverStore:
    """Reads and writes the hand-overs of keys."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        """Bind the store to the table of API keys."""
        self._client = client
        self._table = table

    def get(self, project_id: str) -> HandOver | None:
        """Read a project's; None where it has no keys."""
        item = dynamodb.get(self._client, self._table, _key(project_id))
        return None if item is None else _to_hand_over(item)

    def build_put(self, new: HandOver) -> Write:
        """Return the write that begins a hand-over, in the place of the one before."""
        values = {
            "project_id": new.project_id,
            "job_id": new.job_id,
            "status": new.status,
            "claim_before": _text(new.claim_before),
            _DUE_UNDER: dynamodb_lists.partition_of(_UNCLAIMED, new.project_id),
            _DUE_AT: _text(new.claim_before - NOTICE_TIME),
        }
        return dynamodb.build_put(self._table, _key(new.project_id), values, is_new=False)

    def list_due(self, now: datetime) -> Iterator[str]:
        """Yield the projects whose next step is due, the longest due first, as they are read."""
        listed = dynamodb_lists.read(
            self._client,
            self._table,
            "unclaimed",
            (_DUE_UNDER, _DUE_AT),
            dynamodb_lists.partitions_of(_UNCLAIMED),
            at_once=_AT_ONCE,
        )
        for item in takewhile(lambda item: item[_DUE_AT] <= _text(now), listed):
            yield item["digest"].removeprefix(_PREFIX)

    def begin_claim(self, project_id: str, now: datetime) -> HandOver | None:
        """Keep the secret from being deleted while it is claimed, if it is not too late.

        Returns:
            the hand-over where nothing is kept: it does not wait; None otherwise.
        """
        values = {"claimed_at": _text(now)}
        change = self._change(project_id, values, Attr("status").eq(HandOverStatus.WAITING))
        try:
            dynamodb.transact(self._client, [change])
        except ConditionFailedError:
            return self.get(project_id)
        return None

    def end_claim(self, project_id: str, job_id: str) -> None:
        """Say that the set of a job is handed over; nothing where another has followed."""
        must = Attr("job_id").eq(job_id)
        with suppress(ConditionFailedError):
            dynamodb.transact(self._client, [self._end(project_id, HandOverStatus.CLAIMED, must)])

    def build_notice(self, waiting: HandOver) -> Write:
        """Return the write that goes with the notice: it is given once."""
        is_not_given = Attr(_DUE_AT).lt(_text(waiting.claim_before))
        is_as_before = Attr("job_id").eq(waiting.job_id) & Attr("status").eq(waiting.status)
        must = is_not_given & is_as_before
        return self._change(waiting.project_id, {_DUE_AT: _text(waiting.claim_before)}, must)

    def build_expiry(self, due: HandOver, now: datetime, until: datetime) -> Write:
        """Return the write after which nobody claims the keys any more.

        Its condition does not hold before the time is over, nor where someone claims them just now.

        Args:
            due: the hand-over.
            now: the time.
            until: until when its secret may be deleted.
        """
        must = (
            _may_become(HandOverStatus.EXPIRING)
            & Attr("job_id").eq(due.job_id)
            & Attr("claim_before").lte(_text(now))
            & (Attr("claimed_at").not_exists() | Attr("claimed_at").lte(_text(now - _CLAIM_LASTS)))
        )
        values = {"status": HandOverStatus.EXPIRING, "expiring_until": _text(until)}
        return self._change(due.project_id, values, must)

    def build_end(self, before: HandOver, status: HandOverStatus) -> Write:
        """Return the write that says how a hand-over has ended, after which nothing is due.

        Its condition does not hold where another run has begun to delete the secret meanwhile.
        """
        until = Attr("expiring_until")
        is_as_before = (
            until.not_exists()
            if before.expiring_until is None
            else until.eq(_text(before.expiring_until))
        )
        must = is_as_before & Attr("job_id").eq(before.job_id)
        return self._end(before.project_id, status, must)

    def remove(self, project_id: str) -> None:
        """Remove it with the project's keys."""
        self._client.delete_item(TableName=self._table, Key=dynamodb.to_item(_key(project_id)))

    def _end(self, project_id: str, status: HandOverStatus, must: ConditionBase) -> Write:
        values = {"status": status, "expiring_until": None, **_NOT_DUE}
        return self._change(project_id, values, must & _may_become(status))

    def _change(self, project_id: str, values: dict[str, Any], must: ConditionBase) -> Write:
        return dynamodb.build_update(self._table, _key(project_id), values, must)


def _may_become(status: HandOverStatus) -> ConditionBase:
    sources = [source for source, targets in HAND_OVER_TRANSITIONS.items() if status in targets]
    return Attr("status").is_in(sources)


def _key(project_id: str) -> dict[str, str]:
    return {"digest": f"{_PREFIX}{project_id}"}


def _text(moment: datetime) -> str:
    """Write a time so that texts compare as times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _to_hand_over(item: dict[str, Any]) -> HandOver:
    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(item[name]) if name in item else None

    return HandOver(
        project_id=item["project_id"],
        job_id=item["job_id"],
        status=HandOverStatus(item["status"]),
        claim_before=datetime.fromisoformat(item["claim_before"]),
        due_at=moment(_DUE_AT),
        expiring_until=moment("expiring_until"),
    )
