"""Sessions on a server: the logins of the platform and of a tenant's app user, and steps retried.

A tenant's schema is hostile ground: a view, routine or trigger in it may run as whoever comes near.
So a session of the platform never has a tenant's schema as its default, and no statement of it
names an object in one. The schema itself is named by CREATE DATABASE, DROP DATABASE and GRANT, none
of which runs anything that a tenant has made.

Sources: MySQL 8.0 Reference Manual, "Server System Variables", "Stored Object Access Control",
"Using Encrypted Connections"; MariaDB documentation, "Aborting Statements that Exceed a Certain
Time to Execute"; PostgreSQL documentation, "SSL Support", which defines the words of `sslmode`;
Python documentation, ssl.
"""

import ssl
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CR
from pymysql.cursors import Cursor

from provisioner.drivers.database_engine import CONNECT_SECONDS, AdminConnection, TenantNames
from provisioner.drivers.mysql.errors import PYMYSQL
from provisioner.drivers.mysql.quoting import SQL, Composable, Literal

type Connection = pymysql.Connection[Cursor]
type Row = tuple[Any, ...]

#: Seconds that a statement of the platform may take.
STATEMENT_SECONDS = 60

#: Seconds that a session of the platform may do nothing: that of a function that was killed, whose
#: end no one tells the server, does not hold its lock until the next retry.
IDLE_SECONDS = 60

#: Seconds that a statement of the platform waits for another session.
LOCK_SECONDS = 30

#: Modes of libpq's that accept no connection without TLS.
TLS_MODES = frozenset({"require", "verify-ca", "verify-full"})

#: Seconds that the driver waits for an answer: more than the server takes to give up by itself.
_ANSWER_SECONDS = STATEMENT_SECONDS + 30

#: With it, nothing but a quote has a meaning within a string; and nothing is cut to fit.
_SQL_MODE = "STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION"


def connect_as_platform(
    admin: AdminConnection, *, idle_seconds: float = IDLE_SECONDS
) -> Connection:
    """Connect as the platform's user, without a default schema.

    Args:
        admin: the login of the platform's user.
        idle_seconds: how long the session may do nothing.

    Raises:
        pymysql.Error: no connection was made.
    """
    with ExitStack() as until_it_is_set:
        connection = until_it_is_set.enter_context(admin.log_in(PYMYSQL, connect))
        # A password's hash may hold anything, quotes too; so SHOW CREATE USER gives its digits.
        own, time_unit = SQL("print_identified_with_as_hex = ON, max_execution_time = {}"), 1000
        if is_mariadb(connection):
            own, time_unit = SQL("max_statement_time = {}"), 1
        execute(
            connection,
            SQL(
                "SET SESSION sql_mode = {}, lock_wait_timeout = {}, innodb_lock_wait_timeout = {},"
                " wait_timeout = {}, sql_quote_show_create = 1, {}"
            ).format(
                Literal(_SQL_MODE),
                Literal(LOCK_SECONDS),
                Literal(LOCK_SECONDS),
                Literal(round(idle_seconds)),
                own.format(Literal(STATEMENT_SECONDS * time_unit)),
            ),
        )
        until_it_is_set.pop_all()
    return connection


def connect_as_tenant(
    admin: AdminConnection, names: TenantNames, password: str, *, to_database: bool = True
) -> Connection:
    """Connect as a tenant's app user, with the settings that a customer gets.

    Args:
        admin: names the server.
        names: the tenant's.
        password: the app user's.
        to_database: whether to the tenant's database, which need not be there otherwise.

    Raises:
        pymysql.Error: no connection was made.
    """
    login = replace(admin, user=names.app_role, password=password)
    return connect(login, names.database if to_database else None)


def is_mariadb(connection: Connection) -> bool:
    """Whether the server is MariaDB, and not MySQL."""
    return "mariadb" in connection.get_server_info().lower()  # type: ignore[no-untyped-call]


def execute(
    connection: Connection, statement: Composable, cursor_class: type[Cursor] = Cursor
) -> list[Any]:
    """Run one statement and return its rows: tuples, or what the class of the cursor makes."""
    with connection.cursor(cursor_class) as cursor:
        cursor.execute(statement.render(connection))
        return list(cursor.fetchall())


def _refuse(_: Connection) -> object:
    """Refuse a way to log in that shows the password to whoever asks for it.

    Raises:
        pymysql.OperationalError: always.
    """
    raise pymysql.OperationalError(
        CR.CR_AUTH_PLUGIN_ERR, "the server asks for the password in a way that we refuse"
    )


#: A server asks for a password in these ways where it likes to, whatever the account's own way is.
_REFUSED_WAYS: dict[str, Callable[[Connection], object]] = dict.fromkeys(
    ("mysql_clear_password", "dialog", "mysql_old_password"), _refuse
)


# Longer than other functions, as a line stands for each setting of a session.
def connect(login: AdminConnection, database: str | None = None) -> Connection:
    """Connect with a login, in a session that has the settings of a customer's.

    Args:
        login: the server, and who logs in.
        database: its default schema; none when left out.

    Raises:
        pymysql.Error: no connection was made.
    """

    def connect_by(context: ssl.SSLContext | None) -> Connection:
        try:
            return pymysql.connect(
                host=login.host,
                port=login.port,
                user=login.user,
                # The driver takes text for Latin-1.
                password=login.password.encode(),
                database=database,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                read_timeout=_ANSWER_SECONDS,
                write_timeout=_ANSWER_SECONDS,
                # With neither, the driver makes a context of its own, which verifies nothing.
                ssl=context,
                ssl_disabled=context is None,
                auth_plugin_map=_REFUSED_WAYS,
                program_name="project-provisioner",
            )
        except RuntimeError:
            # The driver needs a package for it otherwise.
            text = "the server's way to log in needs TLS: its sslmode must be require or more"
        except (ValueError, IndexError, struct.error):
            text = "what answers is no MySQL server"
        raise pymysql.OperationalError(CR.CR_SERVER_HANDSHAKE_ERR, text)

    if login.sslmode == "disable":
        return connect_by(None)
    context = _tls_context(login.sslmode, login.root_certificates)
    try:
        return connect_by(context)
    except pymysql.OperationalError as error:
        if login.sslmode != "prefer" or error.args[0] != CR.CR_SSL_CONNECTION_ERROR:
            raise
    # The server has no TLS, which this mode accepts.
    return connect_by(None)


@lru_cache(maxsize=4)
def _tls_context(sslmode: str, root_certificates: str | None) -> ssl.SSLContext:
    """Return what TLS is made by, for a mode of libpq's.

    `require` verifies the authority where its certificates are there, as libpq does.

    Raises:
        pymysql.OperationalError: the file of the certificates is missing or holds none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    is_given = root_certificates is not None and Path(root_certificates).exists()
    context.check_hostname = sslmode == "verify-full"
    if sslmode == "prefer" or (sslmode == "require" and not is_given):
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if root_certificates is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=root_certificates)
    except OSError:
        raise pymysql.OperationalError(
            CR.CR_SSL_CONNECTION_ERROR,
            f"the file of root certificates, {root_certificates}, is missing or holds none",
        ) from None
    return context
