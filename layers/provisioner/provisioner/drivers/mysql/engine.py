"""Tenant databases on a MySQL or MariaDB server.

The platform's user makes a database and a user that has all that a schema's owner needs in it, and
nothing elsewhere. There is no owner beside it, as on PostgreSQL: here tables belong to nobody, and
what runs as its definer runs as that user.

Every statement on a user or a database is committed as it ends. So each step is looked for before
it is made, and a run that dies anywhere is taken up by the next.

Sources: MySQL 8.0 Reference Manual, "Statements That Cause an Implicit Commit", "Account Management
Statements"; MariaDB documentation, "SQL statements that Cause an Implicit Commit".
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import pymysql

from provisioner.drivers.database_engine import AdminConnection, Login, TenantNames
from provisioner.drivers.drift import Drift, Remaining, Repairs, put_right
from provisioner.drivers.mysql import accounts, databases, ledger, schema
from provisioner.drivers.mysql.accounts import User, Wanted
from provisioner.drivers.mysql.errors import conflict, is_connection_limit, is_wrong_password
from provisioner.drivers.mysql.ledger import Kind, lock
from provisioner.drivers.mysql.quoting import SQL
from provisioner.drivers.mysql.session import (
    Connection,
    connect_as_platform,
    connect_as_tenant,
    execute,
    run_step,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim, Ownership, tags_of_comment


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a new tenant may use of the server.

    It is set when the user is made and not again, so that an operator can change it for one tenant;
    only a limit that was taken away is set again.
    """

    #: Connections of the tenant's user at once.
    connections: int = 20


_IS_THERE = {Kind.DATABASE: databases.has_database, Kind.USER: accounts.has_user}


@dataclass(frozen=True, slots=True)
class _Tenant:
    """What a tenant has, all of it the project's."""

    has_database: bool
    user: User | None
    wanted: Wanted

    @property
    def drift(self) -> tuple[Drift, ...]:
        """What is not as it must be of a tenant that has been provisioned."""
        database = f"database {self.wanted.names.database}"
        return (
            *(() if self.has_database else (Drift(database, "not there"),)),
            *(accounts.drifted_user(self.user, self.wanted) if self.user else ()),
        )


class MysqlEngine:
    """MySQL or MariaDB as a `DatabaseEngine`."""

    def __init__(self, admin: AdminConnection, limits: TenantLimits | None = None) -> None:
        """Bind the engine to a server; nothing is connected yet.

        Args:
            admin: the login of a platform user as docs/cluster-mysql.sql makes it, or of an
                instance's master user, on an address that leads to the server itself: a proxy would
                share out the session that the lock is in.
            limits: of a tenant that is made; `TenantLimits()` where none are given.
        """
        self._admin = admin
        self._limits = limits or TenantLimits()

    def prepare_server(self) -> None:
        """Make the platform's records, as the first tenant of a shared server does too."""

        def prepare() -> None:
            with connect_as_platform(self._admin) as connection:
                ledger.prepare(connection)

        run_step(prepare, ErrorType.DATABASE_CREATION_FAILED, "prepare the server")

    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        """Make the database, the user with its privileges, and the user's password."""

        def ensure() -> None:
            with connect_as_platform(self._admin) as connection:
                lock(connection, names)
                # Everything is looked at before anything is made, so that a conflict leaves
                # nothing behind.
                tenant = self._look(connection, names, owner)
                self._put_right(connection, tenant, owner)
                if tenant.user is None:
                    accounts.create_user(connection, tenant.wanted, password(), owner)
                else:
                    self._ensure_password(connection, names, password())

        run_step(ensure, ErrorType.DATABASE_CREATION_FAILED, "create the database")

    def ensure_schema(self, names: TenantNames, owner: Ownership) -> None:
        """See that the database and the user's privileges are there, and record the version."""

        def ensure() -> None:
            with connect_as_platform(self._admin) as connection:
                lock(connection, names)
                self._ensure_schema(
                    connection, names, owner, missing=ErrorType.SCHEMA_CREATION_FAILED
                )

        run_step(ensure, ErrorType.SCHEMA_CREATION_FAILED, "create the schema")

    def repair_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> Repairs:
        """Put right what has drifted of the database, the user and its privileges."""
        #: Of every try: what one has put right, the next does not find.
        before: list[Drift] = []

        def repair() -> Repairs:
            with connect_as_platform(self._admin) as connection:
                lock(connection, names)
                tenant = self._look(connection, names, owner)
                self._require_user(tenant, ErrorType.DATABASE_CHANGE_FAILED)
                before.extend(drift for drift in tenant.drift if drift not in before)
                if tenant.drift:
                    self._put_right(connection, tenant, owner)
                    tenant = self._look(connection, names, owner)
                checked, wrong = self._try_login(names, password())
            why = "The server took the change and does not tell of it; look at the user there."
            return Repairs(
                put_right(before, tenant.drift),
                (*(Remaining(it.resource, it.what, why) for it in tenant.drift), *wrong),
                checked,
            )

        return run_step(repair, ErrorType.DATABASE_CHANGE_FAILED, "repair the database")

    def repair_schema(self, names: TenantNames, owner: Ownership) -> Repairs:
        """Put right what has drifted of the schema, as `ensure_schema` does."""
        before: list[Drift] = []

        def repair() -> Repairs:
            with connect_as_platform(self._admin) as connection:
                lock(connection, names)
                found = self._ensure_schema(
                    connection, names, owner, missing=ErrorType.DATABASE_CHANGE_FAILED
                )
            before.extend(drift for drift in found if drift not in before)
            return Repairs(
                tuple(before),
                checked=f"schema {names.schema} was looked at, with all that belongs to it",
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
        """Change the user's password; sessions that are open go on.

        The statement commits as it ends, so `before_commit` is called before it. What keeps the
        platform from changing the user is met before that, by a change to what the user is. A run
        that dies between the two leaves the old password in force and the new one in the secret:
        the next one begins with what is in the secret, as `current` says, and so sets it.
        """
        is_told = False

        def change() -> None:
            nonlocal is_told
            with connect_as_platform(self._admin) as connection:
                lock(connection, names)
                tenant = self._look(connection, names, owner)
                user = self._require_user(tenant, ErrorType.DATABASE_CHANGE_FAILED)
                before = current()
                if before is not None:
                    self._ensure_password(connection, names, before)
                accounts.see_that_it_can_be_changed(connection, names, user)
                before_commit()
                is_told = True
                accounts.set_password(connection, names, password)

        final, doing = ErrorType.DATABASE_CHANGE_FAILED, "change the password"
        try:
            run_step(change, final, doing)
        except ProvisioningError:
            if not is_told:
                raise
            # The session ended before the statement did: the server catches up without waiting for
            # the next attempt.
            run_step(change, final, doing)

    def check_password(self, names: TenantNames, password: str) -> str:
        """See whether the server takes a login with the password; say so in one sentence."""

        def check() -> str:
            if not self._takes(names, password):
                raise failure(
                    ErrorType.INSUFFICIENT_PERMISSIONS,
                    "The database server does not let us log in with the new password.",
                    f"user {names.app_role}: the password is wrong",
                )
            return f"the server took the new password of {names.app_role}"

        return run_step(check, ErrorType.DATABASE_CHANGE_FAILED, "log in with the new password")

    def remove_database(self, names: TenantNames, owner: Ownership, *, only_this_job: bool) -> bool:
        """Remove the project's database and user, with all sessions of it."""
        claim = owner.claim(only_this_job=only_this_job)

        def remove() -> bool:
            with connect_as_platform(self._admin) as connection:
                lock(connection, names)
                claimed = self._claimed(connection, names, claim)
                self._remove(connection, names, claimed)
                # The records go last: they say whose the rest is, whatever a crash leaves.
                for kind in claimed:
                    self._forget(connection, names, kind)
                return any(
                    _IS_THERE[kind](connection, names)
                    for kind in self._claimed(connection, names, owner.owns)
                )

        return run_step(remove, ErrorType.REMOVAL_FAILED, "remove the database")

    def check_database(self, names: TenantNames, password: str) -> Login:
        """Log in as the tenant's user and say what answered."""
        return run_step(
            lambda: self._log_in(names, password),
            ErrorType.DATABASE_CREATION_FAILED,
            "log in to the database",
        )

    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the tenant's user, see that a customer can work in the schema."""

        def check() -> str:
            with connect_as_tenant(self._admin, names, password) as tenant:
                return schema.check_schema(tenant, names)

        return run_step(check, ErrorType.SCHEMA_CREATION_FAILED, "read the schema")

    def _look(self, connection: Connection, names: TenantNames, owner: Ownership) -> _Tenant:
        """Look at what the tenant has.

        Raises:
            CONFLICT: the database or the user is not this project's.
        """
        markers = ledger.find_markers(connection, names)
        has_database = databases.has_database(connection, names)
        if has_database and not owner.owns_comment(markers.get(Kind.DATABASE)):
            raise conflict("database", names.database)
        is_ours = owner.owns_comment(markers.get(Kind.USER))
        user = accounts.find_user(connection, names, is_ours=is_ours)
        return _Tenant(has_database, user, self._wanted(connection, names))

    def _wanted(self, connection: Connection, names: TenantNames) -> Wanted:
        return accounts.wanted_user(connection, self._admin, names, self._limits.connections)

    def _require_user(self, tenant: _Tenant, missing: ErrorType) -> User:
        """Return the tenant's user, or raise an error of the type where there is none."""
        if tenant.user is None:
            name = tenant.wanted.names.app_role
            raise failure(
                missing,
                f"The database user {name} of the project is not there; as the platform's user, run"
                f" CREATE USER `{name}`@`%` IDENTIFIED BY a password of your choice, rotate the"
                " database password, and send the job again.",
                f"user {name}: no such user",
            )
        return tenant.user

    def _put_right(self, connection: Connection, tenant: _Tenant, owner: Ownership) -> None:
        """Make the database where it is not there, and put the user right where it is."""
        names = tenant.wanted.names
        if not tenant.has_database:
            is_there = tenant.user is not None
            databases.create_database(connection, names, owner, by_tenant=is_there)
        if tenant.user is not None:
            accounts.put_user_right(connection, tenant.user, tenant.wanted)

    def _ensure_schema(
        self, connection: Connection, names: TenantNames, owner: Ownership, *, missing: ErrorType
    ) -> list[Drift]:
        """Make the schema as it must be; return what was not so before."""
        tenant = self._look(connection, names, owner)
        self._require_user(tenant, missing)
        drift = list(tenant.drift)
        self._put_right(connection, tenant, owner)
        if ledger.find_version(connection, names) != schema.SCHEMA_VERSION:
            drift.append(Drift(f"schema {names.schema}", "version"))
            ledger.record_version(connection, names, schema.SCHEMA_VERSION)
        return drift

    def _claimed(
        self, connection: Connection, names: TenantNames, claim: Claim
    ) -> Collection[Kind]:
        """Return of what there are claimed records, whether it is there or not."""
        markers = ledger.find_markers(connection, names)
        return [kind for kind, it in markers.items() if claim(tags_of_comment(it))]

    def _remove(
        self, connection: Connection, names: TenantNames, claimed: Collection[Kind]
    ) -> None:
        """Drop what is claimed. A user that stays keeps its password and its sessions."""
        has_user = Kind.USER in claimed and accounts.has_user(connection, names)

        def shut_out() -> None:
            if has_user:
                accounts.shut_out(self._admin, connection, names)

        if Kind.DATABASE in claimed and databases.has_database(connection, names):
            databases.drop_database(connection, names, shut_out)
        if has_user:
            shut_out()
            accounts.drop_user(connection, names)

    def _forget(self, connection: Connection, names: TenantNames, kind: Kind) -> None:
        """Take away the record of what has been removed.

        Raises:
            REMOVAL_FAILED: it is still there.
        """
        name = names.database if kind is Kind.DATABASE else names.app_role
        if _IS_THERE[kind](connection, names):
            raise failure(
                ErrorType.REMOVAL_FAILED,
                f"The {kind} of the project is still there.",
                f"{kind} {name}: was dropped and is still listed",
            )
        if kind is Kind.DATABASE:
            ledger.forget_version(connection, names)
        ledger.forget(connection, kind, name)

    def _takes(self, names: TenantNames, password: str) -> bool:
        """Whether the server takes the password of the tenant's user."""
        try:
            connect_as_tenant(self._admin, names, password, to_database=False).close()
        except pymysql.Error as error:
            # The limit is looked at once the password has been found right: a tenant who uses all
            # of his connections has a right password all the same.
            if is_connection_limit(error):
                return True
            if not is_wrong_password(error):
                raise
            return False
        return True

    def _ensure_password(self, connection: Connection, names: TenantNames, password: str) -> None:
        """Let the tenant's user log in with this password; change it only if it does not."""
        if not self._takes(names, password):
            accounts.set_password(connection, names, password)

    def _try_login(self, names: TenantNames, password: str) -> tuple[str, list[Remaining]]:
        """Say in one sentence what answered a login, and what was wrong with it."""
        login = f"user {names.app_role}"
        try:
            return self._log_in(names, password).check, []
        except pymysql.Error as error:
            if is_connection_limit(error):
                return f"{login} can log in, and uses all of its connections", []
            if not is_wrong_password(error):
                raise
        why = "The server does not take the password of the secret; rotate the database password."
        return f"database {names.database} answered", [Remaining(login, "PASSWORD", why)]

    def _log_in(self, names: TenantNames, password: str) -> Login:
        """Log in as the tenant's user and say what answered."""
        with connect_as_tenant(self._admin, names, password) as connection:
            ((database, user, version),) = execute(
                connection, SQL("SELECT DATABASE(), CURRENT_USER(), VERSION()")
            )
        if (database, user) != (names.database, f"{names.app_role}@%"):
            raise failure(
                ErrorType.DATABASE_CREATION_FAILED,
                "The login of the project did not reach the project's database.",
                f"database and user are {(database, user)}",
            )
        return Login(
            f"database {names.database} answered a login as {names.app_role}",
            # Such as 10.11.19-MariaDB-0+deb12u1.
            str(version).partition("-")[0],
        )
