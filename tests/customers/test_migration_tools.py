"""Customers' own tools work with nothing but the URL of the project's database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from support.project import ROOT
from support.tenants import PASSWORD, Tenant
from support.tls import tls_in_front_of

_FOLDER = Path(__file__).parent

#: Where `make customer-tools` installs them.
_NODE_TOOLS = ROOT / ".tools" / "customers"


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found and (_NODE_TOOLS / ".installed").exists():
        return found
    missing = "customers' tools are not installed: `make customer-tools`, which needs npm"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{missing}; in CI nothing is skipped")
    pytest.skip(missing)


@pytest.fixture
def customer(make_tenant: Callable[[], Tenant]) -> Tenant:
    tenant = make_tenant()
    tenant.ensure()
    return tenant


def _url(tenant: Tenant, scheme: str = "postgresql", port: int | None = None) -> str:
    return (
        f"{scheme}://{tenant.names.app_role}:{PASSWORD}"
        f"@127.0.0.1:{port or tenant.cluster.admin.port}/{tenant.names.database}?sslmode=disable"
    )


def _run_node(node: str, tool: str, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node, _FOLDER / "tools.mjs", tool, folder],
        env={"DATABASE_URL": url, "NODE_TOOLS": str(_NODE_TOOLS), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _tables(tenant: Tenant) -> set[tuple[str, str]]:
    with tenant.login() as connection:
        return {
            (schema, table)
            for schema, table in connection.execute(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname !~ '^pg_'"
                " AND schemaname NOT IN ('information_schema', 'provisioner')"
            )
        }


@pytest.mark.parametrize(
    ("tool", "tables"),
    [
        ("drizzle", {("app", "notes"), ("drizzle", "__drizzle_migrations")}),
        ("drizzle in app", {("app", "notes"), ("app", "__drizzle_migrations")}),
        ("node-pg-migrate", {("app", "notes"), ("public", "pgmigrations")}),
        ("node-pg-migrate createSchema app", {("app", "notes"), ("app", "pgmigrations")}),
        ("node-pg-migrate createSchema shop", {("shop", "notes"), ("shop", "pgmigrations")}),
        ("pg-boss", {("pgboss", "version"), ("pgboss", "queue")}),
        ("pg-boss in app", {("app", "version"), ("app", "queue")}),
        ("graphile-worker", {("graphile_worker", "migrations")}),
        ("knex", {("app", "notes"), ("app", "knex_migrations"), ("shop", "orders")}),
        ("sequelize", {("app", "notes"), ("shop", "orders")}),
        ("typeorm", {("app", "note")}),
        ("a reset of the schema", {("app", "notes")}),
    ],
)
def test_a_tool_of_node_works_as_the_app_role(
    node: str, customer: Tenant, tmp_path: Path, tool: str, tables: set[tuple[str, str]]
) -> None:
    done = _run_node(node, tool, tmp_path, _url(customer))
    assert (done.returncode, done.stderr) == (0, "")
    assert tables <= _tables(customer)
    # The platform finds all as it was.
    customer.ensure()
    customer.check()


def test_node_checks_the_server_with_the_certificate_that_the_url_names(
    node: str, customer: Tenant, tmp_path: Path
) -> None:
    with tls_in_front_of(customer.cluster.admin.port, tmp_path) as port:
        login = _url(customer, port=port).partition("?")[0]
        strict = f"{login}?sslmode=verify-full"
        refused = _run_node(node, "pg", tmp_path, strict)
        taken = _run_node(node, "pg", tmp_path, f"{strict}&sslrootcert={tmp_path}/server.pem")
    assert refused.returncode == 1
    assert "self-signed certificate" in refused.stderr
    assert (taken.returncode, taken.stderr) == (0, "")


def test_alembic_works_as_the_app_role(customer: Tenant) -> None:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER / "alembic_project"))
    config.attributes["url"] = _url(customer, "postgresql+psycopg")
    for go in (command.upgrade, command.upgrade):
        go(config, "head")
    assert {("app", "notes"), ("app", "alembic_version"), ("shop", "orders")} <= _tables(customer)
    command.downgrade(config, "base")
    assert _tables(customer) == {("app", "alembic_version")}


def test_django_works_as_the_app_role(customer: Tenant) -> None:
    login = {
        "HOST": "127.0.0.1",
        "PORT": customer.cluster.admin.port,
        "NAME": customer.names.database,
        "USER": customer.names.app_role,
        "PASSWORD": PASSWORD,
    }
    done = subprocess.run(
        [sys.executable, _FOLDER / "migrate_with_django.py"],
        env={**os.environ, "LOGIN": json.dumps(login)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {("app", "django_shop_note"), ("app", "auth_user")} <= _tables(customer)
