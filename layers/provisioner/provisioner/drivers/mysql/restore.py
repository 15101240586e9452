"""Dumps of MySQL databases, restored into an empty one: all of one, or nothing.

A dump is its tenant's own code: routines, and events that run by themselves. So it is restored by a
login that may do no more than a tenant, never by the platform's, and what a login may do is looked
at before anything is sent.

A server commits each table as it is made. So a dump is read to its end once before anything of it
runs, and what a restore that fails has made is removed again; nobody else is to work in the
database meanwhile.

Sources: MySQL Reference Manual, "Statements That Cause an Implicit Commit", "Connecting to the
Server Using URI-Like Strings", "INFORMATION_SCHEMA Tables"; MariaDB documentation, "Information
Schema Tables".
"""

import os
from contextlib import ExitStack, closing
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql

from provisioner.drivers.database_engine import AdminConnection, Restored, TenantNames, step
from provisioner.drivers.database_errors import refuse_contents, snapshot_refused
from provisioner.drivers.mysql.definitions import OBJECTS, VERSIONED_TABLE
from provisioner.drivers.mysql.dump_format import (
    DumpError,
    Statement,
    one_line,
    read_statements,
)
from provisioner.drivers.mysql.errors import PYMYSQL, number_of
from provisioner.drivers.mysql.quoting import SQL, Identifier
from provisioner.drivers.mysql.session import Connection, connect, execute
from provisioner.errors import ErrorType, ProvisioningError, failure

_FINAL = ErrorType.DATABASE_CHANGE_FAILED

#: Has the password where the URL has none. Source: MySQL Reference Manual, "Environment Variables".
_PASSWORD_VARIABLE = "MYSQL_PWD"  # noqa: S105  # the name of a variable  # nosec B105

#: What a URL of MySQL's says of TLS, and libpq's words for it.
_MODES = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}

#: Bytes of a packet besides the statement.
_PACKET_OVERHEAD = 1024

#: What the login may do to all databases; to some, or single tables in them; and as whom else.
_RIGHTS_ON_SERVER = SQL("""
    SELECT privilege_type FROM information_schema.user_privileges
    WHERE privilege_type <> 'USAGE' ORDER BY 1
""")
_RIGHTS_ON_DATABASES = SQL("""
    SELECT table_schema FROM information_schema.schema_privileges
    UNION SELECT table_schema FROM information_schema.table_privileges ORDER BY 1
""")
_ROLES = SQL("SELECT role_name FROM information_schema.applicable_roles ORDER BY 1")


class MysqlRestorer:
    """Restores dumps into one database, as a `DatabaseRestorer`."""

    library = PYMYSQL

    def __init__(self, url: str) -> None:
        """Read where the database is and who logs in; nothing is connected yet.

        Args:
            url: such as mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY; a
                password that it leaves out comes from the environment variable MYSQL_PWD.

        Raises:
            INVALID_PAYLOAD: it is not a URL of a database, names no user or database, or holds
                what is not known.
        """
        self._server, self._database = _parse(url)

    def check(self) -> None:
        """See whether the database may be restored into; nothing of it is changed.

        Raises:
            DATABASE_CHANGE_FAILED: the login may do more than a tenant, or the database holds
                something already.
            ProvisioningError: as `translate` says.
        """
        self._begin(0).close()

    def restore(self, archive: IO[bytes], source: TenantNames) -> Restored:
        """Restore a dump: all of it, or nothing.

        Args:
            archive: a dump as `MysqlDumper` makes it.
            source: the names that the tenant had; nothing of a dump has them.

        Raises:
            DATABASE_CHANGE_FAILED: as `check` says; or the dump is broken, or a statement of it is
                longer than the server takes, or the server refuses a part of it.
            ProvisioningError: as `translate` says.
        """
        del source
        longest = _longest_statement(archive)

        with closing(self._begin(longest)) as connection:
            (character_set,) = execute(
                connection, SQL("SELECT @@character_set_database, @@collation_database")
            )
            try:
                left_out = tuple(_run(connection, archive))
            except BaseException as error:
                # On Ctrl-C too.
                problem = self._undo(character_set)
                if problem is None or not isinstance(error, ProvisioningError):
                    raise
                unfinished = failure(error.type, problem, error.cause)
            else:
                return Restored(self._server.host, self._server.port, self._database, left_out)
        raise unfinished

    @step(_FINAL, "restore the snapshot")
    def _begin(self, longest: int) -> Connection:
        """Log in to a database that may be restored into.

        Args:
            longest: bytes of the longest statement that is to be run.
        """
        with ExitStack() as until_it_is_allowed:
            connection = until_it_is_allowed.enter_context(connect(self._server, self._database))
            _refuse_rights(connection, self._database)
            _refuse_contents(connection, self._database)
            _refuse_long(connection, longest)
            until_it_is_allowed.pop_all()
        return connection

    def _undo(self, character_set: tuple[str, ...]) -> str | None:
        """Make the database anew; return a sentence for people where that cannot be done."""
        name = Identifier(self._database)
        make = SQL("CREATE DATABASE {} CHARACTER SET {} COLLATE {}")
        try:
            with connect(self._server, self._database) as connection:
                execute(connection, SQL("DROP DATABASE {}").format(name))
                execute(connection, make.format(name, *map(Identifier, character_set)))
        except pymysql.Error as error:
            return (
                f"The database server did not take the snapshot, and then not the removal of what "
                f"was restored of it (error {number_of(error)}): make the database "
                f"{one_line(self._database)} anew, and restore again."
            )
        return None


def _parse(url: str) -> tuple[AdminConnection, str]:
    """Return the server with who logs in, and the database."""
    example = "mysql://user@host:3306/database?ssl-mode=VERIFY_IDENTITY"
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError:
        parts, port = urlsplit(""), 0
    database = unquote(parts.path.removeprefix("/"))
    if parts.scheme != "mysql" or not parts.hostname or not parts.username or not database:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"into: must be a MySQL connection URL that names a user and a database, such as "
            f"{example}.",
        )
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    mode = _MODES.get(options.pop("ssl-mode", "VERIFY_IDENTITY").lower())
    authorities = options.pop("ssl-ca", None)
    if mode is None or options:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            "into: of a MySQL connection URL, only ssl-mode (DISABLED, PREFERRED, REQUIRED, "
            "VERIFY_CA or VERIFY_IDENTITY) and ssl-ca are known; leave the rest out.",
        )
    user = unquote(parts.username)
    password = unquote(parts.password or "") or os.environ.get(_PASSWORD_VARIABLE, "")
    server = AdminConnection(
        parts.hostname, port, user, password, sslmode=mode, root_certificates=authorities
    )
    return server, database


def _longest_statement(archive: IO[bytes]) -> int:
    """Read a dump to its end; return the bytes of its longest statement."""
    try:
        return max((len(each.sql) for each in read_statements(archive)), default=0)
    except DumpError as error:
        problem = str(error)
    raise failure(
        _FINAL, "The snapshot cannot be read, so nothing of it is restored.", f"dump: {problem}"
    )


def _refuse_long(connection: Connection, longest: int) -> None:
    ((limit,),) = execute(connection, SQL("SELECT @@max_allowed_packet"))
    if longest + _PACKET_OVERHEAD > int(limit):
        raise failure(
            _FINAL,
            f"The snapshot has a row that takes a statement of {longest:,} bytes, and the server "
            f"takes {int(limit):,}; raise its max_allowed_packet, and restore again.",
        )


def _refuse_rights(connection: Connection, database: str) -> None:
    """Refuse a login that may do more than a tenant."""

    def ask(query: SQL) -> list[str]:
        return [str(value) for (value,) in execute(connection, query)]

    rights = [
        *(f"has {it} on all of the server" for it in ask(_RIGHTS_ON_SERVER)),
        # In the name of a database that is granted, _ and % are wildcards.
        *(
            f"has rights on {it} too"
            for it in ask(_RIGHTS_ON_DATABASES)
            if database not in {it, it.replace(r"\_", "_").replace(r"\%", "%")}
        ),
        *(f"may become {it}" for it in ask(_ROLES)),
    ]
    if rights:
        (user,) = ask(SQL("SELECT CURRENT_USER()"))
        raise failure(
            _FINAL,
            f"The user {one_line(user)} {one_line(rights[0])}; a snapshot is a tenant's own code, "
            "so log in as a user with rights on this database alone.",
        )


def _refuse_contents(connection: Connection, database: str) -> None:
    kinds = {"BASE TABLE": "table", VERSIONED_TABLE: "table"}
    found = execute(connection, OBJECTS)
    names = [one_line(f"{kinds.get(kind, kind.lower())} {name}") for kind, name in found]
    refuse_contents(one_line(database), names)


def _run(connection: Connection, archive: IO[bytes]) -> list[str]:
    """Run the statements of a dump; return what it has left out."""
    left_out = []
    for statement in read_statements(archive):
        if not statement.sql:
            left_out.append(statement.what)
            continue
        try:
            _run_statement(connection, statement)
        except pymysql.Error as error:
            known = PYMYSQL.translate(error, _FINAL, "take the snapshot")
        else:
            continue
        # Outside the except clause, so that the driver's exception is not the context of this one.
        raise snapshot_refused(known.type, f"at {statement.what}: {known.cause}")
    return left_out


def _run_statement(connection: Connection, statement: Statement) -> None:
    with connection.cursor() as cursor:
        # The driver sends bytes as they are.
        cursor.execute(statement.sql)  # type: ignore[call-overload]
        # INSERT IGNORE has a value that is no member of its ENUM, as it was.
        if not cursor.warning_count or not statement.sql.startswith(b"INSERT INTO "):
            return
    for level, number, text in execute(connection, SQL("SHOW WARNINGS")):
        if level != "Note":
            raise failure(
                _FINAL,
                "The database would change a value of the snapshot, so nothing of it is restored.",
                f"at {statement.what}: warning {number}: {one_line(str(text))}",
            )
