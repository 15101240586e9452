"""Tenant databases on a shared PostgreSQL cluster, versions 15 to 18.

The platform role (CREATEDB, CREATEROLE, no superuser) owns the database; a role that cannot log
in owns the tenant's schema and may make others; the app role, with which the customer logs in, is
its member. So a tenant can shape what is in its database and not the database: its owner may raise
the connection limit, drop the time-outs and let anyone in.

Sources: PostgreSQL documentation, "CREATE DATABASE", "CREATE ROLE", "GRANT", "ALTER DATABASE",
"Explicit Locking: Advisory Locks".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from provisioner.drivers.database_engine import AdminConnection, Login, TenantNames
from provisioner.drivers.drift import Drift, Remaining, Repairs, put_right
from provisioner.drivers.postgresql import databases, schema
from provisioner.drivers.postgresql.databases import TenantLimits
from provisioner.drivers.postgresql.errors import is_connection_limit, is_wrong_password
from provisioner.drivers.postgresql.roles import (
    Role,
    claimed_roles,
    connection_limit,
    create_role,
    drifted_roles,
    drop_role,
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
    run_step,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim, Ownership


@dataclass(frozen=True, slots=True)
class _Tenant:
    """What a tenant has, and what of it has drifted."""

    roles: Mapping[str, Role]
    database: databases.Database
    limits: TenantLimits
    of_roles: tuple[Drift, ...]
    of_database: tuple[Drift, ...]

    @property
    def drift(self) -> tuple[Drift, ...]:
        return (*self.of_roles, *self.of_database)

    def remaining(self, names: TenantNames, platform: str) -> Iterator[Remaining]:
        """Yield what is still not as it must be, with what to do."""
        for drift in self.of_roles:
            yield Remaining(
                drift.resource,
                drift.what,
                "Only a superuser may change this role: take SUPERUSER, REPLICATION and BYPASSRLS "
                "from it, and send the job again.",
            )
        for drift in self.of_database:
            yield Remaining(
                drift.resource,
                drift.what,
                f"Only the owner of the database may change it: as a superuser, run ALTER DATABASE "
                f"{names.database} OWNER TO {platform}, and send the job again.",
            )


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

    def prepare_server(self) -> None:
        """Do on a project's own server what an operator does once on a shared cluster."""

        def prepare() -> None:
            with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
                prepare_server(connection)

        run_step(prepare, ErrorType.DATABASE_CREATION_FAILED, "prepare the server")

    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        """Make the roles, the database and its privileges, and the app role's password."""

        def ensure() -> None:
            with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
                lock(connection, names)
                # Everything is looked at before anything is made, so that a conflict leaves
                # nothing behind.
                roles = look_for_roles(connection, names, owner)
                database = databases.look_for_database(connection, names, owner, roles)
                if names.owner_role not in roles:
                    create_role(connection, names.owner_role, sql.SQL("NOLOGIN"), owner)
                if names.app_role not in roles:
                    create_role(
                        connection,
                        names.app_role,
                        sql.SQL("LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
                            sql.Literal(self._limits.connections),
                            sql.Literal(verifier(connection, names.app_role, password())),
                        ),
                        owner,
                    )
                limits = self._limits_of(names, roles)
                put_roles_right(connection, names, roles, limits.connections)
                databases.ensure_database(connection, names, owner, limits, database)
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
                schema.ensure_schema(connection, names, owner)

        run_step(ensure, ErrorType.SCHEMA_CREATION_FAILED, "create the schema")

    def repair_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> Repairs:
        """Put right what has drifted of the roles, the database and its privileges."""
        #: Of every try: what one has put right, the next does not find.
        before: list[Drift] = []

        def repair() -> Repairs:
            with connect_as_platform(self._admin, LOCK_DATABASE) as connection:
                lock(connection, names)
                tenant = self._look(connection, names, owner)
                before.extend(drift for drift in tenant.drift if drift not in before)
                if tenant.drift:
                    self._put_right(connection, names, owner, tenant)
                    tenant = self._look(connection, names, owner)
                checked, wrong = self._try_login(names, password())
            return Repairs(
                put_right(before, tenant.drift),
                (*tenant.remaining(names, self._admin.user), *wrong),
                checked,
            )

        return run_step(repair, ErrorType.DATABASE_CHANGE_FAILED, "repair the database")

    def repair_schema(self, names: TenantNames, owner: Ownership) -> Repairs:
        """Put right what has drifted of the schema, as `ensure_schema` does."""
        before: list[Drift] = []

        def repair() -> Repairs:
            with (
                connect_as_platform(self._admin, LOCK_DATABASE) as lock_connection,
                connect_as_platform(self._admin, names.database) as connection,
            ):
                lock(lock_connection, names)
                found = schema.ensure_schema(connection, names, owner)
                before.extend(drift for drift in found if drift not in before)
                after = schema.drifted_schema(connection, names) if found else []
            why = "The platform's role may not change it; a superuser must, or the owner."
            return Repairs(
                put_right(before, after),
                tuple(Remaining(drift.resource, drift.what, why) for drift in after),
                f"schema {names.schema} was looked at, with all that belongs to it",
            )

        return run_step(repair, ErrorType.DATABASE_CHANGE_FAILED, "repair the schema")

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
                if names.app_role not in look_for_roles(connection, names, owner):
                    raise failure(
                        ErrorType.DATABASE_CHANGE_FAILED,
                        "The database login of the project is not there.",
                        f"role {names.app_role}: no such role",
                    )
                before = current()
                if before is not None:
                    self._ensure_password(connection, names, before)
                with connection.transaction():
                    set_password(connection, names.app_role, password)
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
                roles = claimed_roles(connection, names, claim)
                if databases.is_database_claimed(connection, names, claim, roles):
                    databases.drop_database(connection, names)
                for role in roles:
                    drop_role(self._admin, connection, role)
                if databases.is_database_claimed(connection, names, claim, []) or claimed_roles(
                    connection, names, claim
                ):
                    raise failure(
                        ErrorType.REMOVAL_FAILED,
                        "The database of the project, or a role of it, is still there.",
                        f"database {names.database}: was dropped and is still listed",
                    )
                return bool(
                    claimed_roles(connection, names, owner.owns)
                ) or databases.is_database_claimed(connection, names, owner.owns, [])

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
                is_claimed = databases.is_open_and_claimed(connection, names, claim)
                if is_claimed:
                    for role in claimed_roles(connection, names, claim):
                        join_role(connection, role)
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
                    for role in claimed_roles(connection, names, claim):
                        leave_role(connection, role)

    def check_database(self, names: TenantNames, password: str) -> Login:
        """Log in as the app role and say what answered."""
        return run_step(
            lambda: self._log_in(names, password),
            ErrorType.DATABASE_CREATION_FAILED,
            "log in to the database",
        )

    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the app role, read the schema version and say in one sentence what answered."""

        def check() -> str:
            with connect_as_tenant(self._admin, names, password) as connection:
                return schema.check_schema(connection, names)

        return run_step(check, ErrorType.SCHEMA_CREATION_FAILED, "read the schema")

    def _look(self, connection: Connection, names: TenantNames, owner: Ownership) -> _Tenant:
        """Look at the roles and the database of a tenant that has been provisioned.

        Raises:
            DATABASE_CHANGE_FAILED: one of them is not there.
            CONFLICT: one of them is not this project's.
        """
        roles = look_for_roles(connection, names, owner)
        for role in (names.owner_role, names.app_role):
            if role not in roles:
                options = "LOGIN" if role == names.app_role else "NOLOGIN"
                raise failure(
                    ErrorType.DATABASE_CHANGE_FAILED,
                    f"The role {role} of the project is not there; as the platform's role, run "
                    f"CREATE ROLE {role} {options} and COMMENT ON ROLE {role} IS "
                    f"'{owner.comment()}', and send the job again.",
                    f"role {role}: no such role",
                )
        database = databases.look_for_database(connection, names, owner, roles)
        if database is None or database.is_invalid:
            raise failure(
                ErrorType.DATABASE_CHANGE_FAILED,
                f"The database {names.database} of the project is not there, and a new one would be"
                " empty; restore the cluster, or deprovision the project and provision it again.",
                f"database {names.database}: "
                + ("no such database" if database is None else "its DROP was interrupted"),
            )
        limits = self._limits_of(names, roles)
        return _Tenant(
            roles,
            database,
            limits,
            of_roles=tuple(drifted_roles(names, roles, limits.connections)),
            of_database=tuple(database.drift(names, limits.connections)),
        )

    def _put_right(
        self, connection: Connection, names: TenantNames, owner: Ownership, tenant: _Tenant
    ) -> None:
        put_roles_right(connection, names, tenant.roles, tenant.limits.connections)
        if tenant.database.is_the_platforms:
            databases.ensure_database(connection, names, owner, tenant.limits, tenant.database)

    def _limits_of(self, names: TenantNames, roles: Mapping[str, Role]) -> TenantLimits:
        """Return the limits of a tenant, with as many connections as its app role may have."""
        connections = connection_limit(names, roles, self._limits.connections)
        return replace(self._limits, connections=connections)

    def _try_login(self, names: TenantNames, password: str) -> tuple[str, list[Remaining]]:
        """Say in one sentence what answered a login, and what was wrong with it."""
        login = f"role {names.app_role}"
        try:
            return self._log_in(names, password).check, []
        except psycopg.OperationalError as error:
            # The limit is looked at once the password has been found right.
            if is_connection_limit(error):
                return f"{login} can log in, and uses all of its connections", []
            if not is_wrong_password(error):
                raise
        why = "The server does not take the password of the secret; rotate the database password."
        return f"database {names.database} answered", [Remaining(login, "PASSWORD", why)]

    def _log_in(self, names: TenantNames, password: str) -> Login:
        """Log in as the app role and say what answered."""
        with connect_as_tenant(self._admin, names, password) as connection:
            row = connection.execute(
                "SELECT pg_catalog.current_database(), SESSION_USER"
            ).fetchone()
            version = connection.info.server_version
        if row != (names.database, names.app_role):
            raise failure(
                ErrorType.DATABASE_CREATION_FAILED,
                "The login of the project did not reach the project's database.",
                f"database and user are {row}",
            )
        return Login(
            f"database {names.database} answered a login as {names.app_role}",
            # Source: libpq, PQserverVersion: 180001 is 18.1.
            f"{version // 10_000}.{version % 10_000}",
        )

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
        set_password(connection, names.app_role, password)
