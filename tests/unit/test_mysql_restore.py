"""Dumps of MySQL databases, restored: all of one as a tenant's user, or nothing."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
from provision_cli.local.mariadb_server import find_program
from provisioner.drivers.database_engine import Restored
from provisioner.drivers.mysql.dump_format import (
    FIRST_LINE,
    LAST_LINE,
    frame,
    read_statements,
)
from provisioner.drivers.mysql.restore import MysqlRestorer
from provisioner.drivers.mysql.snapshot import MysqlDumper
from provisioner.errors import ErrorType, ProvisioningError
from support.mysql import PreparedMysql, own_mysql
from support.mysql_contents import contents, fill
from support.mysql_tenants import MysqlTenant, mysql_tenants
from support.tenants import PASSWORD


@pytest.fixture
def make(make_mysql_tenant: Callable[[], MysqlTenant]) -> Callable[[], MysqlTenant]:
    def ensured() -> MysqlTenant:
        tenant = make_mysql_tenant()
        tenant.ensure()
        return tenant

    return ensured


def _dumped(database: MysqlTenant) -> bytes:
    claim = database.owner.claim(only_this_job=False)
    with MysqlDumper(database.admin).dump(database.names, claim, 60.0) as dump:
        assert dump is not None
        return dump.read()


def _contents(database: MysqlTenant) -> dict[str, Any]:
    with closing(database.login()) as connection:
        return contents(connection)


def _restore(dump: bytes | io.BytesIO, target: MysqlTenant) -> Restored:
    archive = io.BytesIO(dump) if isinstance(dump, bytes) else dump
    restorer = MysqlRestorer(target.url())
    restorer.check()
    return restorer.restore(archive, target.names)


def _refused(error_type: ErrorType, act: Callable[[], object]) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        act()
    assert raised.value.type is error_type
    # The driver's exception has the password in the variables of its traceback.
    assert raised.value.__context__ is None
    return raised.value


def _archive(*statements: bytes) -> bytes:
    pieces = [FIRST_LINE, *(frame(each, "what") for each in statements), LAST_LINE]
    return gzip.compress(b"".join(pieces), mtime=0)


def _objects(database: MysqlTenant) -> set[str]:
    return set(_contents(database)) - {"character set", "orders", "columns"}


def _client() -> Path | None:
    """Return the client that came with the server; None if there is none."""
    server = find_program()
    if server is None:
        return None
    folders = (server.parent, server.parent.parent / "bin")
    candidates = (folder / name for folder in folders for name in ("mariadb", "mysql"))
    return next((each for each in candidates if each.exists()), None)


# --- All of one -----------------------------------------------------------------------------------


def test_all_that_a_tenant_has_comes_back_by_another_user_in_another_database(
    make: Callable[[], MysqlTenant],
) -> None:
    source, target = make(), make()
    fill(source)
    before = _contents(source)
    dump = _dumped(source)
    # Nothing has run, and nothing has changed.
    assert _contents(source) == before

    restored = _restore(dump, target)

    assert restored == Restored(
        target.server.host,
        target.server.port,
        target.names.database,
        ("view broken reads something that is not there",),
    )
    del before["VIEW broken"]
    before["columns"] = [row for row in before["columns"] if row[0] != "broken"]
    after = _contents(target)
    assert after.keys() == before.keys()
    assert {key: after[key] for key in after} == before
    # Another dump is the same, and so nothing is lost by the second time either.
    again = [each.sql for each in read_statements(io.BytesIO(_dumped(target)))]
    assert again == [each.sql for each in read_statements(io.BytesIO(dump)) if each.sql]


def test_what_came_back_does_what_it_did(make: Callable[[], MysqlTenant]) -> None:
    source, target = make(), make()
    fill(source)
    _restore(_dumped(source), target)
    with closing(target.login()) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO plain (word) VALUES ('new')")
        cursor.execute("SELECT id, note FROM plain WHERE word = 'new'")
        assert cursor.fetchall() == ((1000, "1😀;2;3"),)
        cursor.execute("SELECT COUNT(*) FROM a_on_b")
        assert cursor.fetchall() == ((3,),)
        cursor.execute("SELECT n FROM z_base LIMIT 1")
        cursor.execute("SELECT what FROM log")
        assert ("😀;view",) in cursor.fetchall()
        with pytest.raises(pymysql.IntegrityError):
            cursor.execute("INSERT INTO child VALUES (11, 99)")
        cursor.execute("DELETE FROM child")
        cursor.execute("SELECT child FROM father")
        assert cursor.fetchall() == ((None,),)


def test_any_client_restores_a_dump(make: Callable[[], MysqlTenant]) -> None:
    client = _client()
    if client is None:
        missing = "no MariaDB client is beside the server"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing}; in CI nothing is skipped")
        pytest.skip(missing)
    source, target = make(), make()
    fill(source)
    dump = _dumped(source)
    server = target.server
    subprocess.run(
        [
            *(client, "--no-defaults", "--comments", f"--host={server.host}"),
            *(f"--port={server.port}", f"--user={target.names.app_role}"),
            *(["--ssl-verify-server-cert", f"--ssl-ca={server.ca_file}"] if server.ca_file else []),
            target.names.database,
        ],
        env={
            "MYSQL_PWD": PASSWORD,
            # Of packages that were unpacked and not installed.
            "LD_LIBRARY_PATH": ":".join(map(str, client.parent.parent.glob("lib/*-linux-gnu"))),
        },
        input=gzip.decompress(dump),
        check=True,
    )
    before = _contents(source)
    del before["VIEW broken"]
    before["columns"] = [row for row in before["columns"] if row[0] != "broken"]
    assert _contents(target) == before


# --- Or nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE there (id int)", "table there"),
        ("CREATE VIEW there AS SELECT 1", "view there"),
        ("CREATE PROCEDURE there() SELECT 1", "procedure there"),
        ("CREATE EVENT there ON SCHEDULE EVERY 1 DAY DO SELECT 1", "event there"),
    ],
)
def test_a_database_that_holds_something_is_refused(
    make: Callable[[], MysqlTenant], statement: str, named: str
) -> None:
    target = make()
    target.as_tenant(statement)
    before = _contents(target)
    restorer = MysqlRestorer(target.url())
    for act in (
        restorer.check,
        lambda: restorer.restore(io.BytesIO(_archive(b"CREATE TABLE t (id int)")), target.names),
    ):
        error = _refused(ErrorType.DATABASE_CHANGE_FAILED, act)
        assert error.message == (
            f"The database {target.names.database} is not empty: it holds {named}; empty it, or "
            "restore into another."
        )
    assert _contents(target) == before


def test_the_platforms_own_login_is_refused(make: Callable[[], MysqlTenant]) -> None:
    target = make()
    server = target.server
    url = target.url().replace(
        f"{target.names.app_role}:{PASSWORD}", f"{server.user}:{server.password}"
    )
    error = _refused(ErrorType.DATABASE_CHANGE_FAILED, MysqlRestorer(url).check)
    assert "on all of the server; a snapshot is a tenant's own code, so log in as" in error.message


def test_a_login_with_rights_on_another_database_is_refused(
    make: Callable[[], MysqlTenant],
) -> None:
    target, other = make(), make()
    with closing(target.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {other.names.database}.t (id int)")
        cursor.execute(f"GRANT SELECT ON {other.names.database}.t TO '{target.names.app_role}'@'%'")
    error = _refused(ErrorType.DATABASE_CHANGE_FAILED, MysqlRestorer(target.url()).check)
    assert f"has rights on {other.names.database} too; " in error.message


def test_a_login_that_may_become_another_is_refused(make: Callable[[], MysqlTenant]) -> None:
    target = make()
    with closing(target.server.connect()) as connection, connection.cursor() as cursor:
        role = f"{target.names.app_role}_r"
        cursor.execute(f"CREATE ROLE {role}")
        try:
            cursor.execute(f"GRANT {role} TO '{target.names.app_role}'@'%'")
            error = _refused(ErrorType.DATABASE_CHANGE_FAILED, MysqlRestorer(target.url()).check)
        finally:
            cursor.execute(f"DROP ROLE {role}")
    assert f"may become {role}; " in error.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://",
        "postgresql://LOGIN@h/d",
        "mysql://LOGIN@h",
        "mysql://h/d",
        "mysql://LOGIN@h:port/d",
        "mysql://LOGIN@h/d?ssl-mode=SOME",
        "mysql://LOGIN@h/d?charset=latin1",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    url = url.replace("LOGIN", "user:secret")
    error = _refused(ErrorType.INVALID_PAYLOAD, lambda: MysqlRestorer(url))
    assert error.message.startswith("into: ")
    assert "secret" not in error.message + error.cause


def test_the_password_may_be_in_the_environment(
    make: Callable[[], MysqlTenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make()
    url = target.url(password="")
    monkeypatch.setenv("MYSQL_PWD", "another")
    _refused(ErrorType.INSUFFICIENT_PERMISSIONS, MysqlRestorer(url).check)
    monkeypatch.setenv("MYSQL_PWD", PASSWORD)
    MysqlRestorer(url).check()


def test_a_dump_that_is_not_whole_changes_nothing(make: Callable[[], MysqlTenant]) -> None:
    target = make()
    whole = _archive(b"CREATE TABLE t (id int)", b"INSERT INTO t VALUES (1)")
    for dump in (whole[:-9], b"PGDMP", b"", gzip.compress(b"CREATE TABLE t (id int);\n")):
        error = _refused(ErrorType.DATABASE_CHANGE_FAILED, partial(_restore, dump, target))
        assert error.message == "The snapshot cannot be read, so nothing of it is restored."
        assert _objects(target) == set()


@pytest.mark.parametrize(
    ("last", "error_type", "cause"),
    [
        (b"CREATE TABLE t (id int)", ErrorType.DATABASE_CHANGE_FAILED, "error 1050"),
        (b"NO SQL", ErrorType.DATABASE_CHANGE_FAILED, "error 1064"),
        (b"CREATE USER x", ErrorType.INSUFFICIENT_PERMISSIONS, "error 1227"),
        (b"INSERT INTO t VALUES ('abc')", ErrorType.DATABASE_CHANGE_FAILED, "warning 1366"),
    ],
)
def test_a_dump_that_the_server_refuses_leaves_nothing(
    make: Callable[[], MysqlTenant], last: bytes, error_type: ErrorType, cause: str
) -> None:
    source, target = make(), make()
    fill(source)
    target.as_tenant("ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_german2_ci")
    before = _contents(target)
    statements = [each.sql for each in read_statements(io.BytesIO(_dumped(source))) if each.sql]
    dump = _archive(*statements, b"SET sql_mode = ''", b"CREATE TABLE t (id int)", last)

    error = _refused(error_type, lambda: _restore(dump, target))

    assert error.message.endswith("so nothing of it is restored.")
    assert error.cause.startswith(f"at what: {cause}")
    assert _contents(target) == before
    _restore(_archive(*statements), target)


class _Interrupted(io.BytesIO):
    """An archive whose second reading does something before its last part."""

    def __init__(self, data: bytes, act: Callable[[], None]) -> None:
        super().__init__(data)
        self._act = act
        self._readings = 0

    def seek(self, *arguments: int) -> int:
        self._readings += 1
        return super().seek(*arguments)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._readings == 2 and self.tell() == len(self.getbuffer()):
            self._act()
        return data


def _large() -> bytes:
    """Return a dump that is read in more than one part."""
    statements = [b"CREATE TABLE t (b longblob)", b"CREATE PROCEDURE p() SELECT ';'"]
    statements += [b"INSERT INTO t VALUES (x'%s')" % os.urandom(500_000).hex().encode()] * 3
    return _archive(*statements)


def test_a_restore_that_is_interrupted_leaves_nothing(make: Callable[[], MysqlTenant]) -> None:
    target = make()

    def interrupt() -> None:
        assert _objects(target) == {"BASE TABLE t", "rows of t", "PROCEDURE p"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _restore(_Interrupted(_large(), interrupt), target)
    assert _objects(target) == set()


def test_a_server_that_is_killed_in_the_middle_is_told(mysql_server: PreparedMysql) -> None:
    dump = _large()
    with own_mysql(mysql_server) as own, mysql_tenants(own) as make_own:
        target = make_own()
        target.ensure()
        server = own.server
        assert server is not None
        interrupted = _Interrupted(dump, server.kill)
        error = _refused(ErrorType.NETWORK_ERROR, lambda: _restore(interrupted, target))
        # It refuses connections, or is still losing them.
        assert error.message.replace("2013", "2003") == (
            "The database server did not take the snapshot, and then not the removal of what was "
            f"restored of it (error 2003): make the database {target.names.database} anew, and "
            "restore again."
        )
        server.start()
        error = _refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: _restore(dump, target))
        assert "is not empty: it holds table t, procedure p; empty it" in error.message
        target.as_tenant("DROP TABLE t", "DROP PROCEDURE p")
        _restore(dump, target)
        assert _objects(target) == {"BASE TABLE t", "rows of t", "PROCEDURE p"}


def test_a_row_that_is_too_long_for_the_server_is_told_before_anything_runs(
    mysql_server: PreparedMysql,
) -> None:
    with own_mysql(mysql_server) as own, mysql_tenants(own) as make_own:
        target = make_own()
        target.ensure()
        with closing(own.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SET GLOBAL max_allowed_packet = 1048576")
        # As a row that was put together by several statements.
        target.as_tenant(
            "CREATE TABLE t (a longblob, b longblob)",
            "INSERT INTO t VALUES (REPEAT('a', 900000), '')",
            "UPDATE t SET b = REPEAT('b', 900000)",
        )
        dump = _dumped(target)
        target.as_tenant("DROP TABLE t")
        error = _refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: _restore(dump, target))
        assert _objects(target) == set()
    assert "bytes, and the server takes 1,048,576; raise its max_allowed_packet" in error.message
