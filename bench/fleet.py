"""What a burst of jobs takes on AWS: time, the quota that bounds it, failures, dollars.

Nothing is run on AWS. Jobs go through the project's own numbers and AWS's documented quotas; what
is assumed stands in `fleet_inputs`. Up to a thousand jobs are simulated event by event, more as a
flow.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import cache

from bench.fleet_events import Simulation
from bench.fleet_flow import Flow
from bench.fleet_inputs import Fleet, Outcome
from bench.quotas import Region

#: The jobs of a burst.
SIZES = (1_000, 10_000, 100_000, 1_000_000)

#: So many at most are simulated event by event.
EXACT = 1_000


@cache
def play(jobs: int, region: Region = Region.OTHER) -> Outcome:
    """Let a burst run to its end."""
    fleet = Fleet(jobs, region)
    return Simulation(fleet).run() if jobs <= EXACT else Flow(fleet).run()


def duration(seconds: float) -> str:
    """Write a time as minutes or hours."""
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"  # noqa: PLR2004  # as people say it


def bound(outcome: Outcome) -> str:
    """Say what bounded a burst: of which most was used until its end, and the next if as much."""
    load = sorted(outcome.load().items(), key=lambda item: -item[1])[:2]
    most = load[0][1]
    # Whoever waits for a slot that is free has not polled yet.
    named = [f"{name} {used:.0%}" for name, used in load if used > 0.95 * most > 1 / 2]
    return ", ".join(named) or "waits between polls"


def failures(outcome: Outcome) -> str:
    """Say how many jobs failed, and why most of them did."""
    number = round(outcome.all_failed)
    if number == 0:
        return "0"
    most = max(outcome.failed, key=lambda why: outcome.failed[why])
    return f"{number:,}: {most}"


HEADINGS = ("jobs", "ends after", "bound by", "failed", "dollars", "each")


def rows(sizes: Iterable[int] = SIZES, region: Region = Region.OTHER) -> Iterator[tuple[str, ...]]:
    """Return a row for each size."""
    for jobs in sizes:
        outcome = play(jobs, region)
        dollars = sum(outcome.dollars.values())
        yield (
            f"{jobs:,}",
            duration(outcome.seconds),
            bound(outcome),
            failures(outcome),
            f"{dollars:,.2f}",
            f"{dollars / jobs:.5f}",
        )


def table(headings: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """Return lines in columns."""
    every = [headings, *lines]
    widths = [max(len(line[column]) for line in every) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in every
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", choices=list(Region), default=Region.OTHER, type=Region)
    region: Region = parser.parse_args().region
    print(table(HEADINGS, rows(region=region)))
    print()
    print("dollars of one job that waits for nothing, by service:")
    of_service = Fleet(1).dollars_of_a_job
    print(table(("", ""), [(name, f"{cost:.7f}") for name, cost in of_service.items()]))


if __name__ == "__main__":
    main()
