"""Whether processes run."""

from __future__ import annotations

from contextlib import suppress

import psutil


def runs(process_id: int) -> bool:
    """Whether a process has not ended; one that nobody has asked for yet has."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE)
    return False
