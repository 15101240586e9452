"""Keeps the models of AWS's services for as long as a process lives: a pytest plugin.

botocore keeps what it has read for each session, and many a test has a session of its own: a
seventh of all time was spent on reading the same files. What a client changes in a model, as those
of S3 do once, is the same for each.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from botocore import session

# A name that this module uses, not one that it exports.
_session: Any = session

#: What was read, by the search path that it was found by.
_models: dict[str | None, dict[Any, Any]] = {}


def _create_loader(original: Any, search_path: str | None = None) -> Any:
    loader = original(search_path)
    loader._cache = _models.setdefault(search_path, {})
    return loader


_session.create_loader = partial(_create_loader, _session.create_loader)
