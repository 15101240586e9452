"""Tenant databases on a MySQL or MariaDB server.

The platform's user makes a database and a user that has all that a schema's owner needs in it, and
nothing elsewhere. There is no owner beside it, as on PostgreSQL: here tables belong to nobody, and
what runs as its definer runs as that user.

Every statement on a user or a database is committed as it ends. So each step is looked for before
it is made, and a run that dies anywhere is taken up by the next.

Sources: MySQL 8.0 Reference Manual, "Statements That Cause an Implicit Commit", "Account Management
Statements"; MariaDB documentation, "SQL statements that Cause an Implicit Commit".
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import override

from provisioner.drivers.database_engine import DatabaseEngine, TenantNames, step
from provisioner.drivers.drift import Drift
from provisioner.drivers.mysql import accounts, databases, ledger
from provisioner.drivers.mysql.errors import PYMYSQL
from provisioner.drivers.mysql.quoting import SQL
from provisioner.drivers.mysql.session import (
    TLS_MODES,
    Connection,
    connect_as_platform,
    connect_as_tenant,
    execute,
)
from provisioner.drivers.obstacles import Obstacles
from provisioner.errors import ErrorType, conflict, failure
from provisioner.ownership import Claim, Ownership, tags_of_comment

_IS_THERE = {ledger.Kind.DATABASE: databases.has_database, ledger.Kind.USER: accounts.has_user}


@dataclass(frozen=True, slots=True)
class _Tenant:
    """What a tenant has, all of it the project's."""

    has_database: bool
    user: accounts.User | None
    wanted: accounts.Wanted

    @property
    def drift(self) -> list[Drift]:
        """What is not as it must be of a tenant that has been provisioned."""
        missing = [Drift(f"database {self.wanted.names.database}", "not there")]
        return [
            *([] if self.has_database else missing),
            *(accounts.find_user_drift(self.user, self.wanted) if self.user else ()),
        ]


class MysqlEngine(DatabaseEngine):
    """MySQL or MariaDB as a `DatabaseEngine`; docs/cluster-mysql.sql makes the platform's user."""

    library = PYMYSQL
    login_kind = "user"

    @override
    @step(ErrorType.DATABASE_CREATION_FAILED, "prepare the server")
    def prepare_server(self) -> None:
        # The platform's records, as the first tenant of a shared server does too.
        with connect_as_platform(self._admin) as connection:
            ledger.ensure_lock_key(connection)

    @override
    @step(ErrorType.DATABASE_CREATION_FAILED, "create the database")
    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        with self._lock(names) as connection:
            # Everything is looked at before anything is made, so that a conflict leaves nothing
            # behind.
            tenant = self._look(connection, names, owner)
            self._make_right(connection, tenant, owner)
            if tenant.user is None:
                accounts.create_user(connection, tenant.wanted, password(), owner)
            else:
                self._ensure_password(connection, names, password())

    @override
    @step(ErrorType.REMOVAL_FAILED, "remove the database")
    def remove_database(self, names: TenantNames, owner: Ownership, *, only_this_job: bool) -> bool:
        claim = owner.claim(only_this_job=only_this_job)
        with self._lock(names) as connection:
            claimed = self._find_claimed(connection, names, claim)
            self._remove(connection, names, claimed)
            # The records go last: they say whose the rest is, whatever a crash leaves.
            for kind in claimed:
                self._forget(connection, names, kind)
            return any(
                _IS_THERE[kind](connection, names)
                for kind in self._find_claimed(connection, names, owner.owns)
            )

    @override
    @step(ErrorType.REMOVAL_FAILED, "look at the database")
    def find_obstacles(self, names: TenantNames, claim: Claim, *, with_dump: bool) -> Obstacles:
        # Nothing but what the dump meets keeps one from being made.
        with connect_as_platform(self._admin) as connection:
            return databases.find_transactions(connection, names, claim)

    @override
    @step(ErrorType.SCHEMA_CREATION_FAILED, "read the schema")
    def check_schema(self, names: TenantNames, password: str) -> str:
        with connect_as_tenant(self._admin, names, password) as tenant:
            return databases.check_schema(tenant, names)

    @override
    def _connect(self) -> Connection:
        return connect_as_platform(self._admin)

    @override
    def _set_own_password(self, session: Connection, password: str) -> None:
        accounts.set_own_password(session, password)

    @override
    @contextmanager
    def _lock(self, names: TenantNames) -> Iterator[Connection]:
        with connect_as_platform(self._admin) as connection:
            ledger.lock(connection, names)
            yield connection

    @override
    def _ensure_schema(
        self, session: Connection, names: TenantNames, owner: Ownership, missing: ErrorType
    ) -> dict[Drift, str]:
        # The database and the user's privileges are the schema.
        tenant = self._look(session, names, owner)
        _require_user(tenant, missing)
        self._make_right(session, tenant, owner)
        why = "The server took the change and does not tell of it; look at the user there."
        return dict.fromkeys(tenant.drift, why)

    @override
    def _repair_database(
        self, session: Connection, names: TenantNames, owner: Ownership
    ) -> dict[Drift, str]:
        return self._ensure_schema(session, names, owner, ErrorType.DATABASE_CHANGE_FAILED)

    @override
    def _require_login(self, session: Connection, names: TenantNames, owner: Ownership) -> None:
        _require_user(self._look(session, names, owner), ErrorType.DATABASE_CHANGE_FAILED)

    @override
    def _set_password(self, session: Connection, names: TenantNames, password: str) -> None:
        accounts.set_password(session, names, password)

    @override
    def _change_password(
        self, session: Connection, names: TenantNames, password: str, tell: Callable[[], None]
    ) -> None:
        """Set the password.

        The statement commits as it ends, so `tell` is called before it. What keeps the platform
        from changing the user is met before that, by a change to what the user is. A run that dies
        between the two leaves the old password in force and the new one in the secret: the next one
        begins with what is in the secret, and so sets it.
        """
        accounts.see_that_it_can_be_changed(session, names)
        tell()
        accounts.set_password(session, names, password)

    @override
    def _knock(self, names: TenantNames, password: str) -> None:
        connect_as_tenant(self._admin, names, password, to_database=False).close()

    @override
    def _ask(self, names: TenantNames, password: str) -> tuple[str, str, str]:
        with connect_as_tenant(self._admin, names, password) as connection:
            ((database, user, version),) = execute(
                connection, SQL("SELECT DATABASE(), CURRENT_USER(), VERSION()")
            )
        # The version is such as 10.11.19-MariaDB-0+deb12u1.
        return database, user.removesuffix("@%"), version.partition("-")[0]

    def _look(self, connection: Connection, names: TenantNames, owner: Ownership) -> _Tenant:
        """Look at what the tenant has.

        Raises:
            CONFLICT: the database or the user is not this project's.
        """
        markers = ledger.find_markers(connection, names)
        has_database = databases.has_database(connection, names)
        if has_database and not owner.owns_comment(markers.get(ledger.Kind.DATABASE)):
            raise conflict("database", names.database)
        is_ours = owner.owns_comment(markers.get(ledger.Kind.USER))
        user = accounts.find_user(connection, names, is_ours=is_ours)
        database = accounts.granted_database(connection, names)
        requires_tls = self._admin.sslmode in TLS_MODES
        wanted = accounts.Wanted(names, self._connections, requires_tls, database)
        return _Tenant(has_database, user, wanted)

    def _make_right(self, connection: Connection, tenant: _Tenant, owner: Ownership) -> None:
        """Make the database where it is not there, and put the user right where it is."""
        names = tenant.wanted.names
        if not tenant.has_database:
            is_there = tenant.user is not None
            databases.create_database(connection, names, owner, by_tenant=is_there)
        if tenant.user is not None:
            accounts.put_user_right(connection, tenant.user, tenant.wanted)

    def _find_claimed(
        self, connection: Connection, names: TenantNames, claim: Claim
    ) -> Collection[ledger.Kind]:
        """Return of what there are claimed records, whether it is there or not."""
        markers = ledger.find_markers(connection, names)
        return [kind for kind, it in markers.items() if claim(tags_of_comment(it))]

    def _remove(
        self, connection: Connection, names: TenantNames, claimed: Collection[ledger.Kind]
    ) -> None:
        """Drop what is claimed. A user that stays keeps its password and its sessions."""
        has_user = ledger.Kind.USER in claimed and accounts.has_user(connection, names)

        def shut_out() -> None:
            if has_user:
                accounts.shut_out(self._admin, connection, names)

        if ledger.Kind.DATABASE in claimed and databases.has_database(connection, names):
            databases.drop_database(connection, names, shut_out)
        if has_user:
            shut_out()
            accounts.drop_user(connection, names)

    def _forget(self, connection: Connection, names: TenantNames, kind: ledger.Kind) -> None:
        """Take away the record of what has been removed.

        Raises:
            REMOVAL_FAILED: it is still there.
        """
        name = names.database if kind is ledger.Kind.DATABASE else names.app_role
        if _IS_THERE[kind](connection, names):
            raise failure(
                ErrorType.REMOVAL_FAILED,
                f"The {kind} of the project is still there.",
                f"{kind} {name}: was dropped and is still listed",
            )
        ledger.forget(connection, kind, name)


def _require_user(tenant: _Tenant, missing: ErrorType) -> None:
    """Raise an error of the type where the tenant's user is not there."""
    if tenant.user is None:
        name = tenant.wanted.names.app_role
        raise failure(
            missing,
            f"The database user {name} of the project is not there; as the platform's user, run"
            f" CREATE USER `{name}`@`%` IDENTIFIED BY a password of your choice, rotate the"
            " database password, and send the job again.",
            f"user {name}: no such user",
        )
