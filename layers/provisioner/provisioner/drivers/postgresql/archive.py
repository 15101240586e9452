"""What an archive of pg_dump holds, and which of it is restored into another database, and how.

An archive's names and texts are its tenant's own. Nothing of it is read but the lists and scripts
that pg_restore prints, and a script is split by SQL's own words, so that no text in quotes passes
for a statement.

Sources: PostgreSQL documentation, "pg_restore", option --use-list; "Lexical Structure". PostgreSQL
source, pg_backup_archiver.c, PrintTOCSummary; dumputils.c, buildACLCommands.
"""

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

_QUOTED_NAME = r'"(?:[^"]|"")*"'
_NAME = rf"(?:{_QUOTED_NAME}|[^\W\d][\w$]*)"

#: A statement of a script, without the blanks, comments and commands of psql's own before it. It
#: ends at no semicolon that is in quotes. A function's body of the SQL standard falls into several,
#: none of which begins as one that anyone asks for here: it holds no definitions.
_STATEMENT = re.compile(
    rf"""
    (?:\s+ | --[^\n]* | ^\\[^\n]*)*+
    (?P<text>(?:
        \$\$.*?\$\$ | \$(?P<tag>[^\W\d]\w*)\$.*?\$(?P=tag)\$
        | [Ee]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | --[^\n]* | {_NAME} | [^;]
    )*+);
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

#: A statement that gives an object to a role.
_OWNERSHIP = re.compile(rf"(?P<what>ALTER .* OWNER TO )(?P<owner>{_NAME})", re.DOTALL)

#: What has roles all over; and a policy's statement or comment, up to its expressions.
_PRIVILEGE = re.compile(r"(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .*", re.DOTALL)
_POLICY = re.compile(
    rf"(?P<verb>CREATE|COMMENT ON) POLICY (?P<policy>{_NAME} ON {_NAME}\.{_NAME})"
    rf"""(?:{_QUOTED_NAME}|[^("])*"""
)

#: Roles follow these words, which nothing else does: a name that is one of them stands in quotes.
_ROLES = re.compile(rf"{_QUOTED_NAME}|\b(?:TO|FROM|FOR\ ROLE) (?P<roles>{_NAME}(?:, {_NAME})*)")


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
    superuser could have made is left out too, and reported.

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
    """Yield the statements of a script that give something to the app role."""
    for found in filter(None, map(_OWNERSHIP.fullmatch, _statements(script))):
        if _unquote(found["owner"]) == app_role:
            yield found["what"] + _quote(roles[app_role])


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
    for statement in _statements(script):
        policy = _POLICY.match(statement)
        if statement.startswith("REFRESH "):
            yield statement
        elif policy is not None and policy["verb"] == "COMMENT ON":
            if policy["policy"] not in missing_policies:
                yield statement
        elif head := policy or _PRIVILEGE.match(statement):
            if text := _with_roles(statement, head.end(), roles, existing_roles, left_out):
                yield text
            elif policy is not None:
                missing_policies.add(policy["policy"])


def _statements(script: str) -> Iterator[str]:
    return (found["text"] for found in _STATEMENT.finditer(script))


def _with_roles(
    statement: str,
    end: int,
    roles: Mapping[str, str],
    known: Collection[str],
    left_out: list[str],
) -> str:
    """Write a statement with the target's roles; empty where none of a list of them exists.

    Args:
        statement: the statement.
        end: where roles can no longer stand in it.
        roles: as of `later_statements`.
        known: the roles of the target.
        left_out: as of `later_statements`.
    """
    written, begin = "", 0
    for found in _ROLES.finditer(statement, 0, end):
        if found["roles"] is None:
            continue
        names = map(_unquote, re.findall(_NAME, found["roles"]))
        wanted = dict.fromkeys(roles.get(name, name) for name in names)
        if missing := [name for name in wanted if name != _EVERYONE and name not in known]:
            left_out.append(f"{statement}: there is no role {', '.join(missing)}")
        kept = [_quote(name) for name in wanted if name not in missing]
        if not kept:
            return ""
        written += statement[begin : found.start("roles")] + ", ".join(kept)
        begin = found.end("roles")
    return written + statement[begin:]


def _quote(role: str) -> str:
    return role if role == _EVERYONE else sql.Identifier(role).as_string(None)


def _unquote(identifier: str) -> str:
    """Return the name that an identifier of a statement stands for."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier
