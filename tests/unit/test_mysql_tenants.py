"""What a tenant may and may not do on a MySQL or MariaDB server, and to whom it may do it."""

from __future__ import annotations

import contextlib
import gzip
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pymysql
import pytest
from provisioner.drivers.database_engine import AdminConnection
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.drivers.mysql.snapshot import MysqlDumper
from provisioner.drivers.obstacles import Obstacles
from provisioner.errors import ErrorType
from pymysql.connections import Connection as DriverConnection
from support.mysql import Connection, PreparedMysql
from support.mysql_tenants import MysqlTenant, admin_of, mysql_tenants, thread_of
from support.project import ROOT
from support.tenants import PASSWORD, refused

OTHER_PASSWORD = "OtherPassword0123456789abcdefghijklmnopqrst"


@pytest.fixture(scope="module")
def two_tenants(mysql_server: PreparedMysql) -> Iterator[tuple[MysqlTenant, MysqlTenant]]:
    """Return two tenants for tests that change nothing of the second."""
    with mysql_tenants(mysql_server) as make:
        mine, other = make(), make()
        for tenant in (mine, other):
            tenant.ensure()
            tenant.as_tenant("CREATE TABLE note (a INT PRIMARY KEY)", "INSERT INTO note VALUES (1)")
        yield mine, other


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE t (a INT PRIMARY KEY, b TEXT)", "INSERT INTO t VALUES (1, 'x')"),
        ("CREATE TABLE t (a INT)", "ALTER TABLE t ADD b INT", "CREATE INDEX i ON t (a)"),
        ("CREATE TABLE t (a INT)", "RENAME TABLE t TO u", "TRUNCATE u", "DROP TABLE u"),
        ("CREATE TEMPORARY TABLE t (a INT)",),
        ("CREATE VIEW v AS SELECT a FROM note", "SHOW CREATE VIEW v", "SELECT a FROM v"),
        (
            "CREATE TABLE t (a INT PRIMARY KEY)",
            "CREATE TABLE u (a INT, FOREIGN KEY (a) REFERENCES t (a) ON DELETE CASCADE)",
        ),
        ("CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1", "SELECT f()"),
        ("CREATE PROCEDURE p() SELECT 1", "CALL p()", "DROP PROCEDURE p"),
        ("CREATE TRIGGER g BEFORE INSERT ON note FOR EACH ROW SET NEW.a = 2", "DROP TRIGGER g"),
        ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1", "DROP EVENT e"),
        ("LOCK TABLES note WRITE", "UNLOCK TABLES"),
        ("SELECT GET_LOCK('migrations', 0)", "SELECT RELEASE_LOCK('migrations')"),
        ("SET SESSION sql_mode = 'ANSI'", "SHOW VARIABLES LIKE 'version'"),
        ("ALTER DATABASE {mine} CHARACTER SET utf8mb4",),
        ("SHOW GRANTS", "SHOW PROCESSLIST", "SHOW DATABASES"),
    ],
    ids=lambda statements: statements[0],
)
def test_a_tenant_may(
    two_tenants: tuple[MysqlTenant, MysqlTenant], statements: tuple[str, ...]
) -> None:
    mine, _ = two_tenants
    try:
        mine.as_tenant(*(text.replace("{mine}", mine.names.database) for text in statements))
    finally:
        for kind, names in {"VIEW": "v", "TABLE": "u, t", "FUNCTION": "f"}.items():
            mine.as_tenant(f"DROP {kind} IF EXISTS {names}")


@pytest.mark.parametrize(
    "statement",
    [
        # Another tenant's.
        "SELECT a FROM {other}.note",
        "INSERT INTO {other}.note VALUES (2)",
        "UPDATE {other}.note SET a = 3",
        "DELETE FROM {other}.note",
        "DROP TABLE {other}.note",
        "TRUNCATE {other}.note",
        "CREATE TABLE {other}.t (a INT)",
        "CREATE VIEW v AS SELECT a FROM {other}.note",
        "CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES {other}.note (a))",
        "CREATE TRIGGER {other}.g BEFORE INSERT ON {other}.note FOR EACH ROW SET NEW.a = 2",
        "CREATE EVENT {other}.e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "CREATE PROCEDURE {other}.p() SELECT 1",
        "RENAME TABLE note TO {other}.stolen",
        "LOCK TABLES {other}.note READ",
        "SHOW TABLES FROM {other}",
        "SHOW CREATE TABLE {other}.note",
        "SHOW CREATE DATABASE {other}",
        "USE {other}",
        "DROP DATABASE {other}",
        "ALTER DATABASE {other} CHARACTER SET latin1",
        "SHOW GRANTS FOR {other_user}",
        "SHOW CREATE USER {other_user}",
        "DROP USER {other_user}",
        "SET PASSWORD FOR {other_user} = 'x'",
        "GRANT SELECT ON {mine}.* TO {other_user}",
        "GRANT ALL ON {mine}.* TO {user}",
        "REVOKE ALL ON {other}.* FROM {other_user}",
        # The platform's, and the server's.
        "SELECT marker FROM provisioner.resource",
        "INSERT INTO provisioner.lock_key (id, value) VALUES (2, 'x')",
        "DELETE FROM provisioner.resource",
        "SELECT value FROM provisioner.lock_key",
        "CREATE TABLE provisioner.t (a INT)",
        "DROP DATABASE provisioner",
        "SELECT User FROM mysql.user",
        "SELECT Db FROM mysql.db",
        "CREATE DATABASE another",
        "CREATE DATABASE {mine}_2",
        "CREATE USER another",
        "CREATE ROLE another",
        "ALTER USER {user} WITH MAX_USER_CONNECTIONS 0",
        "ALTER USER {user} REQUIRE NONE",
        "ALTER USER {admin} IDENTIFIED BY 'x'",
        "RENAME USER {user} TO another",
        "GRANT PROXY ON {admin} TO {user}",
        "CREATE DEFINER = {admin}@'%' VIEW v AS SELECT 1",
        "CREATE DEFINER = {admin}@'%' PROCEDURE p() SELECT 1",
        "CREATE DEFINER = {admin}@'%' EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "CREATE DEFINER = {admin}@'%' TRIGGER g BEFORE INSERT ON note FOR EACH ROW SET NEW.a = 2",
        "SET GLOBAL event_scheduler = OFF",
        "SET GLOBAL max_user_connections = 0",
        "SET GLOBAL init_connect = 'SELECT 1'",
        "SET SESSION sql_log_bin = 0",
        "SELECT a FROM note INTO OUTFILE '/tmp/note'",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE note",
        "FLUSH TABLES WITH READ LOCK",
        "FLUSH PRIVILEGES",
        "KILL {platform_session}",
        "SHOW ENGINE INNODB STATUS",
        "SHUTDOWN",
    ],
)
def test_a_tenant_may_not(two_tenants: tuple[MysqlTenant, MysqlTenant], statement: str) -> None:
    mine, other = two_tenants
    names = {
        "mine": mine.names.database,
        "other": other.names.database,
        "user": mine.names.app_role,
        "other_user": other.names.app_role,
        "admin": mine.admin.user,
    }
    with mine.server.login(mine.admin.user, mine.admin.password) as platform:
        names["platform_session"] = str(thread_of(platform))
        with pytest.raises(pymysql.Error) as raised:
            mine.as_tenant(statement.format(**names))
    # ER_DBACCESS_DENIED_ERROR, ER_KILL_DENIED_ERROR, ER_TABLEACCESS_DENIED_ERROR,
    # ER_SPECIFIC_ACCESS_DENIED_ERROR, ER_CANT_CREATE_USER_WITH_GRANT, ER_ACCESS_DENIED_ERROR,
    # ER_ACCESS_DENIED_NO_PASSWORD_ERROR.
    assert raised.value.args[0] in {1044, 1095, 1142, 1227, 1410, 1045, 1698}


def test_a_tenant_sees_nothing_of_another(two_tenants: tuple[MysqlTenant, MysqlTenant]) -> None:
    mine, other = two_tenants
    assert mine.as_tenant("SHOW DATABASES") == (("information_schema",), (mine.names.database,))
    with other.login():
        for query in (
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA",
            "SELECT TABLE_SCHEMA FROM information_schema.TABLES",
            "SELECT USER FROM information_schema.PROCESSLIST",
            "SELECT GRANTEE FROM information_schema.SCHEMA_PRIVILEGES",
            "SELECT GRANTEE FROM information_schema.USER_PRIVILEGES",
        ):
            text = repr(mine.as_tenant(query))
            for name in (other.names.database, other.names.app_role, mine.admin.user):
                assert name not in text
    assert mine.as_tenant("SELECT LOAD_FILE('/etc/passwd')") == ((None,),)


def test_no_grant_is_a_pattern(mysql_tenant: MysqlTenant) -> None:
    """In GRANT, `_` stands for any character: a database may be named as the pattern allows."""
    alike = mysql_tenant.names.database.replace("_", "x")
    mysql_tenant.as_superuser(f"CREATE DATABASE {alike}")
    try:
        mysql_tenant.ensure()
        with pytest.raises(pymysql.Error) as raised:
            mysql_tenant.as_tenant(f"CREATE TABLE {alike}.t (a INT)")
        assert (mysql_tenant.names.database,) in mysql_tenant.as_tenant("SHOW DATABASES")
        assert (alike,) not in mysql_tenant.as_tenant("SHOW DATABASES")
    finally:
        mysql_tenant.as_superuser(f"DROP DATABASE {alike}")
    assert raised.value.args[0] == 1142


def test_a_login_without_tls_is_refused(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    server = mysql_tenant.server
    with pytest.raises(pymysql.Error) as raised:
        pymysql.connect(
            host=server.host,
            port=server.port,
            user=mysql_tenant.names.app_role,
            password=PASSWORD,
            ssl_disabled=True,
        )
    assert raised.value.args[0] == 1045


def test_the_limit_of_a_tenant_holds_and_keeps_the_platform_out_of_nothing(
    mysql_tenant: MysqlTenant,
) -> None:
    engine = MysqlEngine(mysql_tenant.admin, connections=2)
    names, owner = mysql_tenant.names, mysql_tenant.owner
    engine.ensure_database(names, lambda: PASSWORD, owner)
    with mysql_tenant.login(), mysql_tenant.login():
        error = refused(ErrorType.NETWORK_ERROR, mysql_tenant.check)
        assert "1226" in error.cause
        # Its password is right all the same.
        engine.ensure_database(names, lambda: PASSWORD, owner)
        engine.ensure_schema(names, owner)
        assert names.app_role in engine.check_password(names, PASSWORD)
        repairs = engine.repair_database(names, lambda: PASSWORD, owner)
        assert (
            repairs.checked == f"user {names.app_role} can log in, and uses all of its connections"
        )
        engine.change_password(
            names, OTHER_PASSWORD, owner, current=lambda: PASSWORD, before_commit=lambda: None
        )
        refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: engine.check_password(names, PASSWORD))
        assert engine.remove_database(names, owner, only_this_job=False) is False


def test_what_a_tenant_does_to_itself_is_healed(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    before = mysql_tenant.snapshot()
    name = mysql_tenant.names.database
    # MariaDB's way, then MySQL's.
    with contextlib.suppress(pymysql.err.ProgrammingError):
        mysql_tenant.as_tenant(f"SET PASSWORD = PASSWORD('{OTHER_PASSWORD}')")
    with contextlib.suppress(pymysql.Error):
        mysql_tenant.as_tenant(f"SET PASSWORD = '{OTHER_PASSWORD}'")
    assert mysql_tenant.engine._takes(mysql_tenant.names, OTHER_PASSWORD)
    with mysql_tenant.login(password=OTHER_PASSWORD) as connection:
        connection.query(f"DROP DATABASE {name}")
    assert mysql_tenant.snapshot()["databases"] == []
    mysql_tenant.ensure()
    assert mysql_tenant.snapshot() == before
    mysql_tenant.check()
    # Its privileges outlive the database: it may make that again, as it likes it.
    mysql_tenant.as_tenant(f"DROP DATABASE {name}", f"CREATE DATABASE {name} CHARACTER SET latin1")
    mysql_tenant.ensure()
    mysql_tenant.check()
    assert mysql_tenant.remove() is False


def test_a_tenant_that_makes_its_database_meanwhile_is_no_conflict(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_tenant.ensure()
    before = mysql_tenant.snapshot()
    name = mysql_tenant.names.database
    mysql_tenant.as_superuser(f"DROP DATABASE {name}")
    real = DriverConnection.query

    def query(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        if sql.startswith("CREATE DATABASE `nm_"):
            mysql_tenant.server.login(mysql_tenant.names.app_role, PASSWORD).query(
                f"CREATE DATABASE {name}"
            )
        return real(self, sql, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DriverConnection, "query", query)
        mysql_tenant.ensure()
    assert mysql_tenant.snapshot()["records"] == before["records"]
    mysql_tenant.check()


def test_no_tenant_can_take_the_lock_of_the_platform(mysql_tenant: MysqlTenant) -> None:
    """Locks need no privilege, only their names."""
    mysql_tenant.ensure()
    name = mysql_tenant.names.database
    with mysql_tenant.login() as connection, connection.cursor() as cursor:
        for guess in (name, f"provisioner:{name}", f"provisioner/{name}", f"/{name}"):
            cursor.execute("SELECT GET_LOCK(%s, 0), GET_LOCK(SHA2(%s, 256), 0)", (guess, guess))
        mysql_tenant.ensure()


def _planted(tenant: MysqlTenant) -> None:
    """Leave in the tenant's database what catches whoever comes near, as whom it comes."""
    name = tenant.names.database
    tenant.as_tenant(
        "CREATE TABLE caught (who TEXT)",
        """CREATE FUNCTION catch() RETURNS INT NOT DETERMINISTIC MODIFIES SQL DATA
           SQL SECURITY INVOKER
           BEGIN INSERT INTO caught VALUES (USER()); RETURN 1; END""",
        "CREATE TABLE resource (kind VARCHAR(16), name VARCHAR(64), marker TEXT)",
        "CREATE TABLE lock_key (id INT, value TEXT)",
        "CREATE SQL SECURITY INVOKER VIEW user AS SELECT catch() AS Host, 'x' AS User",
        "CREATE SQL SECURITY INVOKER VIEW SCHEMATA AS SELECT catch() AS SCHEMA_NAME",
        f"CREATE TRIGGER planted BEFORE DELETE ON {name}.resource FOR EACH ROW SET @x = catch()",
    )


def test_nothing_that_a_tenant_has_planted_runs_as_the_platform(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_tenant.ensure()
    _planted(mysql_tenant)
    names, owner = mysql_tenant.names, mysql_tenant.owner
    run: list[tuple[str, str]] = []
    real = DriverConnection.query

    def query(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        text = sql.decode() if isinstance(sql, bytes) else sql
        if self.user == mysql_tenant.admin.user.encode():
            assert self.db is None
            run.append((text, self.user))
        return real(self, sql, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DriverConnection, "query", query)
        mysql_tenant.ensure()
        mysql_tenant.check()
        mysql_tenant.engine.repair_database(names, lambda: PASSWORD, owner)
        mysql_tenant.engine.repair_schema(names, owner)
        mysql_tenant.engine.change_password(
            names, PASSWORD, owner, current=lambda: None, before_commit=lambda: None
        )
        MysqlEngine(mysql_tenant.admin).find_obstacles(
            names, owner.claim(only_this_job=False), with_dump=True
        )
        caught = mysql_tenant.as_superuser(f"SELECT who FROM {names.database}.caught")  # nosec B608
        mysql_tenant.remove()
    assert caught == ()
    assert len(run) > 30
    # The schema is named, and nothing in it.
    named = [text for text, _ in run if f"`{names.database}`" in text]
    assert named == [f"DROP DATABASE IF EXISTS `{names.database}`"]
    assert not any(text.upper().startswith("USE ") for text, _ in run)


@pytest.mark.usefixtures("mysql_superuser")
def test_an_event_of_the_tenant_does_not_keep_its_database(mysql_tenant: MysqlTenant) -> None:
    """Events run by themselves, as who has made them, whatever becomes of the sessions."""
    mysql_tenant.ensure()
    user = mysql_tenant.names.app_role
    mysql_tenant.as_tenant(
        "CREATE TABLE t (a INT)",
        """CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO
           BEGIN START TRANSACTION; INSERT INTO t VALUES (1); DO SLEEP(60); END""",
    )
    mysql_tenant.as_superuser("SET GLOBAL event_scheduler = ON")
    try:
        deadline = time.monotonic() + 10
        while not mysql_tenant.as_superuser(
            "SELECT 1 FROM information_schema.PROCESSLIST WHERE USER = %s", (user,)
        ):
            assert time.monotonic() < deadline
        began = time.monotonic()
        assert mysql_tenant.remove() is False
        assert time.monotonic() - began < 10
    finally:
        mysql_tenant.as_superuser("SET GLOBAL event_scheduler = OFF")
    assert not any(mysql_tenant.snapshot().values())


def test_a_tenant_that_sets_its_password_all_the_while_is_told_of(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open session may do so, until it is ended."""
    mysql_tenant.ensure()
    user = mysql_tenant.names.app_role
    real = DriverConnection.query
    tries: list[int] = []
    last = 5

    def query(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        result = real(self, sql, *arguments, **options)
        if sql.startswith("ALTER USER `") and "REQUIRE NONE" in sql:
            tries.append(1)
            if len(tries) <= last:
                mysql_tenant.as_superuser(f"ALTER USER {user} IDENTIFIED BY '{OTHER_PASSWORD}'")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(DriverConnection, "query", query)
        error = refused(ErrorType.TIMEOUT, mysql_tenant.remove)
        assert user in error.message
        assert len(tries) == last
        # Where it is slower than we are, it does not keep us.
        tries.clear()
        last = 2
        assert mysql_tenant.remove() is False
    assert not any(mysql_tenant.snapshot().values())


@pytest.fixture(scope="module")
def shared_admin(mysql_server: PreparedMysql) -> Iterator[AdminConnection]:
    """Return the login of a user as docs/cluster-mysql.sql makes it, and nothing more."""
    user, password = f"nm_admin_{uuid.uuid4().hex[:12]}", "pw-0123456789"
    script = (ROOT / "docs" / "cluster-mysql.sql").read_text().replace("provisioner@", f"{user}@")
    with mysql_server.connect() as connection:
        for statement in _statements(script):
            connection.query(statement)
        connection.query(f"ALTER USER {user} IDENTIFIED BY '{password}' ACCOUNT UNLOCK")
    yield replace(admin_of(mysql_server), user=user, password=password)
    with mysql_server.connect() as connection:
        connection.query(f"DROP USER {user}")


def _statements(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [text.strip() for text in "\n".join(lines).split(";") if text.strip()]


def test_the_user_that_an_operator_makes_can_do_all_that_the_platform_does(
    mysql_tenant: MysqlTenant, shared_admin: AdminConnection
) -> None:
    tenant = replace(mysql_tenant, admin=shared_admin)
    names, owner = tenant.names, tenant.owner
    for _ in range(2):
        tenant.ensure()
    tenant.check()
    tenant.as_tenant(
        "CREATE TABLE t (a INT)",
        "CREATE VIEW v AS SELECT a FROM t",
        "CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 4711",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.a = 2",
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    )
    assert all(
        text in _dumped(tenant) for text in ("CREATE TABLE", "VIEW", "4711", "TRIGGER", "EVENT")
    )
    tenant.as_superuser(f"ALTER USER {names.app_role} WITH MAX_USER_CONNECTIONS 0")
    repairs = tenant.engine.repair_database(names, lambda: PASSWORD, owner)
    assert [drift.what for drift in repairs.repaired] == ["MAX_USER_CONNECTIONS"]
    assert repairs.remaining == ()
    tenant.engine.change_password(
        names, OTHER_PASSWORD, owner, current=lambda: PASSWORD, before_commit=lambda: None
    )
    tenant.engine.check_password(names, OTHER_PASSWORD)
    with tenant.login(password=OTHER_PASSWORD) as session:
        session.begin()
        session.query("SELECT * FROM t")
        assert tenant.remove() is False
    assert not any(tenant.snapshot().values())


def _dumped(tenant: MysqlTenant) -> str:
    claim = tenant.owner.claim(only_this_job=False)
    with MysqlDumper(tenant.admin).dump(tenant.names, claim, 60) as dump:
        assert dump is not None
        return gzip.decompress(dump.read()).decode()


def test_the_operator_s_user_takes_back_what_it_does_not_have(
    mysql_tenant: MysqlTenant, shared_admin: AdminConnection
) -> None:
    tenant = replace(mysql_tenant, admin=shared_admin)
    tenant.ensure()
    before = tenant.snapshot()
    tenant.as_superuser(f"GRANT RELOAD ON *.* TO {tenant.names.app_role}")
    tenant.as_superuser(f"GRANT SELECT ON mysql.* TO {tenant.names.app_role} WITH GRANT OPTION")
    repairs = tenant.engine.repair_database(tenant.names, lambda: PASSWORD, tenant.owner)
    told = [drift.what for drift in repairs.repaired]
    assert told == ["privileges on *.*", "privileges on mysql.*"]
    assert repairs.remaining == ()
    assert tenant.snapshot() == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE DATABASE another",
        "SELECT a FROM foreign_app.t",
        "GRANT SELECT ON `nm_a`.* TO {user}",
    ],
)
def test_the_operator_s_user_reaches_no_more_than_the_deployment_s_databases(
    mysql_tenant: MysqlTenant, shared_admin: AdminConnection, statement: str
) -> None:
    mysql_tenant.ensure()
    with (
        mysql_tenant.server.login(shared_admin.user, shared_admin.password) as connection,
        pytest.raises(pymysql.Error) as raised,
    ):
        connection.query(statement.format(user=mysql_tenant.names.app_role))
    assert raised.value.args[0] in {1044, 1142}


def test_a_transaction_of_another_is_named_as_an_obstacle(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    mysql_tenant.as_tenant("CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1)")
    names, owner = mysql_tenant.names, mysql_tenant.owner
    claim = owner.claim(only_this_job=False)

    def look(claim: Any = claim) -> Obstacles:
        return MysqlEngine(mysql_tenant.admin).find_obstacles(names, claim, with_dump=True)

    assert look() == Obstacles()
    with mysql_tenant.server.connect(names.database) as idle, mysql_tenant.login() as own:
        _begin(own)
        assert look() == Obstacles()
        _begin(idle)
        thread = thread_of(idle)
        (clause,) = _seen(look).passing
        assert clause.startswith(f'session {thread} of user "')
        assert clause.endswith(f"type KILL {thread}")
        theirs = replace(owner, project_id="other").claim(only_this_job=False)
        assert look(theirs) == Obstacles()


def _seen(look: Callable[[], Obstacles]) -> Obstacles:
    """Look until something is seen.

    What the server tells of transactions it reads anew once nobody has asked for a tenth of a
    second. Source: MariaDB source, trx0i_s.cc.
    """
    deadline = time.monotonic() + 10
    while not (found := look()).passing:
        assert time.monotonic() < deadline
        time.sleep(0.15)
    return found


def _begin(connection: Connection) -> None:
    connection.begin()
    connection.query("SELECT a FROM t")


def test_who_may_not_see_transactions_sees_no_obstacle(
    mysql_tenant: MysqlTenant, shared_admin: AdminConnection
) -> None:
    mysql_tenant.ensure()
    names = mysql_tenant.names
    claim = mysql_tenant.owner.claim(only_this_job=False)
    mysql_tenant.as_tenant("CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1)")
    with mysql_tenant.server.connect(names.database) as session:
        _begin(session)
        assert _seen(
            lambda: MysqlEngine(shared_admin).find_obstacles(names, claim, with_dump=False)
        ).passing
        mysql_tenant.as_superuser(f"REVOKE PROCESS ON *.* FROM {shared_admin.user}")
        try:
            assert (
                MysqlEngine(shared_admin).find_obstacles(names, claim, with_dump=False)
                == Obstacles()
            )
        finally:
            mysql_tenant.as_superuser(f"GRANT PROCESS ON *.* TO {shared_admin.user}")


@pytest.mark.parametrize("make_first", [True, False])
def test_a_place_that_a_tenant_leaves_is_taken_by_another_with_nothing_left(
    make_mysql_tenant: Callable[[], MysqlTenant], *, make_first: bool
) -> None:
    """A grant outlives the database that it is on: so none stays."""
    tenant = make_mysql_tenant()
    if make_first:
        tenant.ensure()
        tenant.as_tenant("CREATE TABLE old (a INT)")
        tenant.remove()
    tenant.ensure()
    assert tenant.as_tenant("SHOW TABLES") == ()
    assert len(tenant.snapshot()["grants"]) == 1
