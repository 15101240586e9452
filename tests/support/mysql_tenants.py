"""Tenants of the run's MySQL or MariaDB server, removed after each test, and crashes: a plugin."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import pymysql
import pytest
from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.ownership import Ownership
from provisioner.provisioning.engine import Engine
from pymysql.connections import Connection as DriverConnection
from support.mysql import (
    Connection,
    PreparedMysql,
    mysql_tenant_snapshot,
    remove_mysql_tenant,
)
from support.tenants import NAMING, PASSWORD, Crash


@dataclass(frozen=True)
class MysqlTenant:
    """A project's part of the server."""

    server: PreparedMysql
    admin: AdminConnection
    names: TenantNames
    owner: Ownership

    @property
    def engine(self) -> MysqlEngine:
        return MysqlEngine(self.admin)

    def ensure_database(self, password: str = PASSWORD) -> None:
        self.engine.ensure_database(self.names, lambda: password, self.owner)

    def ensure_schema(self) -> None:
        self.engine.ensure_schema(self.names, self.owner)

    def ensure(self, password: str = PASSWORD) -> None:
        self.ensure_database(password)
        self.ensure_schema()

    def remove(self, *, only_this_job: bool = False) -> bool:
        return self.engine.remove_database(self.names, self.owner, only_this_job=only_this_job)

    def check(self, password: str = PASSWORD) -> tuple[str, str]:
        return (
            self.engine.check_database(self.names, password).check,
            self.engine.check_schema(self.names, password),
        )

    def login(self, database: str | None = None, password: str = PASSWORD) -> Connection:
        return self.server.login(self.names.app_role, password, database or self.names.database)

    def snapshot(self) -> dict[str, Any]:
        """Return what the engine is to leave of a tenant, without passwords and times."""
        return mysql_tenant_snapshot(self.server, self.names)

    def as_superuser(self, statement: str, values: tuple[Any, ...] | None = None) -> Any:
        """Run a statement as someone who may do everything."""
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    def as_tenant(self, *statements: str, password: str = PASSWORD) -> Any:
        """Run statements as the customer; return the last one's rows."""
        with self.login(password=password) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def url(self, password: str = PASSWORD) -> str:
        """Return the customer's connection URL, which verifies the server."""
        server = self.server
        authority = f"&ssl-ca={quote(str(server.ca_file))}" if server.ca_file else ""
        login = f"{self.names.app_role}:{password}" if password else self.names.app_role
        return (
            f"mysql://{login}@{server.host}:{server.port}/{self.names.database}"
            f"?ssl-mode=VERIFY_IDENTITY{authority}"
        )

    def with_owner(self, **changes: str) -> MysqlTenant:
        return replace(self, owner=replace(self.owner, **changes))


def admin_of(server: PreparedMysql) -> AdminConnection:
    return AdminConnection(
        server.host,
        server.port,
        server.user,
        server.password,
        sslmode="verify-full",
        root_certificates=str(server.ca_file) if server.ca_file else None,
    )


@contextmanager
def mysql_tenants(server: PreparedMysql) -> Iterator[Callable[[], MysqlTenant]]:
    """Make tenants; remove them at the end."""
    made: list[MysqlTenant] = []

    def make() -> MysqlTenant:
        project_id = f"project-{uuid.uuid4().hex[:12]}"
        tenant = MysqlTenant(
            server,
            admin_of(server),
            NAMING.names(project_id).tenants[Engine.MYSQL],
            NAMING.owner(project_id, "job-1"),
        )
        made.append(tenant)
        return tenant

    yield make
    for tenant in made:
        remove_mysql_tenant(server, tenant.names)


@pytest.fixture
def make_mysql_tenant(mysql_server: PreparedMysql) -> Iterator[Callable[[], MysqlTenant]]:
    with mysql_tenants(mysql_server) as make:
        yield make


@pytest.fixture
def mysql_tenant(make_mysql_tenant: Callable[[], MysqlTenant]) -> MysqlTenant:
    return make_mysql_tenant()


@pytest.fixture
def mysql_superuser(mysql_server: PreparedMysql) -> None:
    """Skip where the server is someone's own, whose admin may not do all that a test does."""
    if mysql_server.server is None:
        pytest.skip("changes what only a superuser may change")


def thread_of(connection: Connection) -> int:
    """Return what the server calls the session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        ((thread,),) = cursor.fetchall()
    return int(thread)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keep the statements that are run, but for those by which the driver begins a session."""
    statements: list[str] = []
    real = DriverConnection.query

    def query(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(sql.decode() if isinstance(sql, bytes) else sql)
        return real(self, sql, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DriverConnection, "query", query)
        yield statements


def mysql_dies(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], at: int, *, after: bool
) -> bool:
    """Run until the process dies at the n-th statement; returns whether there was one.

    Args:
        monkeypatch: pytest's.
        run: what is run.
        at: counted from 0.
        after: whether it dies once the statement has had its effect, or before.
    """
    count = itertools.count()
    real = DriverConnection.query

    def query(self: Any, *arguments: Any, **options: Any) -> Any:
        is_here = next(count) == at
        if is_here and not after:
            self._force_close()
            raise Crash
        result = real(self, *arguments, **options)
        if is_here:
            self._force_close()
            raise Crash
        return result

    with monkeypatch.context() as patch:
        patch.setattr(DriverConnection, "query", query)
        try:
            run()
        except Crash:
            return True
        return False


def end_session(server: PreparedMysql, thread: int) -> None:
    """End a session as a superuser does; who has ended it is told 1094."""
    with server.connect() as connection, connection.cursor() as cursor:
        try:
            cursor.execute(f"KILL {thread}")
        except pymysql.Error as error:
            if error.args[0] != 1094:
                raise
