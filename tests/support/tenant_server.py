"""The servers of tenant databases as the deployments in one process see them, engine by engine.

A test runs on PostgreSQL unless it asks for another engine: with `each_engine` it runs on every one
of them, with `on_mysql` on MySQL alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest
from provisioner.drivers.database_engine import AdminConnection, DatabaseEngine, TenantNames
from provisioner.drivers.mysql import errors as mysql_errors
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.drivers.postgresql import errors as postgresql_errors
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.provisioning.engine import Engine
from psycopg import sql
from support.mysql import PreparedMysql, mysql_tenant_snapshot, remove_mysql_tenant
from support.mysql_tenants import admin_of
from support.postgresql import PreparedCluster, remove_tenant, tenant_snapshot
from support.remaining import Resource, in_mysql, in_postgresql

#: What a secret hands over of a login.
type LoginSecret = Mapping[str, Any]


class TenantServer(Protocol):
    """A server with tenants of one engine."""

    @property
    def engine(self) -> Engine:
        """What it speaks."""

    @property
    def admin(self) -> AdminConnection:
        """The platform's login."""

    @property
    def driver(self) -> DatabaseEngine:
        """The product's own driver, with the platform's login."""

    @property
    def log(self) -> Path:
        """What the server has logged."""

    def snapshot(self, names: TenantNames) -> dict[str, Any]:
        """Return all that a tenant has, without passwords, ids and times; its lists are empty where
        there is nothing."""

    def resources(self) -> Iterator[Resource]:
        """Yield what every tenant has, with its tags."""

    def remove(self, names: TenantNames) -> None:
        """Remove what a tenant has, whoever made it."""

    def connect_as_tenant(self, login: LoginSecret) -> Any:
        """Connect as a client does that gets the connection string; each statement commits."""

    def takes(self, login: LoginSecret) -> bool:
        """Whether a login is taken; what is wrong beside its password is raised."""

    def whoami(self, login: LoginSecret) -> tuple[Any, ...]:
        """Return the database, the user and the schema that a login comes to."""

    def drop_database(self, names: TenantNames) -> None:
        """Drop a tenant's database, as an operator would by hand."""

    def set_password(self, names: TenantNames, password: str) -> None:
        """Give a tenant's login a password, as an operator would by hand."""

    def drift(self, names: TenantNames) -> set[tuple[str, str]]:
        """Change of a tenant what an operator can; return how a repair tells of it."""


def run_as_tenant(
    server: TenantServer, login: LoginSecret, *statements: str
) -> list[tuple[Any, ...]]:
    """Run statements as a client does; return the rows of the last, if it has any."""
    connection = server.connect_as_tenant(login)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class OnPostgresql:
    """The run's PostgreSQL, or one of a test's own."""

    cluster: PreparedCluster

    @property
    def engine(self) -> Engine:
        return Engine.POSTGRESQL

    @property
    def admin(self) -> AdminConnection:
        return self.cluster.admin

    @property
    def driver(self) -> DatabaseEngine:
        return PostgresqlEngine(self.admin)

    @property
    def log(self) -> Path:
        return self.cluster.server.log

    def snapshot(self, names: TenantNames) -> dict[str, Any]:
        return tenant_snapshot(self.cluster, names)

    def resources(self) -> Iterator[Resource]:
        with self.cluster.connect() as connection:
            yield from in_postgresql(connection)

    def remove(self, names: TenantNames) -> None:
        with self.cluster.connect() as connection:
            remove_tenant(connection, names)

    def connect_as_tenant(self, login: LoginSecret) -> psycopg.Connection[Any]:
        return psycopg.connect(login["connection_string"], autocommit=True)

    def takes(self, login: LoginSecret) -> bool:
        try:
            self.connect_as_tenant(login).close()
        except psycopg.OperationalError as error:
            if not postgresql_errors.is_wrong_password(error):
                raise
            return False
        return True

    def whoami(self, login: LoginSecret) -> tuple[Any, ...]:
        (row,) = run_as_tenant(
            self, login, "SELECT current_database(), session_user, current_schema()"
        )
        return row

    def drop_database(self, names: TenantNames) -> None:
        with self.cluster.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(names.database)))

    def set_password(self, names: TenantNames, password: str) -> None:
        with self.cluster.connect() as connection:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(names.app_role), sql.Literal(password)
                )
            )

    def drift(self, names: TenantNames) -> set[tuple[str, str]]:
        identifiers = {
            "database": sql.Identifier(names.database),
            "schema": sql.Identifier(names.schema),
            "app": sql.Identifier(names.app_role),
            "owner": sql.Identifier(names.owner_role),
        }
        with self.cluster.connect(names.database) as connection:
            for statement in (
                "ALTER ROLE {app} CONNECTION LIMIT -1 CREATEDB",
                "ALTER DATABASE {database} CONNECTION LIMIT -1",
                "GRANT CONNECT ON DATABASE {database} TO PUBLIC",
                "REVOKE CREATE ON DATABASE {database} FROM {owner}",
                "ALTER SCHEMA {schema} OWNER TO {app}",
                "GRANT USAGE ON SCHEMA public TO PUBLIC",
                "ALTER ROLE {app} IN DATABASE {database} RESET role",
                "REVOKE SELECT ON provisioner.schema_version FROM {owner}",
            ):
                connection.execute(sql.SQL(statement).format(**identifiers))
        return {
            (f"role {names.app_role}", "CONNECTION LIMIT"),
            (f"role {names.app_role}", "CREATEDB"),
            (f"role {names.app_role}", "OWNER of objects"),
            (f"role {names.app_role}", "role or search_path"),
            (f"database {names.database}", "CONNECTION LIMIT"),
            (f"database {names.database}", "privileges"),
            (f"schema {names.schema}", "OWNER"),
            (f"schema {names.schema}", "privileges"),
            ("schema public", "privileges"),
            ("table provisioner.schema_version", "version"),
        }


@dataclass(frozen=True, slots=True)
class OnMysql:
    """The run's MySQL or MariaDB, or one of a test's own."""

    server: PreparedMysql

    @property
    def engine(self) -> Engine:
        return Engine.MYSQL

    @property
    def admin(self) -> AdminConnection:
        return admin_of(self.server)

    @property
    def driver(self) -> DatabaseEngine:
        return MysqlEngine(self.admin)

    @property
    def log(self) -> Path:
        if self.server.server is None:
            pytest.skip("the log of a server that was named by its URL is out of reach")
        return self.server.server.log

    def snapshot(self, names: TenantNames) -> dict[str, Any]:
        return mysql_tenant_snapshot(self.server, names)

    def resources(self) -> Iterator[Resource]:
        with self.server.connect() as connection:
            yield from in_mysql(connection)

    def remove(self, names: TenantNames) -> None:
        remove_mysql_tenant(self.server, names)

    def connect_as_tenant(self, login: LoginSecret) -> pymysql.Connection[Any]:
        parts = urlsplit(login["connection_string"])
        assert (parts.scheme, parts.query) == ("mysql", "ssl-mode=VERIFY_IDENTITY")
        assert (parts.hostname, parts.port) == (self.server.host, self.server.port)
        return self.server.login(
            unquote(parts.username or ""), unquote(parts.password or ""), parts.path.lstrip("/")
        )

    def takes(self, login: LoginSecret) -> bool:
        try:
            self.connect_as_tenant(login).close()
        except pymysql.Error as error:
            if not mysql_errors.is_wrong_password(error):
                raise
            return False
        return True

    def whoami(self, login: LoginSecret) -> tuple[Any, ...]:
        (row,) = run_as_tenant(
            self, login, "SELECT DATABASE(), SUBSTRING_INDEX(CURRENT_USER(), '@', 1), SCHEMA()"
        )
        return row

    def drop_database(self, names: TenantNames) -> None:
        self._as_superuser(f"DROP DATABASE `{names.database}`")

    def set_password(self, names: TenantNames, password: str) -> None:
        self._as_superuser(f"ALTER USER `{names.app_role}`@`%` IDENTIFIED BY '{password}'")

    def drift(self, names: TenantNames) -> set[tuple[str, str]]:
        user = f"`{names.app_role}`@`%`"
        pattern = names.database.replace("_", "\\_")
        self._as_superuser(
            f"ALTER USER {user} REQUIRE NONE WITH MAX_USER_CONNECTIONS 0",
            f"REVOKE INSERT, CREATE ON `{pattern}`.* FROM {user}",
            f"GRANT SELECT ON `other_{pattern}`.* TO {user}",
            f"DROP DATABASE IF EXISTS `{names.database}`",
        )
        return {
            (f"database {names.database}", "not there"),
            (f"user {names.app_role}", "MAX_USER_CONNECTIONS"),
            (f"user {names.app_role}", "REQUIRE SSL"),
            (f"user {names.app_role}", f"privileges on {names.database}"),
            (f"user {names.app_role}", f"privileges on other_{pattern}.*"),
        }

    def _as_superuser(self, *statements: str) -> None:
        with self.server.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


#: Lets a test run on every engine.
each_engine = pytest.mark.parametrize("engine", list(Engine), ids=str)

#: Lets a test, or one of its cases, run on MySQL alone.
on_mysql = pytest.mark.parametrize("engine", [Engine.MYSQL], ids=str)


@pytest.fixture
def engine() -> Engine:
    """Return the engine of a test that does not choose one."""
    return Engine.POSTGRESQL


@pytest.fixture
def tenant_server(request: pytest.FixtureRequest, engine: Engine) -> TenantServer:
    """Return the run's server of the test's engine; a test that needs MySQL may be skipped."""
    if engine is Engine.MYSQL:
        return OnMysql(request.getfixturevalue("mysql_server"))
    return OnPostgresql(request.getfixturevalue("cluster"))


def restart(server: TenantServer) -> None:
    """Stop the server as a crash does, and start it again."""
    assert isinstance(server, OnMysql | OnPostgresql)
    stopped = server.server.server if isinstance(server, OnMysql) else server.cluster.server
    assert stopped is not None
    stopped.kill()
    stopped.start()
