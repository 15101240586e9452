"""What the database stages ask of a database technology, and what all technologies do alike."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import IO, Any, ClassVar, Concatenate, Protocol, Self

from provisioner.drivers.database_errors import ClientLibrary
from provisioner.drivers.drift import Drift, Remaining, Repairs
from provisioner.drivers.obstacles import Obstacles
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim, Ownership

#: Seconds that a server has to take a connection: one that has paused itself begins to run first.
#: Aurora Serverless v2 needs about 15, and 30 or more after a day. Every function that connects has
#: more than four times as long. Source: Amazon Aurora User Guide, "Scaling to Zero ACUs with
#: automatic pause and resume". Not run on AWS.
CONNECT_SECONDS = 40


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
    #: Returns the login to try where the server refuses this one, or None where there is no other;
    #: itself None where this one alone is to be tried.
    renew: Callable[[], Self | None] | None = field(default=None, repr=False, compare=False)

    def log_in[Session](
        self, library: ClientLibrary[Any], connect: Callable[[Self], Session]
    ) -> Session:
        """Connect; where the password is refused, with the next login that `renew` returns.

        Args:
            library: knows a wrong password by its error.
            connect: connects with a login.
        """
        try:
            return connect(self)
        except library.error as error:
            if self.renew is None or not library.is_wrong_password(error):
                raise
            refused = error
        # Outside the except clause, so that no error of it has the library's in its chain.
        renewed = self.renew()
        if renewed is None:
            raise refused
        # The way to the server stays, with what is trusted on it.
        login = replace(self, user=renewed.user, password=renewed.password, renew=renewed.renew)
        return login.log_in(library, connect)


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


def step[**Parameters, Result](
    final: ErrorType, doing: str
) -> Callable[
    [Callable[Concatenate[Any, Parameters], Result]],
    Callable[Concatenate[Any, Parameters], Result],
]:
    """Run a method as a step of the `library` of its object, as `ClientLibrary.run_step` does."""

    def decorate(
        method: Callable[Concatenate[Any, Parameters], Result],
    ) -> Callable[Concatenate[Any, Parameters], Result]:
        @wraps(method)
        def run(self: Any, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            library: ClientLibrary[Any] = self.library
            return library.run_step(partial(method, self, *args, **kwargs), final, doing)

        return run

    return decorate


class DatabaseEngine(ABC):
    """One database technology. Every method can be run twice, and by two callers at once.

    All raise `provisioner.errors.ProvisioningError`, and no other exception for a cause that the
    server, the network or the input has. No exception, nor its chain, holds a password.
    What is alike in all technologies is here. A session is what the technology's library connects.
    """

    library: ClassVar[ClientLibrary[Any]]
    #: What a login is called: a role, or a user.
    login_kind: ClassVar[str]

    def __init__(self, admin: AdminConnection, *, connections: int = 20) -> None:
        """Bind the engine to a server; nothing is connected yet.

        Args:
            admin: the platform's login, or that of an instance's master user, at the server itself:
                a pooler or a proxy would share out the session that the lock is in.
            connections: those of a new tenant's login at once. Later only a limit that was taken
                away is set again, so that an operator can change it for one tenant.
        """
        self._admin = admin
        self._connections = connections

    @abstractmethod
    def prepare_server(self) -> None:
        """Do on a project's own server what an operator does once on a shared cluster.

        Raises DATABASE_CREATION_FAILED where the platform's login may not.
        """

    @abstractmethod
    def ensure_database(
        self, names: TenantNames, password: Callable[[], str], owner: Ownership
    ) -> None:
        """Make the roles, the database and its privileges, and the app role's password.

        The password is asked for once the tenant is locked, so that a run that has waited for a
        change of it does not undo the change.

        Raises CONFLICT when the database or a role exists and is not this project's.
        """

    @step(ErrorType.SCHEMA_CREATION_FAILED, "create the schema")
    def ensure_schema(self, names: TenantNames, owner: Ownership) -> None:
        """Make the schema, its grants and default privileges and the schema-version table.

        One transaction. What the tenant has dropped, renamed or changed is made right again; what
        the app role owns in the database becomes the owner role's. Raises CONFLICT when the schema
        exists and is neither role's, or the platform's own schema is not as the platform makes it.
        """
        with self._lock(names) as session:
            self._ensure_schema(session, names, owner, ErrorType.SCHEMA_CREATION_FAILED)

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
        return self._repair(
            names,
            "repair the database",
            lambda session: self._repair_database(session, names, owner),
            lambda: self._try_login(names, password()),
        )

    def repair_schema(self, names: TenantNames, owner: Ownership) -> Repairs:
        """Put right what has drifted of the schema; what `ensure_schema` makes anew, this does."""
        final = ErrorType.DATABASE_CHANGE_FAILED
        checked = f"schema {names.schema} was looked at, with all that belongs to it"
        return self._repair(
            names,
            "repair the schema",
            lambda session: self._ensure_schema(session, names, owner, final),
            lambda: (checked, []),
        )

    @step(ErrorType.DATABASE_CREATION_FAILED, "log in to the database")
    def check_database(self, names: TenantNames, password: str) -> Login:
        """Log in as the app role and say what answered."""
        return self._log_in(names, password)

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
            current: returns the password that is to be in force before, None where none is known.
                Asked for under the lock, and set first where a run that died has not set it.
            before_commit: called when only the commit is left; what it raises keeps the old one.

        Raises CONFLICT when the role is not the project's, DATABASE_CHANGE_FAILED if there is none.
        """
        is_told = False

        def tell() -> None:
            nonlocal is_told
            before_commit()
            is_told = True

        def change() -> None:
            with self._lock(names) as session:
                self._require_login(session, names, owner)
                before = current()
                if before is not None:
                    self._ensure_password(session, names, before)
                self._change_password(session, names, password, tell)

        final, doing = ErrorType.DATABASE_CHANGE_FAILED, "change the password"
        try:
            self.library.run_step(change, final, doing)
        except ProvisioningError:
            if not is_told:
                raise
            # The session ended before its commit: the server catches up without waiting for the
            # next attempt.
            self.library.run_step(change, final, doing)

    @step(ErrorType.DATABASE_CHANGE_FAILED, "log in with the new password")
    def check_password(self, names: TenantNames, password: str) -> str:
        """See whether the server takes a login with the password; say so in one sentence."""
        if not self._takes(names, password):
            raise failure(
                ErrorType.INSUFFICIENT_PERMISSIONS,
                "The database server does not let us log in with the new password.",
                f"{self.login_kind} {names.app_role}: the password is wrong",
            )
        return f"the server took the new password of {names.app_role}"

    @step(ErrorType.DATABASE_CHANGE_FAILED, "log in to the database server")
    def accepts_admin(self) -> bool:
        """Whether the server takes the login that the engine is bound to."""
        return self._is_taken(lambda: self._connect().close())

    @step(ErrorType.DATABASE_CHANGE_FAILED, "change the password of the platform's login")
    def change_admin_password(self, password: str) -> None:
        """Give the login that the engine is bound to another password; it does so itself.

        Sessions that are open go on.
        """
        with self._connect() as session:
            self._set_own_password(session, password)

    @abstractmethod
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

    @abstractmethod
    def find_obstacles(self, names: TenantNames, claim: Claim, *, with_dump: bool) -> Obstacles:
        """Say what keeps a tenant's database, if claimed, from going, or from being dumped."""

    @abstractmethod
    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the app role, see that a customer can work in the schema; say so in one sentence.

        Raises SCHEMA_CREATION_FAILED when the session does not begin as the owner role in the
        schema, a privilege is missing, or the version is another one.
        """

    def _takes(self, names: TenantNames, password: str) -> bool:
        """Whether the server takes the password of the tenant's login."""
        return self._is_taken(lambda: self._knock(names, password))

    def _is_taken(self, log_in: Callable[[], object]) -> bool:
        """Whether the server takes a login."""
        try:
            log_in()
        except self.library.error as error:
            # The limit is looked at once the password has been found right: who uses all of his
            # connections has a right password all the same.
            if self.library.is_connection_limit(error):
                return True
            if not self.library.is_wrong_password(error):
                raise
            return False
        return True

    def _ensure_password(self, session: Any, names: TenantNames, password: str) -> None:
        """Let the tenant's login have this password; change it only if it does not."""
        if not self._takes(names, password):
            self._set_password(session, names, password)

    def _try_login(self, names: TenantNames, password: str) -> tuple[str, list[Remaining]]:
        """Say in one sentence what answered a login, and what was wrong with it."""
        login = f"{self.login_kind} {names.app_role}"
        try:
            return self._log_in(names, password).check, []
        except self.library.error as error:
            # As in `_is_taken`.
            if self.library.is_connection_limit(error):
                return f"{login} can log in, and uses all of its connections", []
            if not self.library.is_wrong_password(error):
                raise
        why = "The server does not take the password of the secret; rotate the database password."
        return f"database {names.database} answered", [Remaining(login, "PASSWORD", why)]

    def _log_in(self, names: TenantNames, password: str) -> Login:
        """Log in as the tenant does and say what answered."""
        database, login, version = self._ask(names, password)
        if (database, login) != (names.database, names.app_role):
            raise failure(
                ErrorType.DATABASE_CREATION_FAILED,
                "The login of the project did not reach the project's database.",
                f"database and {self.login_kind} are {(database, login)}",
            )
        return Login(f"database {database} answered a login as {login}", version)

    @abstractmethod
    def _connect(self) -> Any:
        """Return a session of the platform, which ends as a context manager's does."""

    @abstractmethod
    def _set_own_password(self, session: Any, password: str) -> None:
        """Give the login of a session of the platform another password."""

    @abstractmethod
    def _lock(self, names: TenantNames) -> AbstractContextManager[Any]:
        """Give a session of the platform that holds the tenant's lock until it ends."""

    def _repair(
        self,
        names: TenantNames,
        doing: str,
        put_right: Callable[[Any], Mapping[Drift, str]],
        check: Callable[[], tuple[str, list[Remaining]]],
    ) -> Repairs:
        """Put right what has drifted, and see what of it is still so.

        Args:
            names: the tenant's.
            doing: as of `step`.
            put_right: takes a session that holds the lock; returns what `_ensure_schema` does.
            check: says in one sentence what answered then, and what is wrong with that.
        """
        #: Of every try: what one has put right, the next does not find.
        before: dict[Drift, str] = {}

        def repair() -> Repairs:
            with self._lock(names) as session:
                wrong = put_right(session)
                before.update(wrong)
                if wrong:
                    wrong = put_right(session)
                checked, unanswered = check()
            return Repairs.of(before, wrong, checked, unanswered)

        return self.library.run_step(repair, ErrorType.DATABASE_CHANGE_FAILED, doing)

    @abstractmethod
    def _ensure_schema(
        self, session: Any, names: TenantNames, owner: Ownership, missing: ErrorType
    ) -> Mapping[Drift, str]:
        """Make the schema as it must be.

        Args:
            session: holds the lock.
            names: the tenant's.
            owner: whose it must be.
            missing: the error type where the tenant's login is not there.

        Returns:
            What was not so before; each with what to do where it is still so afterwards.
        """

    @abstractmethod
    def _repair_database(
        self, session: Any, names: TenantNames, owner: Ownership
    ) -> Mapping[Drift, str]:
        """Put right what can be of the roles and the database; return as `_ensure_schema` does.

        Raises:
            DATABASE_CHANGE_FAILED: something that a repair does not make is not there.
            CONFLICT: something is not this project's.
        """

    @abstractmethod
    def _require_login(self, session: Any, names: TenantNames, owner: Ownership) -> None:
        """Raise DATABASE_CHANGE_FAILED where the tenant's login is not there."""

    @abstractmethod
    def _set_password(self, session: Any, names: TenantNames, password: str) -> None:
        """Give the tenant's login a password."""

    @abstractmethod
    def _change_password(
        self, session: Any, names: TenantNames, password: str, tell: Callable[[], None]
    ) -> None:
        """Give the tenant's login a password; call `tell` when only the commit is left."""

    @abstractmethod
    def _knock(self, names: TenantNames, password: str) -> None:
        """Log in as the tenant does, and end the session."""

    @abstractmethod
    def _ask(self, names: TenantNames, password: str) -> tuple[str, str, str]:
        """Ask as the tenant for the database, the login, and the server's version, such as 18.1."""


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
