"""The parts of the list of tests that the workers of a run begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shares import SLOW, in_shares


@given(
    slow=st.lists(st.integers(0, 5), max_size=5),
    others=st.integers(0, 40),
    workers=st.integers(1, 6),
)
def test_no_test_is_lost_or_doubled(slow: list[int], others: int, workers: int) -> None:
    folders = [[(folder, n) for n in range(size)] for folder, size in enumerate(slow)]
    rest = [(-1, n) for n in range(others)]

    order = in_shares(folders, rest, workers)

    assert sorted(order) == sorted([*rest, *(test for tests in folders for test in tests)])
    for tests in (rest, *folders):
        assert [test for test in order if test in tests] == tests


def test_each_worker_begins_with_the_slow_tests_with_one_beginning() -> None:
    slow = [["m1", "m2"], ["s1", "s2", "s3"], ["t1"]]

    order = in_shares(slow, [f"u{n}" for n in range(9)], 3)

    parts = [order[begin : begin + 5] for begin in (0, 5, 10)]
    assert parts == [
        ["m1", "m2", "u0", "u1", "u2"],
        ["s1", "s2", "s3", "u3", "u4"],
        ["t1", "u5", "u6", "u7", "u8"],
    ]


@pytest.mark.parametrize("beginning", SLOW)
def test_what_is_named_slow_is_there(beginning: str) -> None:
    path, _, test = beginning.partition("::")

    found = Path(__file__).parents[2] / path
    assert found.exists()
    assert not test or f"def {test.partition('[')[0]}(" in found.read_text(encoding="utf-8")
