"""The database of a tenant, which is its schema too.

The tenant may drop its own database, and even make it again: its privileges outlive the database.
So one that is gone is made again, whoever has dropped it.

When it is dropped, the tenant's own sessions are ended with its user. Those of others are not the
platform's to end, and a transaction of theirs keeps what it has read from being dropped. A session
that is only in the database does not. A transaction that was prepared and left keeps it too.
Nothing says in which database it is, so it is not looked for: the error of a removal that fails
says how to find it.

Sources: MySQL 8.0 Reference Manual, "CREATE DATABASE Statement", "DROP DATABASE Statement",
"Metadata Locking", "CREATE TEMPORARY TABLE Statement", "The INFORMATION_SCHEMA INNODB_TRX Table",
"XA Transaction States".
"""

import time
from collections.abc import Callable

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.mysql.accounts import (
    find_missing_privileges,
    granted_database,
    grants_in,
)
from provisioner.drivers.mysql.errors import (
    ignore,
    is_in_the_way,
    is_refused,
    is_there_already,
)
from provisioner.drivers.mysql.ledger import Kind, find_markers, forget, record
from provisioner.drivers.mysql.quoting import SQL, Identifier, Literal
from provisioner.drivers.mysql.session import LOCK_SECONDS, Connection, Row, execute
from provisioner.drivers.obstacles import MOST_NAMED, Obstacles, quote, shorten
from provisioner.errors import ErrorType, conflict, failure
from provisioner.ownership import Claim, Ownership, tags_of_comment

#: Seconds that one try to drop a database waits for its sessions, before they are ended again.
_DROP_SECONDS = 2

#: A temporary table is its session's alone, and goes with it: a run that dies leaves none, and one
#: of the customer's of this name is only hidden from the session meanwhile.
_TRIED = Identifier("provisioner_check")


def has_database(connection: Connection, names: TenantNames) -> bool:
    """Whether there is a database of the tenant's name, whoever made it."""
    return bool(
        execute(
            connection,
            SQL("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}").format(
                Literal(names.database)
            ),
        )
    )


def create_database(
    connection: Connection, names: TenantNames, owner: Ownership, *, by_tenant: bool
) -> None:
    """Make the database that was not there a moment ago.

    Args:
        connection: the session that holds the tenant's lock.
        names: the tenant's.
        owner: whose it is.
        by_tenant: whether the tenant's user is there, who may have made it meanwhile.

    Raises:
        CONFLICT: someone else has made it meanwhile.
    """
    record(connection, Kind.DATABASE, names.database, owner)
    statement = SQL("CREATE DATABASE {} CHARACTER SET utf8mb4").format(Identifier(names.database))
    with ignore(is_there_already):
        execute(connection, statement)
        return
    if not by_tenant:
        forget(connection, Kind.DATABASE, names.database)
        raise conflict("database", names.database)


def find_transactions(connection: Connection, names: TenantNames, claim: Claim) -> Obstacles:
    """Say what keeps a tenant's database from going, where it is claimed.

    Args:
        connection: a session of the platform's user. Without the privilege PROCESS it sees no other
            user's transactions, and so nothing in the way.
        names: the tenant's.
        claim: says whether the database is to go.
    """
    if not claim(tags_of_comment(find_markers(connection, names).get(Kind.DATABASE))):
        return Obstacles()
    sessions = [
        f"session {thread} of user {quote(str(user))} has a transaction in database "
        f"{names.database} and may not be ended by the platform: type KILL {thread}"
        for thread, user in _transactions(connection, names)
    ]
    return Obstacles(passing=shorten(sessions, "such sessions"))


def _transactions(connection: Connection, names: TenantNames) -> list[Row]:
    """Return the sessions of other users that have a transaction in the database, and these."""
    with ignore(is_refused):
        return execute(
            connection,
            SQL(
                "SELECT session.id, session.user FROM information_schema.INNODB_TRX AS open"
                " JOIN information_schema.PROCESSLIST AS session"
                " ON session.id = open.trx_mysql_thread_id"
                " WHERE session.db = {} AND session.user <> {} ORDER BY session.id LIMIT {}"
            ).format(Literal(names.database), Literal(names.app_role), Literal(MOST_NAMED + 1)),
        )
    return []


def drop_database(
    connection: Connection, names: TenantNames, end_sessions: Callable[[], None]
) -> None:
    """Remove the database, and end the sessions that are in the way.

    Args:
        connection: the session that holds the tenant's lock; its own time limits stay changed.
        names: the tenant's.
        end_sessions: ends the tenant's sessions; called before each try.

    Raises:
        TIMEOUT: other sessions, or transactions that are prepared, are in the way all the time.
    """
    seconds = Literal(_DROP_SECONDS)
    execute(
        connection,
        # The first is for sessions, the second for transactions that no session has any more.
        SQL("SET SESSION lock_wait_timeout = {}, innodb_lock_wait_timeout = {}").format(
            seconds, seconds
        ),
    )
    statement = SQL("DROP DATABASE IF EXISTS {}").format(Identifier(names.database))
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        end_sessions()
        with ignore(is_in_the_way):
            execute(connection, statement)
            return
        if time.monotonic() > deadline:
            raise failure(
                ErrorType.TIMEOUT,
                f"Something holds a lock in the database {names.database}: another user's session, "
                "or a prepared transaction, which XA RECOVER lists and XA ROLLBACK ends.",
                f"DROP DATABASE {names.database}: error 1205, {LOCK_SECONDS} seconds long",
            )


def check_schema(tenant: Connection, names: TenantNames) -> str:
    """As the tenant's user, see that a customer can work in the schema; say so in one sentence.

    Args:
        tenant: a session of the tenant's user, with its database as default.
        names: the tenant's.

    Raises:
        SCHEMA_CREATION_FAILED: the session is in another schema, or a privilege is missing.
    """
    ((schema,),) = execute(tenant, SQL("SELECT DATABASE()"))
    grants = grants_in(execute(tenant, SQL("SHOW GRANTS")))
    missing = find_missing_privileges(grants, granted_database(tenant, names))
    if schema != names.schema or missing:
        raise failure(
            ErrorType.SCHEMA_CREATION_FAILED,
            "The schema of the project is not as it must be.",
            f"schema {schema}, missing privileges {missing}",
        )
    for statement in (
        SQL("CREATE TEMPORARY TABLE {} (id INT NOT NULL PRIMARY KEY)").format(_TRIED),
        SQL("INSERT INTO {} VALUES (1)").format(_TRIED),
        SQL("DROP TEMPORARY TABLE {}").format(_TRIED),
    ):
        execute(tenant, statement)
    return f"schema {names.schema} answered, and {names.app_role} may do all in it"
