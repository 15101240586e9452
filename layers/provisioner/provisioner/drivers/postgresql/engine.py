"""Tenant databases on a shared PostgreSQL cluster, versions 15 to 18.

The platform role (CREATEDB, CREATEROLE, no superuser) owns the database; a role that cannot log
in owns the tenant's schema; the app role, with which the customer logs in, is its member. So a
tenant can shape its schema and not its database: the owner of a database may raise its connection
limit, drop its time-outs and let anyone in.

Sources: PostgreSQL documentation, "CREATE DATABASE", "CREATE ROLE", "GRANT", "ALTER DATABASE",
"Explicit Locking: Advisory Locks".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.postgresql.errors import is_connection_limit, is_wrong_password
from provisioner.drivers.postgresql.session import (
    LOCK_DATABASE,
    Connection,
    connect_as_platform,
    connect_as_tenant,
    lock,
    run_step,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim, Ownership, tags_of_comment

#: The version of the schema that ensure_schema makes.
SCHEMA_VERSION = 1

#: Schema of the platform's own records in a tenant database. The platform role owns it, so that the
#: tenant, who owns the other one, can read what version it has and not change it.
PLATFORM_SCHEMA = "provisioner"

#: Connections to a tenant's database beyond the app role's own, so that a tenant who uses all of
#: his does not keep the platform out.
_PLATFORM_CONNECTIONS = 3

#: `datconnlimit` of a database whose DROP was interrupted. Source: PostgreSQL documentation,
#: "pg_database".
_INVALID_DATABASE = -2

#: From this version on, who creates a role is its administrator, and a grant says what it allows.
#: Source: PostgreSQL documentation, release notes of version 16.
_VERSION_16 = 160_000


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a new tenant may use of the cluster.

    They are set when the database is made and not again, so that an operator can change them for
    one tenant. The time-outs are defaults: a tenant may change them for a session of his own.
    """

    #: Connections of the app role at once.
    connections: int = 20
    #: Milliseconds.
    statement_timeout: int = 60_000
    #: Milliseconds.
    lock_timeout: int = 30_000
    #: Milliseconds.
    idle_in_transaction_session_timeout: int = 60_000


class PostgresqlEngine:
    """PostgreSQL as a `DatabaseEngine`."""

    def __init__(self, admin: AdminConnection, limits: TenantLimits | None = None) -> None:
        """Bind the engine to a cluster; nothing is connected yet.

        Args:
            admin: the login of a platform role as docs/cluster.sql makes it, on an address that
                leads to the server itself: a pooler would share out the session that the lock is
                in.
            limits: of a tenant that is made; `TenantLimits()` where none are given.
        """
        self._admin = admin
        self._limits = limits or TenantLimits()

    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        """Make the roles, the database and its privileges, and the app role's password."""

        def ensure() -> None:
            with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
                lock(connection, names)
                # Everything is looked at before anything is made, so that a conflict leaves
                # nothing behind.
                roles = _look_for_roles(connection, names, owner)
                database = _look_for_database(connection, names, owner, roles)
                if names.owner_role not in roles:
                    _create_role(connection, names.owner_role, sql.SQL("NOLOGIN"), owner)
                if names.app_role not in roles:
                    _create_role(
                        connection,
                        names.app_role,
                        sql.SQL("LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
                            sql.Literal(self._limits.connections),
                            sql.Literal(_verifier(connection, names.app_role, password())),
                        ),
                        owner,
                    )
                self._ensure_database(connection, names, owner, database)
                if names.app_role in roles:
                    self._ensure_password(connection, names, password())

        run_step(ensure, ErrorType.DATABASE_CREATION_FAILED, "create the database")

    def ensure_schema(self, names: TenantNames, owner: Ownership) -> None:
        """Make the schema, its grants and default privileges and the schema-version table."""

        def ensure() -> None:
            with (
                connect_as_platform(self._admin, LOCK_DATABASE) as lock_connection,
                connect_as_platform(self._admin, names.database) as connection,
            ):
                lock(lock_connection, names)
                if _has_schema(connection, names):
                    return
                with connection.transaction():
                    for statement in _schema_statements(connection, names, owner):
                        connection.execute(statement)

        run_step(ensure, ErrorType.SCHEMA_CREATION_FAILED, "create the schema")

    def change_password(
        self,
        names: TenantNames,
        password: str,
        owner: Ownership,
        *,
        current: Callable[[], str | None],
        before_commit: Callable[[], None],
    ) -> None:
        """Change the app role's password; sessions that are open go on."""
        is_told = False

        def change() -> None:
            nonlocal is_told
            with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
                lock(connection, names)
                if names.app_role not in _look_for_roles(connection, names, owner):
                    raise failure(
                        ErrorType.DATABASE_CHANGE_FAILED,
                        "The database login of the project is not there.",
                        f"role {names.app_role}: no such role",
                    )
                before = current()
                if before is not None:
                    self._ensure_password(connection, names, before)
                with connection.transaction():
                    _set_password(connection, names, password)
                    before_commit()
                    is_told = True

        final, doing = ErrorType.DATABASE_CHANGE_FAILED, "change the password"
        try:
            run_step(change, final, doing)
        except ProvisioningError:
            if not is_told:
                raise
            # The session ended before its COMMIT: the database catches up without waiting for the
            # next attempt.
            run_step(change, final, doing)

    def check_password(self, names: TenantNames, password: str) -> str:
        """See whether the server takes a login with the password; say so in one sentence."""

        def check() -> str:
            try:
                connect_as_tenant(self._admin, names, password).close()
            except psycopg.OperationalError as error:
                # The limit is looked at once the password has been found right: a tenant who uses
                # all of his connections has a right password all the same.
                if not is_connection_limit(error):
                    raise
            return f"the server took the new password of {names.app_role}"

        return run_step(check, ErrorType.DATABASE_CHANGE_FAILED, "log in with the new password")

    def remove_database(self, names: TenantNames, owner: Ownership, *, only_this_job: bool) -> bool:
        """Remove the project's database and roles, with all sessions in them."""
        claim = owner.claim(only_this_job=only_this_job)

        def remove() -> bool:
            with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
                lock(connection, names)
                roles = _claimed_roles(connection, names, claim)
                if _is_database_claimed(connection, names, claim, roles):
                    connection.execute(
                        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                            sql.Identifier(names.database)
                        )
                    )
                for role in roles:
                    connection.execute(
                        sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role))
                    )
                if _is_database_claimed(connection, names, claim, []) or _claimed_roles(
                    connection, names, claim
                ):
                    raise failure(
                        ErrorType.REMOVAL_FAILED,
                        "The database of the project, or a role of it, is still there.",
                        f"database {names.database}: was dropped and is still listed",
                    )
                return bool(_claimed_roles(connection, names, owner.owns)) or _is_database_claimed(
                    connection, names, owner.owns, []
                )

        return run_step(remove, ErrorType.REMOVAL_FAILED, "remove the database")

    @contextmanager
    def open_for_reading(
        self, names: TenantNames, claim: Claim, seconds: float
    ) -> Iterator[Connection | None]:
        """Let the platform role read all of the tenant's database while the context lasts.

        It is made a member of the tenant's roles, under the tenant's lock, so that no other run
        ends this meanwhile. What a killed process leaves of it, the next run takes away.

        Args:
            names: the tenant's.
            claim: says whose database it may be.
            seconds: how long the context may last.

        Returns:
            The session that holds the lock, in `LOCK_DATABASE`; None where no database is claimed,
            or it has never been opened to anyone.
        """

        def open_() -> tuple[Connection, bool]:
            # Its session may do nothing all the while.
            connection = connect_as_platform(
                self._admin, LOCK_DATABASE, f"idle_session_timeout={math.ceil(seconds) + 60}s"
            )
            try:
                lock(connection, names)
                is_claimed = _is_open_and_claimed(connection, names, claim)
                if is_claimed:
                    _join_roles(connection, names, claim)
            except BaseException:
                connection.close()
                raise
            return connection, is_claimed

        connection, is_claimed = run_step(
            open_, ErrorType.SNAPSHOT_FAILED, "open the database to read"
        )
        with contextlib.closing(connection):
            try:
                yield connection if is_claimed else None
            finally:
                # Where the server is gone, so is the reader; see above for what is left.
                with contextlib.suppress(psycopg.Error):
                    _leave_roles(connection, names, claim)

    def check_database(self, names: TenantNames, password: str) -> str:
        """Log in as the app role and say in one sentence what answered."""

        def check() -> str:
            with connect_as_tenant(self._admin, names, password) as connection:
                row = connection.execute("SELECT current_database(), session_user").fetchone()
            if row != (names.database, names.app_role):
                raise failure(
                    ErrorType.DATABASE_CREATION_FAILED,
                    "The login of the project did not reach the project's database.",
                    f"database and user are {row}",
                )
            return f"database {names.database} answered a login as {names.app_role}"

        return run_step(check, ErrorType.DATABASE_CREATION_FAILED, "log in to the database")

    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the app role, read the schema version and say in one sentence what answered."""

        def check() -> str:
            with connect_as_tenant(self._admin, names, password) as connection:
                row = connection.execute(
                    sql.SQL("SELECT max(version), current_schema() FROM {}").format(
                        sql.Identifier(PLATFORM_SCHEMA, "schema_version")
                    )
                ).fetchone()
            if row != (SCHEMA_VERSION, names.schema):
                raise failure(
                    ErrorType.SCHEMA_CREATION_FAILED,
                    "The schema of the project is not of the version that it must be.",
                    f"version and schema are {row}",
                )
            return f"schema {names.schema} answered with version {SCHEMA_VERSION}"

        return run_step(check, ErrorType.SCHEMA_CREATION_FAILED, "read the schema")

    def _ensure_database(
        self,
        connection: Connection,
        names: TenantNames,
        owner: Ownership,
        found: _Database | None,
    ) -> None:
        name = sql.Identifier(names.database)
        if found is not None and found.connection_limit == _INVALID_DATABASE:
            # Nothing but this can be done with it: an ALTER or a login ends the session.
            connection.execute(sql.SQL("DROP DATABASE {}").format(name))
            found = None
        if found is None:
            # template0 is never connected to, so that no session is in the way; to copy it by way
            # of the log spares the whole cluster two checkpoints.
            connection.execute(
                sql.SQL(
                    "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' STRATEGY WAL_LOG"
                    " CONNECTION LIMIT {} ALLOW_CONNECTIONS false"
                ).format(name, sql.Literal(self._limits.connections + _PLATFORM_CONNECTIONS))
            )
        if found is None or not found.has_privileges:
            _grant(connection, names)
        if found is not None and found.allows_connections:
            return
        for setting in (
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
        ):
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    name, sql.Identifier(setting), sql.Literal(getattr(self._limits, setting))
                )
            )
        if found is None or found.comment is None:
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(owner.comment()))
            )
        # Opened last: whoever can connect finds a database that is hardened and marked.
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    def _ensure_password(self, connection: Connection, names: TenantNames, password: str) -> None:
        """Let the app role log in with this password; change it only if it does not."""
        try:
            connect_as_tenant(self._admin, names, password).close()
        except psycopg.OperationalError as error:
            # As in `check_password`.
            if is_connection_limit(error):
                return
            if not is_wrong_password(error):
                raise
        else:
            return
        _set_password(connection, names, password)


def _set_password(connection: Connection, names: TenantNames, password: str) -> None:
    connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
            sql.Identifier(names.app_role),
            sql.Literal(_verifier(connection, names.app_role, password)),
        )
    )


def _look_for_roles(connection: Connection, names: TenantNames, owner: Ownership) -> set[str]:
    """Return which of the tenant's roles exist.

    Raises:
        CONFLICT: one is not this project's.
    """
    rows = connection.execute(
        "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles"
        " WHERE rolname = ANY(%s) ORDER BY rolname",
        ([names.owner_role, names.app_role],),
    ).fetchall()
    for role, comment in rows:
        if not owner.owns_comment(comment):
            raise _conflict("role", role)
    return {role for role, _ in rows}


def _claimed_roles(connection: Connection, names: TenantNames, claim: Claim) -> list[str]:
    """Return which of the tenant's roles are claimed, the app role first."""
    rows = connection.execute(
        "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles"
        " WHERE rolname = ANY(%s) ORDER BY rolname",
        ([names.owner_role, names.app_role],),
    ).fetchall()
    return [role for role, comment in rows if claim(tags_of_comment(comment))]


def _is_database_claimed(
    connection: Connection, names: TenantNames, claim: Claim, roles: list[str]
) -> bool:
    """Whether the tenant's database is there and claimed.

    One that a crash left without its marker is known by its roles, as `_look_for_database` says.

    Args:
        connection: the session that holds the tenant's lock.
        names: the tenant's.
        claim: says by a marker whether it is claimed.
        roles: the tenant's roles that are.
    """
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database'),"
        " pg_get_userbyid(datdba) = current_user AND NOT datallowconn"
        " FROM pg_database WHERE datname = %s",
        (names.database,),
    ).fetchone()
    comment, may_be_unmarked_yet = row or (None, False)
    if comment is not None:
        return claim(tags_of_comment(comment))
    return bool(may_be_unmarked_yet) and set(roles) == {names.owner_role, names.app_role}


def _is_open_and_claimed(connection: Connection, names: TenantNames, claim: Claim) -> bool:
    row = connection.execute(
        "SELECT datallowconn, shobj_description(oid, 'pg_database')"
        " FROM pg_database WHERE datname = %s",
        (names.database,),
    ).fetchone()
    is_open, comment = row or (False, None)
    return bool(is_open) and claim(tags_of_comment(comment))


def _join_roles(connection: Connection, names: TenantNames, claim: Claim) -> None:
    """Let the platform role do what the tenant's roles may do."""
    options = sql.SQL("WITH INHERIT TRUE, SET FALSE" if _is_16(connection) else "")
    for role in _claimed_roles(connection, names, claim):
        connection.execute(
            sql.SQL("GRANT {} TO CURRENT_USER {}").format(sql.Identifier(role), options)
        )


def _leave_roles(connection: Connection, names: TenantNames, claim: Claim) -> None:
    options = sql.SQL("GRANTED BY CURRENT_USER" if _is_16(connection) else "")
    for role in _claimed_roles(connection, names, claim):
        connection.execute(
            sql.SQL("REVOKE {} FROM CURRENT_USER {}").format(sql.Identifier(role), options)
        )


def _is_16(connection: Connection) -> bool:
    return connection.info.server_version >= _VERSION_16


def _create_role(
    connection: Connection, role: str, options: sql.Composable, owner: Ownership
) -> None:
    """Make a role with its marker in one transaction, so that none is ever without."""
    with connection.transaction():
        connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), options))
        connection.execute(
            sql.SQL("COMMENT ON ROLE {} IS {}").format(
                sql.Identifier(role), sql.Literal(owner.comment())
            )
        )


@dataclass(frozen=True, slots=True)
class _Database:
    """A database as the catalogue shows it."""

    is_the_platforms: bool
    allows_connections: bool
    connection_limit: int
    comment: str | None
    #: Whether PUBLIC is shut out and the app role may connect and act as the owner role.
    has_privileges: bool


def _look_for_database(
    connection: Connection, names: TenantNames, owner: Ownership, roles: set[str]
) -> _Database | None:
    """Return the tenant's database.

    CREATE DATABASE cannot stand in a transaction, so a crash can come between it and the marker.
    What that crash leaves is recognized: a database of the tenant's name without any comment, owned
    by the platform role, that does not allow connections yet, and beside it both roles with this
    project's marker. The roles are made before the database and marked in the transaction that
    makes them, and they are looked for before this run makes any; so it was this project's run
    that was about to make the database. Nothing is lost if it was not: what allows no connections
    holds nothing that anyone put there.

    Raises:
        CONFLICT: it is not this project's.
    """
    row = connection.execute(
        """
        SELECT pg_get_userbyid(datdba) = current_user, datallowconn, datconnlimit,
               shobj_description(oid, 'pg_database'),
               NOT EXISTS (
                   SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) AS privilege
                   WHERE privilege.grantee = 0)
               AND EXISTS (
                   SELECT FROM aclexplode(datacl) AS privilege
                   JOIN pg_roles ON pg_roles.oid = privilege.grantee
                   WHERE rolname = %(app_role)s AND privilege_type = 'CONNECT')
               AND EXISTS (
                   SELECT FROM pg_auth_members
                   WHERE roleid = to_regrole(quote_ident(%(owner_role)s))
                     AND member = to_regrole(quote_ident(%(app_role)s)))
        FROM pg_database WHERE datname = %(database)s
        """,
        {
            "app_role": names.app_role,
            "owner_role": names.owner_role,
            "database": names.database,
        },
    ).fetchone()
    if row is None:
        return None
    found = _Database(*row)
    is_unmarked_yet = (
        found.comment is None
        and found.is_the_platforms
        and not found.allows_connections
        and roles == {names.owner_role, names.app_role}
    )
    if not owner.owns_comment(found.comment) and not is_unmarked_yet:
        raise _conflict("database", names.database)
    return found


def _grant(connection: Connection, names: TenantNames) -> None:
    """Shut PUBLIC out of the database, which a new one lets in, and let the app role in."""
    database = sql.Identifier(names.database)
    owner_role, app_role = sql.Identifier(names.owner_role), sql.Identifier(names.app_role)
    for statement in (
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
        sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, app_role),
        sql.SQL("GRANT {} TO {}").format(owner_role, app_role),
    ):
        connection.execute(statement)


def _has_schema(connection: Connection, names: TenantNames) -> bool:
    """Whether ensure_schema has nothing to do.

    Raises:
        CONFLICT: the schema exists and is not the owner role's.
    """
    row = connection.execute(
        """
        SELECT (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %(schema)s),
               to_regclass(%(version_table)s) IS NOT NULL
               AND NOT EXISTS (
                   SELECT FROM pg_namespace, aclexplode(nspacl) AS privilege
                   WHERE nspname = 'public' AND privilege.grantee = 0)
               AND EXISTS (
                   SELECT FROM pg_db_role_setting
                   JOIN pg_database ON pg_database.oid = setdatabase
                   WHERE datname = current_database()
                     AND setrole = to_regrole(quote_ident(%(app_role)s))
                     AND setconfig @> ARRAY['role=' || %(owner_role)s,
                                            'search_path=' || quote_ident(%(schema)s)])
        """,
        {
            "schema": names.schema,
            "version_table": f"{PLATFORM_SCHEMA}.schema_version",
            "app_role": names.app_role,
            "owner_role": names.owner_role,
        },
    ).fetchone()
    schema_owner, has_the_rest = row or (None, False)
    if schema_owner is None:
        return False
    if schema_owner != names.owner_role:
        raise _conflict("schema", names.schema)
    if not has_the_rest:
        return False
    version = connection.execute(
        sql.SQL("SELECT max(version) FROM {}").format(
            sql.Identifier(PLATFORM_SCHEMA, "schema_version")
        )
    ).fetchone()
    return version == (SCHEMA_VERSION,)


def _schema_statements(
    connection: Connection, names: TenantNames, owner: Ownership
) -> Iterator[sql.SQL | sql.Composed]:
    """Yield what makes the schema; each may stand on what an earlier transaction left."""
    owner_role, app_role = sql.Identifier(names.owner_role), sql.Identifier(names.app_role)
    platform, schema = sql.Identifier(PLATFORM_SCHEMA), sql.Identifier(names.schema)
    version_table = sql.Identifier(PLATFORM_SCHEMA, "schema_version")
    database = sql.Identifier(names.database)
    is_16 = _is_16(connection)
    grant_options = sql.SQL("WITH SET TRUE, INHERIT FALSE" if is_16 else "")
    revoke_options = sql.SQL("GRANTED BY CURRENT_USER" if is_16 else "")

    # The platform role is a member of the tenant's roles within this transaction only.
    for role in (owner_role, app_role):
        yield sql.SQL("GRANT {} TO CURRENT_USER {}").format(role, grant_options)
    yield sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(schema, owner_role)
    yield sql.SQL("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    yield sql.SQL("SET LOCAL ROLE {}").format(owner_role)
    yield sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(schema, app_role)
    yield sql.SQL("RESET ROLE")
    # A session of the app role acts as the owner role, unless something resets it, as poolers do
    # between two clients: what either makes, the other can use.
    for role, other_role in ((owner_role, app_role), (app_role, owner_role)):
        yield sql.SQL("SET LOCAL ROLE {}").format(role)
        yield sql.SQL("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            yield sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON {} TO {}").format(
                schema, sql.SQL(kind), other_role
            )
        yield sql.SQL("RESET ROLE")
    for role in (owner_role, app_role):
        yield sql.SQL("REVOKE {} FROM CURRENT_USER {}").format(role, revoke_options)

    yield sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(platform)
    yield sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (version integer PRIMARY KEY,"
        " applied_at timestamptz NOT NULL DEFAULT now(), marker text NOT NULL)"
    ).format(version_table)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}, {}").format(platform, owner_role, app_role)
    yield sql.SQL("GRANT SELECT ON {} TO {}, {}").format(version_table, owner_role, app_role)
    yield sql.SQL("INSERT INTO {} (version, marker) VALUES ({}, {}) ON CONFLICT DO NOTHING").format(
        version_table, sql.Literal(SCHEMA_VERSION), sql.Literal(owner.comment())
    )

    # What the app role makes belongs to the owner role, and so outlives the app role.
    yield sql.SQL("ALTER ROLE {} IN DATABASE {} SET role = {}").format(
        app_role, database, sql.Literal(names.owner_role)
    )
    yield sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}").format(
        app_role, database, schema
    )


def _verifier(connection: Connection, role: str, password: str) -> str:
    """Compute the SCRAM verifier here, so that the server never sees the password.

    Source: RFC 5803; PostgreSQL documentation, "PQencryptPasswordConn".
    """
    return connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()


def _conflict(kind: str, name: str) -> ProvisioningError:
    return failure(
        ErrorType.CONFLICT,
        f"A {kind} named {name} exists and is not this project's; remove or rename it.",
    )
