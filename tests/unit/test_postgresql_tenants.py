"""What a tenant may and may not do with its database, on a real server of each version.

Among it is what migration tools and object-relational mappers send: they log in with nothing but
the connection string of the app role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.errors import ErrorType
from psycopg import sql
from support.postgresql import PreparedCluster
from support.tenants import Tenant, refused, tenants


@pytest.fixture(scope="module")
def lasting_tenant(cluster: PreparedCluster) -> Iterator[Tenant]:
    """Return a tenant for tests that change nothing."""
    with tenants(cluster) as make:
        tenant = make()
        tenant.ensure()
        yield tenant


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TEMP TABLE t (a integer)", "CREATE TEMP VIEW v AS SELECT a FROM t"),
        ("CREATE TABLE t AS SELECT 1 AS a", "SELECT a INTO TEMP t2 FROM t"),
        ('CREATE SCHEMA IF NOT EXISTS "app"', "CREATE SCHEMA IF NOT EXISTS public"),
        ("CREATE SCHEMA IF NOT EXISTS drizzle", "CREATE TABLE drizzle.__migrations (id serial)"),
        (
            "CREATE SCHEMA pgboss",
            "CREATE TYPE pgboss.state AS ENUM ('a')",
            "DROP SCHEMA pgboss CASCADE",
        ),
        (
            "CREATE TABLE IF NOT EXISTS public.schema_migrations (version bigint)",
            "SET search_path = public",
            "CREATE TABLE t (a integer)",
        ),
        ("CREATE SCHEMA mine AUTHORIZATION CURRENT_USER", "ALTER SCHEMA mine RENAME TO yours"),
        ("CREATE EXTENSION IF NOT EXISTS plpgsql", "CREATE EXTENSION IF NOT EXISTS citext"),
        (
            "CREATE EXTENSION pg_trgm",
            "CREATE TABLE t (a text)",
            "CREATE INDEX ON t USING gin (a gin_trgm_ops)",
        ),
        (
            "CREATE SCHEMA extensions",
            "CREATE EXTENSION hstore SCHEMA extensions",
            "DROP EXTENSION hstore",
        ),
        (
            "COMMENT ON SCHEMA app IS 'x'",
            "CREATE SEQUENCE s",
            "CREATE DOMAIN d AS integer CHECK (VALUE > 0)",
        ),
        ("CREATE TABLE t (a integer)", "CREATE PUBLICATION p FOR TABLE t", "DROP PUBLICATION p"),
        (
            "CREATE TABLE t (a integer)",
            "CREATE MATERIALIZED VIEW m AS SELECT a FROM t",
            "REFRESH MATERIALIZED VIEW m",
        ),
        ("SELECT lo_create(4711)", "SELECT lo_unlink(4711)"),
        ("LISTEN x", "NOTIFY x", "SELECT pg_advisory_xact_lock(1)"),
        ("DO 'BEGIN CREATE TABLE IF NOT EXISTS t (a integer); END'", "TRUNCATE t", "LOCK TABLE t"),
        (
            "SET search_path = app, public",
            "SET LOCAL statement_timeout = 0",
            "SELECT gen_random_uuid()",
        ),
        (
            "CREATE SCHEMA other",
            "SET search_path = other",
            "CREATE TABLE t ()",
            "DROP TABLE other.t",
        ),
    ],
    ids=lambda statements: statements[-1],
)
@pytest.mark.parametrize("reset_role", [False, True])
def test_the_app_role_may(
    lasting_tenant: Tenant, statements: tuple[LiteralString, ...], *, reset_role: bool
) -> None:
    with lasting_tenant.login() as c, c.transaction(force_rollback=True):
        if reset_role:
            c.execute("SET ROLE NONE")
        for statement in statements:
            c.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP SCHEMA public",
        "CREATE DATABASE another",
        "CREATE ROLE another",
        "CREATE EXTENSION dblink",
        "ALTER ROLE SESSION_USER CONNECTION LIMIT -1",
        "ALTER ROLE SESSION_USER CREATEDB",
        "ALTER DATABASE {database} CONNECTION LIMIT -1",
        "ALTER DATABASE {database} RESET statement_timeout",
        "ALTER DATABASE {database} OWNER TO {app_role}",
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "INSERT INTO provisioner.schema_version (version, marker) VALUES (2, 'x')",
        "DELETE FROM provisioner.schema_version",
        "CREATE TABLE provisioner.t (a integer)",
        "SET ROLE {admin}",
        "SET SESSION AUTHORIZATION {admin}",
        "CREATE SCHEMA theirs AUTHORIZATION {admin}",
        "ALTER SCHEMA app OWNER TO {admin}",
        "ALTER SCHEMA provisioner RENAME TO mine",
        "DROP SCHEMA provisioner CASCADE",
        "DROP TABLE provisioner.schema_version",
        "CREATE RULE r AS ON INSERT TO provisioner.schema_version DO ALSO NOTIFY x",
        "CREATE POLICY p ON provisioner.schema_version",
        "CREATE TABLE child () INHERITS (provisioner.schema_version)",
        "CREATE EXTENSION file_fdw",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION tsvector_update_trigger()",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE TABLESPACE t LOCATION '/tmp'",
        "COMMENT ON DATABASE {database} IS 'x'",
        "ALTER DATABASE {database} RENAME TO another",
        "ALTER DATABASE {database} SET search_path = app",
        "DROP DATABASE {database}",
        "ALTER ROLE {admin} SET search_path = app",
        "ALTER ROLE {admin} IN DATABASE {database} SET search_path = app",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {admin} GRANT ALL ON TABLES TO PUBLIC",
        "CREATE CAST (integer AS text) WITH INOUT",
        "CREATE FUNCTION f() RETURNS void LANGUAGE internal AS 'pg_sleep'",
        "ALTER SYSTEM SET search_path = app",
    ],
)
@pytest.mark.parametrize("reset_role", [False, True])
def test_the_app_role_may_not(
    lasting_tenant: Tenant, statement: LiteralString, *, reset_role: bool
) -> None:
    text = sql.SQL(statement).format(
        database=sql.Identifier(lasting_tenant.names.database),
        app_role=sql.Identifier(lasting_tenant.names.app_role),
        admin=sql.Identifier(lasting_tenant.cluster.admin.user),
    )
    with lasting_tenant.login() as c:
        if reset_role:
            c.execute("SET ROLE NONE")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute(text)


def test_the_app_role_cannot_let_others_in(tenant: Tenant) -> None:
    tenant.ensure()
    before = tenant.snapshot()
    with tenant.login() as c:
        c.execute("SET ROLE NONE")
        # A warning, and nothing granted, for a role that has the privilege and may not pass it on.
        c.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(
                sql.Identifier(tenant.names.database)
            )
        )
    assert tenant.snapshot() == before


def test_the_app_role_reaches_no_other_database(make_tenant: Callable[[], Tenant]) -> None:
    mine, other = make_tenant(), make_tenant()
    mine.ensure()
    other.ensure()
    for database in ("postgres", "template1", other.names.database):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            mine.login(database)


def test_the_limits_of_a_tenant_hold(tenant: Tenant) -> None:
    engine = PostgresqlEngine(tenant.cluster.admin, connections=2)
    tenant = replace(tenant, engine=engine)
    tenant.ensure()
    with tenant.login() as first, tenant.login():
        assert first.execute("SHOW statement_timeout").fetchone() == ("1min",)
        assert first.execute("SHOW lock_timeout").fetchone() == ("30s",)
        assert first.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("1min",)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            tenant.login()
        error = refused(ErrorType.NETWORK_ERROR, tenant.check)
        # A tenant who uses all of his connections does not keep the platform out.
        tenant.engine.ensure_schema(tenant.names, tenant.owner)
    assert "too many connections" in error.cause


def test_a_privilege_that_someone_gave_to_all_is_taken_back(tenant: Tenant) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    database = sql.Identifier(tenant.names.database)
    with tenant.cluster.connect(tenant.names.database) as c:
        c.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(database))
        c.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert tenant.snapshot() != first
    tenant.ensure()
    assert tenant.snapshot() == first


def test_the_use_of_public_comes_back_where_it_was_taken(tenant: Tenant) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    for role in (tenant.names.owner_role, tenant.names.app_role):
        with tenant.cluster.connect(tenant.names.database) as c:
            c.execute(
                sql.SQL("REVOKE CREATE ON SCHEMA public FROM {}").format(sql.Identifier(role))
            )
        assert tenant.snapshot() != first
        tenant.ensure()
        assert tenant.snapshot() == first


def test_a_database_of_before_gets_the_privileges_that_it_lacks(tenant: Tenant) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    for privilege in ("CREATE, TEMPORARY", "CREATE", "TEMPORARY"):
        with tenant.cluster.connect() as c:
            c.execute(
                sql.SQL("REVOKE {} ON DATABASE {} FROM {}").format(
                    sql.SQL(privilege),
                    sql.Identifier(tenant.names.database),
                    sql.Identifier(tenant.names.owner_role),
                )
            )
        assert tenant.snapshot() != first
        tenant.ensure_database()
        assert tenant.snapshot() == first


#: What tools and people do to the schema, as the owner role unless they say otherwise, and whether
#: the customer can work on without us.
RESETS: dict[str, tuple[tuple[LiteralString, ...], bool]] = {
    "reset": (("DROP SCHEMA app CASCADE", "CREATE SCHEMA app"), True),
    "reset_by_the_app_role": (
        ("SET ROLE NONE", "DROP SCHEMA app CASCADE", "CREATE SCHEMA app"),
        True,
    ),
    "dropped": (("DROP SCHEMA app CASCADE",), False),
    "renamed": (("CREATE TABLE kept (a integer)", "ALTER SCHEMA app RENAME TO old"), False),
    "renamed_and_made": (
        ("ALTER SCHEMA app RENAME TO old", "SET ROLE NONE", "CREATE SCHEMA app"),
        True,
    ),
    "revoked": (("REVOKE ALL ON SCHEMA app FROM CURRENT_USER, SESSION_USER",), False),
    "default_privileges": (
        (
            "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM SESSION_USER",
            "SET ROLE NONE",
            "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        ),
        True,
    ),
    "settings": (
        (
            "SET ROLE NONE",
            "ALTER ROLE SESSION_USER IN DATABASE {database} SET role = 'none'",
            "ALTER ROLE SESSION_USER IN DATABASE {database} SET search_path = nowhere",
        ),
        False,
    ),
    "settings_reset": (
        ("SET ROLE NONE", "ALTER ROLE SESSION_USER IN DATABASE {database} RESET ALL"),
        False,
    ),
}


@pytest.mark.parametrize(("statements", "works_on"), RESETS.values(), ids=RESETS)
def test_what_a_tenant_took_apart_is_made_again(
    tenant: Tenant, statements: tuple[LiteralString, ...], *, works_on: bool
) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    with tenant.login() as c:
        for statement in statements:
            c.execute(sql.SQL(statement).format(database=sql.Identifier(tenant.names.database)))
    assert works_on or tenant.snapshot() != first
    if works_on:
        with tenant.login() as c:
            c.execute("CREATE TABLE note (a integer)")
    else:
        # Says what is missing, and does not call it right.
        error = refused(ErrorType.SCHEMA_CREATION_FAILED, tenant.check)
        assert "schema app" in error.message
    tenant.ensure_schema()
    tenant.check()
    again = tenant.snapshot()
    again["schemas"] = [row for row in again["schemas"] if row[0] != "old"]
    assert again == first
    with tenant.login() as c:
        c.execute("CREATE TABLE IF NOT EXISTS note (a integer)")
        c.execute("ALTER TABLE note ADD COLUMN b integer")
        c.execute("SET ROLE NONE")
        c.execute("INSERT INTO app.note VALUES (1, 2)")
    tenant.ensure_schema()
    assert tenant.engine.remove_database(tenant.names, tenant.owner, only_this_job=False) is False
    assert tenant.snapshot()["roles"] == []


def test_a_session_that_is_reset_acts_as_the_owner_role_again(lasting_tenant: Tenant) -> None:
    """As poolers reset it between two clients."""
    names = lasting_tenant.names
    reset: tuple[LiteralString, ...] = (
        *("DISCARD ALL", "RESET ROLE", "RESET ALL", "SET SESSION AUTHORIZATION DEFAULT"),
        *("SET ROLE NONE", "DISCARD ALL", "SET ROLE NONE", "RESET ROLE"),
    )
    with lasting_tenant.login() as c:
        for statement in reset:
            c.execute(statement)
            role = names.app_role if statement == "SET ROLE NONE" else names.owner_role
            row = c.execute("SELECT CURRENT_USER, current_schema()").fetchone()
            assert row == (role, names.schema), statement


def test_what_the_app_role_made_is_the_owner_role_s_after_the_next_run(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.login() as c:
        c.execute("SET ROLE NONE")
        for statement in (
            "CREATE SCHEMA beside",
            "CREATE TABLE beside.t (id serial PRIMARY KEY)",
            "CREATE TABLE app.t (id serial PRIMARY KEY)",
            "CREATE VIEW app.v AS SELECT id FROM app.t",
            "CREATE FUNCTION app.f() RETURNS integer LANGUAGE sql RETURN 1",
            "CREATE TYPE app.ty AS ENUM ('a')",
            "CREATE DOMAIN app.d AS integer",
            "CREATE PUBLICATION p FOR TABLE app.t",
            "CREATE EXTENSION citext SCHEMA app",
            "CREATE STATISTICS app.s ON (id + 1) FROM app.t",
            "SELECT lo_create(4711)",
            "CREATE TEMP TABLE own (id serial)",
        ):
            c.execute(statement)
        tenant.ensure_schema()
        # A session that is open goes on with what is its own.
        c.execute("INSERT INTO own DEFAULT VALUES")
        c.execute("INSERT INTO app.t DEFAULT VALUES")
    with tenant.login() as c, tenant.cluster.connect(tenant.names.database) as superuser:
        assert not superuser.execute(
            "SELECT pg_describe_object(classid, objid, 0) FROM pg_shdepend"
            " JOIN pg_database ON pg_database.oid = dbid"
            " WHERE datname = current_database() AND refobjid = %s::regrole AND deptype = 'o'"
            " AND classid <> 'pg_default_acl'::regclass",
            (tenant.names.app_role,),
        ).fetchall()
        for statement in (
            "ALTER TABLE app.t ADD COLUMN b integer",
            "ALTER TABLE beside.t RENAME COLUMN id TO number",
            "ALTER TYPE app.ty ADD VALUE 'b'",
            "DROP PUBLICATION p",
            "SELECT lo_unlink(4711)",
            "DROP SCHEMA app CASCADE",
        ):
            c.execute(statement)
    tenant.ensure_schema()
    tenant.check()


@pytest.mark.parametrize("maker", ["owner_role", "app_role"])
def test_what_one_role_makes_the_other_can_use(tenant: Tenant, maker: str) -> None:
    tenant.ensure()
    user = {"owner_role": "app_role", "app_role": "owner_role"}[maker]
    set_role = {
        "owner_role": sql.SQL("SET ROLE {}").format(sql.Identifier(tenant.names.owner_role)),
        "app_role": sql.SQL("SET ROLE NONE"),
    }
    with tenant.login() as c:
        c.execute(set_role[maker])
        c.execute("CREATE TABLE app.note (id serial PRIMARY KEY)")
        c.execute("CREATE FUNCTION app.one() RETURNS integer LANGUAGE sql RETURN 1")
    with tenant.cluster.connect() as c:
        # Being a member would hide what the default privileges give.
        c.execute(
            sql.SQL("REVOKE {} FROM {}").format(
                sql.Identifier(tenant.names.owner_role), sql.Identifier(tenant.names.app_role)
            )
        )
    with tenant.cluster.connect(tenant.names.database) as c:
        c.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(getattr(tenant.names, user))))
        c.execute("INSERT INTO app.note DEFAULT VALUES")
        assert c.execute("SELECT app.one() FROM app.note").fetchall() == [(1,)]
        c.execute("RESET ROLE")
        (acl,) = c.execute("SELECT proacl::text FROM pg_proc WHERE proname = 'one'").fetchone() or (
            "",
        )
    assert "{=" not in acl
    assert ",=" not in acl
