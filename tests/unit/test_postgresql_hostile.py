"""Tenants who plant code for the platform to run, on a real server of each version.

Whatever is planted writes a line to the server's log when it runs, which no rollback takes back,
and tries to make a role that makes roles.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import pytest
from provisioner.drivers.obstacles import Obstacles
from provisioner.drivers.postgresql import session as session_module
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.programs import environment
from provisioner.drivers.postgresql.snapshot import PostgresqlDumper
from provisioner.errors import ErrorType
from psycopg import sql
from support.postgresql import PreparedCluster
from support.tenants import PASSWORD, Tenant, refused, tenants

OTHER_PASSWORD = "OtherPassword0123456789abcdefghijklmnopqrst"

#: Pairs of types whose comparison the server has no operator of its own for, or a less exact one:
#: one in a schema of the search path is chosen before it.
COMPARED = (
    *(("oid", "integer"), ("oid", "bigint"), ("oid", "text"), ("oid", "smallint")),
    *(("name", "varchar"), ("text", "name"), ("text", "varchar")),
    *(('"char"', "text"), ('"char"', "varchar"), ("integer", "numeric"), ("smallint", "oid")),
    *(("text[]", "varchar[]"), ("regclass", "oid"), ("oid", "regclass"), ("oid", "regrole")),
)
OPERATORS = ("=", "<>", "@>")

#: Functions of the server's names, of arguments that a call without casts comes nearer to than to
#: the server's own.
FUNCTIONS = (
    *(
        "shobj_description(oid, text)",
        "hashtextextended(text, integer)",
        "pg_advisory_lock(integer)",
    ),
    *("pg_get_userbyid(integer)", "max(smallint)", "concat(name, text)", "concat(text, text)"),
    *("format_type(oid, smallint)", "has_schema_privilege(name, name, text)", "count(oid)"),
    *("has_table_privilege(name, name, text)", "to_regclass(name)", "to_regrole(name)"),
    *("current_database(integer)", "current_schema(integer)", "quote_ident(name)"),
)


#: Lets everyone step into what is planted: a schema that a session may not use, it does not search.
OPENED = (
    "GRANT ALL ON SCHEMA SCHEMA_NAME TO PUBLIC",
    "GRANT ALL ON ALL FUNCTIONS IN SCHEMA SCHEMA_NAME TO PUBLIC",
    "GRANT ALL ON ALL TABLES IN SCHEMA SCHEMA_NAME TO PUBLIC",
)


@dataclass(frozen=True)
class Planter:
    """A tenant who plants."""

    tenant: Tenant
    token: str

    @property
    def trap(self) -> str:
        return f"trap_{self.token}"

    def execute(self, *statements: str, schema: str = "app", reset_role: bool = False) -> None:
        """Run statements as the tenant; `TRAP` in them is a call that springs."""
        with self.tenant.login() as c:
            if reset_role:
                c.execute("SET ROLE NONE")
            for statement in statements:
                text: Any = (
                    statement.replace("TRAP", f"app.{self.trap}()")
                    .replace("SCHEMA_NAME", f'"{schema}"')
                    .replace("TOKEN", self.token)
                )
                c.execute(text)

    def make_trap(self) -> None:
        self.execute(
            f"""
            CREATE FUNCTION app.{self.trap}() RETURNS integer LANGUAGE plpgsql AS $$
            BEGIN
                RAISE LOG 'TOKEN sprung by % as %', session_user, current_user;
                BEGIN
                    CREATE ROLE {self.trap} LOGIN CREATEROLE;
                EXCEPTION WHEN insufficient_privilege OR duplicate_object
                    OR read_only_sql_transaction THEN NULL;
                END;
                RETURN 1;
            END $$""",
            # For what takes only what is immutable.
            "CREATE FUNCTION app.sure(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql"
            " AS 'BEGIN RETURN TRAP + $1; END'",
            *OPENED,
        )

    def plant_names(self, schema: str) -> None:
        """Plant operators and functions of the server's names in a schema."""
        self.execute("CREATE SCHEMA IF NOT EXISTS SCHEMA_NAME", schema=schema)
        with self.tenant.login() as c:
            for number, (left, right) in enumerate(COMPARED):
                name = f'"{schema}".compare_{number}'
                c.execute(
                    f"CREATE FUNCTION {name}({left}, {right}) RETURNS boolean LANGUAGE plpgsql"
                    f" AS 'BEGIN RETURN app.{self.trap}() OPERATOR(pg_catalog.=) 1; END'"
                )
                for operator in OPERATORS:
                    c.execute(
                        f'CREATE OPERATOR "{schema}".{operator}'
                        f" (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {name})"
                    )
            for signature in FUNCTIONS:
                c.execute(
                    f'CREATE FUNCTION "{schema}".{signature} RETURNS integer LANGUAGE plpgsql'
                    f" AS 'BEGIN RETURN app.{self.trap}(); END'"
                )
        self.execute(*OPENED, schema=schema)

    def lines(self) -> list[str]:
        """Return the lines that what was planted has written to the server's log."""
        log = self.tenant.cluster.server.log.read_text(errors="replace")
        return [line for line in log.splitlines() if f"{self.token} sprung by" in line]

    def has_role(self) -> bool:
        with self.tenant.cluster.connect() as c:
            return bool(
                c.execute("SELECT FROM pg_roles WHERE rolname = %s", (self.trap,)).fetchall()
            )


@contextmanager
def another_platform(cluster: PreparedCluster) -> Iterator[PreparedCluster]:
    """Prepare the cluster for a platform role whose name no schema of ours has."""
    name = f"platform_{uuid.uuid4().hex[:8]}"
    role = sql.Identifier(name)
    with cluster.connect() as c:
        c.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {}").format(
                role, sql.Literal(PASSWORD)
            )
        )
        c.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
        c.execute(sql.SQL("GRANT pg_signal_backend TO {}").format(role))
    yield replace(cluster, admin=replace(cluster.admin, user=name, password=PASSWORD))
    with cluster.connect() as c:
        c.execute(sql.SQL("DROP OWNED BY {}").format(role))
        c.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def planter(cluster: PreparedCluster) -> Iterator[Planter]:
    """Return a tenant of a platform of its own, who has a trap and nothing planted yet."""
    with another_platform(cluster) as own, tenants(own) as make:
        tenant = make()
        tenant.ensure()
        planter = Planter(tenant, uuid.uuid4().hex[:12])
        planter.make_trap()
        yield planter


def change_password(tenant: Tenant) -> None:
    for password, current in ((OTHER_PASSWORD, PASSWORD), (PASSWORD, OTHER_PASSWORD)):
        tenant.engine.change_password(
            tenant.names,
            password,
            tenant.owner,
            current=lambda current=current: current,  # type: ignore[misc]
            before_commit=lambda: None,
        )
        tenant.engine.check_password(tenant.names, password)


def dump(tenant: Tenant) -> bytes:
    claim = tenant.owner.claim(only_this_job=False)
    dumper = PostgresqlDumper(tenant.cluster.admin)
    with dumper.dump(tenant.names, claim, 60) as archive:
        assert archive is not None
        return archive.read()


def look(tenant: Tenant) -> None:
    """See that nothing is in the way of a snapshot and a removal."""
    claim = tenant.owner.claim(only_this_job=False)
    found = PostgresqlEngine(tenant.cluster.admin).find_obstacles(
        tenant.names, claim, with_dump=True
    )
    assert found == Obstacles()


def remove(tenant: Tenant) -> None:
    assert tenant.engine.remove_database(tenant.names, tenant.owner, only_this_job=False) is False
    left = tenant.snapshot()
    assert (left["databases"], left["roles"]) == ([], [])


#: What the platform does with a tenant's database, in order.
ACTS: tuple[Callable[[Tenant], object], ...] = (
    Tenant.ensure,
    Tenant.check,
    change_password,
    look,
    dump,
    remove,
)


def test_names_of_the_server_that_a_tenant_plants_are_not_found(planter: Planter) -> None:
    tenant = planter.tenant
    names = tenant.names
    schemas = [tenant.cluster.admin.user, names.owner_role, names.app_role, "app", "public"]
    for schema in schemas:
        planter.plant_names(schema)
    # What is planted springs where it is found.
    for schema in schemas:
        before = len(planter.lines())
        planter.execute(
            "SET search_path = SCHEMA_NAME",
            "SELECT oid = 1 FROM pg_database LIMIT 1",
            "SELECT hashtextextended('x', 0)",
            "SELECT shobj_description(1, 'pg_database')",
            schema=schema,
        )
        assert len(planter.lines()) == before + 3
    sprung = planter.lines()

    with tenant.login() as session:
        # Temporary objects are found before all others, by their own session.
        session.execute("CREATE TEMP VIEW pg_namespace AS SELECT 1 AS oid")
        for act in ACTS[:-1]:
            act(tenant)
            assert planter.lines() == sprung, act
    # The same once there is something to do for every act.
    planter.execute("ALTER SCHEMA app RENAME TO old", reset_role=False)
    with tenant.cluster.connect() as c:
        for role in (names.owner_role, names.app_role):
            c.execute(
                sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM {}").format(
                    sql.Identifier(tenant.names.database), sql.Identifier(role)
                )
            )
    for act in ACTS:
        act(tenant)
        assert planter.lines() == sprung, act
    assert not planter.has_role()


#: What a tenant can hang code on, and the statements that show that it runs for the tenant.
PLANTED: tuple[str, ...] = (
    "CREATE TABLE app.victim (id integer DEFAULT TRAP, body text)",
    "INSERT INTO app.victim DEFAULT VALUES",
    "CREATE VIEW app.looked_at AS SELECT TRAP AS a",
    "SELECT a FROM app.looked_at",
    "CREATE MATERIALIZED VIEW app.kept AS SELECT TRAP AS a",
    "CREATE DOMAIN app.checked AS integer CHECK (app.sure(VALUE) > 0)",
    "CREATE TABLE app.of_domain (id app.checked, more app.checked[])",
    "INSERT INTO app.of_domain VALUES (1, '{1}')",
    "CREATE TABLE app.computed (a integer, b integer GENERATED ALWAYS AS (app.sure(a)) STORED)",
    "INSERT INTO app.computed VALUES (1)",
    "CREATE INDEX ON app.computed (app.sure(a)) WHERE app.sure(a) > 0",
    "CREATE STATISTICS app.counted ON (app.sure(a)), (app.sure(a + 1)) FROM app.computed",
    "ALTER TABLE app.victim ADD CHECK (app.sure(id) > 0)",
    (
        "CREATE FUNCTION app.on_change() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM TRAP; RETURN NEW; END'"
    ),
    (
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON app.victim FOR EACH ROW"
        " EXECUTE FUNCTION app.on_change()"
    ),
    "CREATE RULE r AS ON INSERT TO app.computed DO ALSO SELECT TRAP",
    "CREATE TABLE app.guarded (id integer)",
    "INSERT INTO app.guarded VALUES (1)",
    "ALTER TABLE app.guarded ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON app.guarded USING (TRAP = 1) WITH CHECK (TRAP = 1)",
    "CREATE TABLE app.split (a integer) PARTITION BY RANGE (app.sure(a))",
    "CREATE TABLE app.part PARTITION OF app.split FOR VALUES FROM (0) TO (1000)",
    "INSERT INTO app.split VALUES (1)",
    "CREATE TYPE app.pair AS (a integer)",
    (
        "CREATE FUNCTION app.as_text(app.pair) RETURNS text LANGUAGE plpgsql"
        " AS 'BEGIN RETURN TRAP::text; END'"
    ),
    "CREATE CAST (app.pair AS text) WITH FUNCTION app.as_text AS IMPLICIT",
    "CREATE TABLE app.of_type (a app.pair)",
    "INSERT INTO app.of_type VALUES (ROW(1))",
    "SELECT length(a) FROM app.of_type",
    (
        "CREATE FUNCTION app.plus(integer, integer) RETURNS integer LANGUAGE plpgsql"
        " AS 'BEGIN RETURN TRAP; END'"
    ),
    "CREATE AGGREGATE app.max(integer) (SFUNC = app.plus, STYPE = integer, INITCOND = 0)",
    "CREATE PUBLICATION p FOR TABLE app.victim WHERE (id > 0)",
    "COMMENT ON TABLE app.victim IS 'x'",
)


def test_what_a_tenant_hangs_code_on_is_not_touched(planter: Planter) -> None:
    planter.execute(*PLANTED, *OPENED)
    # One more, which runs when the tables are read by others than their owner.
    planter.execute("CREATE TABLE app.own (id integer)", reset_role=True)
    sprung = planter.lines()
    assert len(sprung) > 10
    tenant = planter.tenant
    # The copy that the snapshot makes, and what is made good, are of this too.
    planter.execute("REVOKE ALL ON SCHEMA app FROM SESSION_USER")

    for act in ACTS:
        act(tenant)
        assert planter.lines() == sprung, act
    assert not planter.has_role()


_LIKE_OURS = (
    "CREATE TABLE provisioner.schema_version"
    " (version integer PRIMARY KEY, applied_at timestamptz DEFAULT now(), marker text)"
)

#: What stands in the place of the platform's schema, made by the tenant. No trap springs when the
#: platform comes, since nothing of it is read.
IN_ITS_PLACE: dict[str, tuple[str, ...]] = {
    "schema": (),
    "view": (
        (
            "CREATE VIEW provisioner.schema_version AS"
            " SELECT TRAP AS version, now() AS applied_at, '' AS marker"
        ),
    ),
    "default": (
        (
            "CREATE TABLE provisioner.schema_version (version integer PRIMARY KEY,"
            " applied_at timestamptz DEFAULT to_timestamp(TRAP), marker text)"
        ),
    ),
    "domain": (
        "CREATE DOMAIN provisioner.version AS integer CHECK (app.sure(VALUE) > 0)",
        (
            "CREATE TABLE provisioner.schema_version (version provisioner.version PRIMARY KEY,"
            " applied_at timestamptz, marker text)"
        ),
    ),
    "trigger": (
        _LIKE_OURS,
        (
            "CREATE FUNCTION provisioner.on_change() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM TRAP; RETURN NEW; END'"
        ),
        (
            "CREATE TRIGGER t BEFORE INSERT ON provisioner.schema_version FOR EACH ROW"
            " EXECUTE FUNCTION provisioner.on_change()"
        ),
    ),
    "rule": (
        _LIKE_OURS,
        "CREATE RULE r AS ON INSERT TO provisioner.schema_version DO ALSO SELECT TRAP",
    ),
    "policy": (
        _LIKE_OURS,
        "ALTER TABLE provisioner.schema_version ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON provisioner.schema_version USING (TRAP = 1)",
    ),
    "index": (
        _LIKE_OURS,
        "CREATE UNIQUE INDEX ON provisioner.schema_version (app.sure(version))",
    ),
    "function": (
        (
            "CREATE FUNCTION provisioner.now() RETURNS timestamptz LANGUAGE plpgsql"
            " AS 'BEGIN RETURN to_timestamp(TRAP); END'"
        ),
    ),
}


@pytest.mark.parametrize("reset_role", [False, True])
def test_a_schema_in_the_place_of_the_platform_s_is_a_conflict(
    cluster: PreparedCluster, *, reset_role: bool
) -> None:
    with tenants(cluster) as make:
        tenant = make()
        tenant.ensure_database()
        planter = Planter(tenant, uuid.uuid4().hex[:12])
        planter.execute("CREATE SCHEMA app", reset_role=reset_role)
        planter.make_trap()
        for name, statements in IN_ITS_PLACE.items():
            planter.execute("CREATE SCHEMA provisioner", *statements, reset_role=reset_role)
            planter.execute(*OPENED, schema="provisioner")
            with tenant.cluster.connect(tenant.names.database) as c:
                before = _contents(c)
            error = refused(ErrorType.CONFLICT, tenant.ensure_schema)
            assert "schema named provisioner" in error.message
            refused(ErrorType.SCHEMA_CREATION_FAILED, tenant.check)
            dump(tenant)
            assert planter.lines() == [], name
            with tenant.cluster.connect(tenant.names.database) as c:
                assert _contents(c) == before, name
            planter.execute("DROP SCHEMA provisioner CASCADE")
        assert not planter.has_role()
        # Taken away, it is in nobody's way any more.
        tenant.ensure_schema()
        tenant.check()
        remove(tenant)


def _contents(c: Any) -> Sequence[Any]:
    rows: Sequence[Any] = c.execute(
        "SELECT nspname, nspowner::regrole, nspacl::text, relname, relowner::regrole, relacl::text"
        " FROM pg_namespace LEFT JOIN pg_class ON relnamespace = pg_namespace.oid"
        " WHERE nspname IN ('app', 'provisioner') ORDER BY nspname, relname"
    ).fetchall()
    return rows


#: What someone with more rights has left in the platform's own schema.
LEFT_IN_IT: dict[str, LiteralString] = {
    "function": "CREATE FUNCTION provisioner.f() RETURNS integer LANGUAGE sql RETURN 1",
    "table": "CREATE TABLE provisioner.t (a integer)",
    "type": "CREATE TYPE provisioner.ty AS ENUM ('a')",
    "operator": "CREATE OPERATOR provisioner.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = oideq)",
    "table_of_the_tenant": "ALTER TABLE provisioner.schema_version OWNER TO {owner_role}",
    "schema_of_the_tenant": "ALTER SCHEMA provisioner OWNER TO {owner_role}",
    "schema_of_the_app_role": "ALTER SCHEMA provisioner OWNER TO {app_role}",
    "rule": "CREATE RULE r AS ON INSERT TO provisioner.schema_version DO ALSO NOTIFY x",
    "trigger": "CREATE TRIGGER t BEFORE UPDATE ON provisioner.schema_version"
    " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "policy": "ALTER TABLE provisioner.schema_version ENABLE ROW LEVEL SECURITY",
    "default": "ALTER TABLE provisioner.schema_version ALTER marker SET DEFAULT pg_backend_pid()",
    "type_of_a_column": "ALTER TABLE provisioner.schema_version ALTER version TYPE bigint",
    "column": "ALTER TABLE provisioner.schema_version ADD COLUMN a integer",
    "check": "ALTER TABLE provisioner.schema_version ADD CHECK (version > 0)",
    "index": "CREATE INDEX ON provisioner.schema_version ((version + 1))",
    "child": "CREATE TABLE app.child () INHERITS (provisioner.schema_version)",
    "view": "ALTER TABLE provisioner.schema_version RENAME TO other;"
    " CREATE VIEW provisioner.schema_version AS SELECT * FROM provisioner.other",
}


def test_what_is_not_the_platform_s_in_its_schema_is_a_conflict(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.cluster.connect(tenant.names.database) as c:
        for name, statement in LEFT_IN_IT.items():
            c.execute(
                sql.SQL(statement).format(
                    owner_role=sql.Identifier(tenant.names.owner_role),
                    app_role=sql.Identifier(tenant.names.app_role),
                )
            )
            error = refused(ErrorType.CONFLICT, tenant.ensure_schema)
            assert "schema named provisioner" in error.message, name
            c.execute("DROP SCHEMA provisioner CASCADE")
            tenant.ensure_schema()
            tenant.check()


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_schema_that_a_tenant_makes_at_the_same_moment_is_never_taken_up(
    tenant: Tenant, ending: LiteralString
) -> None:
    tenant.ensure_database()
    with tenant.login() as c, ThreadPoolExecutor(1) as pool:
        for statement in (
            "BEGIN",
            "CREATE SCHEMA provisioner",
            "CREATE VIEW provisioner.schema_version AS SELECT 1 AS version",
        ):
            c.execute(statement)
        run = pool.submit(tenant.ensure_schema)
        _wait_until_blocked_by(tenant, c.info.backend_pid)
        c.execute(ending)
        if ending == "COMMIT":
            refused(ErrorType.CONFLICT, run.result)
        else:
            run.result()
            tenant.check()


def _wait_until_blocked_by(tenant: Tenant, pid: int) -> None:
    deadline = time.monotonic() + 10
    with tenant.cluster.connect() as c:
        while not c.execute(
            "SELECT FROM pg_stat_activity WHERE datname = %s AND %s = ANY(pg_blocking_pids(pid))",
            (tenant.names.database, pid),
        ).fetchall():
            assert time.monotonic() < deadline


#: How a tenant can name another's role.
NAMING_OTHERS: tuple[LiteralString, ...] = (
    "CREATE TABLE app.t (i integer)",
    "GRANT ALL ON app.t TO {role}",
    "GRANT SELECT (i) ON app.t TO {role} WITH GRANT OPTION",
    "GRANT ALL ON SCHEMA app TO {role}",
    "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON FUNCTIONS TO {role}",
    "CREATE POLICY only_theirs ON app.t TO {role}",
    "CREATE POLICY of_both ON app.t TO {role}, CURRENT_USER",
    "CREATE FUNCTION app.f() RETURNS integer LANGUAGE sql RETURN 1",
    "GRANT EXECUTE ON FUNCTION app.f() TO {role}",
    "CREATE TYPE app.ty AS ENUM ('a')",
    "GRANT USAGE ON TYPE app.ty TO {role}",
    "SELECT lo_create(4711)",
    "GRANT ALL ON LARGE OBJECT 4711 TO {role}",
    "SET ROLE NONE",
    "CREATE TABLE app.t2 (i integer)",
    "GRANT ALL ON app.t2 TO {role}",
)


@pytest.mark.parametrize("named", ["app_role", "owner_role"])
def test_a_tenant_who_grants_to_another_does_not_keep_it_from_being_removed(
    make_tenant: Callable[[], Tenant], named: str
) -> None:
    going, staying = make_tenant(), make_tenant()
    going.ensure()
    staying.ensure()
    before = staying.snapshot()
    with staying.login() as c:
        for statement in NAMING_OTHERS:
            role = sql.Identifier(getattr(going.names, named))
            c.execute(sql.SQL(statement).format(role=role))

    look(going)
    remove(going)

    staying.check()
    with staying.login() as c:
        assert c.execute("SELECT count(*) FROM app.t").fetchone() == (0,)
        assert c.execute("SELECT polname FROM pg_policy").fetchall() == [("of_both",)]
    assert staying.snapshot()["members"] == before["members"]


def test_what_a_role_owns_elsewhere_is_named_and_stays(make_tenant: Callable[[], Tenant]) -> None:
    """Such as a copy of the database, which an operator has made."""
    going, other = make_tenant(), make_tenant()
    going.ensure()
    other.ensure()
    role = sql.Identifier(going.names.owner_role)
    with other.cluster.connect(other.names.database) as c:
        c.execute(sql.SQL("CREATE SCHEMA copy AUTHORIZATION {}").format(role))
        claim = going.owner.claim(only_this_job=False)
        found = PostgresqlEngine(going.cluster.admin).find_obstacles(
            going.names, claim, with_dump=False
        )
        assert f"in database {other.names.database}: take them away" in found.staying[0]
        error = refused(ErrorType.REMOVAL_FAILED, lambda: remove(going))
        assert f"{going.names.owner_role} owns something in the database" in error.message
        assert other.names.database in error.message
        c.execute("ALTER SCHEMA copy OWNER TO CURRENT_USER")
    remove(going)


def test_a_grant_that_is_not_committed_delays_a_removal_and_no_more(
    make_tenant: Callable[[], Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    going, staying = make_tenant(), make_tenant()
    going.ensure()
    staying.ensure()
    monkeypatch.setattr(session_module, "SETTINGS", (*session_module.SETTINGS, "lock_timeout=50ms"))
    with staying.login() as c:
        c.execute("CREATE TABLE t (i integer)")
        with c.transaction():
            role = sql.Identifier(going.names.owner_role)
            c.execute(sql.SQL("GRANT SELECT ON t TO {}").format(role))
            refused(ErrorType.TIMEOUT, lambda: remove(going))
    remove(going)


def test_programs_of_postgresql_resolve_no_name_of_a_tenant_s_either() -> None:
    options = environment(password=PASSWORD, sslmode="disable")["PGOPTIONS"]
    assert "-c search_path=pg_catalog" in options
