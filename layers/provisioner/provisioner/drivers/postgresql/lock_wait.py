"""Who keeps a session waiting for a lock: named with what ends it, and never with a query.

A session that calls this need be in no tenant's database, but for the name of what is locked: the
views of locks, sessions and prepared transactions are the whole cluster's.

Sources: PostgreSQL documentation, "pg_locks", "pg_stat_activity", "pg_prepared_xacts", "Session
Information Functions", "Server Signaling Functions".
"""

from dataclasses import dataclass
from typing import Any, LiteralString

from provisioner.drivers.postgresql.quoting import identifier, literal, name_rest, visible
from provisioner.drivers.postgresql.session import Connection

#: Holders that are named.
_MOST_NAMED = 5

#: Characters of a session's own name. Source: PostgreSQL documentation, application_name.
_NAME_LENGTH = 63

#: The longest wait of the sessions of a name. Anyone may name a session; the role is ours.
_WAIT: LiteralString = """
SELECT waiting.pid, waiting.relation,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - waiting.waitstart)::pg_catalog.float8
FROM pg_catalog.pg_stat_activity AS session
JOIN pg_catalog.pg_locks AS waiting ON waiting.pid = session.pid
WHERE session.application_name = %(application)s AND session.usename = CURRENT_USER
  AND NOT waiting.granted
  AND waiting.waitstart < pg_catalog.clock_timestamp() - %(longer_than)s * INTERVAL '1 second'
ORDER BY waiting.waitstart LIMIT 1
"""

#: Who is at the ends of the queue: those in it who wait themselves are only in the way until then.
#: A prepared transaction has the process id 0.
_SESSIONS: LiteralString = """
WITH RECURSIVE queue (pid) AS (
    SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s::pg_catalog.int4))
    UNION
    SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(queue.pid)) FROM queue
)
SELECT session.pid, pg_catalog.quote_ident(role.rolname), coalesce(role.rolsuper, true),
       session.application_name, coalesce(session.state, session.backend_type),
       pg_catalog.to_char(session.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
       pg_catalog.count(*) OVER ()
FROM queue
JOIN pg_catalog.pg_stat_activity AS session ON session.pid = queue.pid
LEFT JOIN pg_catalog.pg_roles AS role ON role.oid = session.usesysid
WHERE pg_catalog.cardinality(pg_catalog.pg_blocking_pids(queue.pid)) = 0
ORDER BY session.xact_start, session.pid LIMIT %(limit)s
"""

#: A prepared transaction is known in pg_locks by the lock on its own id.
_PREPARED: LiteralString = """
WITH RECURSIVE queue (pid) AS (
    SELECT %(pid)s::pg_catalog.int4
    UNION
    SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(queue.pid)) FROM queue
), holder AS (
    SELECT DISTINCT prepared.gid, prepared.owner, prepared.prepared
    FROM queue
    JOIN pg_catalog.pg_locks AS waiting ON waiting.pid = queue.pid AND NOT waiting.granted
    JOIN pg_catalog.pg_locks AS held
      ON held.granted AND held.pid IS NULL
      AND (held.locktype, held.database, held.relation, held.page, held.tuple, held.virtualxid,
           held.transactionid, held.classid, held.objid, held.objsubid)
          IS NOT DISTINCT FROM
          (waiting.locktype, waiting.database, waiting.relation, waiting.page, waiting.tuple,
           waiting.virtualxid, waiting.transactionid, waiting.classid, waiting.objid,
           waiting.objsubid)
    JOIN pg_catalog.pg_locks AS own
      ON own.granted AND own.pid IS NULL AND own.locktype = 'transactionid'
      AND own.virtualtransaction = held.virtualtransaction
    JOIN pg_catalog.pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid
)
SELECT gid, pg_catalog.quote_ident(owner),
       pg_catalog.to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
       pg_catalog.count(*) OVER ()
FROM holder ORDER BY prepared, gid LIMIT %(limit)s
"""

_NAME: LiteralString = """
SELECT pg_catalog.quote_ident(space.nspname), pg_catalog.quote_ident(relation.relname)
FROM pg_catalog.pg_class AS relation
JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
WHERE relation.oid = %(relation)s
"""


@dataclass(frozen=True, slots=True)
class LockWait:
    """A session's wait for a lock, and who has it."""

    #: Seconds until now.
    seconds: float
    #: OID of the relation that is locked; None where it is something else.
    relation: int | None
    #: A clause for each session that has the lock.
    sessions: tuple[str, ...]
    #: A clause for each prepared transaction that has it. These stay until someone ends them.
    prepared: tuple[str, ...]


def find_lock_wait(connection: Connection, application: str, longer_than: float) -> LockWait | None:
    """Look whether a session of ours waits for a lock, and for whom.

    Args:
        connection: a session of the platform role, in any database.
        application: the application_name of the session.
        longer_than: seconds; shorter waits do not count.

    Returns:
        None where it does not, or where who had the lock has just released it.

    Raises:
        psycopg.Error: as the server says.
    """
    wait = connection.execute(
        _WAIT, {"application": application, "longer_than": longer_than}
    ).fetchone()
    if wait is None:
        return None
    process_id, relation, seconds = wait
    parameters = {"pid": process_id, "limit": _MOST_NAMED}
    sessions = connection.execute(_SESSIONS, parameters).fetchall()
    prepared = connection.execute(_PREPARED, parameters).fetchall()
    if not sessions and not prepared:
        return None
    return LockWait(
        seconds,
        relation,
        (*map(_describe_session, sessions), *name_rest(sessions)),
        (*map(_describe_prepared, prepared), *name_rest(prepared)),
    )


def name_of_relation(connection: Connection, relation: int) -> str:
    """Return a relation's name for a message; its OID where there is none of it.

    Args:
        connection: a session in the database of the relation.
        relation: its OID.

    Raises:
        psycopg.Error: as the server says.
    """
    row = connection.execute(_NAME, {"relation": relation}).fetchone()
    return f"relation {relation}" if row is None else ".".join(map(identifier, row))


def _describe_session(row: tuple[Any, ...]) -> str:
    process_id, role, is_superuser, application, state, since, _ = row
    if role is None:
        # Such as autovacuum: it ends by itself.
        return f"process {process_id} of the server's own ({visible(state, _NAME_LENGTH)})"
    parts = (
        f'application "{visible(application, _NAME_LENGTH)}"' if application else None,
        visible(state, _NAME_LENGTH) if state else None,
        f"in a transaction since {since} UTC" if since else None,
    )
    by = "as a superuser" if is_superuser else "in a session of that role, after SET ROLE NONE"
    return (
        f"process {process_id} of role {identifier(role)} "
        f"({', '.join(filter(None, parts)) or 'state not shown'}): "
        f"type SELECT pg_terminate_backend({process_id}) {by}"
    )


def _describe_prepared(row: tuple[Any, ...]) -> str:
    gid, owner, since, _ = row
    return (
        f"transaction {literal(gid)}, prepared by role {identifier(owner)} on {since} UTC: "
        f"type COMMIT PREPARED {literal(gid)} or ROLLBACK PREPARED {literal(gid)} in the "
        "project's database as that role"
    )
