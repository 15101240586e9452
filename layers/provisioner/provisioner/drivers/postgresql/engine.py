"""Tenant databases on a shared PostgreSQL cluster, versions 16 to 18.

The platform role (CREATEDB, CREATEROLE, no superuser) owns the database; a role that cannot log
in owns the tenant's schema and may make others; the app role, with which the customer logs in, is
its member. So a tenant can shape what is in its database and not the database: its owner may raise
the connection limit, drop the time-outs and let anyone in.

Sources: PostgreSQL documentation, "CREATE DATABASE", "CREATE ROLE", "GRANT", "ALTER DATABASE",
"Explicit Locking: Advisory Locks"; release notes of version 16.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import override

import psycopg
from psycopg import sql

from provisioner.drivers.database_engine import DatabaseEngine, TenantNames, step
from provisioner.drivers.drift import Drift
from provisioner.drivers.obstacles import Obstacles
from provisioner.drivers.postgresql import databases, schema
from provisioner.drivers.postgresql.errors import PSYCOPG
from provisioner.drivers.postgresql.removal_obstacles import find_dump_obstacles, find_obstacles
from provisioner.drivers.postgresql.roles import (
    Role,
    connection_limit,
    create_role,
    drop_role,
    find_claimed_roles,
    find_role_drift,
    join_role,
    leave_role,
    look_for_roles,
    put_roles_right,
    set_password,
    verifier,
)
from provisioner.drivers.postgresql.server import prepare_server
from provisioner.drivers.postgresql.session import (
    LOCK_DATABASE,
    Connection,
    connect_as_platform,
    connect_as_tenant,
    lock,
)
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

#: The first version in which a role that makes roles has power over its own alone: before, the
#: platform's login could become nearly any role of the server. As `PQserverVersion` gives it.
OLDEST_VERSION = 160_000


class PostgresqlEngine(DatabaseEngine):
    """PostgreSQL as a `DatabaseEngine`; docs/cluster.sql makes the platform's role."""

    library = PSYCOPG
    login_kind = "role"

    @override
    @step(ErrorType.DATABASE_CREATION_FAILED, "prepare the server")
    def prepare_server(self) -> None:
        with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
            _refuse_older(connection)
            prepare_server(connection)

    @override
    @step(ErrorType.DATABASE_CREATION_FAILED, "create the database")
    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        with self._lock(names) as connection:
            _refuse_older(connection)
            # Everything is looked at before anything is made, so that a conflict leaves nothing
            # behind.
            roles = look_for_roles(connection, names, owner)
            database = databases.look_for_database(connection, names, owner, roles)
            if names.owner_role not in roles:
                create_role(connection, names.owner_role, sql.SQL("NOLOGIN"), owner)
            if names.app_role not in roles:
                options = sql.SQL("LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
                    sql.Literal(self._connections),
                    sql.Literal(verifier(connection, names.app_role, password())),
                )
                create_role(connection, names.app_role, options, owner)
            limit = connection_limit(names, roles, self._connections)
            put_roles_right(connection, names, roles, limit)
            databases.ensure_database(connection, names, owner, limit, database)
            if names.app_role in roles:
                self._ensure_password(connection, names, password())

    @override
    @step(ErrorType.REMOVAL_FAILED, "remove the database")
    def remove_database(self, names: TenantNames, owner: Ownership, *, only_this_job: bool) -> bool:
        claim = owner.claim(only_this_job=only_this_job)
        with self._lock(names) as connection:
            roles = find_claimed_roles(connection, names, claim)
            if databases.is_database_claimed(connection, names, claim, roles):
                databases.drop_database(connection, names)
            for role in roles:
                drop_role(self._admin, connection, role)
            if _has_any(connection, names, claim):
                raise failure(
                    ErrorType.REMOVAL_FAILED,
                    "The database of the project, or a role of it, is still there.",
                    f"database {names.database}: was dropped and is still listed",
                )
            return _has_any(connection, names, owner.owns)

    @override
    @step(ErrorType.REMOVAL_FAILED, "look at the database")
    def find_obstacles(self, names: TenantNames, claim: Claim, *, with_dump: bool) -> Obstacles:
        with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
            found, is_open = find_obstacles(connection, names, claim)
        return found + find_dump_obstacles(self._admin, names) if with_dump and is_open else found

    @override
    @step(ErrorType.SCHEMA_CREATION_FAILED, "read the schema")
    def check_schema(self, names: TenantNames, password: str) -> str:
        with connect_as_tenant(self._admin, names, password) as connection:
            return schema.check_schema(connection, names)

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
        connection, is_claimed = self._open_for_reading(names, claim, seconds)
        with closing(connection):
            try:
                yield connection if is_claimed else None
            finally:
                # Where the server is gone, so is the reader; see above for what is left.
                with suppress(psycopg.Error):
                    for role in find_claimed_roles(connection, names, claim):
                        leave_role(connection, role)

    @step(ErrorType.SNAPSHOT_FAILED, "open the database to read")
    def _open_for_reading(
        self, names: TenantNames, claim: Claim, seconds: float
    ) -> tuple[Connection, bool]:
        # Its session may do nothing all the while.
        idle = f"idle_session_timeout={math.ceil(seconds) + 60}s"
        with ExitStack() as until_it_is_open:
            connection = connect_as_platform(self._admin, LOCK_DATABASE, idle)
            until_it_is_open.enter_context(closing(connection))
            lock(connection, names.database)
            is_claimed = databases.is_open_and_claimed(connection, names, claim)
            if is_claimed:
                for role in find_claimed_roles(connection, names, claim):
                    join_role(connection, role)
            until_it_is_open.pop_all()
        return connection, is_claimed

    @override
    def _connect(self) -> Connection:
        return connect_as_platform(self._admin, LOCK_DATABASE)

    @override
    def _set_own_password(self, session: Connection, password: str) -> None:
        set_password(session, session.info.user, password)

    @override
    @contextmanager
    def _lock(self, names: TenantNames) -> Iterator[Connection]:
        with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
            lock(connection, names.database)
            yield connection

    @override
    def _ensure_schema(
        self, session: Connection, names: TenantNames, owner: Ownership, missing: ErrorType
    ) -> dict[Drift, str]:
        with connect_as_platform(self._admin, names.database) as connection:
            drift = schema.ensure_schema(connection, names, owner)
        why = "The platform's role may not change it; a superuser must, or the owner."
        return dict.fromkeys(drift, why)

    @override
    def _repair_database(
        self, session: Connection, names: TenantNames, owner: Ownership
    ) -> dict[Drift, str]:
        roles, database, limit = self._look(session, names, owner)
        put_roles_right(session, names, roles, limit)
        if database.is_the_platforms:
            databases.ensure_database(session, names, owner, limit, database)
        of_superuser = (
            "Only a superuser may change this role: take SUPERUSER, REPLICATION and BYPASSRLS "
            "from it, and send the job again."
        )
        of_owner = (
            "Only the owner of the database may change it: as a superuser, run ALTER DATABASE "
            f"{names.database} OWNER TO {self._admin.user}, and send the job again."
        )
        return {
            **dict.fromkeys(find_role_drift(names, roles, limit), of_superuser),
            **dict.fromkeys(database.drift(names, limit), of_owner),
        }

    @override
    def _require_login(self, session: Connection, names: TenantNames, owner: Ownership) -> None:
        _require_role(look_for_roles(session, names, owner), names.app_role, "LOGIN", owner)

    @override
    def _set_password(self, session: Connection, names: TenantNames, password: str) -> None:
        set_password(session, names.app_role, password)

    @override
    def _change_password(
        self, session: Connection, names: TenantNames, password: str, tell: Callable[[], None]
    ) -> None:
        with session.transaction():
            set_password(session, names.app_role, password)
            tell()

    @override
    def _knock(self, names: TenantNames, password: str) -> None:
        connect_as_tenant(self._admin, names, password).close()

    @override
    def _ask(self, names: TenantNames, password: str) -> tuple[str, str, str]:
        with connect_as_tenant(self._admin, names, password) as connection:
            row = connection.execute(
                "SELECT pg_catalog.current_database(), SESSION_USER"
            ).fetchone()
            version = connection.info.server_version
        database, login = row or ("", "")
        # Source: libpq, PQserverVersion: 180001 is 18.1.
        return database, login, f"{version // 10_000}.{version % 10_000}"

    def _look(
        self, connection: Connection, names: TenantNames, owner: Ownership
    ) -> tuple[Mapping[str, Role], databases.Database, int]:
        """Return the roles, the database, and the app role's connections, of one that is there.

        Raises:
            DATABASE_CHANGE_FAILED: one of them is not there.
            CONFLICT: one of them is not this project's.
        """
        roles = look_for_roles(connection, names, owner)
        _require_role(roles, names.owner_role, "NOLOGIN", owner)
        _require_role(roles, names.app_role, "LOGIN", owner)
        database = databases.look_for_database(connection, names, owner, roles)
        if database is None or database.is_invalid:
            raise failure(
                ErrorType.DATABASE_CHANGE_FAILED,
                f"The database {names.database} of the project is not there, and a new one would be"
                " empty; restore the cluster, or deprovision the project and provision it again.",
                f"database {names.database}: "
                + ("no such database" if database is None else "its DROP was interrupted"),
            )
        return roles, database, connection_limit(names, roles, self._connections)


def _refuse_older(connection: Connection) -> None:
    """Refuse a server on which the platform's role has power over roles that are not its own.

    Raises:
        DATABASE_CREATION_FAILED: its version is before `OLDEST_VERSION`.
    """
    version, oldest = connection.info.server_version // 10_000, OLDEST_VERSION // 10_000
    if version < oldest:
        raise failure(
            ErrorType.DATABASE_CREATION_FAILED,
            f"The database server is PostgreSQL {version}, and must be {oldest} or later; upgrade "
            "it.",
            f"server {connection.info.server_version}: older than {OLDEST_VERSION}",
        )


def _has_any(connection: Connection, names: TenantNames, claim: Claim) -> bool:
    """Whether there is a role or the database, and it is claimed."""
    return bool(find_claimed_roles(connection, names, claim)) or databases.is_database_claimed(
        connection, names, claim, []
    )


def _require_role(roles: Mapping[str, Role], role: str, options: str, owner: Ownership) -> None:
    if role not in roles:
        raise failure(
            ErrorType.DATABASE_CHANGE_FAILED,
            f"The role {role} of the project is not there; as the platform's role, run CREATE ROLE "
            f"{role} {options} and COMMENT ON ROLE {role} IS '{owner.comment()}', and send the job "
            "again.",
            f"role {role}: no such role",
        )
