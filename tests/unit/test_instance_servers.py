"""The servers of the local AWS's instances: what is done with one, and with all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from provision_cli.local import mariadb_server
from provision_cli.local.database_servers import DatabaseServer
from provision_cli.local.errors import LocalStackError
from provision_cli.local.instance_servers import InstanceServers, operate
from provision_cli.local.ports import choose_port
from support.stack_jobs import eventually

USER = "instance_admin"
PASSWORD = "p" * 40  # kingfisher:ignore
OTHER_PASSWORD = "q" * 40  # kingfisher:ignore


class Instance:
    """An instance of which a test does by itself what ministack would ask for."""

    def __init__(self, directory: Path, engine: str, resource: str = "db-FIRST") -> None:
        self.directory = directory
        self.asked: dict[str, Any] = {
            "resource": resource,
            "identifier": resource.removeprefix("db-").lower(),
            "engine": engine,
            "port": choose_port(),
        }
        self.folder = directory / "instances" / resource

    def operate(self, operation: str, **more: str) -> None:
        operate(self.directory, operation, {"instance": self.asked, **more})

    def start(self) -> None:
        self.operate("start", user=USER, password=PASSWORD)

    def run(self, *statements: str, password: str = PASSWORD) -> list[Any]:
        """Run statements as the master user; return the rows of the last."""
        login: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.asked["port"],
            "user": USER,
            "password": password,
        }
        connection: Any = (
            psycopg.connect(**login, dbname="postgres", autocommit=True)
            if self.asked["engine"] == "postgres"
            else pymysql.connect(**login, autocommit=True, ssl_disabled=True)
        )
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            # psycopg refuses where a statement has no rows.
            return list(cursor.fetchall()) if cursor.description else []

    def server(self) -> DatabaseServer:
        return InstanceServers(self.directory)._server(
            self.folder, next(one for _, one in InstanceServers(self.directory).all())
        )

    def kill(self) -> None:
        server = self.server()
        process_id = server.process_id()
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        eventually(lambda: not server.is_running())


@pytest.fixture(params=["postgres", "mysql"])
def instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Instance]:
    """Return an instance whose server has been started."""
    if request.param == "mysql":
        # It is skipped where none is installed, and never in CI.
        request.getfixturevalue("mysql_server")
    made = Instance(tmp_path, request.param)
    try:
        made.start()
        yield made
    finally:
        InstanceServers(tmp_path).stop_all()


#: Two technologies have two words for a schema; of PostgreSQL, a database's default one is there.
SCHEMA = {"postgres": "public", "mysql": "kept"}


def table(instance: Instance) -> str:
    return f"{SCHEMA[instance.asked['engine']]}.things"


def fill(instance: Instance) -> None:
    if instance.asked["engine"] == "mysql":
        instance.run("CREATE DATABASE kept")
    instance.run(f"CREATE TABLE {table(instance)} AS SELECT 7 AS thing")


def things(instance: Instance, **login: str) -> list[Any]:
    return instance.run(" ".join(("SELECT thing FROM", table(instance))), **login)


def test_an_instance_has_a_server_until_it_is_removed(instance: Instance) -> None:
    fill(instance)

    instance.operate("set_password", user=USER, password=OTHER_PASSWORD)
    assert things(instance, password=OTHER_PASSWORD) == [(7,)]
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        instance.run("SELECT 1")

    instance.operate("halt")
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        things(instance, password=OTHER_PASSWORD)
    # Nobody is to find one started that somebody has stopped.
    assert list(InstanceServers(instance.directory).start_again()) == []
    instance.operate("start")
    assert things(instance, password=OTHER_PASSWORD) == [(7,)]

    server = instance.server()
    for _ in range(2):
        instance.operate("remove")
        assert not instance.folder.exists()
        assert not server.is_running()
        assert not server.has_data()


def test_a_server_that_was_killed_is_started_again_on_its_data(instance: Instance) -> None:
    fill(instance)
    servers = InstanceServers(instance.directory)
    assert list(servers.start_again()) == []
    instance.kill()

    assert list(servers.start_again()) == ["first"]

    assert things(instance) == [(7,)]
    assert [one.identifier for _, one in servers.all()] == ["first"]
    server = instance.server()
    servers.stop_all()
    assert not server.is_running()
    assert not server.has_data()
    assert list(instance.directory.iterdir()) == []


def test_a_snapshot_holds_the_data_as_they_were(instance: Instance) -> None:
    fill(instance)
    instance.operate("copy", snapshot="before")
    instance.run(f"DROP TABLE {table(instance)}")
    restored = Instance(instance.directory, instance.asked["engine"], "db-SECOND")

    restored.operate("start", snapshot="before")

    # With the logins of then.
    assert things(restored) == [(7,)]
    instance.run("SELECT 1")
    operate(instance.directory, "forget", {"snapshot": "before"})
    with pytest.raises(LocalStackError, match="snapshot before: its data are not there"):
        restored.operate("start", snapshot="before")


def test_the_master_user_of_postgresql_may_do_what_the_platform_asks_and_is_no_superuser(
    tmp_path: Path,
) -> None:
    made = Instance(tmp_path, "postgres")
    try:
        made.start()
        cluster = Path(__file__).resolve().parents[2] / "docs" / "cluster.sql"
        made.run(cluster.read_text(encoding="utf-8"))
        assert made.run(
            "SELECT rolsuper, rolbypassrls, rolreplication FROM pg_roles"
            " WHERE rolname = current_user"
        ) == [(False, False, False)]
        assert made.run(
            "SELECT has_database_privilege('public', 'postgres', 'CONNECT'),"
            " pg_has_role('provisioner', 'pg_signal_backend', 'MEMBER'), rolconfig"
            " FROM pg_roles WHERE rolname = 'provisioner'"
        ) == [(False, True, ["search_path=pg_catalog", "lc_messages=C"])]
    finally:
        InstanceServers(tmp_path).stop_all()


@pytest.mark.parametrize("name", ["../elsewhere", "", "a/b", "."])
def test_no_name_leads_out_of_the_folders(tmp_path: Path, name: str) -> None:
    instance = {"resource": "db-FIRST", "identifier": "first", "engine": "postgres", "port": 1}
    for operation, asked in (
        ("remove", {"instance": instance | {"resource": name}}),
        ("forget", {"snapshot": name}),
        ("copy", {"instance": instance, "snapshot": name}),
    ):
        with pytest.raises(LocalStackError, match="a name that is none"):
            operate(tmp_path, operation, asked)
    assert list(tmp_path.iterdir()) == []


def test_an_instance_without_a_program_for_its_server_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mariadb_server, "_SERVER_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(mariadb_server.PROGRAMS_VARIABLE, raising=False)
    made = Instance(tmp_path, "mysql")
    with pytest.raises(LocalStackError, match="MariaDB: no server is installed"):
        made.start()
    # Nothing takes it for an instance that has one.
    assert list(InstanceServers(tmp_path).all()) == []
