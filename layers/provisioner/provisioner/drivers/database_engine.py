"""What the database stages ask of a database technology, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import IO, Protocol

from provisioner.drivers.drift import Repairs
from provisioner.ownership import Claim, Ownership


@dataclass(frozen=True, slots=True)
class AdminConnection:
    """How the platform reaches a cluster: a direct connection, not through a pooler."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    #: libpq's sslmode: `require` or stricter wherever the network is not the machine itself.
    #: Source: PostgreSQL documentation, "SSL Support", table "SSL Mode Descriptions".
    sslmode: str = "require"
    #: A file with the certificates of the authorities that sign for the cluster, for drivers whose
    #: library does not find it by itself, as libpq does; None for those that the system knows.
    root_certificates: str | None = None
    #: Reads the login anew where the server refuses it; None where it has just been read.
    renew: Callable[[], AdminConnection] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TenantNames:
    """The names of one tenant's objects.

    At most 63 bytes each, PostgreSQL's limit; of MySQL's logins at most 32 characters.
    """

    database: str
    #: The database itself where a technology has no schemas in it.
    schema: str
    #: Logs in for the customer.
    app_role: str
    #: PostgreSQL's own: owns the schema, cannot log in, and has the app role as its member.
    owner_role: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """What a login as the app role has shown."""

    #: What answered, in one sentence.
    check: str
    #: Such as 18.1.
    server_version: str


class DatabaseEngine(Protocol):
    """One database technology. Every method can be run twice, and by two callers at once.

    All raise `provisioner.errors.ProvisioningError`, and no other exception for a cause that the
    server, the network or the input has. No exception, nor its chain, holds a password.
    """

    def prepare_server(self) -> None:
        """Do on a project's own server what an operator does once on a shared cluster.

        Raises DATABASE_CREATION_FAILED where the platform's login may not.
        """

    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        """Make the roles, the database and its privileges, and the app role's password.

        The password is asked for once the tenant is locked, so that a run that has waited for a
        change of it does not undo the change.

        Raises CONFLICT when the database or a role exists and is not this project's.
        """

    def ensure_schema(self, names: TenantNames, owner: Ownership) -> None:
        """Make the schema, its grants and default privileges and the schema-version table.

        One transaction. What the tenant has dropped, renamed or changed is made right again; what
        the app role owns in the database becomes the owner role's. Raises CONFLICT when the schema
        exists and is neither role's, or the platform's own schema is not as the platform makes it.
        """

    def repair_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> Repairs:
        """Put right what has drifted of the roles, the database and its privileges.

        Nothing is made that is not there, but for a database that is the schema as well, which the
        tenant may drop. No password is changed: one that the server does not take remains, as what
        only a superuser may change does.

        Raises CONFLICT when the database or a role is not this project's, and
        DATABASE_CHANGE_FAILED when one is not there.
        """

    def repair_schema(self, names: TenantNames, owner: Ownership) -> Repairs:
        """Put right what has drifted of the schema; what `ensure_schema` makes anew, this does."""

    def check_database(self, names: TenantNames, password: str) -> Login:
        """Log in as the app role and say what answered."""

    def change_password(
        self,
        names: TenantNames,
        password: str,
        owner: Ownership,
        *,
        current: Callable[[], str | None],
        before_commit: Callable[[], None],
    ) -> None:
        """Change the app role's password; sessions that are open go on.

        Args:
            names: the tenant's names.
            password: the new password.
            owner: whose the role must be.
            current: returns the password that is to be in force before, None where it is not
                known; asked for once the tenant is locked. It is set first where the server does
                not take it: a run that died has left it so.
            before_commit: called when only the commit is left; what it raises leaves the old
                password in force.

        Raises CONFLICT when the role is not this project's, and DATABASE_CHANGE_FAILED when there
        is none.
        """

    def check_password(self, names: TenantNames, password: str) -> str:
        """See whether the server takes a login with the password; say so in one sentence."""

    def remove_database(self, names: TenantNames, owner: Ownership, *, only_this_job: bool) -> bool:
        """Remove the project's database and roles, with all sessions in them.

        Args:
            names: the tenant's.
            owner: whose they are to be; what is not the project's stays.
            only_this_job: whether what other jobs of the project made stays too.

        Returns:
            Whether something that another job of the project made is still there.

        Raises REMOVAL_FAILED when something that is to go is still there, or a role owns something
        in another database.
        """

    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the app role, see that a customer can work in the schema; say so in one sentence.

        Raises SCHEMA_CREATION_FAILED when the session does not begin as the owner role in the
        schema, a privilege is missing, or the version is another one.
        """


class Dump(Protocol):
    """A dump of a database while it is being made: read once, from its beginning to its end."""

    @property
    def server_version(self) -> str:
        """The version of the server, such as 18.6."""

    @property
    def size(self) -> int:
        """Bytes that have been read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, fewer than `size` only at the end, and none after it.

        The end is returned only where the dump is whole. Raises SNAPSHOT_FAILED, or what the
        server's answer means, where it is not.
        """


@dataclass(frozen=True, slots=True)
class Restored:
    """What has been restored where."""

    host: str
    port: int
    database: str
    #: What the tenant had and has not got back, one text each.
    left_out: tuple[str, ...]


class DatabaseRestorer(Protocol):
    """Restores dumps of one technology into one database; raises as `DatabaseEngine` does."""

    def check(self) -> None:
        """See whether the database may be restored into; nothing of it is changed.

        Raises DATABASE_CHANGE_FAILED when the login may do more than a tenant, or the database
        holds something already.
        """

    def restore(self, archive: IO[bytes], source: TenantNames) -> Restored:
        """Restore a dump: all of it, or nothing.

        Args:
            archive: the dump; it can be read from its beginning more than once.
            source: the names that the tenant had.

        Raises DATABASE_CHANGE_FAILED as `check` does, and when the dump is broken or the server
        refuses a part of it.
        """


class DatabaseDumper(Protocol):
    """Dumps the databases of one technology; raises as `DatabaseEngine` does."""

    def dump(
        self, names: TenantNames, claim: Claim, seconds: float
    ) -> AbstractContextManager[Dump | None]:
        """Begin to dump a tenant's database; nothing of it is changed.

        Args:
            names: the tenant's.
            claim: says whose database it may be.
            seconds: a dump that has not ended by then is stopped, and raises SNAPSHOT_FAILED.

        Returns:
            None where there is no such database, or none that anyone has ever been let into.
        """
