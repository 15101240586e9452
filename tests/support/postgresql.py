"""One PostgreSQL server for a whole test run, shared by its workers: a pytest plugin.

Another version is tested by naming the folder of its programs:
`POSTGRESQL_BIN=/usr/lib/postgresql/15/bin make test`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provision_cli.local.aws_server import choose_port
from provision_cli.local.build import locked
from provision_cli.local.postgresql_server import PLATFORM_ROLE, PostgresqlServer
from provisioner.drivers.database_engine import AdminConnection


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
    with locked(directory / "start"):
        if not described.exists():
            port = choose_port(None, None, what="PostgreSQL", variable="none")
            server = PostgresqlServer(directory / "server", port)
            server.start()
            password = server.prepare_cluster()
            described.write_text(json.dumps({"port": port, "password": password}))
    value = json.loads(described.read_text())
    return PreparedCluster(
        PostgresqlServer(directory / "server", value["port"]),
        AdminConnection(
            "127.0.0.1", value["port"], PLATFORM_ROLE, value["password"], sslmode="disable"
        ),
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the server, once every worker has ended."""
    described = _directory(session.config) / "cluster.json"
    if not hasattr(session.config, "workerinput") and described.exists():
        port = json.loads(described.read_text())["port"]
        PostgresqlServer(described.parent / "server", port).stop()
