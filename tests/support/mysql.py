"""One MariaDB server for a whole test run, shared by its workers: a pytest plugin.

The server's program is the one in `MYSQL_BIN`, or on PATH. Without one the tests that need it are
skipped, but never in CI. Another server, MySQL's too, is tested by its URL, as an admin's login:
`make test-mysql URL=mysql://admin:password@host:3306/?ssl_ca=ca.pem`. Its admin may do what RDS's
master user may, and what the tests make there, they remove.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
import pytest
from provision_cli.local import mariadb_server
from provision_cli.local.build import lock
from provision_cli.local.mariadb_server import MariadbServer
from provision_cli.local.ports import choose_port
from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.mysql import ledger
from pymysql.cursors import Cursor

#: Names a server of one's own.
URL_VARIABLE = "MYSQL_URL"

#: As docs/cluster.sql's role on PostgreSQL; RDS takes at most 16 characters.
ADMIN_USER = "provisioner"

type Connection = pymysql.Connection[Cursor]


@dataclass(frozen=True, slots=True)
class PreparedMysql:
    """A server with a user as RDS's master user is."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    #: The certificate of the authority that has signed the server's; None where the system knows
    #: the authority.
    ca_file: Path | None
    #: The run's own server; None where another was named.
    server: MariadbServer | None

    def connect(self, database: str | None = None) -> Connection:
        """Connect as someone who sees everything: for a test's own looks and preparations."""
        if self.server is not None:
            return self.server.connect(database)
        return self.login(self.user, self.password, database)

    def login(self, user: str, password: str, database: str | None = None) -> Connection:
        """Connect as a user, over TLS; every statement is a transaction of its own."""
        context = ssl.create_default_context(cafile=self.ca_file)
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=user,
            password=password,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            ssl=context,
        )


@pytest.fixture(scope="session")
def mysql_server(request: pytest.FixtureRequest) -> PreparedMysql:
    """Return the run's server; the first worker that asks for it starts and prepares it."""
    if url := os.environ.get(URL_VARIABLE):
        return _named(url)
    if mariadb_server.find_program() is None:
        missing = (
            "no MariaDB server is installed: name the folder of its program mariadbd in "
            f"{mariadb_server.PROGRAMS_VARIABLE}, or put it on PATH"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing}; in CI nothing is skipped")
        pytest.skip(missing)
    directory = _directory(request.config)
    directory.mkdir(parents=True, exist_ok=True)
    described = directory / "server.json"
    with lock(directory / "start"):
        if not described.exists():
            prepared = _start(directory / "server")
            described.write_text(json.dumps({"port": prepared.port, "password": prepared.password}))
    return _described(described)


@contextmanager
def own_mysql(shared: PreparedMysql) -> Iterator[PreparedMysql]:
    """Start a server of a test's own, to be killed; the test is skipped on a server of a URL's."""
    if shared.server is None:
        pytest.skip("a server that was named by its URL is not killed")
    with tempfile.TemporaryDirectory() as directory:
        prepared = _start(Path(directory) / "server")
        assert prepared.server is not None
        try:
            yield prepared
        finally:
            prepared.server.stop()


def running_mysql(config: pytest.Config) -> PreparedMysql | None:
    """Return the run's own server where a test has asked for it."""
    described = _directory(config) / "server.json"
    return _described(described) if described.exists() else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the server, once every worker has ended."""
    found = running_mysql(session.config)
    if not hasattr(session.config, "workerinput") and found is not None and found.server:
        found.server.stop()


def _directory(config: pytest.Config) -> Path:
    base = Path(config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]  # pytest's own
    return (base.parent if hasattr(config, "workerinput") else base) / "mariadb-server"


def _start(directory: Path) -> PreparedMysql:
    port = choose_port()
    server = MariadbServer(directory, port)
    server.start()
    password = secrets.token_hex(20)
    server.make_master_user(ADMIN_USER, password)
    return PreparedMysql("127.0.0.1", port, ADMIN_USER, password, server.ca_file, server)


def _described(described: Path) -> PreparedMysql:
    value: dict[str, Any] = json.loads(described.read_text())
    server = MariadbServer(described.parent / "server", value["port"])
    return PreparedMysql(
        "127.0.0.1", value["port"], ADMIN_USER, value["password"], server.ca_file, server
    )


def _named(url: str) -> PreparedMysql:
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    ca_file = options.get("ssl_ca", [None])[0]
    if ca_file and not Path(ca_file).is_file():
        pytest.exit(
            f"{URL_VARIABLE}: ssl_ca: there is no file {ca_file}; name the certificate of the "
            "authority that has signed the server's.",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    return PreparedMysql(
        parts.hostname or "127.0.0.1",
        parts.port or 3306,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        Path(ca_file) if ca_file else None,
        None,
    )


def mysql_tenant_snapshot(server: PreparedMysql, names: TenantNames) -> dict[str, Any]:
    """Return everything that the engine is to leave of a tenant, without passwords and times."""
    queries: dict[str, tuple[str, tuple[str, ...]]] = {
        "databases": (
            """SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA
               WHERE SCHEMA_NAME = %s""",
            (names.database,),
        ),
        "users": (
            """SELECT User, Host, max_user_connections, ssl_type, password_expired
               FROM mysql.user WHERE User = %s ORDER BY 1, 2""",
            (names.app_role,),
        ),
        "grants": ("SELECT * FROM mysql.db WHERE User = %s ORDER BY Db", (names.app_role,)),
    }
    of_platform: dict[str, tuple[str, tuple[str, ...]]] = {
        "records": (
            """SELECT kind, name, marker FROM provisioner.resource WHERE name IN (%s, %s)
               ORDER BY 1""",
            (names.database, names.app_role),
        ),
    }
    with server.connect() as connection, connection.cursor() as cursor:
        if _is_prepared(cursor):
            queries |= of_platform
        found: dict[str, Any] = {what: [] for what in of_platform}
        for what, (query, values) in queries.items():
            cursor.execute(query, values)
            found[what] = list(cursor.fetchall())
        return found


def remove_mysql_tenant(server: PreparedMysql, names: TenantNames) -> None:
    """Remove what a tenant has, with its records, whoever made it."""
    name, user = names.database, names.app_role
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT Host FROM mysql.user WHERE User = %s", (user,))
        for (host,) in cursor.fetchall():
            cursor.execute(f"DROP USER `{user}`@`{host}`")
        cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")
        if _is_prepared(cursor):
            cursor.execute("DELETE FROM provisioner.resource WHERE name IN %s", ((name, user),))


def _is_prepared(cursor: Cursor) -> bool:
    """Whether the server has had a tenant: the first one makes the platform's records."""
    cursor.execute(
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
        (ledger.SCHEMA, "lock_key"),
    )
    return cursor.fetchone() is not None
