"""What stands in the way of a removal, as a look at the resources has found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Characters of a name that are shown. Longer ones are cut.
_NAME_LENGTH = 80

#: Obstacles of one kind that are named. Of the rest it is said that there are more.
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What stands in the way: a clause each, with the object and what to do about it."""

    #: Stays until someone acts.
    staying: tuple[str, ...] = ()
    #: Keeps the final snapshot from being taken, likewise.
    snapshot: tuple[str, ...] = ()
    #: Can pass without anyone acting.
    passing: tuple[str, ...] = ()
    #: Could not be looked at. Each clause says which permission that takes.
    unseen: tuple[str, ...] = ()

    def __add__(self, other: Obstacles) -> Obstacles:
        """Return the obstacles of both."""
        return Obstacles(
            self.staying + other.staying,
            self.snapshot + other.snapshot,
            self.passing + other.passing,
            self.unseen + other.unseen,
        )


def quote(name: str) -> str:
    """Quote a name that anyone may have chosen: at most 80 characters, all of them visible."""
    shown = "".join(
        character
        if character.isprintable() and character not in '"\\'
        else character.encode("unicode_escape").decode().replace('"', '\\"')
        for character in name[:_NAME_LENGTH]
    )
    return f'"{shown}…"' if len(name) > _NAME_LENGTH else f'"{shown}"'


def shorten(found: Sequence[str], kind: str) -> tuple[str, ...]:
    """Return the first clauses of one kind, and whether there are more.

    Args:
        found: a clause for each obstacle.
        kind: what they are, in the plural, such as "legal holds".
    """
    more = (f"there are more {kind}",) if len(found) > MOST_NAMED else ()
    return (*found[:MOST_NAMED], *more)
