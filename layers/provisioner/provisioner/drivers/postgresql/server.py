"""A project's own server: what docs/cluster.sql does on a shared one, by its master user.

The master user of Amazon RDS is no superuser: what it may not do is left as it is.
"""

import contextlib

import psycopg
from psycopg import sql

from provisioner.drivers.postgresql.session import SAFE_SEARCH_PATH, Connection

#: Without it DROP DATABASE … WITH (FORCE) cannot end a tenant's sessions.
_SIGNALS = "pg_signal_backend"


def prepare_server(connection: Connection) -> None:
    """Make the server fit for a tenant; it can be done again.

    Args:
        connection: the master user's, in the database `postgres`.

    Raises:
        psycopg.Error: the server refused a statement that it has to take.
    """
    (user,) = connection.execute("SELECT CURRENT_USER").fetchone() or ("",)
    role = sql.Identifier(str(user))
    name, value = SAFE_SEARCH_PATH.split("=")
    # The platform's sessions say this themselves; here it is said for people.
    connection.execute(
        sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value))
    )
    # By default every role may connect to these two. For anyone but their owner it is a warning.
    connection.execute("REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC")
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
    # Errors of pg_dump are known by their English text.
    _try(connection, sql.SQL("ALTER ROLE {} SET lc_messages = 'C'").format(role))
    (signals,) = connection.execute(
        "SELECT pg_catalog.pg_has_role(CURRENT_USER, %s, 'USAGE')", (_SIGNALS,)
    ).fetchone() or (False,)
    if not signals:
        _try(connection, sql.SQL("GRANT {} TO {}").format(sql.Identifier(_SIGNALS), role))


def _try(connection: Connection, statement: sql.Composed) -> None:
    """Run a statement that the master user may not be allowed, and can do without."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)
