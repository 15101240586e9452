"""Definitions as the server tells them, made fit for another database and another user.

The server names the definer of a view, routine, trigger or event, and in views and defaults the
database too. A tenant may name no other definer than itself, and a copy has another database.

A definition is read word by word, without its strings and comments, and never run.

Sources: MySQL Reference Manual, "Language Structure", "SHOW CREATE VIEW Statement", "CREATE TRIGGER
Statement", "Stored Object Access Control"; MariaDB documentation, "Identifier Names".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_QUOTED = r"`(?:[^`]|``)*`"

#: What stands in a definition. Of strings with doubled quotes each half is a token of its own,
#: which makes no difference here.
_TOKENS = re.compile(
    rf"""
      (?P<space>\s+ | /\*.*?\*/ | --(?=\s)[^\n]* | \#[^\n]*)
    | (?P<string>{_STRING})
    | (?P<quoted>{_QUOTED})
    | (?P<word>[\w$@]+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

#: As `_TOKENS`, where a backslash has no meaning: with the SQL mode NO_BACKSLASH_ESCAPES.
_TOKENS_WITHOUT_ESCAPES = re.compile(
    _TOKENS.pattern.replace(r"(?:[^'\\]|\\.)*", "[^']*").replace(r'(?:[^"\\]|\\.)*', '[^"]*'),
    re.VERBOSE | re.DOTALL,
)

#: By the SQL mode of what is defined.
_NAME = r"""(?:`(?:[^`]|``)*`|"(?:[^"]|"")*")"""

#: A definer is a user and a host, or a role of MariaDB's. Of a view an algorithm may stand before.
_DEFINER = re.compile(rf"\ACREATE (ALGORITHM=\w+ )?DEFINER={_NAME}(?:@{_NAME})? ")

#: After these, and a left parenthesis or a comma, a view's text names what it reads.
_BEFORE_TABLES = frozenset({"FROM", "JOIN", "STRAIGHT_JOIN", "(", ","})


def without_definer(definition: str) -> str:
    """Return a definition, as a SHOW CREATE statement gives it, without its definer."""
    return _DEFINER.sub(r"CREATE \1", definition)


def without_database(definition: str, database: str) -> str:
    """Return a definition that the server has written, without the name of the database in it.

    Args:
        definition: a view's or a table's: the server writes its names quoted.
        database: stands before the names in it.
    """
    prefix = re.escape(f"`{database.replace('`', '``')}`.")
    return re.sub(
        rf"{prefix}|({_STRING}|{_QUOTED})",
        lambda found: found[1] or "",
        definition,
        flags=re.DOTALL,
    )


def trigger_body(definition: str, sql_mode: str) -> str:
    """Return the statement of a trigger, from its whole definition.

    Args:
        definition: as SHOW CREATE TRIGGER gives it: from the name on, it is as it was typed.
        sql_mode: the trigger's own.

    Raises:
        ValueError: it is no definition of a trigger.
    """
    tokens = list(_tokens(definition, sql_mode))
    words = [token[0].upper() for token in tokens]
    for at in range(len(words) - 2):
        if words[at : at + 3] == ["FOR", "EACH", "ROW"]:
            body = at + 3
            # The order among several triggers; they are made one after the other.
            if words[body : body + 1] in (["FOLLOWS"], ["PRECEDES"]):
                body += 2
            return definition[tokens[body].start() :] if body < len(tokens) else ""
    raise ValueError("a trigger is defined without FOR EACH ROW")


def names_read(view: str) -> set[str]:
    """Return what stands where a view's definition names tables and views; perhaps more than that.

    Args:
        view: its definition as the server writes it, without the database.
    """
    tokens = list(_tokens(view))
    texts = ["", *(token[0] for token in tokens), ""]
    return {
        token[0][1:-1].replace("``", "`")
        for before, token, following in zip(texts, tokens, texts[2:], strict=False)
        # A name before a dot is that of what a column is of.
        if token.lastgroup == "quoted" and before.upper() in _BEFORE_TABLES and following != "."
    }


@dataclass(frozen=True, slots=True)
class Constant:
    """A string in a table's definition, of which the server may have shown a part as `?`."""

    column: str
    #: The number of it as a member of an ENUM or a SET; None where it is a default.
    value: int | None
    start: int
    end: int


def doubtful_constants(table: str) -> list[Constant]:
    """Return the strings with a `?` by which a table's definition may differ from the table.

    A server shows definitions of tables in UTF-8 of three bytes at most, and other characters as
    `?`. In comments that is let be.

    Args:
        table: its definition as the server writes it: each column on a line of its own.
    """
    found = []
    column, kind, member, before = "", "", 0, ""
    for token in _tokens(table):
        if token.lastgroup == "quoted" and table[: token.start()].endswith("\n  "):
            column = token[0][1:-1].replace("``", "`")
        elif before in {"ENUM", "SET"} and token[0] == "(":
            kind, member = before, 0
        elif token[0] == ")":
            kind = ""
        elif token[0] == ",":
            member += 1
        elif token.lastgroup == "string" and "?" in token[0] and (kind or before == "DEFAULT"):
            # A member's number is its place, from 1, or its bit.
            value = {"ENUM": member + 1, "SET": 1 << member}.get(kind)
            found.append(Constant(column, value, token.start(), token.end()))
        before = token[0].upper()
    return found


def _tokens(text: str, sql_mode: str = "") -> Iterator[re.Match[str]]:
    """Return what has a meaning: no blanks and no comments; each is of the group of its kind."""
    tokens = _TOKENS_WITHOUT_ESCAPES if "NO_BACKSLASH_ESCAPES" in sql_mode else _TOKENS
    return (token for token in tokens.finditer(text) if token.lastgroup != "space")
