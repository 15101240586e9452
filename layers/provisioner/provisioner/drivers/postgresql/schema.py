"""What is in a tenant's database: its schema with all grants, and the platform's own records.

A tenant may make schemas, so one named as the platform's, or views and rules in it, may be there
before the platform comes. The platform's schema, all that is in it, and the definition of its one
table are looked at in the catalogues, before the table is read or written, in the transaction that
does so. Once they are the platform's, nobody else can change them: not even by a rename. What is
missing is made without IF NOT EXISTS: whoever makes it in between is met with an error, and the
look is made again.

Statements on what the tenant owns run as the tenant's roles, with no more than their rights.

Sources: PostgreSQL documentation, "Privileges", "ALTER DEFAULT PRIVILEGES", "REASSIGN OWNED",
"pg_depend", "pg_shdepend", "pg_default_acl".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.drift import Drift
from provisioner.drivers.postgresql.roles import join_role, leave_role
from provisioner.drivers.postgresql.session import SAFE_SEARCH_PATH, Connection
from provisioner.errors import ErrorType, conflict, failure
from provisioner.ownership import Ownership

#: The version of the schema that `ensure_schema` makes.
SCHEMA_VERSION = 1

#: Schema of the platform's own records in a tenant database. The platform role owns it, so that the
#: tenant, who owns the other one, can read what version it has and not change it.
PLATFORM_SCHEMA = "provisioner"
_VERSION_TABLE = "schema_version"

#: The columns of the version table as the catalogue gives them, which names what is not in
#: pg_catalog by its schema.
_VERSION_COLUMNS = "version integer, applied_at timestamp with time zone DEFAULT now(), marker text"

#: Kinds of object whose privileges one role of the tenant gives the other as it makes them: in
#: ALTER DEFAULT PRIVILEGES, in pg_default_acl, and for acldefault. Not bound to a schema, so that
#: they outlast the schema `app` and hold beside it. Large objects have no such defaults before
#: version 18.
_DEFAULT_PRIVILEGES: tuple[tuple[sql.SQL, str, str], ...] = (
    (sql.SQL("TABLES"), "r", "r"),
    (sql.SQL("SEQUENCES"), "S", "s"),
    (sql.SQL("FUNCTIONS"), "f", "f"),
    (sql.SQL("SCHEMAS"), "n", "n"),
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is in a database, as the catalogues show it."""

    has_platform_schema: bool
    has_version_table: bool
    #: Whether the tenant's roles may read the version, and it is `SCHEMA_VERSION`.
    has_version: bool
    #: The owner of the tenant's schema; None where there is no such schema.
    schema_owner: str | None
    #: Whether the schema `public`, where there is one, is for the tenant's roles alone to use.
    has_public_grants: bool
    #: Schemas, and whether there are objects of any kind, that are the app role's.
    app_role_schemas: list[str]
    has_app_role_objects: bool
    #: Whether the tenant's roles have all privileges of the tenant's schema.
    has_grants: bool
    #: Whether each of them gives the other all privileges of what it makes, and PUBLIC none of the
    #: functions.
    has_default_privileges: bool
    #: Whether sessions of the app role begin as the owner role, in the tenant's schema.
    has_settings: bool

    def drift(self, names: TenantNames) -> list[Drift]:
        schema, login = f"schema {names.schema}", f"role {names.app_role}"
        is_there = self.schema_owner is not None
        return [
            drift
            for drift, is_right in (
                (Drift(schema, "not there"), is_there),
                (Drift(schema, "OWNER"), not is_there or self.schema_owner == names.owner_role),
                (Drift(schema, "privileges"), not is_there or self.has_grants),
                (Drift("schema public", "privileges"), self.has_public_grants),
                (Drift(login, "OWNER of objects"), not self.has_app_role_objects),
                (Drift(login, "role or search_path"), self.has_settings),
                (
                    Drift(f"{login} and role {names.owner_role}", "default privileges"),
                    self.has_default_privileges,
                ),
                (Drift(f"table {PLATFORM_SCHEMA}.{_VERSION_TABLE}", "version"), self.has_version),
            )
            if not is_right
        ]


def ensure_schema(connection: Connection, names: TenantNames, owner: Ownership) -> list[Drift]:
    """Make the schema, its grants and default privileges and the schema-version table.

    Args:
        connection: a session of the platform role in the tenant's database, while another one holds
            the tenant's lock.
        names: the tenant's.
        owner: whose marker the version gets.

    Returns:
        What was not so before.

    Raises:
        CONFLICT: a schema, or something in the platform's, is neither the tenant's nor the
            platform's.
    """
    with connection.transaction():
        found = _look(connection, names)
        drift = found.drift(names)
        if not drift:
            return []
        # The platform role may act as the tenant's roles within this transaction only.
        for role in (names.owner_role, names.app_role):
            join_role(connection, role, by_set_role=True)
        for statement in _statements(names, owner, found):
            connection.execute(statement)
        for role in (names.owner_role, names.app_role):
            leave_role(connection, role)
    return drift


#: What is in a database, as the fields of `_Found` from `schema_owner` on.
_CONTENTS: LiteralString = """
SELECT (SELECT pg_catalog.pg_get_userbyid(nspowner)
        FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s),
       NOT EXISTS (
           SELECT FROM pg_catalog.pg_namespace
           WHERE nspname = 'public' AND (
               SELECT pg_catalog.count(DISTINCT (privilege.grantee, privilege_type)) <> 4
                      OR pg_catalog.bool_or(privilege.grantee = 0)
               FROM pg_catalog.aclexplode(nspacl) AS privilege
               WHERE privilege.grantee IN (0, owner_role.oid, app_role.oid))),
       ARRAY(
           SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace
           WHERE nspowner = app_role.oid ORDER BY 1),
       -- Default privileges and user mappings have no new owner; a temporary table is its
       -- session's alone.
       EXISTS (
           SELECT FROM pg_catalog.pg_shdepend
           JOIN pg_catalog.pg_database ON pg_database.oid = dbid
           WHERE datname = pg_catalog.current_database()
             AND refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
             AND refobjid = app_role.oid AND deptype = 'o'
             AND classid NOT IN (
                 'pg_catalog.pg_default_acl'::pg_catalog.regclass,
                 'pg_catalog.pg_user_mapping'::pg_catalog.regclass)
             AND NOT EXISTS (
                 SELECT FROM pg_catalog.pg_class
                 WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                   AND pg_class.oid = objid AND relpersistence = 't')),
       (SELECT pg_catalog.count(DISTINCT (privilege.grantee, privilege_type)) = 4
        FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(nspacl) AS privilege
        WHERE nspname = %(schema)s
          AND privilege.grantee IN (owner_role.oid, app_role.oid)),
       NOT EXISTS (
           SELECT FROM (VALUES (owner_role.oid, app_role.oid),
                               (app_role.oid, owner_role.oid)) AS pair (maker, other)
           CROSS JOIN ROWS FROM (pg_catalog.unnest(%(kinds)s::pg_catalog.text[]),
                                 pg_catalog.unnest(%(acl_kinds)s::pg_catalog.text[]))
               AS object (kind, acl_kind)
           LEFT JOIN pg_catalog.pg_default_acl
               ON defaclrole = maker AND defaclnamespace = 0
                  AND defaclobjtype = kind::pg_catalog."char"
           WHERE defaclacl IS NULL
              OR kind = 'f' AND EXISTS (
                  SELECT FROM pg_catalog.aclexplode(defaclacl) AS privilege
                  WHERE privilege.grantee = 0)
              OR EXISTS (
                  SELECT privilege_type FROM pg_catalog.aclexplode(
                      pg_catalog.acldefault(acl_kind::pg_catalog."char", maker))
                  WHERE grantee = maker
                  EXCEPT
                  SELECT privilege_type FROM pg_catalog.aclexplode(defaclacl)
                  WHERE grantee = other)),
       EXISTS (
           SELECT FROM pg_catalog.pg_db_role_setting
           JOIN pg_catalog.pg_database ON pg_database.oid = setdatabase
           WHERE datname = pg_catalog.current_database() AND setrole = app_role.oid
             AND setconfig @> ARRAY[
                 pg_catalog.concat('role=', %(owner_role)s::pg_catalog.text),
                 pg_catalog.concat(
                     'search_path=', pg_catalog.quote_ident(%(schema)s))])
FROM pg_catalog.pg_roles AS owner_role, pg_catalog.pg_roles AS app_role
WHERE owner_role.rolname = %(owner_role)s AND app_role.rolname = %(app_role)s
"""


def _look(connection: Connection, names: TenantNames) -> _Found:
    has_platform_schema, has_version_table = _look_for_platform_schema(connection)
    row = connection.execute(
        _CONTENTS,
        {
            "schema": names.schema,
            "kinds": [kind for _, kind, _ in _DEFAULT_PRIVILEGES],
            "acl_kinds": [kind for _, _, kind in _DEFAULT_PRIVILEGES],
            "owner_role": names.owner_role,
            "app_role": names.app_role,
        },
    ).fetchone()
    if row is None:
        raise failure(
            ErrorType.SCHEMA_CREATION_FAILED,
            "A database role of the project is not there.",
            f"roles {names.owner_role} and {names.app_role}: not both are there",
        )
    has_version = has_version_table and _has_version(connection, names)
    found = _Found(has_platform_schema, has_version_table, has_version, *row)
    if found.schema_owner not in (None, names.owner_role, names.app_role):
        raise conflict("schema", names.schema)
    return found


#: Whether the platform's schema, with all in it, is as the platform makes it; and has the table.
_PLATFORM_CONTENTS: LiteralString = """
SELECT pg_catalog.pg_get_userbyid(nspowner) = current_user
       AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_depend AS content
           WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
             AND refobjid = pg_namespace.oid
             AND NOT EXISTS (
                 SELECT FROM pg_catalog.pg_shdepend AS ownership
                 JOIN pg_catalog.pg_database ON pg_database.oid = dbid
                 WHERE datname = pg_catalog.current_database()
                   AND ownership.classid = content.classid
                   AND ownership.objid = content.objid
                   AND ownership.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
                   AND ownership.deptype = 'o' AND ownership.refobjid = nspowner))
       AND (pg_class.oid IS NULL
            OR relkind = 'r' AND relpersistence = 'p'
               AND NOT relhasrules AND NOT relhastriggers AND NOT relrowsecurity
               AND NOT relhassubclass AND relchecks = 0
               AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_index
                   WHERE indrelid = pg_class.oid
                     AND (indexprs IS NOT NULL OR indpred IS NOT NULL))
               AND %(columns)s = (
                   SELECT pg_catalog.string_agg(
                       pg_catalog.concat(
                           attname, ' ', pg_catalog.format_type(atttypid, atttypmod),
                           ' DEFAULT ' || pg_catalog.pg_get_expr(adbin, adrelid)),
                       ', ' ORDER BY attnum)
                   FROM pg_catalog.pg_attribute
                   LEFT JOIN pg_catalog.pg_attrdef
                       ON adrelid = attrelid AND adnum = attnum
                   WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped)),
       pg_class.oid IS NOT NULL
FROM pg_catalog.pg_namespace
LEFT JOIN pg_catalog.pg_class ON relnamespace = pg_namespace.oid AND relname = %(table)s
WHERE nspname = %(schema)s
"""


def _look_for_platform_schema(connection: Connection) -> tuple[bool, bool]:
    """Return whether the platform's schema, and in it the version table, are there.

    Raises:
        CONFLICT: the schema, or something in it, is not as the platform makes it.
    """
    row = connection.execute(
        _PLATFORM_CONTENTS,
        {"schema": PLATFORM_SCHEMA, "table": _VERSION_TABLE, "columns": _VERSION_COLUMNS},
    ).fetchone()
    if row is None:
        return False, False
    is_the_platforms, has_version_table = row
    if not is_the_platforms:
        raise conflict("schema", PLATFORM_SCHEMA)
    return True, has_version_table


def _has_version(connection: Connection, names: TenantNames) -> bool:
    """Whether the tenant may read the version, and it is right; the table is the platform's."""
    row = connection.execute(
        sql.SQL(
            "SELECT pg_catalog.max(version) = %(version)s,"
            " pg_catalog.bool_and("
            "  pg_catalog.has_schema_privilege(role, %(schema)s, 'USAGE')"
            "  AND pg_catalog.has_table_privilege(role, %(table)s, 'SELECT'))"
            " FROM {}, pg_catalog.unnest(%(roles)s::pg_catalog.name[]) AS role"
        ).format(sql.Identifier(PLATFORM_SCHEMA, _VERSION_TABLE)),
        {
            "version": SCHEMA_VERSION,
            "schema": PLATFORM_SCHEMA,
            "table": f"{PLATFORM_SCHEMA}.{_VERSION_TABLE}",
            "roles": [names.owner_role, names.app_role],
        },
    ).fetchone()
    return row == (True, True)


def _statements(
    names: TenantNames, owner: Ownership, found: _Found
) -> Iterator[sql.SQL | sql.Composed]:
    """Yield what makes the schema; each may stand on what an earlier transaction left."""
    owner_role, app_role = sql.Identifier(names.owner_role), sql.Identifier(names.app_role)
    schema, database = sql.Identifier(names.schema), sql.Identifier(names.database)

    if found.schema_owner is None:
        yield sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(schema, owner_role)
    if not found.has_public_grants:
        yield sql.SQL("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        # Some tools work in it unless they are configured otherwise.
        yield sql.SQL("GRANT ALL ON SCHEMA public TO {}, {}").format(owner_role, app_role)
    # A session of the app role acts as the owner role until it says SET ROLE NONE: what either
    # makes, the other can use, and the owner role, from the next run on, alter.
    yield sql.SQL("SET LOCAL ROLE {}").format(app_role)
    for name in found.app_role_schemas:
        yield sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(name), owner_role)
    if found.has_app_role_objects:
        yield sql.SQL("REASSIGN OWNED BY {} TO {}").format(app_role, owner_role)
    yield sql.SQL("SET LOCAL ROLE {}").format(owner_role)
    yield sql.SQL("GRANT ALL ON SCHEMA {} TO {}, {}").format(schema, owner_role, app_role)
    for role, other_role in ((owner_role, app_role), (app_role, owner_role)):
        yield sql.SQL("SET LOCAL ROLE {}").format(role)
        yield sql.SQL("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        for kind, _, _ in _DEFAULT_PRIVILEGES:
            yield sql.SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON {} TO {}").format(kind, other_role)
    yield sql.SQL("RESET ROLE")

    yield from _platform_statements(owner, found, owner_role, app_role)
    # What the app role makes belongs to the owner role, and so outlives the app role.
    for setting, value in (("role", owner_role), ("search_path", schema)):
        yield sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
            app_role, database, sql.Identifier(setting), value
        )


def _platform_statements(
    owner: Ownership, found: _Found, owner_role: sql.Identifier, app_role: sql.Identifier
) -> Iterator[sql.SQL | sql.Composed]:
    """Yield what makes the platform's schema, where the tenant's roles may only read."""
    platform = sql.Identifier(PLATFORM_SCHEMA)
    version_table = sql.Identifier(PLATFORM_SCHEMA, _VERSION_TABLE)
    if not found.has_platform_schema:
        yield sql.SQL("CREATE SCHEMA {}").format(platform)
    if not found.has_version_table:
        yield sql.SQL(
            "CREATE TABLE {} (version pg_catalog.int4 PRIMARY KEY,"
            " applied_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),"
            " marker pg_catalog.text NOT NULL)"
        ).format(version_table)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}, {}").format(platform, owner_role, app_role)
    yield sql.SQL("GRANT SELECT ON {} TO {}, {}").format(version_table, owner_role, app_role)
    yield sql.SQL("INSERT INTO {} (version, marker) VALUES ({}, {}) ON CONFLICT DO NOTHING").format(
        version_table, sql.Literal(SCHEMA_VERSION), sql.Literal(owner.comment())
    )


#: Whether the app role has its privileges, and the version table is the platform's own.
_WORKING: LiteralString = """
SELECT coalesce(pg_catalog.bool_and(
           pg_catalog.has_schema_privilege(oid, 'USAGE')
           AND pg_catalog.has_schema_privilege(oid, 'CREATE')), false)
       AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
       AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY'),
       EXISTS (
           SELECT FROM pg_catalog.pg_class
           JOIN pg_catalog.pg_namespace AS platform ON platform.oid = relnamespace
           JOIN pg_catalog.pg_database ON datname = pg_catalog.current_database()
           WHERE platform.nspname = %(platform)s AND nspowner = datdba
             AND relname = %(table)s AND relowner = datdba AND relkind = 'r')
FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s
"""


def check_schema(connection: Connection, names: TenantNames) -> str:
    """As the app role, see that a customer can work, and say so in one sentence.

    What a session of the customer's begins with is asked for by what is no name or is in
    `pg_catalog`; all else once names are resolved there alone, as in sessions of the platform.

    Raises:
        SCHEMA_CREATION_FAILED: something that a customer needs is not there; the cause names it.
    """
    session = connection.execute(
        "SELECT CURRENT_USER, pg_catalog.current_schema(),"
        " pg_catalog.current_setting('search_path')"
        " OPERATOR(pg_catalog.=) pg_catalog.quote_ident(%s)",
        (names.schema,),
    ).fetchone()
    setting, schema = map(sql.Identifier, SAFE_SEARCH_PATH.split("="))
    connection.execute(sql.SQL("SET {} = {}").format(setting, schema))
    (has_privileges, has_version_table) = connection.execute(
        _WORKING,
        {"schema": names.schema, "platform": PLATFORM_SCHEMA, "table": _VERSION_TABLE},
    ).fetchone() or (False, False)
    version = None
    if has_version_table:
        query = sql.SQL("SELECT pg_catalog.max(version) FROM {}")
        table = sql.Identifier(PLATFORM_SCHEMA, _VERSION_TABLE)
        version = connection.execute(query.format(table)).fetchone()
    is_session_right = session == (names.owner_role, names.schema, True)
    wrong = [
        what
        for what, is_right in (
            (f"role, schema, and whether the search path is right: {session}", is_session_right),
            ("privileges are missing", has_privileges),
            (f"the version is {version}", version == (SCHEMA_VERSION,)),
        )
        if not is_right
    ]
    if wrong:
        raise failure(
            ErrorType.SCHEMA_CREATION_FAILED,
            f"The schema {names.schema} of the project is not as a customer needs it.",
            "; ".join(wrong),
        )
    return f"schema {names.schema} answered with version {SCHEMA_VERSION}"
