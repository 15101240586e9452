"""Keeps for a minute, in a function that is warm, what operators change seldom."""

import time
from collections.abc import Callable, Hashable

#: Seconds in which what was read may be used again.
KEPT_SECONDS = 60.0


class MinuteCache[Value]:
    """What a process has read, by a key."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Begin with nothing.

        Args:
            clock: gives the time, in seconds; not the process's own, which may stand still while
                AWS Lambda keeps it frozen between two invocations.
        """
        self._clock = clock
        self._values: dict[Hashable, tuple[float, Value]] = {}

    def get(self, key: Hashable) -> Value | None:
        """Return what was kept in the last minute; None where nothing was."""
        since, value = self._values.get(key, (0.0, None))
        # A clock that was set back says nothing of how old a value is.
        is_fresh = 0 <= self._clock() - since < KEPT_SECONDS
        return value if is_fresh else None

    def keep(self, key: Hashable, value: Value) -> Value:
        """Keep what has just been read, and return it."""
        self._values[key] = (self._clock(), value)
        return value
