"""Statements put together from text of the code, names and values, each quoted by its own kind.

PyMySQL has no such composition: it puts escaped values into a text by `%`, and names not at all.
Here only text that stands in the code is taken as it is.

Sources: MySQL 8.0 Reference Manual, "Schema Object Names", "String Literals", "Specifying Account
Names", "GRANT Statement"; MariaDB documentation, "Identifier Names", "GRANT".
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import LiteralString, Protocol, Self

#: Stands for all hosts.
ANY_HOST = "%"


class Escaper(Protocol):
    """What knows how the session it belongs to reads a string: PyMySQL's connection."""

    def escape(self, obj: object) -> str:
        """Return a value as SQL writes it."""


class Composable(Protocol):
    """A part of a statement, or all of one."""

    def render(self, escaper: Escaper) -> str:
        """Return the text that the server gets."""


@dataclass(frozen=True, slots=True)
class SQL:
    """Text of the code, with a part for each `{}` in it."""

    #: Stands in the code: the type checker takes no other.
    text: LiteralString
    parts: tuple[Composable, ...] = ()

    def format(self, *parts: Composable) -> Self:
        """Put parts in, in their order."""
        return replace(self, parts=parts)

    def join(self, parts: Iterable[Composable]) -> Self:
        """Put this text between parts."""
        joined = tuple(parts)
        return replace(self, text=self.text.join("{}" for _ in joined), parts=joined)

    def render(self, escaper: Escaper) -> str:
        """Return the text that the server gets.

        Raises:
            ValueError: there are more or fewer parts than places for them.
        """
        first, *rest = self.text.split("{}")
        pairs = zip(self.parts, rest, strict=True)
        return first + "".join(part.render(escaper) + text for part, text in pairs)


class Identifier:
    """The name of an object, or the names that lead to it, such as a schema's and a table's."""

    def __init__(self, *names: str) -> None:
        """Take the names.

        Raises:
            ValueError: one is empty or holds a NUL, as no name may.
        """
        for name in names:
            if not name or "\0" in name:
                raise ValueError("a name is empty or holds a NUL")
        self._names = names

    def render(self, _: Escaper) -> str:
        """Return the text that the server gets; it means the same in every sql_mode."""
        return ".".join("`" + name.replace("`", "``") + "`" for name in self._names)


@dataclass(frozen=True, slots=True)
class Literal:
    """A value."""

    value: str | bytes | int | None

    def render(self, escaper: Escaper) -> str:
        """Return the text that the server gets, by the sql_mode that the session has."""
        return escaper.escape(self.value)


def account(user: str) -> SQL:
    """Return a user at all hosts."""
    return SQL("{}@{}").format(Identifier(user), Identifier(ANY_HOST))


@dataclass(frozen=True, slots=True)
class GrantedDatabase:
    """All of one database, as GRANT and REVOKE name it: there `_` and `%` are wildcards."""

    name: str
    #: Whether the server takes names as they are: MySQL's partial_revokes is on.
    is_literal: bool

    @property
    def pattern(self) -> str:
        """The name as the server keeps it with the grant.

        Raises:
            ValueError: the name holds a backslash, which a pattern has no way to name.
        """
        if self.is_literal:
            return self.name
        if "\\" in self.name:
            raise ValueError("the name of a database that is granted holds a backslash")
        return self.name.replace("_", r"\_").replace("%", r"\%")

    def render(self, escaper: Escaper) -> str:
        """Return the text that the server gets."""
        return f"{Identifier(self.pattern).render(escaper)}.*"
