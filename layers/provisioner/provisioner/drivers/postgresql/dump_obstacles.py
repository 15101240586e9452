"""What keeps pg_dump from reading all of a tenant's database, and stays until someone acts.

pg_dump switches row-level security off, so that a table whose policies would hold for it ends it:
no policy runs as the platform, and no row is left out silently. And it needs to read all that it
dumps. Both would show only when it comes to the object, which may be after minutes.

A session that calls this may be in a tenant's database: only catalogues are read.

Sources: PostgreSQL documentation, "Row Security Policies", "Privileges", "pg_dump"; PostgreSQL
source, `check_enable_rls`, `selectDumpableNamespace`, `getTables`, `dumpSequenceData`.
"""

from collections.abc import Callable
from typing import LiteralString

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.postgresql.quoting import identifier, name_rest
from provisioner.drivers.postgresql.session import Connection

#: Objects of one kind that are named.
_MOST_NAMED = 5

#: Begins every query. `reader` are the roles whose privileges pg_dump has while it dumps; `dumped`
#: are the relations that it reads rows, or the value of a sequence, from.
_COMMON: LiteralString = """
WITH reader AS (
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER OR rolname = ANY(%(roles)s)
), dumped AS (
    SELECT relation.oid, relation.relkind, relation.relname, relation.relowner,
           relation.relrowsecurity, relation.relforcerowsecurity,
           space.oid AS space, space.nspname, space.nspowner
    FROM pg_catalog.pg_class AS relation
    JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
    WHERE relation.relkind IN ('r', 'p', 'S')
      AND NOT pg_catalog.starts_with(space.nspname::pg_catalog.text, 'pg_')
      AND space.nspname <> 'information_schema'
      -- What an extension has made comes with the extension, unless it is its configuration.
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_depend AS member
          JOIN pg_catalog.pg_extension AS extension ON extension.oid = member.refobjid
          WHERE member.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND member.objid = relation.oid
            AND member.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
            AND member.deptype = 'e'
            AND NOT coalesce(relation.oid = ANY(extension.extconfig), false))
)
"""

#: A partitioned table has no rows of its own: its partitions are dumped, by their own policies.
_ROW_SECURITY: LiteralString = """
SELECT ARRAY[pg_catalog.quote_ident(nspname), pg_catalog.quote_ident(relname)],
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)),
       pg_catalog.concat_ws(', ',
           CASE WHEN relforcerowsecurity THEN 'NO FORCE ROW LEVEL SECURITY' END,
           CASE WHEN NOT is_ours THEN 'OWNER TO ' || pg_catalog.quote_ident(%(owner_role)s) END),
       pg_catalog.count(*) OVER ()
FROM (
    SELECT *, EXISTS (
        SELECT FROM reader WHERE pg_catalog.pg_has_role(reader.oid, relowner, 'USAGE')) AS is_ours
    FROM dumped WHERE relkind = 'r' AND relrowsecurity
) AS guarded
WHERE (relforcerowsecurity OR NOT is_ours)
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_roles
      WHERE rolname = CURRENT_USER AND (rolsuper OR rolbypassrls))
ORDER BY 1 LIMIT %(limit)s
"""

_SCHEMAS: LiteralString = """
SELECT ARRAY[pg_catalog.quote_ident(nspname)],
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(nspowner)),
       'SCHEMA', pg_catalog.count(*) OVER ()
FROM (
    SELECT DISTINCT space, nspname, nspowner FROM dumped
    -- From version 18 on the values of sequences are read by a function, not by their names.
    WHERE relkind <> 'S'
       OR pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 180000
) AS found
WHERE NOT EXISTS (
    SELECT FROM reader
    -- Of a schema that was dropped meanwhile it is NULL.
    WHERE pg_catalog.has_schema_privilege(reader.oid, space, 'USAGE') IS NOT FALSE)
ORDER BY 1 LIMIT %(limit)s
"""

#: Of a partitioned table only a lock is taken, which more than one privilege allows.
_RELATIONS: LiteralString = """
SELECT ARRAY[pg_catalog.quote_ident(nspname), pg_catalog.quote_ident(relname)],
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(relowner)),
       CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
       pg_catalog.count(*) OVER ()
FROM dumped
WHERE NOT EXISTS (
    SELECT FROM reader
    WHERE pg_catalog.has_table_privilege(
        reader.oid, dumped.oid,
        CASE relkind WHEN 'p' THEN 'SELECT, UPDATE, DELETE, TRUNCATE' ELSE 'SELECT' END
    ) IS NOT FALSE)
ORDER BY 1 LIMIT %(limit)s
"""

_LARGE_OBJECTS: LiteralString = """
SELECT ARRAY[object.oid::pg_catalog.text],
       pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(lomowner)),
       'LARGE OBJECT', pg_catalog.count(*) OVER ()
FROM pg_catalog.pg_largeobject_metadata AS object
WHERE NOT EXISTS (
    SELECT FROM reader,
        pg_catalog.aclexplode(coalesce(lomacl, pg_catalog.acldefault('L', lomowner))) AS privilege
    WHERE privilege.privilege_type = 'SELECT'
      AND (privilege.grantee = 0
           OR pg_catalog.pg_has_role(reader.oid, privilege.grantee, 'USAGE')))
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER AND rolsuper)
ORDER BY object.oid LIMIT %(limit)s
"""


def tables_with_policies(connection: Connection, names: TenantNames) -> tuple[str, ...]:
    """Say of which tables the policies would hold for pg_dump, and what ends that.

    One clause for each of the first five tables, and one that says how many more there are.

    Args:
        connection: a session of the platform role in the tenant's database; it need not be a member
            of the tenant's roles.
        names: the tenant's.

    Raises:
        psycopg.Error: as the server says.
    """
    return _clauses(connection, names, _ROW_SECURITY, _clause_of_policies)


def objects_out_of_reach(connection: Connection, names: TenantNames) -> tuple[str, ...]:
    """Say which objects pg_dump may not read, and what allows it; else as `tables_with_policies`.

    A tenant can take the privilege from its own role; or the object is another role's.
    """
    return (
        *_clauses(connection, names, _SCHEMAS, _clause_of_privilege),
        *_clauses(connection, names, _RELATIONS, _clause_of_privilege),
        *_clauses(connection, names, _LARGE_OBJECTS, _clause_of_privilege),
    )


def _clauses(
    connection: Connection,
    names: TenantNames,
    query: LiteralString,
    clause: Callable[[str, str, str, str], str],
) -> tuple[str, ...]:
    """Make a clause of each row, which is a name, an owner, a detail and the rows in all."""
    rows = connection.execute(
        _COMMON + query,
        {
            "roles": [names.owner_role, names.app_role],
            "owner_role": names.owner_role,
            "limit": _MOST_NAMED,
        },
    ).fetchall()
    return (
        *(
            clause(".".join(map(identifier, name)), identifier(owner), detail, names.owner_role)
            for name, owner, detail, _ in rows
        ),
        *name_rest(rows),
    )


def _clause_of_policies(table: str, owner: str, actions: str, _owner_role: str) -> str:
    return (
        f"row-level security holds for table {table} of role {owner}: "
        f"type ALTER TABLE {table} {actions}"
    )


def _clause_of_privilege(name: str, owner: str, kind: str, owner_role: str) -> str:
    privilege = "USAGE" if kind == "SCHEMA" else "SELECT"
    return (
        f"{kind.lower()} {name} of role {owner} may not be read: "
        f"type GRANT {privilege} ON {kind} {name} TO {owner_role}"
    )
