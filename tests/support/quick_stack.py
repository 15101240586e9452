"""Gives each test and each thread one large piece of Python's stack: a pytest plugin.

Python keeps its frames in pieces of 16 KiB. It asks the system for the next one as soon as a call
does not fit any more, and gives it back as soon as the call returns: a loop that calls just there
does so each time. Botocore above moto above the code goes so deep that this was a sixth of the time
of the random sequences. A frame that asks for much gets a piece with as much room again for all
that it calls. Source: CPython, `push_chunk` in Python/pystate.c.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from _pytest import runner

#: What the frame asks for, in values of eight bytes. None of it is written to.
_ROOM = 1 << 17

_thread: Any = threading.Thread
_run = threading.Thread.run


def _with_room(call: Callable[..., object], *args: object) -> object:
    return call(*args)


_with_room.__code__ = _with_room.__code__.replace(co_stacksize=_ROOM)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """Run a test as pytest does."""
    return _with_room(runner.pytest_runtest_protocol, item, nextitem)


_thread.run = lambda thread: _with_room(_run, thread)
