"""The MySQL engine on a real server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pymysql
import pytest
from provisioner.drivers.mysql import databases, ledger
from provisioner.drivers.mysql.ledger import lock
from provisioner.drivers.mysql.quoting import SQL, Identifier
from provisioner.drivers.mysql.session import connect_as_platform, execute
from provisioner.errors import ErrorType, ProvisioningError
from pymysql.connections import Connection as DriverConnection
from support.mysql_tenants import MysqlTenant, end_session, mysql_dies, recorded
from support.tenants import PASSWORD, refused

OTHER_PASSWORD = "OtherPassword0123456789abcdefghijklmnopqrst"
THIRD_PASSWORD = "ThirdPassword0123456789abcdefghijklmnopqrst"


def test_a_tenant_gets_a_database_which_is_its_schema(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    name = mysql_tenant.names.database
    assert mysql_tenant.check() == (
        f"database {name} answered a login as {mysql_tenant.names.app_role}",
        f"schema {name} answered, and {mysql_tenant.names.app_role} may do all in it",
    )
    rows = mysql_tenant.as_tenant(
        "CREATE TABLE note (id INT PRIMARY KEY, text TEXT)",
        "INSERT INTO note VALUES (1, 'hello 👋')",
        "SELECT text FROM note",
    )
    assert rows == (("hello 👋",),)


def test_checks_of_a_tenant_are_made_by_its_login_alone(mysql_tenant: MysqlTenant) -> None:
    """They go the customers' way, through a pooler perhaps, where the platform is unknown."""
    mysql_tenant.ensure()
    replace(mysql_tenant, admin=replace(mysql_tenant.admin, password="unknown")).check()


def test_a_server_of_one_project_is_prepared(mysql_tenant: MysqlTenant) -> None:
    for _ in range(2):
        mysql_tenant.engine.prepare_server()
    tables = mysql_tenant.as_superuser("SHOW TABLES FROM provisioner")
    assert tables == (("lock_key",), ("resource",))
    weak = replace(mysql_tenant, admin=replace(mysql_tenant.admin, password="unknown"))
    refused(ErrorType.INSUFFICIENT_PERMISSIONS, weak.engine.prepare_server)


def test_the_version_of_the_server_is_told(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure_database()
    ((version,),) = mysql_tenant.as_superuser("SELECT VERSION()")
    told = mysql_tenant.engine.check_database(mysql_tenant.names, PASSWORD).server_version
    assert version.startswith(told)
    assert told.replace(".", "").isdigit()


def test_a_second_run_only_looks(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_tenant.ensure()
    first = mysql_tenant.snapshot()
    with recorded(monkeypatch) as executed:
        mysql_tenant.ensure()
    assert len(executed) > 10
    looks = ("SELECT", "SHOW", "SET SESSION")
    assert [text for text in executed if not text.startswith(looks)] == []
    assert mysql_tenant.snapshot() == first


def test_six_runs_at_once_make_one_tenant(make_mysql_tenant: Callable[[], MysqlTenant]) -> None:
    reference = make_mysql_tenant()
    reference.ensure()
    for _ in range(5):
        tenant = make_mysql_tenant()
        with ThreadPoolExecutor(6) as pool:
            for run in [pool.submit(tenant.ensure) for _ in range(6)]:
                run.result()
        assert _anonymous(tenant) == _anonymous(reference)
        tenant.check()


def test_many_tenants_at_once_are_kept_apart(
    make_mysql_tenant: Callable[[], MysqlTenant],
) -> None:
    tenants = [make_mysql_tenant() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for run in [pool.submit(tenant.ensure) for tenant in tenants]:
            run.result()
    for tenant in tenants:
        tenant.check()


def test_the_first_runs_on_a_server_make_one_ledger_with_one_key(
    make_mysql_tenant: Callable[[], MysqlTenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = f"ledger_{make_mysql_tenant().owner.project_id.replace('-', '_')}"
    key = Identifier(schema, "lock_key")
    monkeypatch.setattr(ledger, "_LOCK_KEY", key)
    monkeypatch.setattr(
        ledger,
        "_MAKE",
        (
            SQL("CREATE DATABASE IF NOT EXISTS {}").format(Identifier(schema)),
            SQL("CREATE TABLE IF NOT EXISTS {} (id INT PRIMARY KEY, value CHAR(64))").format(key),
        ),
    )
    tenant = make_mysql_tenant()

    def read() -> str:
        with connect_as_platform(tenant.admin) as connection:
            return ledger.ensure_lock_key(connection)

    try:
        with ThreadPoolExecutor(6) as pool:
            keys = [run.result() for run in [pool.submit(read) for _ in range(6)]]
    finally:
        tenant.as_superuser(f"DROP DATABASE IF EXISTS {schema}")
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64


def test_the_password_is_made_to_agree(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure("A" * 43)
    mysql_tenant.ensure("B" * 43)
    mysql_tenant.check("B" * 43)
    refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: mysql_tenant.check("A" * 43))


def test_a_limit_that_an_operator_gives_one_tenant_stays(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    user = mysql_tenant.names.app_role
    mysql_tenant.as_superuser(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 50")
    before = mysql_tenant.snapshot()
    assert before["users"][0][2] == 50
    mysql_tenant.ensure()
    assert mysql_tenant.snapshot() == before


@pytest.mark.parametrize("marker", [None, "provisioner:project-id=someone-else"])
def test_a_user_that_is_not_ours_is_a_conflict_and_stays(
    mysql_tenant: MysqlTenant, marker: str | None
) -> None:
    # So that there is a ledger.
    refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: change_password(mysql_tenant))
    user = mysql_tenant.names.app_role
    mysql_tenant.as_superuser(f"CREATE USER {user} IDENTIFIED BY '{OTHER_PASSWORD}'")
    _mark(mysql_tenant, "user", user, marker)
    before = mysql_tenant.snapshot()
    error = refused(ErrorType.CONFLICT, mysql_tenant.ensure)
    assert f"user named {user}@%" in error.message
    assert mysql_tenant.snapshot() == before
    mysql_tenant.remove()
    assert mysql_tenant.snapshot() == before
    mysql_tenant.server.login(user, OTHER_PASSWORD).close()


@pytest.mark.parametrize("marker", [None, "provisioner:project-id=someone-else"])
def test_a_database_that_is_not_ours_is_a_conflict_and_stays(
    mysql_tenant: MysqlTenant, marker: str | None
) -> None:
    refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: change_password(mysql_tenant))
    name = mysql_tenant.names.database
    mysql_tenant.as_superuser(f"CREATE DATABASE {name} CHARACTER SET latin1")
    _mark(mysql_tenant, "database", name, marker)
    before = mysql_tenant.snapshot()
    for act in (
        mysql_tenant.ensure_database,
        mysql_tenant.ensure_schema,
        lambda: repair(mysql_tenant),
    ):
        assert f"database named {name}" in refused(ErrorType.CONFLICT, act).message
    assert mysql_tenant.snapshot() == before
    mysql_tenant.remove()
    assert mysql_tenant.snapshot() == before


def test_a_user_of_our_name_at_a_host_is_a_conflict_and_stays(mysql_tenant: MysqlTenant) -> None:
    """It would be taken before the tenant's own, for whoever comes from there."""
    mysql_tenant.ensure()
    user = mysql_tenant.names.app_role
    mysql_tenant.as_superuser(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{OTHER_PASSWORD}'")
    error = refused(ErrorType.CONFLICT, mysql_tenant.ensure)
    assert f"{user}@127.0.0.1" in error.message
    # It shuts the tenant out, and says so nowhere.
    refused(ErrorType.INSUFFICIENT_PERMISSIONS, mysql_tenant.check)
    mysql_tenant.as_superuser(f"ALTER USER {user}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
    mysql_tenant.as_superuser(
        f"GRANT SELECT ON {mysql_tenant.names.database}.* TO {user}@'127.0.0.1'"
    )
    error = refused(ErrorType.DATABASE_CREATION_FAILED, mysql_tenant.check)
    assert f"{user}@127.0.0.1" in error.cause


@pytest.mark.parametrize("made", ["database", "user"])
def test_what_someone_else_makes_between_look_and_creation_is_not_adopted(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    names = mysql_tenant.names
    statement = {
        "database": f"CREATE DATABASE {names.database} CHARACTER SET latin1",
        "user": f"CREATE USER {names.app_role} IDENTIFIED BY '{OTHER_PASSWORD}'",
    }[made]
    # As the engine writes it, and the statement above does not.
    begins = f"CREATE {made.upper()} `nm_"
    real = DriverConnection.query

    def query(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        if sql.startswith(begins):
            mysql_tenant.as_superuser(statement)
        return real(self, sql, *arguments, **options)

    refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: change_password(mysql_tenant))
    with monkeypatch.context() as patch:
        patch.setattr(DriverConnection, "query", query)
        refused(ErrorType.CONFLICT, mysql_tenant.ensure_database)
    assert made not in [kind for kind, *_ in mysql_tenant.snapshot()["records"]]
    refused(ErrorType.CONFLICT, mysql_tenant.ensure_database)
    mysql_tenant.remove()
    assert mysql_tenant.snapshot()["users" if made == "user" else "databases"] != []


def test_a_later_job_takes_up_what_is_there(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    first = mysql_tenant.snapshot()
    mysql_tenant.with_owner(job_id="job-2").ensure()
    assert mysql_tenant.snapshot() == first


def test_another_deployment_is_someone_else(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    refused(ErrorType.CONFLICT, mysql_tenant.with_owner(namespace="other-000000000000").ensure)


def test_a_record_of_what_is_not_there_means_nothing(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    first = mysql_tenant.snapshot()
    names = mysql_tenant.names
    mysql_tenant.remove()
    for kind, name in (("database", names.database), ("user", names.app_role)):
        _mark(mysql_tenant, kind, name, "provisioner:project-id=someone-else")
    mysql_tenant.ensure()
    assert mysql_tenant.snapshot() == first


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_statement_is_made_good_by_the_next_run(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    mysql_tenant.ensure()
    whole = mysql_tenant.snapshot()
    for at in itertools.count():
        mysql_tenant.remove()
        if not mysql_dies(monkeypatch, mysql_tenant.ensure, at, after=after):
            break
        mysql_tenant.ensure()
        assert mysql_tenant.snapshot() == whole, f"statement {at}"
        mysql_tenant.check()
    assert at > 15


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_statement_of_a_removal_is_made_good_by_the_next_run(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    mysql_tenant.ensure()
    whole = mysql_tenant.snapshot()
    for at in itertools.count():
        if not mysql_dies(monkeypatch, mysql_tenant.remove, at, after=after):
            break
        # Someone thinks better of it.
        mysql_tenant.ensure()
        assert mysql_tenant.snapshot() == whole, f"statement {at}"
        mysql_tenant.check()
        mysql_dies(monkeypatch, mysql_tenant.remove, at, after=after)
        assert mysql_tenant.remove() is False
        assert not any(mysql_tenant.snapshot().values()), f"statement {at}"
        mysql_tenant.ensure()
    assert at > 15
    assert not any(mysql_tenant.snapshot().values())


def test_a_removal_leaves_nothing_and_may_be_repeated(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    mysql_tenant.as_tenant("CREATE TABLE t (a INT)", "CREATE VIEW v AS SELECT a FROM t")
    for _ in range(2):
        assert mysql_tenant.remove() is False
        assert not any(mysql_tenant.snapshot().values())


def test_a_clean_up_leaves_what_another_job_has_made(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    before = mysql_tenant.snapshot()
    later = mysql_tenant.with_owner(job_id="job-2")
    later.ensure()
    assert later.remove(only_this_job=True) is True
    assert mysql_tenant.snapshot() == before
    mysql_tenant.check()
    # What the later job has made anew is its own.
    mysql_tenant.as_superuser(f"DROP DATABASE {mysql_tenant.names.database}")
    later.ensure()
    with mysql_tenant.login() as connection:
        assert later.remove(only_this_job=True) is True
        # The user stays, and what it has: its password and its sessions.
        connection.ping(reconnect=False)
    mysql_tenant.engine.check_password(mysql_tenant.names, PASSWORD)
    assert mysql_tenant.snapshot()["databases"] == []
    assert mysql_tenant.remove(only_this_job=True) is False
    assert not any(mysql_tenant.snapshot().values())


def test_a_removal_ends_the_sessions_of_the_tenant(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    mysql_tenant.as_tenant("CREATE TABLE t (a INT)")
    # As many as it may have.
    sessions = [mysql_tenant.login() for _ in range(20)]
    for session in sessions:
        session.begin()
        with session.cursor() as cursor:
            cursor.execute("SELECT * FROM t")
    assert mysql_tenant.remove() is False
    for session in sessions:
        with pytest.raises(pymysql.Error):
            session.ping(reconnect=False)
        session.close()
    assert not any(mysql_tenant.snapshot().values())


def test_another_s_transaction_keeps_the_database_until_it_ends(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "LOCK_SECONDS", 0)
    monkeypatch.setattr(databases, "_DROP_SECONDS", 1)
    mysql_tenant.ensure()
    name = mysql_tenant.names.database
    mysql_tenant.as_tenant("CREATE TABLE t (a INT)")
    with mysql_tenant.server.connect(name) as connection, connection.cursor() as cursor:
        connection.begin()
        cursor.execute("SELECT * FROM t")
        error = refused(ErrorType.TIMEOUT, mysql_tenant.remove)
        assert name in error.message
        assert "1205" in error.cause
        connection.rollback()
    assert mysql_tenant.remove() is False
    assert not any(mysql_tenant.snapshot().values())


def test_a_prepared_transaction_keeps_the_database_and_is_told_of(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "LOCK_SECONDS", 0)
    monkeypatch.setattr(databases, "_DROP_SECONDS", 1)
    mysql_tenant.ensure()
    xid = f"'{mysql_tenant.names.database}'"
    mysql_tenant.as_tenant(
        "CREATE TABLE t (a INT)",
        f"XA START {xid}",
        "INSERT INTO t VALUES (1)",
        f"XA END {xid}",
        f"XA PREPARE {xid}",
    )
    try:
        error = refused(ErrorType.TIMEOUT, mysql_tenant.remove)
    finally:
        mysql_tenant.as_superuser(f"XA ROLLBACK {xid}")
    assert "XA RECOVER" in error.message
    assert mysql_tenant.remove() is False


def change_password(
    tenant: MysqlTenant,
    before_commit: Callable[[], None] = lambda: None,
    current: Callable[[], str | None] = lambda: None,
    password: str = OTHER_PASSWORD,
) -> None:
    tenant.engine.change_password(
        tenant.names, password, tenant.owner, current=current, before_commit=before_commit
    )


def repair(tenant: MysqlTenant) -> object:
    return tenant.engine.repair_database(tenant.names, lambda: PASSWORD, tenant.owner)


def test_a_password_is_changed_only_after_the_last_call(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure_database()

    def fail() -> None:
        mysql_tenant.login().close()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_password(mysql_tenant, fail)
    session = mysql_tenant.login()
    for _ in range(2):
        change_password(mysql_tenant)
        check = mysql_tenant.engine.check_password(mysql_tenant.names, OTHER_PASSWORD)
        assert mysql_tenant.names.app_role in check
    refused(
        ErrorType.INSUFFICIENT_PERMISSIONS,
        lambda: mysql_tenant.engine.check_password(mysql_tenant.names, PASSWORD),
    )
    session.ping(reconnect=False)
    session.close()


def test_what_is_to_be_in_force_before_the_change_is_made_so_first(
    mysql_tenant: MysqlTenant,
) -> None:
    mysql_tenant.ensure_database()

    def fail() -> None:
        mysql_tenant.login(password=THIRD_PASSWORD).close()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_password(mysql_tenant, fail, lambda: THIRD_PASSWORD)
    mysql_tenant.login(password=THIRD_PASSWORD).close()


def test_the_password_of_a_user_that_is_missing_or_not_ours_is_not_changed(
    mysql_tenant: MysqlTenant,
) -> None:
    refused(ErrorType.DATABASE_CHANGE_FAILED, lambda: change_password(mysql_tenant))
    mysql_tenant.ensure_database()
    theirs = mysql_tenant.with_owner(project_id="another")
    refused(ErrorType.CONFLICT, lambda: change_password(theirs))
    mysql_tenant.login().close()


def test_a_change_that_is_refused_is_met_before_the_secret_changes(
    mysql_tenant: MysqlTenant,
) -> None:
    """As where the platform's user has lost a privilege; the login works all the same."""
    mysql_tenant.ensure_database()
    told: list[int] = []
    weak = replace(
        mysql_tenant,
        admin=replace(mysql_tenant.admin, user=f"{mysql_tenant.names.app_role}_w", password="pw"),
    )
    user = weak.admin.user
    for statement in (
        f"CREATE USER {user} IDENTIFIED BY 'pw'",
        f"GRANT SELECT ON mysql.* TO {user}",
        f"GRANT SELECT ON provisioner.* TO {user}",
    ):
        mysql_tenant.as_superuser(statement)
    try:
        error = refused(
            ErrorType.INSUFFICIENT_PERMISSIONS,
            lambda: change_password(weak, lambda: told.append(1), lambda: PASSWORD),
        )
    finally:
        mysql_tenant.as_superuser(f"DROP USER {user}")
    assert "1227" in error.cause
    assert told == []
    mysql_tenant.login().close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_point_of_a_change_is_healed_by_the_next_attempt(
    make_mysql_tenant: Callable[[], MysqlTenant],
    monkeypatch: pytest.MonkeyPatch,
    *,
    after: bool,
) -> None:
    """The secret stands for the one in Secrets Manager, whose label moves in the last call."""
    tenant = make_mysql_tenant()
    tenant.ensure_database()
    secret = [PASSWORD]
    lost: list[int] = []
    passwords = itertools.cycle([OTHER_PASSWORD, THIRD_PASSWORD])
    for at in itertools.count():
        new = next(passwords)

        def change(new: str = new) -> None:
            def tell() -> None:
                secret[:] = [new]

            change_password(tenant, tell, lambda: secret[0], new)

        died = mysql_dies(monkeypatch, change, at, after=after)
        if not died:
            break
        if not tenant.engine._takes(tenant.names, secret[0]):
            lost.append(at)
        change(next(passwords))
        tenant.login(password=secret[0]).close()
    tenant.login(password=secret[0]).close()
    # Only where the label has moved and the statement, the last one, has not been run.
    assert lost == ([] if after else [at - 1])


def test_a_run_that_waited_for_a_change_of_the_password_does_not_undo_it(
    mysql_tenant: MysqlTenant,
) -> None:
    """The truth changes before the lock is had, so it is read after."""
    mysql_tenant.ensure_database()
    truth = [PASSWORD]
    with ThreadPoolExecutor() as pool:
        runs: list[Future[None]] = []

        def tell() -> None:
            ensure = mysql_tenant.engine.ensure_database
            runs.append(
                pool.submit(ensure, mysql_tenant.names, lambda: truth[0], mysql_tenant.owner)
            )
            _wait_for_a_waiter(mysql_tenant)
            truth[:] = [OTHER_PASSWORD]

        change_password(mysql_tenant, tell)
        runs[0].result()
    mysql_tenant.engine.check_database(mysql_tenant.names, OTHER_PASSWORD)


def _wait_for_a_waiter(tenant: MysqlTenant) -> None:
    deadline = time.monotonic() + 10
    while not tenant.as_superuser(
        "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE = 'User lock'"
    ):
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("mysql_superuser")
def test_a_session_that_ends_before_its_statement_is_made_up_for_at_once(
    mysql_tenant: MysqlTenant,
) -> None:
    mysql_tenant.ensure_database()
    told: list[int] = []

    def tell_and_end_the_session() -> None:
        told.append(1)
        if len(told) == 1:
            for (thread,) in mysql_tenant.as_superuser(
                "SELECT id FROM information_schema.PROCESSLIST WHERE user = %s AND db IS NULL",
                (mysql_tenant.admin.user,),
            ):
                end_session(mysql_tenant.server, thread)

    change_password(mysql_tenant, tell_and_end_the_session)
    assert told == [1, 1]
    mysql_tenant.engine.check_password(mysql_tenant.names, OTHER_PASSWORD)


def test_a_killed_run_holds_its_lock_no_longer_than_its_session_may_idle(
    mysql_tenant: MysqlTenant,
) -> None:
    with connect_as_platform(mysql_tenant.admin) as connection:
        bounds = execute(
            connection,
            SQL("SELECT @@wait_timeout, @@lock_wait_timeout, @@innodb_lock_wait_timeout"),
        )
    assert bounds == [(60, 30, 30)]
    killed = connect_as_platform(mysql_tenant.admin, idle_seconds=1)
    lock(killed, mysql_tenant.names)
    mysql_tenant.ensure()
    killed.close()


def test_a_lock_that_stays_taken_is_a_time_out(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0)
    with connect_as_platform(mysql_tenant.admin) as connection:
        lock(connection, mysql_tenant.names)
        error = refused(ErrorType.TIMEOUT, mysql_tenant.ensure)
    assert "GET_LOCK" in error.cause
    mysql_tenant.ensure()


@pytest.mark.usefixtures("mysql_superuser")
def test_no_password_reaches_the_log_of_the_server(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.as_superuser("SET GLOBAL log_output = 'TABLE'")
    mysql_tenant.as_superuser("SET GLOBAL general_log = ON")
    try:
        mysql_tenant.ensure()
        mysql_tenant.check()
        mysql_tenant.ensure(OTHER_PASSWORD)
        change_password(mysql_tenant, password=THIRD_PASSWORD)
        mysql_tenant.remove()
    finally:
        mysql_tenant.as_superuser("SET GLOBAL general_log = OFF")
    rows = mysql_tenant.as_superuser("SELECT argument FROM mysql.general_log")
    log = "\n".join(row[0] if isinstance(row[0], str) else row[0].decode() for row in rows)
    for statement in ("CREATE USER", "ALTER USER", "DROP USER IF EXISTS"):
        assert f"{statement} `{mysql_tenant.names.app_role}`@`%`" in log
    for secret in (PASSWORD, OTHER_PASSWORD, THIRD_PASSWORD, mysql_tenant.admin.password):
        assert secret not in log


@pytest.mark.parametrize("method", ["ensure_database", "ensure_schema"])
@pytest.mark.parametrize(
    ("change", "error_type"),
    [
        ({"password": "wrong-password"}, ErrorType.INSUFFICIENT_PERMISSIONS),
        ({"port": 1}, ErrorType.NETWORK_ERROR),
        ({"host": "no-such-host.invalid"}, ErrorType.NETWORK_ERROR),
    ],
    ids=["wrong_password", "refused_connection", "no_host"],
)
def test_an_admin_who_cannot_connect_is_told_why_and_no_password(
    mysql_tenant: MysqlTenant, method: str, change: dict[str, Any], error_type: ErrorType
) -> None:
    tenant = replace(mysql_tenant, admin=replace(mysql_tenant.admin, **change))
    error = refused(error_type, getattr(tenant, method))
    _holds_no_secret(error, tenant)
    assert tenant.admin.host not in error.message


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        yield from _chain(error.__context__)


def _holds_no_secret(error: ProvisioningError, tenant: MysqlTenant) -> None:
    for link in _chain(error):
        assert not isinstance(link, pymysql.Error)
        for secret in ("wrong-password", PASSWORD, tenant.admin.password):
            assert secret not in repr(vars(link)) + repr(link)


def test_no_error_of_a_statement_or_login_holds_a_password(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    errors = [
        refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: mysql_tenant.check("wrong-password")),
        refused(ErrorType.CONFLICT, mysql_tenant.with_owner(project_id="other").ensure),
    ]
    pattern = mysql_tenant.names.database.replace("_", r"\_")
    mysql_tenant.as_superuser(f"REVOKE INDEX ON `{pattern}`.* FROM {mysql_tenant.names.app_role}")
    errors.append(refused(ErrorType.SCHEMA_CREATION_FAILED, mysql_tenant.check))
    assert "INDEX" in errors[-1].cause
    for error in errors:
        _holds_no_secret(error, mysql_tenant)


def test_a_missing_privilege_is_told_of_by_the_check(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    names = mysql_tenant.names
    pattern = names.database.replace("_", r"\_")
    mysql_tenant.as_superuser(f"REVOKE DROP, EVENT ON `{pattern}`.* FROM {names.app_role}")
    error = refused(ErrorType.SCHEMA_CREATION_FAILED, mysql_tenant.check)
    assert "['DROP', 'EVENT']" in error.cause
    mysql_tenant.ensure()
    mysql_tenant.check()


def test_a_check_leaves_nothing_and_touches_no_table_of_the_customer(
    mysql_tenant: MysqlTenant,
) -> None:
    mysql_tenant.ensure()
    mysql_tenant.as_tenant(
        "CREATE TABLE provisioner_check (id INT NOT NULL PRIMARY KEY)",
        "INSERT INTO provisioner_check VALUES (1)",
    )
    mysql_tenant.check()
    assert mysql_tenant.as_tenant("SHOW TABLES") == (("provisioner_check",),)
    assert mysql_tenant.as_tenant("SELECT id FROM provisioner_check") == ((1,),)


def test_a_schema_without_its_user_or_database_is_refused(mysql_tenant: MysqlTenant) -> None:
    refused(ErrorType.SCHEMA_CREATION_FAILED, mysql_tenant.ensure_schema)
    assert mysql_tenant.snapshot()["databases"] == []


def test_an_admin_without_rights_is_told_so(mysql_tenant: MysqlTenant) -> None:
    user = f"{mysql_tenant.names.app_role}_w"
    mysql_tenant.as_superuser(f"CREATE USER {user} IDENTIFIED BY 'pw'")
    try:
        weak = replace(mysql_tenant, admin=replace(mysql_tenant.admin, user=user, password="pw"))
        error = refused(ErrorType.INSUFFICIENT_PERMISSIONS, weak.ensure)
    finally:
        mysql_tenant.as_superuser(f"DROP USER {user}")
    assert "error 1142" in error.cause


def _mark(tenant: MysqlTenant, kind: str, name: str, marker: str | None) -> None:
    if marker is not None:
        tenant.as_superuser(
            "INSERT INTO provisioner.resource (kind, name, marker) VALUES (%s, %s, %s)",
            (kind, name, marker),
        )


def _anonymous(tenant: MysqlTenant) -> str:
    """Return a tenant's snapshot with its own names left out, to compare it with another's."""
    text = repr(tenant.snapshot())
    for name in (tenant.names.database, tenant.names.database.replace("_", r"\\_")):
        text = text.replace(name, "DATABASE")
    return text.replace(tenant.names.app_role, "USER").replace(tenant.owner.project_id, "PROJECT")
