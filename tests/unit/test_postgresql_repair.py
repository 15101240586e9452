"""Repairs of a tenant's database on a real server."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
import pytest
from provisioner.drivers.drift import Drift, Repairs
from provisioner.errors import ErrorType
from psycopg import sql
from support.tenants import PASSWORD, Tenant, interrupt_drop, refused

#: What drifts, as a superuser puts it in by hand, and how it is told of. `{database}`, `{app}` and
#: `{owner}` stand for the names of the tenant.
DATABASE_DRIFTS: dict[LiteralString, tuple[str, str]] = {
    "GRANT CONNECT ON DATABASE {database} TO PUBLIC": ("database {database}", "privileges"),
    "REVOKE CREATE ON DATABASE {database} FROM {owner}": ("database {database}", "privileges"),
    "REVOKE CONNECT ON DATABASE {database} FROM {app}": ("database {database}", "privileges"),
    "ALTER DATABASE {database} CONNECTION LIMIT -1": ("database {database}", "CONNECTION LIMIT"),
    "ALTER DATABASE {database} CONNECTION LIMIT 5": ("database {database}", "CONNECTION LIMIT"),
    "ALTER DATABASE {database} ALLOW_CONNECTIONS false": (
        "database {database}",
        "ALLOW_CONNECTIONS",
    ),
    "SET ROLE {platform}; REVOKE {owner} FROM {app}": ("role {app}", "membership in {owner}"),
    "ALTER ROLE {app} CONNECTION LIMIT -1": ("role {app}", "CONNECTION LIMIT"),
    "ALTER ROLE {app} NOLOGIN": ("role {app}", "LOGIN"),
    "ALTER ROLE {app} CREATEDB": ("role {app}", "CREATEDB"),
    "ALTER ROLE {app} VALID UNTIL '2020-01-01'": ("role {app}", "VALID UNTIL"),
    "ALTER ROLE {owner} LOGIN CREATEROLE": ("role {owner}", "CREATEROLE, LOGIN"),
}

SCHEMA_DRIFTS: dict[LiteralString, tuple[str, str]] = {
    "DROP SCHEMA app": ("schema app", "not there"),
    "ALTER SCHEMA app OWNER TO {app}": ("schema app", "OWNER"),
    "REVOKE CREATE ON SCHEMA app FROM {app}": ("schema app", "privileges"),
    "GRANT USAGE ON SCHEMA public TO PUBLIC": ("schema public", "privileges"),
    "SET ROLE {app}; CREATE TABLE public.mine ()": ("role {app}", "OWNER of objects"),
    "ALTER ROLE {app} IN DATABASE {database} SET search_path = public": (
        "role {app}",
        "role or search_path",
    ),
    "ALTER ROLE {app} IN DATABASE {database} RESET role": ("role {app}", "role or search_path"),
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE ALL ON TABLES FROM {app}": (
        "role {app} and role {owner}",
        "default privileges",
    ),
    "ALTER DEFAULT PRIVILEGES FOR ROLE {app} GRANT EXECUTE ON FUNCTIONS TO PUBLIC": (
        "role {app} and role {owner}",
        "default privileges",
    ),
    "DROP SCHEMA provisioner CASCADE": ("table provisioner.schema_version", "version"),
    "REVOKE SELECT ON provisioner.schema_version FROM {owner}": (
        "table provisioner.schema_version",
        "version",
    ),
}


def repair_database(tenant: Tenant, password: str = PASSWORD) -> Repairs:
    return tenant.engine.repair_database(tenant.names, lambda: password, tenant.owner)


def repair(tenant: Tenant, password: str = PASSWORD) -> tuple[Repairs, Repairs]:
    return (
        repair_database(tenant, password),
        tenant.engine.repair_schema(tenant.names, tenant.owner),
    )


def as_superuser(tenant: Tenant, *statements: LiteralString, inside: bool = False) -> None:
    names = {
        "platform": sql.Identifier(tenant.cluster.admin.user),
        "database": sql.Identifier(tenant.names.database),
        "app": sql.Identifier(tenant.names.app_role),
        "owner": sql.Identifier(tenant.names.owner_role),
    }
    with tenant.cluster.connect(tenant.names.database if inside else "postgres") as c:
        for statement in statements:
            c.execute(sql.SQL(statement).format(**names))
            c.execute("RESET ROLE")


def told(tenant: Tenant, drifts: dict[LiteralString, tuple[str, str]]) -> set[Drift]:
    names = {
        "database": tenant.names.database,
        "app": tenant.names.app_role,
        "owner": tenant.names.owner_role,
    }
    return {
        Drift(resource.format(**names), one)
        for resource, what in drifts.values()
        for one in what.format(**names).split(", ")
    }


def test_a_repair_of_what_is_right_only_looks(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.ensure()
    executed: list[str] = []
    real = psycopg.Connection.execute

    def execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        executed.append(query if isinstance(query, str) else query.as_string(self))
        return real(self, query, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", execute)
        database, schema = repair(tenant)
    name = tenant.names.database
    login = f"database {name} answered a login as {tenant.names.app_role}"
    assert database == Repairs((), (), login)
    assert schema == Repairs((), (), "schema app was looked at, with all that belongs to it")
    assert len(executed) == 8
    assert [text for text in executed if not text.strip().startswith("SELECT")] == []


@pytest.mark.parametrize("drift", DATABASE_DRIFTS)
def test_a_repair_finds_what_has_drifted_of_the_database(
    tenant: Tenant, drift: LiteralString
) -> None:
    tenant.ensure()
    before = tenant.snapshot()
    as_superuser(tenant, drift)
    repairs = repair_database(tenant)
    assert set(repairs.repaired) == told(tenant, {drift: DATABASE_DRIFTS[drift]})
    assert repairs.remaining == ()
    after = tenant.snapshot()
    assert _without_order(after) == _without_order(before)


def _without_order(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A privilege that was taken and given again stands elsewhere in the list."""
    return {
        name: [[sorted(v) if isinstance(v, str) else v for v in row] for row in rows]
        for name, rows in snapshot.items()
    }


@pytest.mark.parametrize("drift", SCHEMA_DRIFTS)
def test_a_repair_finds_what_has_drifted_of_the_schema(
    tenant: Tenant, drift: LiteralString
) -> None:
    tenant.ensure()
    as_superuser(tenant, drift, inside=True)
    repairs = tenant.engine.repair_schema(tenant.names, tenant.owner)
    assert told(tenant, {drift: SCHEMA_DRIFTS[drift]}) <= set(repairs.repaired)
    assert repairs.remaining == ()
    tenant.check()
    assert tenant.engine.repair_schema(tenant.names, tenant.owner).repaired == ()


def test_a_limit_that_an_operator_has_set_stays(tenant: Tenant) -> None:
    tenant.ensure()
    as_superuser(tenant, "ALTER ROLE {app} CONNECTION LIMIT 50")
    (database, _) = repair(tenant)
    assert database.repaired == (Drift(f"database {tenant.names.database}", "CONNECTION LIMIT"),)
    with tenant.cluster.connect() as c:
        limits = c.execute(
            "SELECT rolconnlimit, datconnlimit FROM pg_roles, pg_database"
            " WHERE rolname = %s AND datname = %s",
            (tenant.names.app_role, tenant.names.database),
        ).fetchone()
    assert limits == (50, 53)
    assert repair(tenant)[0].repaired == ()


def test_a_password_that_is_not_the_secret_s_remains(tenant: Tenant) -> None:
    tenant.ensure()
    database, schema = repair(tenant, "B" * 43)
    (remaining,) = database.remaining
    assert (remaining.resource, remaining.what) == (f"role {tenant.names.app_role}", "PASSWORD")
    assert (database.repaired, schema.repaired, schema.remaining) == ((), (), ())
    tenant.check(PASSWORD)


def test_a_login_without_a_connection_left_is_a_login(tenant: Tenant) -> None:
    tenant.ensure()
    as_superuser(tenant, "ALTER ROLE {app} CONNECTION LIMIT 0")
    database, _ = repair(tenant)
    assert (database.repaired, database.remaining) == ((), ())
    login = f"role {tenant.names.app_role}"
    assert database.checked == f"{login} can log in, and uses all of its connections"


def test_what_only_a_superuser_may_change_remains_and_is_told(tenant: Tenant) -> None:
    tenant.ensure()
    as_superuser(
        tenant,
        "ALTER ROLE {owner} SUPERUSER CREATEDB",
        "ALTER ROLE {app} CONNECTION LIMIT -1",
        "ALTER DATABASE {database} OWNER TO {owner}",
        "ALTER DATABASE {database} CONNECTION LIMIT -1",
    )
    repairs = repair_database(tenant)
    assert repairs.repaired == (Drift(f"role {tenant.names.app_role}", "CONNECTION LIMIT"),)
    database, owner = f"database {tenant.names.database}", f"role {tenant.names.owner_role}"
    of_owner = {Drift(owner, "CREATEDB"), Drift(owner, "SUPERUSER")}
    of_database = {Drift(database, "CONNECTION LIMIT"), Drift(database, "OWNER")}
    assert {Drift(r.resource, r.what) for r in repairs.remaining} == of_owner | of_database
    (typed,) = {r.why.partition("run ")[2].partition(",")[0] for r in repairs.remaining} - {""}
    with tenant.cluster.connect() as c:
        c.execute(typed.encode())
    as_superuser(tenant, "ALTER ROLE {owner} NOSUPERUSER")
    repairs = repair_database(tenant)
    # To give a database away and back moves its privileges too.
    right = {Drift(owner, "CREATEDB"), Drift(database, "CONNECTION LIMIT")}
    assert right <= set(repairs.repaired) <= right | {Drift(database, "privileges")}
    assert repairs.remaining == ()


@pytest.mark.parametrize("missing", ["owner_role", "app_role"])
def test_a_missing_role_is_named_with_what_to_type(tenant: Tenant, missing: str) -> None:
    tenant.ensure()
    role = getattr(tenant.names, missing)
    with tenant.cluster.connect(tenant.names.database) as c:
        c.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        c.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    before = tenant.snapshot()
    error = refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: repair(tenant))
    assert tenant.snapshot() == before
    typed = error.message.partition(", run ")[2].partition(", and send")[0]
    with psycopg.connect(
        host="127.0.0.1",
        port=tenant.cluster.admin.port,
        user=tenant.cluster.admin.user,
        password=tenant.cluster.admin.password,
        dbname="postgres",
    ) as c:
        for statement in typed.split(" and "):
            c.execute(statement.encode())
    database, schema = repair(tenant)
    assert [r.what for r in database.remaining] == (["PASSWORD"] if missing == "app_role" else [])
    assert schema.remaining == ()


@pytest.mark.parametrize("dropped", [False, True], ids=["interrupted_drop", "dropped"])
def test_no_missing_database_is_made(tenant: Tenant, *, dropped: bool) -> None:
    tenant.ensure()
    if dropped:
        as_superuser(tenant, "DROP DATABASE {database}")
    else:
        interrupt_drop(tenant)
    error = refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: repair(tenant))
    assert f"The database {tenant.names.database} of the project is not there" in error.message
    with tenant.cluster.connect() as c:
        found = c.execute(
            "SELECT datconnlimit FROM pg_database WHERE datname = %s", (tenant.names.database,)
        ).fetchall()
    assert found == ([] if dropped else [(-2,)])


def test_what_is_not_the_project_s_is_left(tenant: Tenant) -> None:
    tenant.ensure()
    as_superuser(
        tenant,
        "ALTER DATABASE {database} CONNECTION LIMIT -1",
        "COMMENT ON DATABASE {database} IS NULL",
    )
    before = tenant.snapshot()
    refused(ErrorType.CONFLICT, lambda: repair(tenant))
    as_superuser(tenant, "COMMENT ON ROLE {app} IS 'theirs'")
    refused(ErrorType.CONFLICT, lambda: repair(tenant))
    assert tenant.snapshot()["databases"] == before["databases"]


def test_what_the_platform_may_not_change_of_the_schema_remains(tenant: Tenant) -> None:
    tenant.ensure()
    as_superuser(
        tenant,
        "ALTER SCHEMA public OWNER TO CURRENT_USER",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        "REVOKE CREATE ON SCHEMA app FROM {app}",
        inside=True,
    )
    repairs = tenant.engine.repair_schema(tenant.names, tenant.owner)
    assert repairs.repaired == (Drift("schema app", "privileges"),)
    assert [(r.resource, r.what) for r in repairs.remaining] == [("schema public", "privileges")]
