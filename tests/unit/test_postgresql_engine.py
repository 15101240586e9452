"""The PostgreSQL engine on a real server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provisioner.drivers import database_errors
from provisioner.drivers.postgresql import engine
from provisioner.drivers.postgresql import session as session_module
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.session import SETTINGS, connect_as_platform, lock
from provisioner.errors import ErrorType, ProvisioningError
from psycopg import sql
from support.tenants import NAMING, PASSWORD, Tenant, dies, interrupt_drop, refused


def test_a_tenant_gets_a_database_and_a_schema_of_its_own(tenant: Tenant) -> None:
    tenant.ensure()
    assert tenant.check() == (
        f"database {tenant.names.database} answered a login as {tenant.names.app_role}",
        "schema app answered with version 1",
    )
    with tenant.login() as c:
        c.execute("CREATE TABLE note (id integer PRIMARY KEY, text text)")
        c.execute("INSERT INTO note VALUES (1, 'hello')")
        assert c.execute("SELECT text FROM app.note").fetchone() == ("hello",)
        row = c.execute(
            "SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'note'"
        ).fetchone()
    assert row == ("app", tenant.names.owner_role)


def test_a_second_run_only_looks(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    executed: list[str] = []
    real = psycopg.Connection.execute

    def execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        executed.append(query if isinstance(query, str) else query.as_string(self))
        return real(self, query, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", execute)
        tenant.ensure()
    assert len(executed) > 4
    assert [text for text in executed if not text.strip().startswith("SELECT")] == []
    assert tenant.snapshot() == first


def test_six_runs_at_once_make_one_tenant(
    make_tenant: Callable[[], Tenant],
) -> None:
    reference = make_tenant()
    reference.ensure()
    for _ in range(3):
        tenant = make_tenant()
        with ThreadPoolExecutor(6) as pool:
            for run in [pool.submit(tenant.ensure) for _ in range(6)]:
                run.result()
        assert _anonymous(tenant) == _anonymous(reference)
        tenant.check()


def test_many_tenants_at_once_are_kept_apart(make_tenant: Callable[[], Tenant]) -> None:
    tenants = [make_tenant() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for run in [pool.submit(tenant.ensure) for tenant in tenants]:
            run.result()
    for tenant in tenants:
        tenant.check()


def test_the_password_is_made_to_agree(tenant: Tenant) -> None:
    tenant.ensure("A" * 43)
    tenant.ensure("B" * 43)
    tenant.check("B" * 43)
    refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: tenant.check("A" * 43))


def test_what_an_operator_allows_one_tenant_stays(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.cluster.connect() as c:
        c.execute(
            sql.SQL("ALTER DATABASE {} SET statement_timeout = '5min'").format(
                sql.Identifier(tenant.names.database)
            )
        )
    before = tenant.snapshot()
    tenant.ensure()
    assert tenant.snapshot() == before


@pytest.mark.parametrize("marker", [None, "provisioner:project-id=someone-else"])
def test_a_role_that_is_not_ours_is_a_conflict_and_stays(
    tenant: Tenant, marker: str | None
) -> None:
    role = sql.Identifier(tenant.names.app_role)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        c.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(marker)))
        error = refused(ErrorType.CONFLICT, tenant.ensure)
        found = c.execute(
            "SELECT rolcanlogin, shobj_description(oid, 'pg_authid') FROM pg_roles"
            " WHERE rolname = %s",
            (tenant.names.app_role,),
        ).fetchone()
    assert found == (False, marker)
    assert tenant.names.app_role in error.message
    assert [role[0] for role in tenant.snapshot()["roles"]] == [tenant.names.app_role]


@pytest.mark.parametrize("marker", [None, "provisioner:project-id=someone-else"])
def test_a_database_that_is_not_ours_is_a_conflict_and_stays(
    tenant: Tenant, marker: str | None
) -> None:
    database = sql.Identifier(tenant.names.database)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("CREATE DATABASE {}").format(database))
        c.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(marker)))
        refused(ErrorType.CONFLICT, tenant.ensure)
        found = c.execute(
            "SELECT datallowconn, pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s",
            (tenant.names.database,),
        ).fetchone()
    assert found == (True, "postgres")
    assert tenant.snapshot()["roles"] == []


@pytest.mark.parametrize("removed", ["owner_role", "app_role"])
def test_a_database_without_a_marker_is_not_ours_if_a_role_is_missing(
    tenant: Tenant, removed: str
) -> None:
    tenant.engine.ensure_database(tenant.names, lambda: PASSWORD, tenant.owner)
    database = sql.Identifier(tenant.names.database)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(database))
        refused(ErrorType.CONFLICT, tenant.ensure)
        c.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(database))
        role = sql.Identifier(getattr(tenant.names, removed))
        c.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, role))
        c.execute(sql.SQL("DROP ROLE {}").format(role))
    before = tenant.snapshot()
    for _ in range(2):
        refused(ErrorType.CONFLICT, tenant.ensure)
        assert tenant.snapshot() == before


def test_a_schema_that_is_not_ours_is_a_conflict(tenant: Tenant) -> None:
    tenant.engine.ensure_database(tenant.names, lambda: PASSWORD, tenant.owner)
    with tenant.cluster.connect(tenant.names.database) as c:
        c.execute("CREATE SCHEMA app")
    refused(ErrorType.CONFLICT, lambda: tenant.engine.ensure_schema(tenant.names, tenant.owner))


def test_a_later_job_takes_up_what_is_there(tenant: Tenant) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    replace(tenant, owner=replace(tenant.owner, job_id="job-2")).ensure()
    assert tenant.snapshot() == first


def test_another_deployment_is_someone_else(tenant: Tenant) -> None:
    tenant.ensure()
    other = replace(tenant, owner=replace(tenant.owner, namespace="other-000000000000"))
    refused(ErrorType.CONFLICT, other.ensure)


def test_an_interrupted_drop_is_finished_and_the_database_made_again(tenant: Tenant) -> None:
    tenant.ensure()
    first = tenant.snapshot()
    interrupt_drop(tenant)
    error = refused(ErrorType.DATABASE_CREATION_FAILED, tenant.check)
    assert "invalid database" in error.cause
    tenant.ensure()
    assert tenant.snapshot() == first
    tenant.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dropped", [False, True], ids=["new", "interrupted_drop"])
def test_a_crash_at_any_statement_of_the_database_is_made_good_by_the_next_run(
    make_tenant: Callable[[], Tenant],
    monkeypatch: pytest.MonkeyPatch,
    *,
    dropped: bool,
    after: bool,
) -> None:
    reference = make_tenant()
    reference.ensure_database()
    for at in itertools.count():
        tenant = make_tenant()
        if dropped:
            tenant.ensure_database()
            interrupt_drop(tenant)
        if not dies(monkeypatch, tenant.ensure_database, at, after=after):
            break
        tenant.ensure_database()
        assert _anonymous(tenant) == _anonymous(reference), f"statement {at}"
        tenant.engine.check_database(tenant.names, PASSWORD)
    assert at > 10


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_statement_of_the_schema_leaves_nothing(
    make_tenant: Callable[[], Tenant], monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    reference, tenant = make_tenant(), make_tenant()
    reference.ensure()
    tenant.ensure_database()
    before = tenant.snapshot()
    for at in itertools.count():
        if not dies(monkeypatch, tenant.ensure_schema, at, after=after):
            break
        assert tenant.snapshot() == before, f"statement {at}"
    assert at > 30
    assert _anonymous(tenant) == _anonymous(reference)
    tenant.check()


def test_a_killed_run_holds_its_lock_no_longer_than_its_session_may_idle(tenant: Tenant) -> None:
    assert "idle_session_timeout=60s" in SETTINGS
    killed = connect_as_platform(tenant.cluster.admin, "postgres", "idle_session_timeout=100ms")
    lock(killed, tenant.names.database)
    tenant.ensure()
    killed.close()


def test_the_platform_s_sessions_are_bounded(tenant: Tenant) -> None:
    with connect_as_platform(tenant.cluster.admin, "postgres") as connection:
        parameters = connection.info.get_parameters()
        row = connection.execute(
            "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
            " application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert row == ("30s", "1min", "project-provisioner")
    expected = {
        "connect_timeout": "40",
        "keepalives_idle": "20",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "sslmode": tenant.cluster.admin.sslmode,
    }
    assert {**parameters, **expected} == parameters


def test_a_server_on_which_the_platform_s_role_has_power_over_others_is_refused(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OLDEST_VERSION", 990_000)
    with pytest.raises(ProvisioningError, match=r"and must be 99 or later; upgrade it\.") as raised:
        tenant.ensure_database()
    assert raised.value.type is ErrorType.DATABASE_CREATION_FAILED
    with tenant.cluster.connect() as c:
        made = c.execute("SELECT FROM pg_roles WHERE rolname = %s", (tenant.names.app_role,))
        assert made.rowcount == 0


def test_the_script_that_prepares_a_cluster_refuses_an_older_server(tenant: Tenant) -> None:
    script = (Path(__file__).resolve().parents[2] / "docs" / "cluster.sql").read_text()
    assert script.count("160000") == 1
    script = script.replace("160000", "990000").replace("'provisioner'", "'another'")
    with tenant.cluster.connect() as c, pytest.raises(psycopg.errors.RaiseException) as raised:
        c.execute(script.replace("ROLE provisioner", "ROLE another").encode())
    assert "must be 16 or later" in str(raised.value)
    with tenant.cluster.connect() as c:
        assert c.execute("SELECT FROM pg_roles WHERE rolname = 'another'").rowcount == 0


def test_no_setting_leads_a_session_of_the_platform_to_another_schema(tenant: Tenant) -> None:
    tenant.ensure_database()
    admin, database = tenant.cluster.admin, sql.Identifier(tenant.names.database)
    role = sql.Identifier(admin.user)
    with tenant.cluster.connect(tenant.names.database) as c:
        c.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(tenant.names.app_role)))
        for whose in ("DATABASE {database}", "ROLE {role}", "ROLE {role} IN DATABASE {database}"):
            setting = f"ALTER {whose} SET search_path = " + "{schema}"
            c.execute(
                sql.SQL(setting).format(
                    database=database, role=role, schema=sql.Identifier(tenant.names.app_role)
                )
            )
        try:
            with connect_as_platform(admin, tenant.names.database) as connection:
                found = connection.execute(
                    "SELECT current_setting('search_path'), current_schemas(true)"
                ).fetchone()
        finally:
            # As docs/cluster.sql has it.
            c.execute(sql.SQL("ALTER ROLE {} SET search_path = pg_catalog").format(role))
    assert found == ("pg_catalog", ["pg_catalog"])


def _anonymous(tenant: Tenant) -> str:
    """Return a tenant's snapshot with its own names left out, to compare it with another's."""
    text = repr(tenant.snapshot())
    text = text.replace(tenant.names.database, "DATABASE")
    return text.replace(tenant.owner.project_id, "PROJECT")


def test_no_password_reaches_the_log_of_the_server(tenant: Tenant) -> None:
    with tenant.cluster.connect() as c:
        c.execute("ALTER SYSTEM SET log_statement = 'all'")
        c.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while c.execute("SHOW log_statement").fetchone() != ("all",):
            assert time.monotonic() < deadline
        try:
            tenant.ensure()
            tenant.check()
            tenant.ensure("Q" * 43)
        finally:
            c.execute("ALTER SYSTEM RESET log_statement")
            c.execute("SELECT pg_reload_conf()")
    log = tenant.cluster.server.log.read_text()
    for statement in ("CREATE ROLE", "ALTER ROLE"):
        assert f'{statement} "{tenant.names.app_role}"' in log
    for secret in (PASSWORD, "Q" * 43, tenant.cluster.admin.password):
        assert secret not in log


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        yield from _chain(error.__context__)


@pytest.mark.parametrize("method", ["ensure_database", "ensure_schema"])
@pytest.mark.parametrize(
    ("change", "error_type"),
    [
        ({"password": "wrong-password"}, ErrorType.INSUFFICIENT_PERMISSIONS),
        ({"port": 1}, ErrorType.NETWORK_ERROR),
        ({"sslmode": "no-such-mode"}, None),
    ],
    ids=["wrong_password", "refused_connection", "wrong_sslmode"],
)
def test_an_admin_who_cannot_connect_is_told_why_and_no_password(
    tenant: Tenant, method: str, change: dict[str, Any], error_type: ErrorType | None
) -> None:
    tenant = replace(tenant, engine=PostgresqlEngine(replace(tenant.cluster.admin, **change)))
    final = {
        "ensure_database": ErrorType.DATABASE_CREATION_FAILED,
        "ensure_schema": ErrorType.SCHEMA_CREATION_FAILED,
    }
    error = refused(error_type or final[method], getattr(tenant, method))
    _holds_no_secret(error, tenant)
    assert "127.0.0.1" not in error.message


def test_a_login_that_is_refused_is_read_anew_once(tenant: Tenant) -> None:
    admin = tenant.cluster.admin
    old = replace(admin, password="of-yesterday")  # kingfisher:ignore
    connect_as_platform(replace(old, renew=lambda: admin), "postgres").close()
    for refused_login in (old, replace(old, renew=lambda: old)):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect_as_platform(refused_login, "postgres")


def _holds_no_secret(error: ProvisioningError, tenant: Tenant) -> None:
    for link in _chain(error):
        assert not isinstance(link, psycopg.Error)
        for secret in ("wrong-password", PASSWORD, tenant.cluster.admin.password):
            assert secret not in repr(vars(link)) + repr(link)


def test_no_error_of_a_statement_or_login_holds_a_password(tenant: Tenant) -> None:
    tenant.ensure()
    errors = [
        refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: tenant.check("wrong-password")),
        refused(ErrorType.CONFLICT, replace(tenant, owner=NAMING.owner("other", "job")).ensure),
    ]
    with tenant.cluster.connect(tenant.names.database) as c:
        c.execute("DROP TABLE provisioner.schema_version")
    errors.append(refused(ErrorType.SCHEMA_CREATION_FAILED, tenant.check))
    assert errors[-1].cause == "the version is None"
    for error in errors:
        _holds_no_secret(error, tenant)


def test_a_lock_that_stays_taken_is_a_time_out(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_errors, "_CONTENTION_WAIT", 0)
    monkeypatch.setattr(session_module, "SETTINGS", ("lock_timeout=50ms",))
    with tenant.cluster.connect() as c:
        c.execute(
            "SELECT pg_advisory_lock(hashtextextended(%s, 0))",
            (f"provisioner:{tenant.names.database}",),
        )
        error = refused(ErrorType.TIMEOUT, tenant.ensure)
    assert "55P03" in error.cause


def test_an_admin_without_rights_is_told_so(tenant: Tenant) -> None:
    other = sql.Identifier(f"{tenant.names.database}_admin")
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw'").format(other))
        c.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(other))
        try:
            weak = replace(
                tenant.cluster.admin, user=f"{tenant.names.database}_admin", password="pw"
            )
            error = refused(
                ErrorType.INSUFFICIENT_PERMISSIONS,
                replace(tenant, engine=PostgresqlEngine(weak)).ensure,
            )
        finally:
            c.execute(sql.SQL("REVOKE CONNECT ON DATABASE postgres FROM {}").format(other))
            c.execute(sql.SQL("DROP ROLE {}").format(other))
    assert "42501" in error.cause


OTHER_PASSWORD = "OtherPassword0123456789abcdefghijklmnopqrst"


def change_password(
    tenant: Tenant,
    before_commit: Callable[[], None] = lambda: None,
    current: Callable[[], str | None] = lambda: None,
) -> None:
    tenant.engine.change_password(
        tenant.names, OTHER_PASSWORD, tenant.owner, current=current, before_commit=before_commit
    )


def test_a_password_is_changed_only_with_the_commit(tenant: Tenant) -> None:
    tenant.ensure_database()

    def fail() -> None:
        # Nobody else sees the change yet.
        tenant.login().close()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_password(tenant, fail)
    tenant.login().close()
    for _ in range(2):
        change_password(tenant)
        assert tenant.names.app_role in tenant.engine.check_password(tenant.names, OTHER_PASSWORD)
    refused(
        ErrorType.INSUFFICIENT_PERMISSIONS,
        lambda: tenant.engine.check_password(tenant.names, PASSWORD),
    )


def test_what_is_to_be_in_force_before_the_change_is_made_so_first(tenant: Tenant) -> None:
    tenant.ensure_database()
    third = "ThirdPassword0123456789abcdefghijklmnopqrst"

    def fail() -> None:
        tenant.login(password=third).close()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_password(tenant, fail, lambda: third)
    tenant.login(password=third).close()


def test_the_password_of_a_role_that_is_missing_or_not_ours_is_not_changed(
    tenant: Tenant,
) -> None:
    refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: change_password(tenant))
    tenant.ensure_database()
    theirs = replace(tenant, owner=replace(tenant.owner, project_id="another"))
    refused(ErrorType.CONFLICT, lambda: change_password(theirs))
    tenant.login().close()


def test_a_run_that_waited_for_a_change_of_the_password_does_not_undo_it(tenant: Tenant) -> None:
    """The truth changes before the lock is had, so it is read after."""
    tenant.ensure_database()
    truth = [PASSWORD]
    with ThreadPoolExecutor() as pool:
        runs: list[Future[None]] = []

        def tell() -> None:
            ensure = tenant.engine.ensure_database
            runs.append(pool.submit(ensure, tenant.names, lambda: truth[0], tenant.owner))
            _wait_for_a_waiter(tenant)
            truth[:] = [OTHER_PASSWORD]

        change_password(tenant, tell)
        runs[0].result()
    tenant.engine.check_password(tenant.names, OTHER_PASSWORD)


def _wait_for_a_waiter(tenant: Tenant) -> None:
    deadline = time.monotonic() + 10
    with tenant.cluster.connect() as c:
        while not c.execute(
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND objid = (hashtextextended(%s, 0) & 4294967295)::oid",
            (f"provisioner:{tenant.names.database}",),
        ).fetchall():
            assert time.monotonic() < deadline


def test_a_session_that_ends_before_its_commit_is_made_up_for_at_once(tenant: Tenant) -> None:
    tenant.ensure_database()
    told: list[int] = []

    def tell_and_end_the_session() -> None:
        told.append(1)
        if len(told) == 1:
            with tenant.cluster.connect() as c:
                c.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND granted"
                    " AND objid = (hashtextextended(%s, 0) & 4294967295)::oid",
                    (f"provisioner:{tenant.names.database}",),
                )

    change_password(tenant, tell_and_end_the_session)
    assert told == [1, 1]
    tenant.engine.check_password(tenant.names, OTHER_PASSWORD)
