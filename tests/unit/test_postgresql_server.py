"""The PostgreSQL server that the local stack and the tests run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provision_cli.local import database_servers, postgresql_server
from provision_cli.local.database_servers import PLATFORM_ROLE
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import choose_port
from provision_cli.local.postgresql_server import PostgresqlServer
from support.running import runs
from support.stack_jobs import eventually


def _free_port() -> int:
    return choose_port()


@contextmanager
def _stopped_at_the_end(server: PostgresqlServer) -> Iterator[PostgresqlServer]:
    try:
        yield server
    finally:
        server.stop()


def _login(server: PostgresqlServer, password: str, database: str = "postgres") -> None:
    psycopg.connect(
        host="127.0.0.1",
        port=server.port,
        user=PLATFORM_ROLE,
        password=password,
        dbname=database,
    ).close()


def test_a_server_is_started_prepared_found_and_stopped(tmp_path: Path) -> None:
    port = _free_port()
    with _stopped_at_the_end(PostgresqlServer(tmp_path / "server", port)) as server:
        assert not server.is_running()
        server.stop()

        # What a start leaves that was killed while it made the data.
        unfinished = server._data.with_suffix(".unfinished")
        unfinished.mkdir(parents=True)
        (unfinished / "PG_VERSION").write_text("18\n")
        server._home.mkdir(parents=True, exist_ok=True)
        server._password_file.write_text("half")

        server.start()
        server.start()
        assert server.is_running()
        with server.connect() as connection:
            rows = connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s) ORDER BY 1",
                (["listen_addresses", "password_encryption", "unix_socket_directories"],),
            ).fetchall()
        assert rows == [
            ("listen_addresses", "127.0.0.1"),
            ("password_encryption", "scram-sha-256"),
            ("unix_socket_directories", ""),
        ]
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres")

        first = server.prepare_cluster()
        _login(server, first)
        second = server.prepare_cluster()
        _login(server, second)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            _login(server, first)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            _login(server, second, "template1")
        with server.connect() as connection:
            row = connection.execute(
                "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,"
                " pg_has_role(oid, 'pg_signal_backend', 'MEMBER')"
                " FROM pg_roles WHERE rolname = %s",
                (PLATFORM_ROLE,),
            ).fetchone()
        assert row == (False, True, True, False, False, True)

        process_id = server.process_id()
        home = server._home
        # Another process, such as another run of the program, stops it.
        script = """
import sys
from pathlib import Path
from provision_cli.local.postgresql_server import PostgresqlServer

PostgresqlServer(Path(sys.argv[1]), int(sys.argv[2])).stop()
"""
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "server"), str(port)], check=True
        )
        assert not server.is_running()
        assert process_id is not None
        assert not runs(process_id)
        assert not home.exists()


def test_a_server_that_was_killed_is_started_again_on_its_data(tmp_path: Path) -> None:
    with _stopped_at_the_end(PostgresqlServer(tmp_path / "server", _free_port())) as server:
        assert not server.has_data()
        server.start()
        assert server.has_data()
        with server.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'so' AS text")
        # A session that does not notice the end of its server until it has done what it does.
        with closing(server.connect()) as busy:
            busy.pgconn.send_query(
                b"DO $$ DECLARE last timestamptz := clock_timestamp() + interval '0.5 s';"
                b" BEGIN WHILE clock_timestamp() < last LOOP END LOOP; END $$"
            )
            eventually(lambda: _is_at_work(server, busy), within=20)
            _kill(server)

            server.start()

        with server.connect() as connection:
            assert connection.execute("SELECT text FROM kept").fetchone() == ("so",)


def _kill(server: PostgresqlServer) -> None:
    process_id = server.process_id()
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    eventually(lambda: not server.is_running(), within=20)


def test_a_port_that_is_closed_a_moment_after_its_server_was_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _free_port()
    with _stopped_at_the_end(PostgresqlServer(tmp_path / "server", port)) as server:
        server.start()
        _kill(server)
        with closing(eventually(lambda: _listening(port), within=20)) as not_closed_yet:
            waits: list[float] = []

            def sleep(seconds: float) -> None:
                waits.append(seconds)
                not_closed_yet.close()

            monkeypatch.setattr(time, "sleep", sleep)
            server.start()
        assert waits
        assert server.is_running()


def test_a_port_that_another_has_taken_since_its_server_was_killed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_servers, "_CLOSING_SECONDS", 0.2)
    port = _free_port()
    with _stopped_at_the_end(PostgresqlServer(tmp_path / "server", port)) as server:
        server.start()
        _kill(server)
        with (
            closing(eventually(lambda: _listening(port), within=20)),
            pytest.raises(LocalStackError, match=rf"port {port} of 127.0.0.1 .* in use"),
        ):
            server.start()


def _listening(port: int) -> socket.socket | None:
    with suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


def _is_at_work(server: PostgresqlServer, busy: psycopg.Connection[tuple[Any, ...]]) -> bool:
    with server.connect() as connection:
        return connection.execute(
            "SELECT state FROM pg_stat_activity WHERE pid = %s", (busy.info.backend_pid,)
        ).fetchone() == ("active",)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = PostgresqlServer(tmp_path / "server", port)
        with pytest.raises(LocalStackError, match=rf"port {port} of 127.0.0.1 .* in use"):
            server.start()
    assert not server._home.exists()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with _stopped_at_the_end(PostgresqlServer(tmp_path / "server", _free_port())) as server:
        server.start()
        server.kill()
        with (server._data / "postgresql.conf").open("a") as settings:
            settings.write("no_such_setting = 1\n")
        with pytest.raises(LocalStackError, match=r"did not start .* ends with: .*errors"):
            server.start()


def test_another_process_with_the_id_of_the_server_is_left_alone(tmp_path: Path) -> None:
    server = PostgresqlServer(tmp_path / "server", 1)
    server._data.mkdir(parents=True)
    with subprocess.Popen(["/bin/sleep", "600"]) as other:
        (server._data / "postmaster.pid").write_text(f"{other.pid}\n")
        assert not server.is_running()
        server.stop()
        assert other.poll() is None
        other.kill()
    assert not server._home.exists()


def test_the_data_are_kept_below_the_folder_that_is_named_and_go_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "named"
    monkeypatch.setenv(PostgresqlServer.data_variable, str(named))
    server = PostgresqlServer(tmp_path / "server", 1)
    server._data.mkdir(parents=True)
    (kept,) = named.iterdir()

    server.stop()

    assert not kept.exists()


def test_a_folder_of_someone_else_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").touch()
    assert database_servers.is_own_folder(tmp_path)
    for name in ("link", "file", "missing"):
        assert not database_servers.is_own_folder(tmp_path / name)


def test_programs_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(postgresql_server.PROGRAMS_VARIABLE, str(tmp_path))
    with pytest.raises(LocalStackError, match=r"POSTGRESQL_BIN: .* holds no initdb"):
        PostgresqlServer(tmp_path / "server", 1)


def test_a_server_runs_where_only_its_starter_can_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's account for the server cannot reach a home directory, nor what a umask has closed."""
    package = postgresql_server._programs().parent.parent
    closed = tmp_path / "home" / package.name
    postgresql_server._copy_for_all(package, closed.parent)
    programs = closed / "pginstall" / "bin"
    if not programs.exists():  # POSTGRESQL_BIN names another layout than the package's
        programs = closed / postgresql_server._programs().relative_to(package)
    for path in (closed, *closed.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    closed.parent.chmod(0o700)
    monkeypatch.setenv(postgresql_server.PROGRAMS_VARIABLE, str(programs))
    server = PostgresqlServer(closed.parent / "server", _free_port())
    with _stopped_at_the_end(server):
        server.start()
        with server.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not server._home.exists()
    assert closed.parent.stat().st_mode & 0o777 == 0o700


def test_a_server_runs_as_an_ordinary_user() -> None:
    script = """
import encodings.idna, os, pwd, sys
from pathlib import Path
from provision_cli.local.postgresql_server import PostgresqlServer

if os.geteuid() == 0:
    account = pwd.getpwnam("nobody")
    os.chown(sys.argv[1], account.pw_uid, account.pw_gid)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
server = PostgresqlServer(Path(sys.argv[1]) / "server", int(sys.argv[2]))
try:
    server.start()
    with server.connect() as connection:
        print(connection.execute("SELECT 1").fetchone(), server._data)
finally:
    server.stop()
print(server._home.exists())
"""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))  # a new folder  # nosec B108
    programs = folder / "programs"
    package = postgresql_server._programs().parent.parent
    postgresql_server._copy_for_all(package, programs)
    chosen = programs / postgresql_server._programs().relative_to(package.parent)
    environment = {n: v for n, v in os.environ.items() if n != PostgresqlServer.data_variable}
    try:
        output = subprocess.run(
            [sys.executable, "-c", script, str(folder), str(_free_port())],
            env=environment | {postgresql_server.PROGRAMS_VARIABLE: str(chosen)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert output.stdout == f"(1,) {folder}/server/server/data\nFalse\n", output.stderr
    finally:
        shutil.rmtree(folder)
