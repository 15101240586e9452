"""Tenants of the run's cluster, removed at the end of each test, and crashes: a pytest plugin."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import Ownership
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import Naming
from support.postgresql import PreparedCluster, remove_tenant, tenant_snapshot

NAMING = Naming("nm", "test-000000000000")
PASSWORD = "FirstPassword0123456789abcdefghijklmnopqrst"


@dataclass(frozen=True)
class Tenant:
    """A project's part of the cluster."""

    cluster: PreparedCluster
    engine: PostgresqlEngine
    names: TenantNames
    owner: Ownership

    def ensure_database(self, password: str = PASSWORD) -> None:
        self.engine.ensure_database(self.names, lambda: password, self.owner)

    def ensure_schema(self) -> None:
        self.engine.ensure_schema(self.names, self.owner)

    def ensure(self, password: str = PASSWORD) -> None:
        self.ensure_database(password)
        self.ensure_schema()

    def check(self, password: str = PASSWORD) -> tuple[str, str]:
        return (
            self.engine.check_database(self.names, password).check,
            self.engine.check_schema(self.names, password),
        )

    def login(self, database: str | None = None, password: str = PASSWORD) -> Any:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.cluster.admin.port,
            user=self.names.app_role,
            password=password,
            dbname=database or self.names.database,
            autocommit=True,
        )

    def snapshot(self) -> dict[str, Any]:
        return tenant_snapshot(self.cluster, self.names)


def refused(error_type: ErrorType, act: Callable[[], object]) -> ProvisioningError:
    """Return the error that an act ends with, which must be of the type."""
    with pytest.raises(ProvisioningError) as raised:
        act()
    assert raised.value.type is error_type
    return raised.value


@contextmanager
def tenants(cluster: PreparedCluster) -> Iterator[Callable[[], Tenant]]:
    """Make tenants; remove them at the end."""
    made: list[Tenant] = []

    def make() -> Tenant:
        project_id = f"project-{uuid.uuid4().hex[:12]}"
        tenant = Tenant(
            cluster,
            PostgresqlEngine(cluster.admin),
            NAMING.names(project_id).tenants[Engine.POSTGRESQL],
            NAMING.owner(project_id, "job-1"),
        )
        made.append(tenant)
        return tenant

    yield make
    with cluster.connect() as c:
        for tenant in made:
            remove_tenant(c, tenant.names)


@pytest.fixture
def make_tenant(cluster: PreparedCluster) -> Iterator[Callable[[], Tenant]]:
    with tenants(cluster) as make:
        yield make


@pytest.fixture
def tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    return make_tenant()


def interrupt_drop(tenant: Tenant) -> None:
    """Leave the database as a server does that stops in the middle of a DROP DATABASE."""
    with tenant.cluster.connect() as c:
        c.execute(
            "UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (tenant.names.database,)
        )


class Crash(BaseException):
    """The process dies: no code of ours may catch it."""


def _crashing(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> None:
    """Let the process die at the n-th statement, before or after it has its effect."""
    count = itertools.count()
    real = psycopg.Connection.execute

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        is_here = next(count) == at
        if is_here and not after:
            self.close()
            raise Crash
        result = real(self, *arguments, **options)
        if is_here:
            self.close()
            raise Crash
        return result

    monkeypatch.setattr(psycopg.Connection, "execute", execute)


def dies(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], at: int, *, after: bool
) -> bool:
    """Run until the n-th statement; returns whether there was one."""
    with monkeypatch.context() as patch:
        _crashing(patch, at, after=after)
        try:
            run()
        except Crash:
            return True
        return False
