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

#: How the ids begin of tests that take seconds each, or minutes. Those with one beginning share a
#: server, or are one test.
SLOW = (
    "tests/machine/test_machine.py::test_whatever_happens_the_invariants_hold[a]",
    "tests/machine/test_machine.py::test_whatever_happens_the_invariants_hold[b]",
    "tests/stack/test_own_stack.py",
    "tests/stack/",
    "tests/sam/",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slow tests with one beginning begin the part of one worker."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    slow: dict[str, list[pytest.Item]] = {beginning: [] for beginning in SLOW}
    others: list[pytest.Item] = []
    for item in items:
        of = next((slow[start] for start in SLOW if item.nodeid.startswith(start)), others)
        of.append(item)
    items[:] = in_shares(list(slow.values()), others, workers)


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
