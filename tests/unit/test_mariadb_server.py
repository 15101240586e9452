"""The MariaDB server that the local stack and the tests run."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pymysql
import pytest
from provision_cli.local import mariadb_server
from provision_cli.local.errors import LocalStackError
from provision_cli.local.mariadb_server import MariadbServer
from provision_cli.local.ports import choose_port
from support.mysql import PreparedMysql
from support.running import runs
from support.stack_jobs import eventually

_PASSWORD = "correct horse battery staple"  # kingfisher:ignore


@pytest.fixture
def server(mysql_server: PreparedMysql, tmp_path: Path) -> Iterator[MariadbServer]:
    if mysql_server.server is None:
        pytest.skip("another server is tested, named by its URL")
    port = choose_port()
    # A path that a shell would take for more.
    server = MariadbServer(tmp_path / "a server's $HOME", port)
    yield server
    server.stop()


def _login(server: MariadbServer, password: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    context = ssl.create_default_context(cafile=server.ca_file)
    return pymysql.connect(
        host="127.0.0.1", port=server.port, user="master", password=password, ssl=context
    )


def test_a_server_is_started_found_and_stopped(server: MariadbServer) -> None:
    assert not server.is_running()
    server.stop()
    # What a start leaves that was killed while it made the data.
    unfinished = server._data.with_suffix(".unfinished")
    unfinished.mkdir(parents=True)
    (unfinished / "ibdata1").write_text("half")

    server.start()
    server.start()

    assert server.is_running()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT User, Host FROM mysql.global_priv WHERE User <> 'mariadb.sys' ORDER BY 1, 2"
        )
        assert cursor.fetchall() == (("root", "127.0.0.1"),)
        cursor.execute("SELECT @@bind_address, @@socket, @@local_infile")
        assert cursor.fetchall() == (("127.0.0.1", "", 0),)
    with pytest.raises(pymysql.OperationalError, match="1045"):
        pymysql.connect(host="127.0.0.1", port=server.port, user="root", password="")
    process_id = server.process_id()
    # Another process, such as another run of the program, stops it.
    script = """
import sys
from pathlib import Path
from provision_cli.local.mariadb_server import MariadbServer

MariadbServer(Path(sys.argv[1]), int(sys.argv[2])).stop()
"""
    subprocess.run([sys.executable, "-c", script, str(server._home), str(server.port)], check=True)
    assert not server.is_running()
    assert process_id is not None
    assert not runs(process_id)
    assert not server._home.exists()
    assert not server._data.exists()


def test_a_server_that_was_killed_is_started_again_on_what_was_committed(
    server: MariadbServer,
) -> None:
    assert not server.has_data()
    server.start()
    assert server.has_data()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE kept")
        cursor.execute("CREATE TABLE kept.words (word varchar(10))")
        cursor.execute("INSERT INTO kept.words VALUES ('so')")
        process_id = server.process_id()
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
    eventually(lambda: not server.is_running(), within=20)

    server.start()

    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT word FROM kept.words")
        assert cursor.fetchall() == (("so",),)


def test_the_master_user_may_do_what_that_of_rds_may_and_no_more(server: MariadbServer) -> None:
    server.start()
    server.make_master_user("master", "forgotten")
    server.make_master_user("master", _PASSWORD)

    with pytest.raises(pymysql.OperationalError, match="1045"):
        _login(server, "forgotten")
    with closing(_login(server, _PASSWORD)) as connection, connection.cursor() as cursor:
        for statement in (
            "CREATE DATABASE ours",
            "CREATE USER tenant IDENTIFIED BY 'x'",
            "GRANT SELECT, INSERT, UPDATE, CREATE ROUTINE, EVENT ON ours.* TO tenant",
            "SELECT User FROM mysql.user",
            "SHOW PROCESSLIST",
            "DROP USER tenant",
            "DROP DATABASE ours",
        ):
            cursor.execute(statement)
        with closing(server.connect()) as other:
            for statement in (
                "INSERT INTO mysql.db (Host, Db, User) VALUES ('%', 'x', 'master')",
                "UPDATE mysql.global_priv SET User = 'x'",
                "CREATE TABLE mysql.ours (id int)",
                "SET GLOBAL max_connections = 1",
                f"KILL {other.thread_id()}",  # type: ignore[no-untyped-call]
                "GRANT SUPER ON *.* TO master",
                "SELECT 'x' INTO OUTFILE '/tmp/x'",
            ):
                with pytest.raises(pymysql.Error, match=r"denied|not owner"):
                    cursor.execute(statement)


def test_the_certificate_is_the_authoritys_that_the_server_names(
    server: MariadbServer, mysql_server: PreparedMysql
) -> None:
    server.start()
    server.make_master_user("master", _PASSWORD)
    with closing(_login(server, _PASSWORD)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_version'")
        row = cursor.fetchone()
        assert row is not None
        assert row[1].startswith("TLSv1.")
    another = ssl.create_default_context(cafile=mysql_server.ca_file)
    with pytest.raises(pymysql.OperationalError, match="certificate verify failed"):
        pymysql.connect(
            host="127.0.0.1", port=server.port, user="master", password=_PASSWORD, ssl=another
        )


def test_a_port_in_use_is_named(tmp_path: Path, mysql_server: PreparedMysql) -> None:
    assert mysql_server.port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MariadbServer(tmp_path / "server", port)
        with pytest.raises(LocalStackError, match=rf"MariaDB: port {port} of 127.0.0.1 .* in use"):
            server.start()
    assert not server._home.exists()


def test_a_server_that_does_not_start_says_why(server: MariadbServer) -> None:
    server.start()
    server.kill()
    (server._data / "ibdata1").write_bytes(b"no data")

    with pytest.raises(LocalStackError, match=r"did not start .* ends with: .*Aborting"):
        server.start()


def test_another_process_with_the_id_of_the_server_is_left_alone(tmp_path: Path) -> None:
    server = MariadbServer(tmp_path / "server", 1)
    server._home.mkdir()
    with subprocess.Popen(["/bin/sleep", "600"]) as other:
        server._pid_file.write_text(f"{other.pid}\n")
        assert not server.is_running()
        server.stop()
        assert other.poll() is None
        other.kill()
    assert not server._home.exists()


def test_a_folder_without_the_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mariadb_server.PROGRAMS_VARIABLE, str(tmp_path))
    with pytest.raises(
        LocalStackError,
        match=r"^MYSQL_BIN: .* holds no mariadbd .* name the folder",
    ):
        MariadbServer(tmp_path / "server", 1).start()


def test_a_program_that_is_not_of_mariadb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "sbin"
    programs.mkdir()
    (programs / "mysqld").touch(0o755)
    monkeypatch.setenv(mariadb_server.PROGRAMS_VARIABLE, str(programs))
    with pytest.raises(LocalStackError, match="or its installation is not whole"):
        MariadbServer(tmp_path / "server", 1).start()


def test_a_machine_without_a_server_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(mariadb_server.PROGRAMS_VARIABLE, raising=False)
    monkeypatch.setattr(mariadb_server, "_SERVER_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalStackError, match="no server is installed; install your system's"):
        MariadbServer(tmp_path / "server", 1).start()
