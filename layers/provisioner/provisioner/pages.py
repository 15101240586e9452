"""One page of a list, and the cursor that says where the next one begins."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from provisioner.arguments import check_text
from provisioner.errors import ErrorType, failure

#: Bytes of a cursor that tell its list.
_MARK_BYTES = 9


@dataclass(frozen=True, slots=True)
class Page[Item](Sequence[Item]):
    """One page of a list: a sequence of what is on it."""

    items: Sequence[Item]
    #: What the same call takes as `cursor` to return the next page; None where this is the last.
    next_cursor: str | None = None

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """Return one of the items, or some."""
        return self.items[index]

    def __len__(self) -> int:
        """Return how many there are on this page."""
        return len(self.items)


def write_cursor(name: str, position: str) -> str | None:
    """Return the cursor of a position in a list; None where there is no position.

    Args:
        name: tells the list from all others.
        position: where the next page begins; empty where there is none.
    """
    return _encode(name, position) if position else None


def read_cursor(name: str, cursor: object) -> str:
    """Return the position that a cursor of a list says; an empty one for None.

    Raises:
        INVALID_PAYLOAD: it is no cursor of this list.
    """
    if cursor is None:
        return ""
    text = check_text("cursor", cursor)
    try:
        padding = "=" * (-len(text) % 4)
        position = base64.urlsafe_b64decode(text + padding)[_MARK_BYTES:].decode()
    except ValueError:
        position = ""
    # Whatever else base64 lets through is written otherwise.
    if not position or _encode(name, position) != text:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            "cursor: must be the next_cursor of a page of this very list.",
        )
    return position


def _encode(name: str, position: str) -> str:
    text = f"{name}\n{position}".encode(errors="surrogatepass")
    mark = hashlib.sha256(text).digest()[:_MARK_BYTES]
    return base64.urlsafe_b64encode(mark + position.encode()).decode().rstrip("=")
