"""Tenant databases on a shared PostgreSQL cluster, versions 15 to 18.

The platform role (CREATEDB, CREATEROLE, no superuser) owns the database; a role that cannot log
in owns the tenant's schema; the app role, with which the customer logs in, is its member. So a
tenant can shape its schema and not its database: the owner of a database may raise its connection
limit, drop its time-outs and let anyone in.

Sources: PostgreSQL documentation, "CREATE DATABASE", "CREATE ROLE", "GRANT", "ALTER DATABASE",
"Explicit Locking: Advisory Locks".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.postgresql.errors import is_contention, is_wrong_password, translate
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Ownership

type _Connection = psycopg.Connection[tuple[Any, ...]]

#: The database of advisory locks, which are per database.
_LOCK_DATABASE = "postgres"

#: The version of the schema that ensure_schema makes.
SCHEMA_VERSION = 1

#: Schema of the platform's own records in a tenant database; the tenant may read it.
_PLATFORM_SCHEMA = "provisioner"

#: Tries of a step that meets another session's work, and the wait after the first, in seconds.
_CONTENTION_TRIES = 6
_CONTENTION_WAIT = 0.05

#: Of the platform's own sessions, so that nothing waits longer than the function lives.
_SESSION_OPTIONS = "-c lock_timeout=30s -c statement_timeout=60s"

#: `datconnlimit` of a database whose DROP was interrupted. Source: PostgreSQL documentation,
#: "pg_database".
_INVALID_DATABASE = -2

#: From this version on, who creates a role is its administrator, and a grant says what it allows.
_VERSION_16 = 160_000


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may use of the cluster."""

    #: Connections at once, of the app role and of the database.
    connections: int = 20
    #: Milliseconds; the tenant may change the three for its own session.
    statement_timeout: int = 60_000
    lock_timeout: int = 30_000
    idle_in_transaction_session_timeout: int = 60_000


class PostgresqlEngine:
    """PostgreSQL as a `DatabaseEngine`."""

    def __init__(self, admin: AdminConnection, limits: TenantLimits | None = None) -> None:
        """Bind the engine to a cluster; nothing is connected yet."""
        self._admin = admin
        self._limits = limits or TenantLimits()

    def ensure_database(self, names: TenantNames, password: str, owner: Ownership) -> None:
        """Make the roles, the database and its privileges, and the app role's password."""

        def ensure() -> None:
            with self._connect(_LOCK_DATABASE) as connection, _locked(connection, names):
                self._ensure_role(connection, names.owner_role, owner, sql.SQL("NOLOGIN"))
                self._ensure_role(
                    connection,
                    names.app_role,
                    owner,
                    sql.SQL("LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
                        sql.Literal(self._limits.connections),
                        sql.Literal(_verifier(connection, names.app_role, password)),
                    ),
                )
                self._ensure_database(connection, names, owner)
                self._ensure_password(connection, names, password)

        _run(ensure, ErrorType.DATABASE_CREATION_FAILED, "create the database")

    def ensure_schema(self, names: TenantNames, owner: Ownership) -> None:
        """Make the schema, its grants and default privileges and the schema-version table."""

        def ensure() -> None:
            with (
                self._connect(_LOCK_DATABASE) as lock,
                _locked(lock, names),
                self._connect(names.database) as connection,
                connection.transaction(),
            ):
                _ensure_schema(connection, names, owner)

        _run(ensure, ErrorType.SCHEMA_CREATION_FAILED, "create the schema")

    def check_database(self, names: TenantNames, password: str) -> str:
        """Log in as the app role and say in one sentence what answered."""

        def check() -> str:
            with self._connect_as_tenant(names, password) as connection:
                row = connection.execute("SELECT current_database(), session_user").fetchone()
            if row != (names.database, names.app_role):
                raise failure(
                    ErrorType.DATABASE_CREATION_FAILED,
                    "The login of the project did not reach the project's database.",
                )
            return f"database {names.database} answered a login as {names.app_role}"

        return _run(check, ErrorType.DATABASE_CREATION_FAILED, "log in to the database")

    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the app role, read the schema version and say in one sentence what answered."""

        def check() -> str:
            with self._connect_as_tenant(names, password) as connection:
                row = connection.execute(
                    sql.SQL("SELECT max(version), current_schema() FROM {}").format(
                        sql.Identifier(_PLATFORM_SCHEMA, "schema_version")
                    )
                ).fetchone()
            if row != (SCHEMA_VERSION, names.schema):
                raise failure(
                    ErrorType.SCHEMA_CREATION_FAILED,
                    "The schema of the project is not of the version that it must be.",
                    f"version and schema are {row}",
                )
            return f"schema {names.schema} answered with version {SCHEMA_VERSION}"

        return _run(check, ErrorType.SCHEMA_CREATION_FAILED, "read the schema")

    def _connect(self, database: str) -> _Connection:
        return _connect(
            self._admin,
            database=database,
            user=self._admin.user,
            password=self._admin.password,
            options=_SESSION_OPTIONS,
        )

    def _connect_as_tenant(self, names: TenantNames, password: str) -> _Connection:
        return _connect(
            self._admin, database=names.database, user=names.app_role, password=password
        )

    def _ensure_role(
        self, connection: _Connection, role: str, owner: Ownership, options: sql.Composable
    ) -> None:
        """Make a role with its marker in one transaction, so that none is ever without."""
        row = connection.execute(
            "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", (role,)
        ).fetchone()
        if row is not None:
            if not owner.owns_comment(row[0]):
                raise _conflict("role", role)
            return
        with connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), options))
            connection.execute(
                sql.SQL("COMMENT ON ROLE {} IS {}").format(
                    sql.Identifier(role), sql.Literal(owner.comment())
                )
            )

    def _ensure_database(
        self, connection: _Connection, names: TenantNames, owner: Ownership
    ) -> None:
        found = _look(connection, names)
        if found is not None and not _is_ours(found, owner):
            raise _conflict("database", names.database)
        name = sql.Identifier(names.database)
        if found is not None and found.connection_limit == _INVALID_DATABASE:
            connection.execute(sql.SQL("DROP DATABASE {}").format(name))
            found = None
        if found is not None and found.is_hardened:
            return
        if found is None:
            connection.execute(
                sql.SQL(
                    "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' STRATEGY WAL_LOG"
                    " CONNECTION LIMIT {} ALLOW_CONNECTIONS false"
                ).format(name, sql.Literal(self._limits.connections))
            )
        self._harden(connection, names)
        connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                name,
                sql.Literal(found.comment if found and found.comment else owner.comment()),
            )
        )
        # Opened last: whoever can connect finds a database that is hardened and marked.
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    def _harden(self, connection: _Connection, names: TenantNames) -> None:
        database = sql.Identifier(names.database)
        owner_role, app_role = sql.Identifier(names.owner_role), sql.Identifier(names.app_role)
        limits = {
            "statement_timeout": self._limits.statement_timeout,
            "lock_timeout": self._limits.lock_timeout,
            "idle_in_transaction_session_timeout": (
                self._limits.idle_in_transaction_session_timeout
            ),
        }
        statements = [
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
            sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, app_role),
            sql.SQL("GRANT {} TO {}").format(owner_role, app_role),
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(
                database, sql.Literal(self._limits.connections)
            ),
            *(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    database, sql.Identifier(setting), sql.Literal(value)
                )
                for setting, value in limits.items()
            ),
        ]
        for statement in statements:
            connection.execute(statement)

    def _ensure_password(self, connection: _Connection, names: TenantNames, password: str) -> None:
        """Let the app role log in with this password; change it only if it does not."""
        try:
            self._connect_as_tenant(names, password).close()
        except psycopg.OperationalError as error:
            if not is_wrong_password(error):
                raise
        else:
            return
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(names.app_role),
                sql.Literal(_verifier(connection, names.app_role, password)),
            )
        )


@dataclass(frozen=True, slots=True)
class _Database:
    """A database as the catalogue shows it."""

    owned_by_platform: bool
    allows_connections: bool
    connection_limit: int
    comment: str | None
    #: Whether PUBLIC is shut out and the app role may connect and act as the owner role.
    is_hardened: bool


def _look(connection: _Connection, names: TenantNames) -> _Database | None:
    row = connection.execute(
        """
        SELECT pg_get_userbyid(datdba) = current_user, datallowconn, datconnlimit,
               shobj_description(oid, 'pg_database'),
               datallowconn AND datconnlimit >= 0
                   AND NOT EXISTS (
                       SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) AS acl
                       WHERE acl.grantee = 0)
                   AND has_database_privilege(%(app_role)s, oid, 'CONNECT')
                   AND pg_has_role(%(app_role)s, %(owner_role)s, 'MEMBER')
        FROM pg_database WHERE datname = %(database)s
        """,
        {
            "app_role": names.app_role,
            "owner_role": names.owner_role,
            "database": names.database,
        },
    ).fetchone()
    return None if row is None else _Database(*row)


def _is_ours(database: _Database, owner: Ownership) -> bool:
    """Whether the database carries our marker, or is one of ours that lacks it still.

    CREATE DATABASE cannot stand in a transaction, so a crash can come between it and the marker.
    What the crash leaves is a database of our name that the platform role owns and that has never
    let anyone connect, beside roles that carry our marker (they are made first): nobody but
    `ensure_database` makes such a one, and nobody can have put anything into it.
    """
    if owner.owns_comment(database.comment):
        return True
    return (
        database.comment is None and database.owned_by_platform and not database.allows_connections
    )


def _ensure_schema(connection: _Connection, names: TenantNames, owner: Ownership) -> None:
    row = connection.execute(
        "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s", (names.schema,)
    ).fetchone()
    if row is not None and row[0] != names.owner_role:
        raise _conflict("schema", names.schema)
    version_table = sql.Identifier(_PLATFORM_SCHEMA, "schema_version")
    if row is not None and _schema_version(connection) == SCHEMA_VERSION:
        return
    owner_role, app_role = sql.Identifier(names.owner_role), sql.Identifier(names.app_role)
    platform, schema = sql.Identifier(_PLATFORM_SCHEMA), sql.Identifier(names.schema)
    database = sql.Identifier(names.database)
    is_16 = connection.info.server_version >= _VERSION_16
    statements: list[sql.Composed | sql.SQL] = [
        # The platform role becomes a member only for this transaction.
        sql.SQL("GRANT {} TO CURRENT_USER {}").format(
            owner_role, sql.SQL("WITH SET TRUE, INHERIT FALSE" if is_16 else "")
        ),
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(schema, owner_role),
        sql.SQL("REVOKE ALL ON SCHEMA public FROM PUBLIC"),
        sql.SQL("SET LOCAL ROLE {}").format(owner_role),
        sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(schema, app_role),
        sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON TABLES TO {}").format(
            schema, app_role
        ),
        sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON SEQUENCES TO {}").format(
            schema, app_role
        ),
        sql.SQL("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"),
        sql.SQL("RESET ROLE"),
        sql.SQL("REVOKE {} FROM CURRENT_USER {}").format(
            owner_role, sql.SQL("GRANTED BY CURRENT_USER" if is_16 else "")
        ),
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(platform),
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (version integer PRIMARY KEY,"
            " applied_at timestamptz NOT NULL DEFAULT now(), marker text NOT NULL)"
        ).format(version_table),
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}, {}").format(platform, owner_role, app_role),
        sql.SQL("GRANT SELECT ON {} TO {}, {}").format(version_table, owner_role, app_role),
        sql.SQL("INSERT INTO {} (version, marker) VALUES ({}, {})").format(
            version_table, sql.Literal(SCHEMA_VERSION), sql.Literal(owner.comment())
        ),
        sql.SQL("ALTER ROLE {} IN DATABASE {} SET role = {}").format(
            app_role, database, sql.Literal(names.owner_role)
        ),
        sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}").format(
            app_role, database, schema
        ),
    ]
    for statement in statements:
        connection.execute(statement)


def _schema_version(connection: _Connection) -> int | None:
    row = connection.execute(
        "SELECT to_regclass(%s) IS NOT NULL", (f"{_PLATFORM_SCHEMA}.schema_version",)
    ).fetchone()
    if row != (True,):
        return None
    found = connection.execute(
        sql.SQL("SELECT max(version) FROM {}").format(
            sql.Identifier(_PLATFORM_SCHEMA, "schema_version")
        )
    ).fetchone()
    return None if found is None else found[0]


@contextmanager
def _locked(connection: _Connection, names: TenantNames) -> Iterator[None]:
    """Hold the tenant's advisory lock; it goes with the session if the process dies."""
    key = ("provisioner:" + names.database,)
    connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)


def _connect(
    admin: AdminConnection, *, database: str, user: str, password: str, options: str = ""
) -> _Connection:
    return psycopg.connect(
        host=admin.host,
        port=admin.port,
        dbname=database,
        user=user,
        password=password,
        sslmode=admin.sslmode,
        options=options,
        autocommit=True,
        row_factory=tuple_row,
        connect_timeout=10,
        keepalives_idle=30,
        application_name="project-provisioner",
    )


def _verifier(connection: _Connection, role: str, password: str) -> str:
    """Compute the SCRAM verifier here, so that the server never sees the password.

    Source: RFC 5803; libpq, PQencryptPasswordConn.
    """
    return connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()


def _conflict(kind: str, name: str) -> Exception:
    return failure(
        ErrorType.CONFLICT,
        f"A {kind} named {name} exists and is not this project's; remove or rename it.",
    )


def _run[Result](step: Callable[[], Result], final: ErrorType, doing: str) -> Result:
    """Run a step, again after contention; raise the driver's errors as errors of the table."""
    for attempt in range(_CONTENTION_TRIES):
        try:
            return step()
        except psycopg.Error as error:
            known = translate(error, final, doing)
            if not is_contention(error):
                break
        time.sleep(_CONTENTION_WAIT * 2**attempt)
    # Outside the except clause, so that the driver's exception is not the context of this one.
    raise known
