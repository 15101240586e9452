"""Slots: so many jobs run at once, and no more.

Each slot is an item that names the job which has it. It is taken in the transaction that begins the
job and released in the one that ends it, so that their number is exact whatever comes at once. A
job that finds none stands in the line of its share, for as long as it polls.
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

#: The sort keys of a slot, and of a place in a line; slots sort first.
_SLOT = "SLOT#"
_LINE = "WAITING#"

#: Places in the line of a share: so many of its jobs may take a slot between two polls of another
#: one, and the share is still seen to wait.
_PLACES = 5

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
    #: The jobs that wait, by their share and their place in its line.
    line: Mapping[tuple[str, int], str]

    def free_for(self, job_id: str, share: str) -> int | None:
        """Return a slot that a job may take now; None where it has to wait.

        A share that has more slots than another one that waits takes none: so it has half of them
        at the most, rounded up, while others wait.
        """
        if len(self.holders) >= self.maximum:
            return None
        has = Counter(self.shares.values())
        others = {waiting for waiting, _ in self.line} - {share}
        if any(has[share] > has[other] for other in others):
            return None
        # Where others wait, the jobs of a share that look at once want the same slot: one gets it.
        first = preferred_slot(share if others else job_id, self.maximum)
        in_turn = ((first + n) % self.maximum for n in range(self.maximum))
        return next((slot for slot in in_turn if slot not in self.holders), None)

    def place_for(self, job_id: str, share: str) -> int | None:
        """Return the place in the line of its share that a job has, or that is free.

        None where others have all of them: the share is seen to wait without it.
        """
        taken = {place: waits for (of, place), waits in self.line.items() if of == share}
        own = [place for place, waits in taken.items() if waits == job_id]
        free = [place for place in range(_PLACES) if place not in taken]
        return next(iter(own + free), None)


def preferred_slot(name: str, maximum: int) -> int:
    """Return the slot that is tried first; names are spread over the slots."""
    return zlib.crc32(name.encode()) % maximum


def slot_use(items: Iterable[Mapping[str, Any]], maximum: int, at: datetime) -> SlotUse:
    """Return who has the slots, and who waits.

    Args:
        items: the slots and the lines, in the order of their sort keys. Of the lines no more is
            read than it takes to tell whether a share waits that has no slot: of more shares than
            slots, one has none.
        maximum: how many slots there are.
        at: the time.
    """
    holders: dict[int, str] = {}
    shares: dict[int, str] = {}
    line: dict[tuple[str, int], str] = {}
    for item in items:
        share = item.get("share", "")
        if item["record"].startswith(_SLOT):
            if "holder" in item:
                slot = int(item["record"].removeprefix(_SLOT))
                holders[slot], shares[slot] = item["holder"], share
        elif item["kept_until"] > time_text(at):
            line[share, item["place"]] = item["holder"]
            if len({of for of, _ in line}) > maximum + 1:
                break
    return SlotUse(maximum, holders, shares, line)


def take_slot(
    work: UnitOfWork, slot: int, job_id: str, share: str, use: SlotUse | None = None
) -> None:
    """Add that a job takes a slot, and leaves its line.

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
    place = None if use is None else use.place_for(job_id, share)
    if use is not None and place is not None and use.line.get((share, place)) == job_id:
        work.change(SLOTS, _place(share, place), {"kept_until": work.at}, {"holder": job_id})


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


def stand_in_line(work: UnitOfWork, place: int, job_id: str, share: str) -> None:
    """Add that a job is seen to wait, until its next poll."""
    values = {
        "holder": job_id,
        "share": share,
        "place": place,
        "kept_until": work.at + _KEPT,
        # Nobody else removes the place of a job that was cancelled.
        "expires_at": int((work.at + _KEPT).timestamp()),
    }
    work.put(SLOTS, _place(share, place), values, is_new=False)


def _slot(slot: int) -> str:
    return f"{_SLOT}{slot:04}"


def _place(share: str, place: int) -> str:
    return f"{_LINE}{place}#{share}"
