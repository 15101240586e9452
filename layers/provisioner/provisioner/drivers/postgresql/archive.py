"""What an archive of pg_dump holds, and which of it is restored into another database, and how.

An archive's names and texts are its tenant's own. Nothing of it is read but the lists and scripts
that pg_restore prints, and a script is split by SQL's own words, so that no text in quotes passes
for a statement.

Sources: PostgreSQL documentation, "pg_restore", option --use-list; "Lexical Structure". PostgreSQL
source, pg_backup_archiver.c, PrintTOCSummary; dumputils.c, buildACLCommands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.postgresql.schema import PLATFORM_SCHEMA

#: A line of the list: number, catalogue and object, then kind, schema, name and owner. What belongs
#: to nobody ends with a blank.
_ENTRY = re.compile(r"(?P<number>\d+); \d+ \d+ (?P<text>.*) (?P<owner>\S*)")

#: Kinds of entries that hold data and make no object.
_DATA = ("TABLE DATA ", "BLOBS ", "SEQUENCE SET ")

#: Kinds of entries that name roles, and what has to wait for them: a view's rows are those that the
#: policies of its tables show.
_LATER = re.compile(r"(?:DEFAULT )?ACL |POLICY |COMMENT .* POLICY .* ON |MATERIALIZED VIEW DATA ")

#: Kinds of objects that only a superuser, or its like, can own.
_SUPERUSERS = ("EVENT TRIGGER ", "PUBLICATION ", "SUBSCRIPTION ")

#: What stands for every role; a role of this name would stand in quotes.
_EVERYONE = "PUBLIC"

#: What a script has around its statements: blanks, comments, and psql's own commands.
_WORD = re.compile(
    r"""
    (?P<around>\s+|--[^\n]*|^\\[^\n]*)
    | \$\$.*?\$\$ | \$([^\W\d]\w*)\$.*?\$\2\$
    | [Ee]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | [^\W\d][\w$]* | .
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive's list."""

    #: The line, as pg_restore takes it back.
    line: str
    #: Kind, schema and name.
    text: str
    #: The role that owns the object; empty where none does.
    owner: str


def read_list(text: str) -> tuple[int, list[Entry]]:
    """Read what `pg_restore --list` prints.

    Returns:
        The major version of the server that the archive was made of, and the entries.
    """
    version = re.search(r"^;\s+Dumped from database version: (\d+)", text, re.MULTILINE)
    entries = [
        Entry(line, found["text"], found["owner"])
        for line in text.splitlines()
        if (found := _ENTRY.fullmatch(line))
    ]
    return int(version[1]) if version else 0, entries


@dataclass(frozen=True, slots=True)
class Existing:
    """What a target has already, each name with whether the target's login may change it."""

    schemas: Mapping[str, bool]
    extensions: Mapping[str, bool]


@dataclass(slots=True)
class Selection:
    """Which entries are restored when."""

    #: Objects and data, which all go to the role that restores.
    first: list[Entry] = field(default_factory=list)
    #: Objects whose owner becomes another role.
    of_app_role: list[Entry] = field(default_factory=list)
    #: Privileges, policies, and the rows of materialized views.
    later: list[Entry] = field(default_factory=list)
    #: What the tenant had and does not get back, one text each.
    left_out: list[str] = field(default_factory=list)


def select(entries: Sequence[Entry], source: TenantNames, existing: Existing) -> Selection:
    """Choose what is restored.

    Left out is what the platform has made itself, and what the target has already. What only a
    superuser could have made is left out too, and told.

    Args:
        entries: the archive's.
        source: the names that the tenant had.
        existing: what the target has.
    """
    selection = Selection()
    made = {entry.text for entry in entries}
    for entry in entries:
        is_tenants = entry.owner in {"", source.owner_role, source.app_role}
        if _is_platforms(entry, is_tenants=is_tenants) or _exists(entry, existing):
            continue
        if not is_tenants and (
            entry.text.startswith((*_SUPERUSERS, "ACL ", "DEFAULT ACL "))
            or _is_data_of_extension(entry, made)
        ):
            selection.left_out.append(f"{entry.text}, of {entry.owner}")
        elif _LATER.match(entry.text):
            selection.later.append(entry)
        else:
            selection.first.append(entry)
            if entry.owner == source.app_role and not entry.text.startswith(_DATA):
                selection.of_app_role.append(entry)
    return selection


def _is_platforms(entry: Entry, *, is_tenants: bool) -> bool:
    """Whether the platform makes it in every database, or nobody but it could."""
    own = rf"(?:SCHEMA|(?:ACL|COMMENT) - SCHEMA|[A-Z]+(?: [A-Z]+)*) (?:- )?{PLATFORM_SCHEMA}(?: |$)"
    return not is_tenants and bool(
        re.match(own, entry.text) or re.match(r"(?:ACL|COMMENT) - SCHEMA public$", entry.text)
    )


def _is_data_of_extension(entry: Entry, made: Collection[str]) -> bool:
    """Whether it is what somebody put into an extension's table, which comes with the extension."""
    for data, kind in (("TABLE DATA ", "TABLE "), ("SEQUENCE SET ", "SEQUENCE ")):
        if entry.text.startswith(data):
            return kind + entry.text.removeprefix(data) not in made
    return False


def _exists(entry: Entry, existing: Existing) -> bool:
    """Whether the target has it already, and its login may not change it or need not make it."""
    kind, _, name = entry.text.partition(" - ")
    if kind == "SCHEMA":
        return name in existing.schemas
    if kind in {"ACL", "COMMENT"}:
        # What there is and belongs to another is as it is to be there.
        of, _, name = name.partition(" ")
        if of == "SCHEMA":
            return not existing.schemas.get(name, True)
        if of == "EXTENSION":
            return not existing.extensions.get(_unquote(name), True)
    return False


def ownership_statements(script: str, app_role: str, roles: Mapping[str, str]) -> Iterator[str]:
    """Yield the statements of a script that give something to the app role.

    A sequence of a table comes after its table, which takes it along: by itself it cannot go.
    """
    found = [
        (statement, words)
        for statement, words in _statements(script)
        if words[0] == "ALTER"
        and words[-3:-1] == ["OWNER", "TO"]
        and _unquote(words[-1]) == app_role
    ]
    known = {roles[app_role]}
    for statement, _ in sorted(found, key=lambda each: each[1][1] == "SEQUENCE"):
        yield _with_roles(statement, roles, known, [])


def later_statements(
    script: str, roles: Mapping[str, str], existing_roles: Collection[str], left_out: list[str]
) -> Iterator[str]:
    """Yield the privileges, policies and refreshes of a script, with the target's roles.

    Args:
        script: what pg_restore prints for the entries that come later.
        roles: the target's role for each of the tenant's.
        existing_roles: the roles of the target; what names none that exists is left out.
        left_out: takes what is, and each role that was left out of a list.
    """
    missing_policies: set[str] = set()
    for statement, words in _statements(script):
        match words:
            case ["GRANT" | "REVOKE", *_] | ["ALTER", "DEFAULT", "PRIVILEGES", *_]:
                text = _with_roles(statement, roles, existing_roles, left_out)
            case ["CREATE", "POLICY", *name]:
                text = _with_roles(statement, roles, existing_roles, left_out)
                if not text:
                    missing_policies.add("".join(name[:5]))
            case ["COMMENT", "ON", "POLICY", *name]:
                text = "" if "".join(name[:5]) in missing_policies else "".join(statement)
            case ["REFRESH", *_]:
                text = "".join(statement)
            case _:
                continue
        if text:
            yield text


def _statements(script: str) -> Iterator[tuple[list[str], list[str]]]:
    """Split a script into its statements, each into its words, with and without blanks between.

    A function's body of the SQL standard falls into several, none of which begins as one that
    anyone asks for here: it holds no definitions.
    """
    statement: list[str] = []
    for match in _WORD.finditer(script):
        word = match[0]
        if word == ";":
            if statement:
                yield statement, [word for word in statement if word != " "]
            statement = []
        elif not match["around"]:
            statement.append(word)
        elif statement:
            statement.append(" ")


def _with_roles(
    statement: list[str], roles: Mapping[str, str], known: Collection[str], left_out: list[str]
) -> str:
    """Write a statement with the target's roles; empty where none of a list of them exists.

    Roles follow a TO, a FROM or a FOR ROLE outside of parentheses, which nothing else does there:
    a name that is TO, FROM or FOR is written in quotes.
    """
    written: list[str] = []
    depth = 0
    before = ""
    words = iter([*statement, " "])
    for word in words:
        depth += {"(": 1, ")": -1}.get(word, 0)
        written.append(word)
        if depth == 0 and (word in {"TO", "FROM"} or (before, word) == ("FOR", "ROLE")):
            named, after = _role_list(words)
            wanted = [roles.get(name, name) for name in map(_unquote, named)]
            if missing := [name for name in wanted if name != _EVERYONE and name not in known]:
                left_out.append(f"{''.join(statement)}: there is no role {', '.join(missing)}")
            kept = [name for name in dict.fromkeys(wanted) if name not in missing]
            if not kept:
                return ""
            written += [" ", ", ".join(map(_quote, kept)), after]
        if word != " ":
            before = word
    return "".join(written).rstrip()


def _role_list(words: Iterator[str]) -> tuple[list[str], str]:
    """Take a list of roles from the words; return it, and the word that comes after it."""
    roles: list[str] = []
    is_next = True
    for word in words:
        if word == ",":
            is_next = True
        elif word != " ":
            if not is_next:
                return roles, f" {word}"
            roles.append(word)
            is_next = False
    return roles, ""


def _quote(role: str) -> str:
    return role if role == _EVERYONE else sql.Identifier(role).as_string(None)


def _unquote(identifier: str) -> str:
    """Return the name that an identifier of a statement stands for."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier
