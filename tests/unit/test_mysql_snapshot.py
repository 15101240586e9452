"""Dumps of MySQL databases: nothing of a tenant's runs, and the end is told only of a whole one."""

from __future__ import annotations

import gzip
import io
import random
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioner.drivers.mysql import ledger
from provisioner.drivers.mysql.definition_text import (
    doubtful_constants,
    names_read,
    trigger_body,
    without_database,
    without_definer,
)
from provisioner.drivers.mysql.dump_format import (
    FIRST_LINE,
    LAST_LINE,
    DumpError,
    binary_literal,
    frame,
    read_statements,
    tell_left_out,
    text_literal,
)
from provisioner.drivers.mysql.quoting import SQL
from provisioner.drivers.mysql.session import connect_as_platform, execute
from provisioner.drivers.mysql.snapshot import MysqlDump, MysqlDumper
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import Ownership
from support.mysql import PreparedMysql, own_mysql
from support.mysql_contents import fill
from support.mysql_tenants import MysqlTenant, admin_of, mysql_tenants
from support.project import ROOT
from support.tenants import PASSWORD

_SECONDS = 60.0

#: A table that is dumped before others, and is more than what is read at first.
_LARGE = (
    "CREATE TABLE a_large (b longblob)",
    f"INSERT INTO a_large VALUES (x'{random.Random(1).randbytes(100_000).hex()}')",  # nosec B608
)


@pytest.fixture
def database(mysql_tenant: MysqlTenant) -> MysqlTenant:
    mysql_tenant.ensure()
    return mysql_tenant


def _dumped(database: MysqlTenant) -> str:
    """Return the SQL of a whole dump."""
    claim = database.owner.claim(only_this_job=False)
    with MysqlDumper(database.admin).dump(database.names, claim, _SECONDS) as dump:
        assert dump is not None
        return gzip.decompress(dump.read()).decode(errors="replace")


def _refused(error_type: ErrorType, act: Callable[[], object]) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        act()
    assert raised.value.type is error_type
    # The driver's exception has the password in the variables of its traceback.
    assert raised.value.__context__ is None
    return raised.value


def _begin(stack: ExitStack, database: MysqlTenant, **lock_wait: float) -> MysqlDump:
    claim = database.owner.claim(only_this_job=False)
    dumper = MysqlDumper(database.admin, **lock_wait)
    dump = stack.enter_context(dumper.dump(database.names, claim, _SECONDS))
    assert dump is not None
    return dump


def _compressed(*pieces: bytes) -> bytes:
    return gzip.compress(b"".join(pieces), mtime=0)


_PLANTED = """
    CREATE FUNCTION KIND_rights() RETURNS int DETERMINISTIC SQL SECURITY KIND
    BEGIN INSERT INTO ran VALUES (CONCAT(CURRENT_USER(), SESSION_USER())); RETURN 1; END
"""


# --- What is dumped, and as whom ------------------------------------------------------------------


def test_a_dump_is_read_in_parts_and_says_what_it_is_of(database: MysqlTenant) -> None:
    database.as_tenant(
        "CREATE TABLE words (word varchar(9))", "INSERT INTO words VALUES ('one'), ('it''s')"
    )
    parts = []
    with ExitStack() as stack:
        dump = _begin(stack, database)
        while part := dump.read(100):
            parts.append(part)
            assert dump.size == sum(map(len, parts))
        assert dump.read(100) == b""
        assert dump.read() == b""
        version = dump.server_version
    assert {len(part) for part in parts[:-1]} == {100}
    with closing(database.login()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        row = cursor.fetchone()
        assert row is not None
        assert str(row[0]).startswith(version.removesuffix("-MariaDB"))
    text = gzip.decompress(b"".join(parts)).decode()
    assert "INSERT INTO `words` (`word`) VALUES\n('one'),\n('it\\'s');\n" in text
    assert text.encode().endswith(LAST_LINE)
    # Nothing binds it to where it comes from.
    assert database.names.database not in text
    assert database.names.app_role not in text


def test_a_database_that_is_not_the_projects_is_not_dumped(database: MysqlTenant) -> None:
    others = Ownership(database.owner.namespace, "project-other", "job-1")
    dumper = MysqlDumper(database.admin)
    with dumper.dump(database.names, others.claim(only_this_job=False), _SECONDS) as dump:
        assert dump is None
    with closing(connect_as_platform(database.admin)) as connection:
        ledger.forget(connection, ledger.Kind.DATABASE, database.names.database)
    ours = database.owner.claim(only_this_job=False)
    with dumper.dump(database.names, ours, _SECONDS) as dump:
        assert dump is None


def test_a_database_that_its_tenant_has_dropped_is_none(database: MysqlTenant) -> None:
    database.as_tenant(f"DROP DATABASE {database.names.database}")
    claim = database.owner.claim(only_this_job=False)
    with MysqlDumper(database.admin).dump(database.names, claim, _SECONDS) as dump:
        assert dump is None


def test_a_platform_user_as_the_guide_makes_it_dumps_all(database: MysqlTenant) -> None:
    fill(database)
    expected = _dumped(database)
    guide = (ROOT / "docs" / "cluster-mysql.sql").read_text(encoding="utf-8")
    user = f"guide_{database.names.app_role[-8:]}"
    statements = re.sub("^--.*", "", guide, flags=re.MULTILINE).replace("provisioner@", f"{user}@")
    try:
        for statement in statements.rstrip().removesuffix(";").split(";"):
            database.as_superuser(statement)
        database.as_superuser(f"ALTER USER {user}@'%' IDENTIFIED BY '{PASSWORD}' ACCOUNT UNLOCK")
        limited = replace(database.admin, user=user, password=PASSWORD)
        assert _dumped(replace(database, admin=limited)) == expected
    finally:
        database.as_superuser(f"DROP USER {user}@'%'")


def test_a_routine_whose_text_is_not_shown_is_not_left_out(database: MysqlTenant) -> None:
    database.as_tenant("CREATE PROCEDURE hidden() SELECT 1")
    user = f"blind_{database.names.app_role[-8:]}"
    try:
        for statement in (
            f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT ON provisioner.* TO {user}@'%'",
            f"GRANT SELECT, EXECUTE ON `{database.names.database}`.* TO {user}@'%'",
        ):
            database.as_superuser(statement)
        blind = replace(database, admin=replace(database.admin, user=user, password=PASSWORD))
        error = _refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: _dumped(blind))
    finally:
        database.as_superuser(f"DROP USER {user}@'%'")
    assert error.message == (
        "The database server does not show us the text of procedure hidden, so it cannot be dumped."
    )


def test_nothing_that_a_tenant_has_planted_runs(database: MysqlTenant) -> None:
    database.as_tenant(
        "CREATE TABLE ran (who varchar(200)) ENGINE = MyISAM",
        "CREATE TABLE bait (id int)",
        "INSERT INTO bait VALUES (1)",
        *(_PLANTED.replace("KIND", kind) for kind in ("definer", "invoker")),
        # Of the names of functions that the platform calls.
        "CREATE FUNCTION `version`() RETURNS varchar(9) DETERMINISTIC BEGIN"
        " INSERT INTO ran VALUES ('version'); RETURN '1.0'; END",
        "CREATE SQL SECURITY INVOKER VIEW trap AS SELECT definer_rights() AS a,"
        " invoker_rights() AS b FROM bait WHERE invoker_rights() = 1",
        "CREATE VIEW trap_on_trap AS SELECT a FROM trap WHERE definer_rights() = 1",
        "CREATE TRIGGER on_bait BEFORE INSERT ON bait FOR EACH ROW INSERT INTO ran VALUES ('t')",
    )
    text = _dumped(database)
    assert "VIEW `trap_on_trap`" in text
    with closing(database.login()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT who FROM ran")
        assert cursor.fetchall() == ()


@pytest.mark.parametrize(
    "view",
    [
        # Of another type than the column, of the same, and one that writes as whoever reads it.
        "SELECT 'x' AS id",
        "SELECT CAST(4242 AS signed) + id AS id FROM other",
        "SELECT invoker_rights() AS id FROM other",
    ],
)
def test_a_view_that_is_put_in_a_tables_place_meanwhile_is_not_read(
    database: MysqlTenant, view: str
) -> None:
    database.as_tenant(
        *_LARGE,
        "CREATE TABLE victim (id bigint)",
        "CREATE TABLE other (id bigint)",
        "INSERT INTO other VALUES (1)",
        # What is written here stays, though a transaction is undone.
        "CREATE TABLE ran (who varchar(200)) ENGINE = MyISAM",
        _PLANTED.replace("KIND", "invoker"),
    )
    with ExitStack() as stack:
        dump = _begin(stack, database)
        read = dump.read(1000)
        database.as_tenant(
            "DROP TABLE victim", f"CREATE SQL SECURITY INVOKER VIEW victim AS {view}"
        )
        error = _refused(ErrorType.TIMEOUT, dump.read)
        # The same again, and never an end.
        assert _refused(ErrorType.TIMEOUT, dump.read) is error
    assert error.message == (
        "Something in the database was changed or dropped meanwhile, so we could not dump table "
        "victim."
    )
    assert b"4243" not in read
    assert database.as_tenant("SELECT who FROM ran") == ()


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE victim",
        "ALTER TABLE victim ADD PRIMARY KEY (id)",
        "RENAME TABLE victim TO other",
    ],
)
def test_what_is_changed_meanwhile_is_named(database: MysqlTenant, change: str) -> None:
    database.as_tenant(
        *_LARGE,
        "CREATE TABLE victim (id int)",
    )
    with ExitStack() as stack:
        dump = _begin(stack, database)
        dump.read(1000)
        database.as_tenant(change)
        error = _refused(ErrorType.TIMEOUT, dump.read)
    assert error.message.startswith("Something in the database was changed or dropped meanwhile")
    assert error.message.endswith("dump table victim.")


def test_rows_are_those_of_the_moment_when_the_dump_begins(database: MysqlTenant) -> None:
    database.as_tenant(
        *_LARGE,
        "CREATE TABLE words (word varchar(9))",
        "INSERT INTO words VALUES ('before')",
    )
    with ExitStack() as stack:
        dump = _begin(stack, database)
        begin = dump.read(1000)
        database.as_tenant("UPDATE words SET word = 'after'", "INSERT INTO words VALUES ('after')")
        text = gzip.decompress(begin + dump.read()).decode()
    assert "('before');" in text
    assert "after" not in text


# --- What ends it ---------------------------------------------------------------------------------


def test_a_table_that_stays_locked_is_named_with_the_sessions(database: MysqlTenant) -> None:
    database.as_tenant("CREATE TABLE busy (id int)")
    with closing(database.login()) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES busy WRITE")
        with ExitStack() as stack:
            dump = _begin(stack, database, lock_wait=1.0)
            error = _refused(ErrorType.TIMEOUT, dump.read)
    assert error.message.startswith(
        "The database cannot be dumped: after 1 seconds table busy is still locked by another "
        "session; there are session "
    )
    assert f" of {database.names.app_role} (Sleep for " in error.message


def test_a_dump_that_takes_too_long_is_stopped(database: MysqlTenant) -> None:
    database.as_tenant("CREATE TABLE busy (id int)")
    claim = database.owner.claim(only_this_job=False)
    with closing(database.login()) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES busy WRITE")
        with MysqlDumper(database.admin).dump(database.names, claim, 0.3) as dump:
            assert dump is not None
            begin = time.monotonic()
            error = _refused(ErrorType.SNAPSHOT_FAILED, dump.read)
    assert time.monotonic() - begin < 0.9
    assert error.message.startswith("The database cannot be dumped in the 0 seconds that there are")


def test_a_dump_that_is_given_up_leaves_no_session(database: MysqlTenant) -> None:
    database.as_tenant(
        *_LARGE,
        *["INSERT INTO a_large SELECT * FROM a_large LIMIT 8"] * 6,
    )
    with ExitStack() as stack:
        dump = _begin(stack, database)
        dump.read(1000)
    claim = database.owner.claim(only_this_job=False)
    # The lock is free again at once.
    with MysqlDumper(database.admin).dump(database.names, claim, _SECONDS) as again:
        assert again is not None
        assert again.read(10)


def test_a_server_that_is_killed_in_the_middle_is_no_end(mysql_server: PreparedMysql) -> None:
    with own_mysql(mysql_server) as own, mysql_tenants(own) as make:
        database = make()
        database.ensure()
        database.as_tenant(
            *_LARGE,
            # More than what is on its way to the reader.
            *["INSERT INTO a_large SELECT * FROM a_large"] * 7,
        )
        server = own.server
        assert server is not None
        with ExitStack() as stack:
            dump = _begin(stack, database)
            assert dump.read(2000)
            server.kill()
            error = _refused(ErrorType.NETWORK_ERROR, dump.read)
            assert _refused(ErrorType.NETWORK_ERROR, dump.read) is error
        assert error.message == (
            "The database server did not serve us, so we could not dump table a_large."
        )
        server.start()
        with ExitStack() as stack:
            assert _begin(stack, database).read(2000)


# --- The format -----------------------------------------------------------------------------------


def test_names_in_a_dump_do_nothing_to_who_reads_it(database: MysqlTenant) -> None:
    database.as_tenant("CREATE TABLE `a\n\\! touch /tmp/x\n\x1b[2J` (id int)")
    text = _dumped(database)
    assert "bytes: table a \\! touch /tmp/x  [2J\n" in text
    assert "\n\\! touch" not in text.replace("`a\n\\! touch", "")


_WHAT = st.text("`\n\r\x1b;/ü末", max_size=9)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=99), _WHAT), max_size=5))
def test_statements_come_back_as_they_are(statements: list[tuple[bytes, str]]) -> None:
    dump = _compressed(FIRST_LINE, *(frame(sql, what) for sql, what in statements), LAST_LINE)
    found = list(read_statements(io.BytesIO(dump)))
    assert [statement.sql for statement in found] == [sql for sql, _ in statements]
    assert all("\n" not in statement.what for statement in found)


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=99), min_size=1, max_size=5), st.data())
def test_a_dump_that_is_not_whole_is_told(statements: list[bytes], data: st.DataObject) -> None:
    dump = _compressed(FIRST_LINE, *(frame(sql, "x") for sql in statements), LAST_LINE)
    cut = data.draw(st.integers(0, len(dump) - 1))
    with pytest.raises(DumpError):
        list(read_statements(io.BytesIO(dump[:cut])))


@pytest.mark.parametrize(
    ("dump", "problem"),
    [
        (b"PGDMP", "broken"),
        (_compressed(b"SELECT 1;\n"), "no dump of a MySQL"),
        (_compressed(FIRST_LINE, frame(b"SELECT 1", "x")), "end is missing"),
        (_compressed(FIRST_LINE, b"-- 999 bytes: x\nSELECT 1;\n", LAST_LINE), "end is missing"),
        (_compressed(FIRST_LINE, b"-- %d bytes: x\n" % 10**15, LAST_LINE), "end is missing"),
        (_compressed(FIRST_LINE, b"x" * 3_000_000, LAST_LINE), "too long"),
    ],
)
def test_what_is_no_dump_is_told(dump: bytes, problem: str) -> None:
    with pytest.raises(DumpError, match=problem):
        list(read_statements(io.BytesIO(dump)))


def test_what_is_left_out_is_told_with_its_statement() -> None:
    dump = _compressed(FIRST_LINE, tell_left_out("view v", "CREATE VIEW v AS\nSELECT 1"), LAST_LINE)
    ((sql, what),) = ((each.sql, each.what) for each in read_statements(io.BytesIO(dump)))
    assert (sql, what) == (b"", "view v")
    assert b"\n-- CREATE VIEW v AS SELECT 1\n" in gzip.decompress(dump)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50), st.binary(max_size=50))
def test_values_mean_what_they_are(mysql_server: PreparedMysql, text: str, data: bytes) -> None:
    with closing(connect_as_platform(admin_of(mysql_server))) as connection:
        execute(connection, SQL("SET SESSION sql_mode = ''"))
        with connection.cursor() as cursor:
            value = text.encode(errors="replace")
            query = b"SELECT " + text_literal(value) + b", " + binary_literal(data)
            cursor.execute(query)  # type: ignore[call-overload]
            assert cursor.fetchall() == ((value.decode(), data),)


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (
            "CREATE DEFINER=`u``1`@`%` PROCEDURE `p`()\nBEGIN END",
            "CREATE PROCEDURE `p`()\nBEGIN END",
        ),
        ('CREATE DEFINER="u"@"%" FUNCTION "f"() RETURN 1', 'CREATE FUNCTION "f"() RETURN 1'),
        (
            "CREATE ALGORITHM=MERGE DEFINER=`u`@`%` VIEW `v` AS SELECT 'DEFINER=`u`@`%` '",
            "CREATE ALGORITHM=MERGE VIEW `v` AS SELECT 'DEFINER=`u`@`%` '",
        ),
        ("CREATE DEFINER=`role` EVENT `e` DO SELECT 1", "CREATE EVENT `e` DO SELECT 1"),
    ],
)
def test_a_definer_is_left_out(definition: str, expected: str) -> None:
    assert without_definer(definition) == expected


def test_the_database_is_left_out_of_names_alone() -> None:
    definition = (
        "select `d`.`f`(`d`.`t`.`d`) AS `d`, '`d`.', _utf8mb4'it''s `d`.\\'' from `d` join `e`"
    )
    assert without_database(definition, "d") == (
        "select `f`(`t`.`d`) AS `d`, '`d`.', _utf8mb4'it''s `d`.\\'' from `d` join `e`"
    )


@pytest.mark.parametrize(
    ("definition", "sql_mode", "expected"),
    [
        (
            "CREATE DEFINER=`u`@`%` TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET @a = 1",
            "",
            "SET @a = 1",
        ),
        pytest.param(
            "CREATE DEFINER=`u` trigger `FOR EACH ROW` /* for each row */ before update on a for "
            "# x\n each -- for each row\nrow\nFOLLOWS `b c` begin\nend",
            "",
            "begin\nend",
        ),
        (
            "CREATE DEFINER=`u`@`%` TRIGGER \"'\\\" BEFORE INSERT ON a FOR EACH ROW SET @a = '\\'",
            "NO_BACKSLASH_ESCAPES,ANSI_QUOTES",
            "SET @a = '\\'",
        ),
    ],
)
def test_the_body_of_a_trigger_is_found(definition: str, sql_mode: str, expected: str) -> None:
    assert trigger_body(definition, sql_mode) == expected


def test_what_a_view_reads_is_found_and_columns_are_not() -> None:
    view = (
        "CREATE VIEW `v` AS select `a`.`b` AS `c`, `f`(`d`) from (`t``1` join `t2` `g`)"
        " where `h` in (select 1 from `t3`)"
    )
    assert names_read(view) >= {"t`1", "t2", "t3"}
    assert names_read(view).isdisjoint({"a", "b", "c", "g", "h"})


def test_strings_that_a_server_may_not_have_shown_whole_are_found() -> None:
    table = (
        "CREATE TABLE `t?` (\n  `a` enum('?','b') DEFAULT '?' COMMENT '?',\n"
        "  `b``c` set('x','y,)','?z') DEFAULT NULL,\n  `d` varchar(9) DEFAULT concat('?'),\n"
        "  CONSTRAINT `c` CHECK (`d` <> '?')\n) COMMENT='?'"
    )
    found = [
        (each.column, each.value, table[each.start : each.end])
        for each in doubtful_constants(table)
    ]
    assert found == [("a", 1, "'?'"), ("a", None, "'?'"), ("b`c", 4, "'?z'")]
