"""What keeps MySQL or MariaDB from dropping a tenant's database.

The tenant's own sessions are ended with its user. Those of others are not the platform's to end,
and a transaction of theirs keeps what it has read from being dropped. A session that is only in the
database does not.

A transaction that was prepared and left keeps it too. Nothing says in which database it is, so it
is not looked for: the error of a removal that fails says how to find it.

Sources: MySQL 8.0 Reference Manual, "Metadata Locking", "The INFORMATION_SCHEMA INNODB_TRX Table",
"XA Transaction States".
"""

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.mysql.errors import ignore, is_refused
from provisioner.drivers.mysql.ledger import Kind, find_markers
from provisioner.drivers.mysql.quoting import SQL, Literal
from provisioner.drivers.mysql.session import Connection, Row, execute
from provisioner.drivers.obstacles import MOST_NAMED, Obstacles, quote, shorten
from provisioner.ownership import Claim, tags_of_comment


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
