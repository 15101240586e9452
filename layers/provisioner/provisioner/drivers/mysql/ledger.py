"""The platform's own records on a server: whose a database or user is.

A comment on a schema is the tenant's to change, and users have no comment that MySQL and MariaDB
share. So whose something is stands in a schema of the platform's, in which no tenant has any
privilege: none can make a schema but its own, and so none can be there before it.

What belongs to a project is recorded before it is made, so a crash between the two leaves a record
of what is not there, which means nothing. What is there without a record is not the platform's.

Sources: MySQL 8.0 Reference Manual, "CREATE SCHEMA Statement", "Locking Functions"; MariaDB
documentation, "GET_LOCK".
"""

import hashlib
import secrets
from enum import StrEnum

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.mysql.errors import ignore, is_not_there
from provisioner.drivers.mysql.quoting import SQL, Identifier, Literal
from provisioner.drivers.mysql.session import LOCK_SECONDS, Connection, Row, execute
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Ownership

#: The platform's schema.
SCHEMA = "provisioner"

_RESOURCES = Identifier(SCHEMA, "resource")
_LOCK_KEY = Identifier(SCHEMA, "lock_key")

_MAKE = (
    SQL("CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4").format(Identifier(SCHEMA)),
    SQL(
        "CREATE TABLE IF NOT EXISTS {} ("
        "kind VARCHAR(16) NOT NULL, name VARCHAR(64) NOT NULL, marker VARCHAR(1024) NOT NULL,"
        " PRIMARY KEY (kind, name)"
        ") ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    ).format(_RESOURCES),
    SQL(
        "CREATE TABLE IF NOT EXISTS {} ("
        "id TINYINT NOT NULL PRIMARY KEY, value CHAR(64) NOT NULL"
        ") ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    ).format(_LOCK_KEY),
)


class Kind(StrEnum):
    """What is recorded."""

    #: A tenant's database, which is its schema too.
    DATABASE = "database"
    #: The user that a customer logs in as.
    USER = "user"


def lock(connection: Connection, names: TenantNames) -> None:
    """Take the tenant's lock; it is given back when the session ends, however it does.

    Locks of this kind need no privilege: whoever knows a lock's name can take it and keep it. So
    the name is made with a key that only the platform can read.

    Args:
        connection: a session of the platform.
        names: the tenant's.

    Raises:
        TIMEOUT: someone else has the lock.
        pymysql.Error: as the server says.
    """
    name = hashlib.sha256(f"{ensure_lock_key(connection)}/{names.database}".encode()).hexdigest()
    taken = execute(
        connection, SQL("SELECT GET_LOCK({}, {})").format(Literal(name), Literal(LOCK_SECONDS))
    )
    if taken != [(1,)]:
        raise failure(
            ErrorType.TIMEOUT,
            "Other work of the platform on the database took too long.",
            f"GET_LOCK for database {names.database}: {taken}",
        )


def find_markers(connection: Connection, names: TenantNames) -> dict[Kind, str]:
    """Return the markers that are recorded for the tenant's database and user."""
    rows = execute(
        connection,
        SQL("SELECT kind, marker FROM {} WHERE (kind, name) IN (({}, {}), ({}, {}))").format(
            _RESOURCES,
            Literal(Kind.DATABASE.value),
            Literal(names.database),
            Literal(Kind.USER.value),
            Literal(names.app_role),
        ),
    )
    return {Kind(kind): marker for kind, marker in rows}


def record(connection: Connection, kind: Kind, name: str, owner: Ownership) -> None:
    """Record whose something is that is about to be made, and is not there."""
    execute(
        connection,
        SQL("REPLACE INTO {} (kind, name, marker) VALUES ({}, {}, {})").format(
            _RESOURCES, Literal(kind.value), Literal(name), Literal(owner.comment())
        ),
    )


def forget(connection: Connection, kind: Kind, name: str) -> None:
    """Take away the record of something that is not there."""
    execute(
        connection,
        SQL("DELETE FROM {} WHERE kind = {} AND name = {}").format(
            _RESOURCES, Literal(kind.value), Literal(name)
        ),
    )


def ensure_lock_key(connection: Connection) -> str:
    """Return the key of the locks' names; make the platform's schema first if there is none."""
    read = SQL("SELECT value FROM {}").format(_LOCK_KEY)
    rows: list[Row] = []
    with ignore(is_not_there):
        rows = execute(connection, read)
    if not rows:
        for statement in _MAKE:
            execute(connection, statement)
        # Of several that come here at once, one's key stays.
        execute(
            connection,
            SQL("INSERT IGNORE INTO {} (id, value) VALUES (1, {})").format(
                _LOCK_KEY, Literal(secrets.token_hex(32))
            ),
        )
        rows = execute(connection, read)
    return str(rows[0][0])
