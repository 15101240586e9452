"""Times several ways to do one thing in turn, so that what slows the machine slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

#: Does a thing once. It returns when that was done, in seconds of the epoch, where it learns of it
#: later; else None.
type Run = Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Times:
    """The seconds that each way took, round by round."""

    of: Mapping[str, list[float]]

    def median(self, way: str) -> float:
        """Return the median of a way."""
        return statistics.median(self.of[way])

    def ratio(self, way: str, to: str) -> float:
        """Return the median of a way's ratios to another's time in the same round."""
        return statistics.median(
            one / other for one, other in zip(self.of[way], self.of[to], strict=True)
        )

    def ratio_of_fastest(self, way: str, to: str) -> float:
        """Return the ratio of the fastest rounds: other work has disturbed these least."""
        return min(self.of[way]) / min(self.of[to])


def seconds(run: Run, at_once: int = 1) -> float:
    """Time so many runs at once, from the start of the first to the end of the last."""
    began = time.time()
    with ThreadPoolExecutor(at_once) as pool:
        ends = [done.result() for done in [pool.submit(run) for _ in range(at_once)]]
    now = time.time()
    return max(now if end is None else end for end in ends) - began


def measure(ways: Mapping[str, Run], rounds: int, at_once: int = 1) -> Times:
    """Time each way once a round, one after the other, after a round that warms them up."""
    for run in ways.values():
        seconds(run, at_once)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(seconds(run, at_once))
    return Times(times)
