"""A deployment in this process, as the tests have it: moto's AWS, a PostgreSQL of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import support.quick_moto  # noqa: F401  # else moto's copies of tables would be what is measured
from provision_cli.local.database_servers import PLATFORM_ROLE
from provision_cli.local.ports import LOOPBACK, choose_port
from provision_cli.local.postgresql_server import PostgresqlServer
from provisioner.drivers.database_engine import AdminConnection
from provisioner.runtime.observability import logger
from support.postgresql import PreparedCluster
from support.tenant_server import OnPostgresql
from support.workflow import Workflow, deployed


@contextmanager
def deployment() -> Iterator[Workflow]:
    """Deploy, and stop the server at the end."""
    logger.setLevel("WARNING")
    port = choose_port()
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        server = PostgresqlServer(Path(folder) / "postgresql", port)
        server.start()
        try:
            password = server.prepare_cluster()
            admin = AdminConnection(LOOPBACK, port, PLATFORM_ROLE, password, sslmode="disable")
            with deployed(OnPostgresql(PreparedCluster(server, admin)), patch) as made:
                yield made
        finally:
            server.stop()
