"""Texts that a tenant has chosen, as they stand in a message that people read and type from.

SQL that a program runs is made by `psycopg.sql` and by nothing of this.

Source: PostgreSQL documentation, "Lexical Structure".
"""

from collections.abc import Sequence
from typing import Any

#: The last character whose code has four digits.
_LAST_OF_SHORT = 0xFFFF


def visible(text: str, length: int) -> str:
    """Return at most so many characters of a text, all of them visible.

    What moves the cursor, hides or turns text around stands as a code instead.
    """
    shown = _escape(text[:length], "", "\\u{:04x}", "\\U{:08x}")
    return f"{shown}…" if len(text) > length else shown


def literal(text: str) -> str:
    """Return a text as a string constant of SQL, all of it visible, for someone to type."""
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return "E'" + _escape(text, "'\\", "\\u{:04x}", "\\U{:08x}") + "'"


def identifier(quoted: str) -> str:
    """Return an identifier of SQL, all of it visible, for someone to type.

    Args:
        quoted: as the server's function quote_ident gives it.
    """
    if quoted.isprintable():
        return quoted
    return "U&" + _escape(quoted, "\\", "\\{:04x}", "\\+{:06x}")


def name_rest(rows: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """Say how many more there are than these rows, whose last value is how many there are."""
    more = rows[0][-1] - len(rows) if rows else 0
    return (f"and {more} more like the last",) if more else ()


def _escape(text: str, with_backslash: str, short: str, long: str) -> str:
    """Write codes for what cannot be seen, and a backslash before what has another meaning."""
    return "".join(
        f"\\{character}"
        if character in with_backslash
        else character
        if character.isprintable()
        else (short if ord(character) <= _LAST_OF_SHORT else long).format(ord(character))
        for character in text
    )
