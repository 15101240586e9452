"""Gives each worker of pytest-xdist some of the slow tests to begin with: a pytest plugin.

A worker begins with a part of the list of tests, in order; one that has done its own takes tests
from the end of another's. So slow tests that stand together in the list are one worker's, and the
others wait for it at the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle

import pytest

#: The folders whose tests take seconds each, or minutes.
SLOW = ("machine", "sam", "stack")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slow tests of one folder begin the part of one worker."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    folders = [item.path.parent.name for item in items]
    slow = [[i for i, f in zip(items, folders, strict=True) if f == folder] for folder in SLOW]
    others = [i for i, f in zip(items, folders, strict=True) if f not in SLOW]
    items[:] = in_shares(slow, others, workers)


def in_shares[Test](
    slow: Sequence[Sequence[Test]], others: Sequence[Test], workers: int
) -> list[Test]:
    """Return all tests in an order whose equal parts, one a worker, begin with the slow ones."""
    begins: list[list[Test]] = [[] for _ in range(workers)]
    for begin, tests in zip(cycle(begins), slow, strict=False):
        begin.extend(tests)
    left, order = list(others), []
    for number, begin in enumerate(begins):
        remaining = len(begin) + len(left) + sum(map(len, begins[number + 1 :]))
        size = max(0, remaining // (workers - number) - len(begin))
        order += [*begin, *left[:size]]
        left = left[size:]
    return [*order, *left]
