"""Lets Python look for garbage less often: a pytest plugin.

Each worker holds the models of AWS's services and all of moto, which live as long as it does. With
Python's own thresholds it looks through them again and again, for a tenth of its time.
"""

from __future__ import annotations

import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Set what is there by now aside, and let much more come before the next look."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
