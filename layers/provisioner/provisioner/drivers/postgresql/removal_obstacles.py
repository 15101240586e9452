"""What keeps PostgreSQL from dropping a tenant's database and roles.

It is read from catalogues that all databases share, in the platform's own database. The tenant's is
entered only to look what keeps a dump of it.

Sources: PostgreSQL documentation, "DROP DATABASE", "pg_prepared_xacts", "pg_replication_slots",
"pg_subscription", "pg_shdepend"; PostgreSQL source, `dropdb` and `TerminateOtherDBBackends`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.obstacles import MOST_NAMED, Obstacles, quote, shorten
from provisioner.drivers.postgresql.dump_obstacles import (
    objects_out_of_reach,
    tables_with_policies,
)
from provisioner.drivers.postgresql.errors import PSYCOPG
from provisioner.drivers.postgresql.quoting import identifier, literal
from provisioner.drivers.postgresql.roles import find_claimed_roles
from provisioner.drivers.postgresql.session import Connection, connect_as_platform
from provisioner.errors import ErrorType
from provisioner.ownership import Claim, tags_of_comment

#: The OID of no database.
_NO_OID = 2**32 - 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of obstacle: a query, and the clause that a row of it becomes."""

    #: What there are more of, in the plural.
    plural: str
    #: Its parameters are the tenant's names and the OID of the database.
    query: LiteralString
    #: Makes the clause of the database's name and a row's values.
    clause: Callable[..., str]


#: Sessions that the platform may not end, by the rules of pg_terminate_backend. Another's session
#: shows its role and its program to everyone. Workers of the server's own have no role: DROP
#: DATABASE waits for them.
_SESSIONS = _Kind(
    "such sessions",
    """
    SELECT session.pid, pg_catalog.quote_ident(role.rolname), session.application_name
    FROM pg_catalog.pg_stat_activity AS session
    JOIN pg_catalog.pg_roles AS role ON role.oid = session.usesysid
    WHERE session.datid = %(oid)s
      AND session.pid <> pg_catalog.pg_backend_pid()
      AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
      AND (role.rolsuper
           OR NOT (pg_catalog.pg_has_role(role.oid, 'USAGE')
                   OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')))
    ORDER BY session.pid LIMIT %(limit)s
    """,
    lambda database, pid, role, program: (
        f"session {pid} of role {identifier(role)}{f' ({quote(program)})' if program else ''} in "
        f"database {database} may not be ended by the platform: type SELECT "
        f"pg_terminate_backend({pid})"
    ),
)

_STAYING = (
    _Kind(
        "prepared transactions",
        """
        SELECT gid, pg_catalog.quote_ident(owner) FROM pg_catalog.pg_prepared_xacts
        WHERE database = %(database)s ORDER BY prepared LIMIT %(limit)s
        """,
        lambda database, gid, role: (
            f"transaction {literal(gid)} of role {identifier(role)} is prepared in database "
            f"{database}: type COMMIT PREPARED {literal(gid)} or ROLLBACK PREPARED {literal(gid)} "
            "there"
        ),
    ),
    # One that nothing reads goes with the database.
    _Kind(
        "slots in use",
        """
        SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots
        WHERE database = %(database)s AND active ORDER BY slot_name LIMIT %(limit)s
        """,
        lambda database, slot: (
            f"replication slot {literal(slot)} of database {database} is in use: stop what reads "
            f"it, then type SELECT pg_drop_replication_slot({literal(slot)})"
        ),
    ),
    _Kind(
        "subscriptions",
        """
        SELECT pg_catalog.quote_ident(subname) FROM pg_catalog.pg_subscription
        WHERE subdbid = %(oid)s ORDER BY subname LIMIT %(limit)s
        """,
        lambda database, subscription: (
            f"subscription {identifier(subscription)} is in database {database}: type DROP "
            f"SUBSCRIPTION {identifier(subscription)} there"
        ),
    ),
    _Kind(
        "owners",
        """
        SELECT pg_catalog.quote_ident(owner.rolname), pg_catalog.quote_ident(current_user)
        FROM pg_catalog.pg_database AS found
        JOIN pg_catalog.pg_roles AS owner ON owner.oid = found.datdba
        WHERE found.oid = %(oid)s AND NOT pg_catalog.pg_has_role(owner.oid, 'USAGE')
        LIMIT %(limit)s
        """,
        lambda database, role, platform: (
            f"database {database} belongs to role {identifier(role)}: type ALTER DATABASE "
            f"{database} OWNER TO {identifier(platform)}"
        ),
    ),
    _Kind(
        "templates",
        """
        SELECT FROM pg_catalog.pg_database WHERE oid = %(oid)s AND datistemplate LIMIT %(limit)s
        """,
        lambda database: (
            f"database {database} is a template: type ALTER DATABASE {database} IS_TEMPLATE false"
        ),
    ),
    # What the roles own in another database, or may do with what the cluster shares, keeps them.
    # What they are granted in another database, as any tenant can do, `drop_role` takes back.
    _Kind(
        "such roles",
        """
        SELECT DISTINCT pg_catalog.quote_ident(role.rolname),
               coalesce('database ' || pg_catalog.quote_ident(elsewhere.datname), 'the cluster')
        FROM pg_catalog.pg_shdepend AS needed
        JOIN pg_catalog.pg_roles AS role ON role.oid = needed.refobjid
        LEFT JOIN pg_catalog.pg_database AS elsewhere
          ON elsewhere.oid = CASE
               WHEN needed.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
               THEN needed.objid ELSE needed.dbid END
        WHERE needed.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
          AND role.rolname = ANY(%(roles)s)
          AND needed.dbid <> %(oid)s
          AND (needed.dbid = 0 OR needed.deptype = 'o')
          AND NOT (needed.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
                   AND needed.objid = %(oid)s)
        ORDER BY 1, 2 LIMIT %(limit)s
        """,
        lambda _, role, place: (
            f"role {role} has objects or privileges in {identifier(place)}: take them away there "
            "by REASSIGN OWNED, DROP OWNED or REVOKE"
        ),
    ),
)


def find_obstacles(
    connection: Connection, names: TenantNames, claim: Claim
) -> tuple[Obstacles, bool]:
    """Say what keeps a tenant's database and roles from going, as far as they are claimed.

    Nine statements. Of each kind five are named.

    Args:
        connection: a session of the platform role in `LOCK_DATABASE`.
        names: the tenant's.
        claim: says whether the database is to go.

    Returns:
        What is in the way, and whether the database is to go and can be entered, to be dumped.
    """
    row = connection.execute(
        "SELECT oid, datallowconn, pg_catalog.shobj_description(oid, 'pg_database')"
        " FROM pg_catalog.pg_database WHERE datname = %s",
        (names.database,),
    ).fetchone()
    oid, is_open, comment = row or (_NO_OID, False, None)
    # One without a marker is what a crash has left: its roles show whose it is.
    if comment is not None and not claim(tags_of_comment(comment)):
        return Obstacles(), False
    parameters = {
        "oid": oid,
        "database": names.database,
        "roles": find_claimed_roles(connection, names, claim),
        "limit": MOST_NAMED + 1,
    }
    staying = (clause for kind in _STAYING for clause in _found(connection, kind, parameters))
    passing = tuple(_found(connection, _SESSIONS, parameters))
    return Obstacles(staying=tuple(staying), passing=passing), is_open


def find_dump_obstacles(admin: AdminConnection, names: TenantNames) -> Obstacles:
    """Say what keeps a dump of a tenant's database from being made; a session, four statements."""
    try:
        with connect_as_platform(admin, names.database) as connection:
            return Obstacles(
                snapshot=(
                    *tables_with_policies(connection, names),
                    *objects_out_of_reach(connection, names),
                )
            )
    except psycopg.Error as error:
        met = PSYCOPG.translate(error, ErrorType.REMOVAL_FAILED, "look at the database")
        if met.type is not ErrorType.INSUFFICIENT_PERMISSIONS:
            raise
    clause = f"the tables of database {names.database}: let {admin.user} connect to it"
    return Obstacles(unseen=(clause,))


def _found(connection: Connection, kind: _Kind, parameters: dict[str, Any]) -> Iterator[str]:
    rows = connection.execute(kind.query, parameters).fetchall()
    database = parameters["database"]
    yield from shorten([kind.clause(database, *row) for row in rows], kind.plural)
