"""What a statement says, read by a real server: names and values are what they were."""

from __future__ import annotations

from collections.abc import Iterator

import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioner.drivers.mysql.quoting import SQL, GrantedDatabase, Identifier, Literal, account
from provisioner.drivers.mysql.session import Connection, connect_as_platform, execute
from support.hostile import CARRIED
from support.mysql import PreparedMysql
from support.mysql_tenants import admin_of

#: A name may hold any character but NUL, of those that have at most four hexadecimal digits, and
#: end with no space. Source: MySQL 8.0 Reference Manual, "Schema Object Names".
NAMES = st.text(
    st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=["Cs"]),
    min_size=1,
    max_size=64,
).filter(lambda name: not name[-1].isspace() and not name.endswith("\0"))

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def session(mysql_server: PreparedMysql) -> Iterator[Connection]:
    with connect_as_platform(admin_of(mysql_server)) as connection:
        yield connection


class Plain:
    """Reads strings as every session does that was told nothing else."""

    def escape(self, obj: object) -> str:
        return repr(obj)


def column_names(session: Connection, name: str) -> list[str]:
    with session.cursor() as cursor:
        cursor.execute(SQL("SELECT 1 AS {}").format(Identifier(name)).render(session))
        return [column[0] for column in cursor.description]


@given(name=NAMES)
@settings(deadline=None)
def test_a_name_is_one_name(session: Connection, name: str) -> None:
    # A leading space of a column's name is taken away by the server.
    assert column_names(session, f"a{name}") == [f"a{name}"]


@given(value=st.one_of(TEXTS, st.binary(), st.integers(-(2**63), 2**63 - 1), st.none()))
@settings(deadline=None)
@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES"])
def test_a_value_is_one_value_in_every_mode(
    session: Connection, mode: str, value: str | bytes | int | None
) -> None:
    execute(session, SQL("SET SESSION sql_mode = {}").format(Literal(mode)))
    found = execute(session, SQL("SELECT {}, 'end'").format(Literal(value)))
    expected = value.encode() if isinstance(value, str) else value
    ((got, end),) = found
    assert (got.encode() if isinstance(got, str) else got, end) == (expected, "end")


@pytest.mark.parametrize("text", [t for t in CARRIED.values() if t and "\0" not in t])
def test_hostile_texts_are_values_and_names(session: Connection, text: str) -> None:
    execute(session, SQL("SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'"))
    assert execute(session, SQL("SELECT {}").format(Literal(text))) == [(text,)]
    rendered = SQL("SELECT {}").format(Identifier(text)).render(session)
    with pytest.raises(pymysql.Error) as raised:
        session.query(rendered)
    # ER_BAD_FIELD_ERROR, ER_TOO_LONG_IDENT or ER_WRONG_COLUMN_NAME: a name, and nothing more.
    assert raised.value.args[0] in {1054, 1059, 1166, 1300}


@given(name=NAMES.filter(lambda name: "\\" not in name), other=NAMES)
def test_a_granted_database_is_that_database_alone(name: str, other: str) -> None:
    assert matches(GrantedDatabase(name, is_literal=False).pattern, name)
    assert matches(GrantedDatabase(name, is_literal=False).pattern, other) == (name == other)
    assert GrantedDatabase(name, is_literal=True).pattern == name


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern of GRANT's matches a name, as the server does it: `wild_compare`."""
    if not pattern:
        return not name
    if pattern[0] == "\\" and len(pattern) > 1:
        return name[:1] == pattern[1] and matches(pattern[2:], name[1:])
    if pattern[0] == "%":
        return any(matches(pattern[1:], name[start:]) for start in range(len(name) + 1))
    return name[:1] != "" and pattern[0] in {"_", name[0]} and matches(pattern[1:], name[1:])


def test_a_name_that_no_pattern_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="backslash"):
        GrantedDatabase("a\\b", is_literal=False).render(Plain())


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Identifier("schema", name)


def test_parts_are_put_in_their_places_and_nothing_else_is() -> None:
    statement = SQL("GRANT {} ON {} TO {}").format(
        SQL(", ").join([SQL("SELECT"), SQL("DROP")]),
        GrantedDatabase("a_b%", is_literal=False),
        account("u`ser"),
    )
    assert statement.render(Plain()) == r"GRANT SELECT, DROP ON `a\_b\%`.* TO `u``ser`@`%`"
    # A part that holds braces is no place.
    statement = SQL("SELECT {}, {}").format(Literal("{}"), Identifier("a", "{}"))
    assert statement.render(Plain()) == "SELECT '{}', `a`.`{}`"
    assert SQL(", ").join([]).render(Plain()) == ""
    assert SQL("SELECT 1").render(Plain()) == "SELECT 1"


@pytest.mark.parametrize("parts", [0, 2])
def test_a_statement_with_another_number_of_parts_is_refused(parts: int) -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        SQL("SELECT {}").format(*[Literal(1)] * parts).render(Plain())
