"""Slots: so many jobs run at once, and no more.

Each slot is an item that names the job which has it. It is taken in the transaction that begins the
job and released in the one that ends it, so that their number is exact whatever comes at once. A
job that finds none stands in the line, for as long as it polls. The line has only so many places as
tell which shares wait: to read all of it, with the slots, is a small Query however many jobs wait.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from provisioner.jobs.records import NotAfter, UnitOfWork, time_text
from provisioner.jobs.retries import SLOT_RETRY

#: Where the slots are: no job has such an id.
SLOTS = "#slots"

#: The sort keys of a slot, and of a place in the line.
_SLOT = "SLOT#"
_LINE = "WAITING#"

#: The sort key of the item that says when messages were held back last.
_HOLD = "HOLD"

#: Places of a share in the line: so many of its jobs may take a slot between two polls of another
#: one, and the share is still seen to wait.
PLACES_OF_A_SHARE = 5

#: How many of the places may be such further ones of the shares that have one.
FURTHER_PLACES = 30

#: For how long a place is kept without a poll; no two polls are further apart. Nor is a slot free
#: for so long while a job waits.
_KEPT = timedelta(seconds=2 * SLOT_RETRY.max_delay_seconds)


@dataclass(frozen=True, slots=True)
class SlotUse:
    """Who has the slots, and who waits for one."""

    #: How many there are.
    maximum: int
    #: The job that has it, by slot, and that job's share.
    holders: Mapping[int, str]
    shares: Mapping[int, str]
    #: Who waits, by the place in the line: a share, and one of its jobs.
    line: Mapping[int, tuple[str, str]]
    #: When the dispatcher has last found too many jobs waiting, to the minute; None where it never
    #: has.
    held_at: datetime | None = None

    def free_for(self, job_id: str, share: str) -> int | None:
        """Return a slot that a job may take now; None where it has to wait.

        A share that has more slots than another one that waits takes none: so it has half of them
        at the most, rounded up, while others wait.
        """
        if len(self.holders) >= self.maximum:
            return None
        has = Counter(self.shares.values())
        others = {waiting for waiting, _ in self.line.values()} - {share}
        if any(has[share] > has[other] for other in others):
            return None
        # Where others wait, the jobs of a share that look at once want the same slot: one gets it.
        first = preferred_slot(share if others else job_id, self.maximum)
        in_turn = ((first + n) % self.maximum for n in range(self.maximum))
        return next((slot for slot in in_turn if slot not in self.holders), None)

    def place_for(self, job_id: str, share: str) -> int | None:
        """Return the place in the line that a job has, or one that is free.

        None where one more would tell nobody anything. Of more shares than there are slots, one has
        none: then no share that has one takes another, however many more wait. And a share that is
        in the line is seen without its further places; these only let it be seen for longer.
        """
        own = self.place_of(job_id)
        if own is not None:
            return own
        of_shares = Counter(waiting for waiting, _ in self.line.values())
        if share in of_shares:
            further = len(self.line) - len(of_shares)
            is_full = of_shares[share] >= PLACES_OF_A_SHARE or further >= FURTHER_PLACES
        else:
            is_full = len(of_shares) >= _shares_in_line(self.maximum)
        places = line_places(self.maximum)
        # Jobs that look at once mostly want different ones.
        first = preferred_slot(job_id, places)
        in_turn = ((first + n) % places for n in range(places))
        return None if is_full else next((n for n in in_turn if n not in self.line), None)

    def lets_see(self, share: str) -> bool:
        """Whether a share that is not seen to wait would be, if a job of it did."""
        seen = {waiting for waiting, _ in self.line.values()}
        return share not in seen and len(seen) < _shares_in_line(self.maximum)

    def place_of(self, job_id: str) -> int | None:
        """Return the place in the line that a job has; None where it has none."""
        return next((place for place, (_, waits) in self.line.items() if waits == job_id), None)


def _shares_in_line(maximum: int) -> int:
    """Return how many shares stand in the line: of the others than one's own, one has no slot."""
    return maximum + 2


def line_places(maximum: int) -> int:
    """Return how many places the line has, beside so many slots."""
    return _shares_in_line(maximum) + FURTHER_PLACES


def preferred_slot(name: str, maximum: int) -> int:
    """Return the slot that is tried first; names are spread over the slots."""
    return zlib.crc32(name.encode()) % maximum


def slot_use(items: Iterable[Mapping[str, Any]], maximum: int, at: datetime) -> SlotUse:
    """Return who has the slots, and who waits.

    Args:
        items: the slots, the places in the line, and when messages were held back. There may be
            more slots and places than belong to the maximum, since it was greater before: who has
            such a slot counts, and such a place until it has expired.
        maximum: how many slots there are.
        at: the time.
    """
    holders: dict[int, str] = {}
    shares: dict[int, str] = {}
    line: dict[int, tuple[str, str]] = {}
    held_at = None
    for item in items:
        share = item.get("share", "")
        if item["record"] == _HOLD:
            held_at = datetime.fromisoformat(item["held_at"])
        elif item["record"].startswith(_SLOT):
            if "holder" in item:
                slot = int(item["record"].removeprefix(_SLOT))
                holders[slot], shares[slot] = item["holder"], share
        elif item["kept_until"] > time_text(at):
            line[int(item["record"].removeprefix(_LINE))] = share, item["holder"]
    return SlotUse(maximum, holders, shares, line, held_at)


def take_slot(
    work: UnitOfWork, slot: int, job_id: str, share: str, use: SlotUse | None = None
) -> None:
    """Add that a job takes a slot, and leaves the line.

    Args:
        work: the writes that it belongs to.
        slot: the slot.
        job_id: the job.
        share: its share.
        use: who has the slots, and who waits. Where that is not known, the slot must have been free
            for so long that nobody waits.
    """
    rested = {"released_at": NotAfter(work.at - _KEPT)} if use is None else {}
    work.change(SLOTS, _slot(slot), {"holder": job_id, "share": share}, {"holder": None, **rested})
    place = None if use is None else use.place_of(job_id)
    if place is not None:
        work.change(SLOTS, _place(place), {"kept_until": work.at}, {"holder": job_id})


def release_slot(work: UnitOfWork, slot: int | None, job_id: str, to: str = "") -> None:
    """Add that a job releases its slot, if it has one.

    Args:
        work: the writes that it belongs to.
        slot: the slot.
        job_id: the job.
        to: the job that has it from then on, in the same share, if any.
    """
    if slot is not None:
        released = {"holder": None, "share": None, "released_at": work.at}
        values = {"holder": to} if to else released
        work.change(SLOTS, _slot(slot), values, {"holder": job_id})


def stand_in_line(work: UnitOfWork, use: SlotUse, job_id: str, share: str) -> bool:
    """Add that a job is seen to wait until its next poll; return whether there is a place for it.

    Args:
        work: the writes that it belongs to. They are refused where another job has just taken the
            place.
        use: who has the slots, and who waits.
        job_id: the job.
        share: its share.
    """
    place = use.place_for(job_id, share)
    if place is None:
        return False
    values = {
        "holder": job_id,
        "share": share,
        "kept_until": work.at + _KEPT,
        # Others take it again, but for one beyond a maximum that was lowered.
        "expires_at": int((work.at + _KEPT).timestamp()),
    }
    is_own = use.place_of(job_id) == place
    must = {"holder": job_id} if is_own else {"kept_until": NotAfter(work.at)}
    work.change(SLOTS, _place(place), values, must)
    return True


def record_hold(work: UnitOfWork) -> None:
    """Add that messages are held back, since too many jobs wait."""
    work.put(SLOTS, _HOLD, {"held_at": work.at}, is_new=False)


def _slot(slot: int) -> str:
    return f"{_SLOT}{slot:04}"


def _place(place: int) -> str:
    return f"{_LINE}{place:04}"
