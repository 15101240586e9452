"""Admission control: so many jobs wait for a slot as executions, and the others in the queue.

A job that waits for a slot polls, and each poll is a transition, a run and a Query. A message that
nobody has received costs nothing.
"""

import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from provisioner.drivers.aws_errors import AWS_ERRORS, short_cause
from provisioner.errors import ProvisioningError
from provisioner.jobs.slots import SlotUse, record_hold
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger

#: How many jobs wait for a slot as executions, about. Each polls twice a minute on average: so many
#: find each slot that becomes free within a second, and leave nearly all of the 800 transitions a
#: second, the smallest quota of StateTransition, to the jobs that run. Source: AWS Step Functions
#: Developer Guide, "Quotas".
MOST_WAITING = 1_000

#: Seconds for which a look is good, and seconds between two looks for a job that is held back.
_GOOD_SECONDS = 1.0
PAUSE_SECONDS = 3.0

#: The part of the room that a process takes by one look: as many look at once by default, and a job
#: that was let in is listed as waiting some time later.
_PART = 10

#: Seconds after which a process lets in another job of a share that is not seen to wait: it is by
#: then, if it does.
_SEEN_SECONDS = 60.0

#: After so long it is stored once more that jobs are held back.
_STORED = timedelta(minutes=1)


class AdmissionControl:
    """Says whether a further job may be started, to all threads of a process."""

    def __init__(
        self,
        store: JobStore,
        most_waiting: int = MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin without having looked.

        Args:
            store: the jobs.
            most_waiting: how many jobs may wait for a slot as executions, about.
            clock: returns the seconds since some moment.
            sleep: waits for so many seconds.
        """
        self._store = store
        self._most_waiting = most_waiting
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._good_until = clock()
        #: How many more jobs are let in by this look; who waits, where too many do.
        self._left = 0
        self._crowd: SlotUse | None = None
        #: Shares of which a job was let in for not being seen to wait, and until when no other is.
        self._let_in: dict[str, float] = {}

    def admit(self, share: str, time_left: Callable[[], float]) -> bool:
        """Wait until there is room for a further job; return False where the time is over before.

        Where nobody can say whether there is room, there is.

        Args:
            share: whose share of the slots the job takes.
            time_left: returns the seconds that are left.
        """
        while not self.has_room(share):
            if time_left() < PAUSE_SECONDS:
                return False
            self._sleep(PAUSE_SECONDS)
        return True

    def has_room(self, share: str) -> bool:
        """Say whether there is room for a further job of a share, by a look of the last second."""
        with self._lock:
            if self._clock() >= self._good_until:
                self._left, self._crowd = self._look()
                self._good_until = self._clock() + _GOOD_SECONDS
            if self._left > 0:
                self._left -= 1
                return True
            return self._crowd is not None and self._lets_in(self._crowd, share)

    def _look(self) -> tuple[int, SlotUse | None]:
        """Return how many are let in, and, where too many wait, who; that is stored, too."""
        try:
            room = self._most_waiting - self._store.estimate_waiting(self._most_waiting)
            if room > 0:
                return math.ceil(room / _PART), None
            crowd = self._store.slots()
            if crowd.held_at is None or self._store.now() - crowd.held_at >= _STORED:
                work = self._store.work()
                record_hold(work)
                work.write()
                logger.info("jobs are held back", waiting=self._most_waiting - room)
        except (*AWS_ERRORS, ProvisioningError) as error:
            # Better too many jobs at once than none.
            logger.warning("jobs are let in without a look", cause=short_cause(error))
            return self._most_waiting, None
        return 0, crowd

    def _lets_in(self, crowd: SlotUse, share: str) -> bool:
        """Let in a job of a share that is not seen to wait: others' jobs are not in its way."""
        now = self._clock()
        if not crowd.lets_see(share) or now < self._let_in.get(share, now):
            return False
        still = {of: until for of, until in self._let_in.items() if now < until}
        self._let_in = still | {share: now + _SEEN_SECONDS}
        return True
