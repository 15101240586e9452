"""Snapshots, restored by the real pg_restore and psql into databases of a real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provisioner.drivers.database_engine import Restored
from provisioner.drivers.postgresql import restore as restore_module
from provisioner.drivers.postgresql.programs import installed_program
from provisioner.drivers.postgresql.restore import PostgresqlRestorer
from provisioner.drivers.postgresql.snapshot import PostgresqlDumper
from provisioner.errors import ErrorType, ProvisioningError
from psycopg import sql
from support.postgresql import PreparedCluster
from support.tenant_contents import ROWS, fill
from support.tenants import PASSWORD, Tenant, tenants
from support.tls import certificate, tls_in_front_of

#: The first bytes of an archive, up to the version of its server.
VERSION = re.compile(rb"(?<=\0)\d\d(?=\.\d+[^\0]{0,60}\0)")


def archive_of(tenant: Tenant) -> bytes:
    """Dump a tenant's database as the platform does."""
    dumper = PostgresqlDumper(tenant.cluster.admin)
    with dumper.dump(tenant.names, tenant.owner.claim(only_this_job=False), 60) as dump:
        assert dump is not None
        return dump.read()


def script_of(tenant: Tenant) -> str:
    """Return all of a tenant's database as SQL, with another name in place of its own."""
    printed = subprocess.run(
        [installed_program("pg_restore", ErrorType.UNKNOWN_ERROR), "--file=-"],
        input=archive_of(tenant),
        capture_output=True,
        check=True,
    )
    # A function's text may name the tenant that it was made for.
    script = re.sub(r"nm_project_[0-9a-f]{12}_[0-9a-f]{10}", "tenant", printed.stdout.decode())
    # A key made at random, and the platform's row of the version: its time and its marker.
    script = re.sub(r"\\(un)?restrict .*|^1\t2.*managed-by.*", "", script, flags=re.MULTILINE)
    # pg_dump names a policy's roles in the order in which the server happens to store them.
    return re.sub(
        r"(?<= TO )tenant_\w+(?:, tenant_\w+)+", lambda roles: _in_order(roles[0]), script
    )


def _in_order(names: str) -> str:
    return ", ".join(sorted(names.split(", ")))


def rows_of(tenant: Tenant) -> list[Any]:
    with tenant.cluster.connect(tenant.names.database) as connection:
        return [connection.execute(query.encode()).fetchall() for query in ROWS]


def url_of(tenant: Tenant, port: int | None = None, **parameters: str) -> str:
    """Return the connection URL of the app role."""
    names, port = tenant.names, port or tenant.cluster.admin.port
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"postgresql://{names.app_role}:{PASSWORD}@127.0.0.1:{port}/{names.database}?{query}"


def restore(archive: bytes, source: Tenant, target: Tenant | str) -> Restored:
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        url = target if isinstance(target, str) else url_of(target)
        return PostgresqlRestorer(url).restore(file, source.names)


def refused(act: Callable[[], object], error_type: ErrorType | None = None) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        act()
    assert raised.value.type is (error_type or ErrorType.DATABASE_CHANGE_FAILED)
    assert PASSWORD not in f"{raised.value!r} {raised.value.message} {raised.value.cause}"
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    return raised.value


def contents_of(tenant: Tenant) -> list[Any]:
    """Return what is in a tenant's schema, and its large objects."""
    with tenant.cluster.connect(tenant.names.database) as connection:
        return connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('app')"
            " UNION ALL SELECT nspname FROM pg_namespace"
            " WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
            " UNION ALL SELECT oid::text FROM pg_largeobject_metadata ORDER BY 1"
        ).fetchall()


def prepared(tenant: Tenant) -> Tenant:
    tenant.ensure()
    return tenant


@pytest.fixture(scope="module")
def full(cluster: PreparedCluster) -> Iterator[Tenant]:
    """Return a tenant that has all kinds of things."""
    with tenants(cluster) as make:
        tenant = prepared(make())
        with tenant.login() as connection:
            fill(connection, tenant.names)
        yield tenant


@pytest.fixture(scope="module")
def archive(full: Tenant) -> bytes:
    """Return the snapshot of that tenant."""
    return archive_of(full)


@pytest.fixture
def target(make_tenant: Callable[[], Tenant]) -> Tenant:
    """Return a tenant that was just provisioned."""
    return prepared(make_tenant())


@pytest.fixture
def source(make_tenant: Callable[[], Tenant]) -> Tenant:
    """Return a tenant that has nothing yet."""
    return prepared(make_tenant())


@pytest.fixture
def make_login(cluster: PreparedCluster) -> Iterator[Callable[[str], str]]:
    """Return what makes a login with some options, and an empty database of its own."""
    made: list[str] = []

    def make(options: str) -> str:
        name = f"own_{uuid.uuid4().hex[:12]}"
        made.append(name)
        with cluster.connect() as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {options}".encode())
            connection.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0".encode())
        return f"postgresql://{name}:{PASSWORD}@127.0.0.1:{cluster.admin.port}/{name}"

    yield make
    with cluster.connect() as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name}".encode())
            connection.execute(f"DROP ROLE {name}".encode())


# --- All of it ------------------------------------------------------------------------------------


def test_all_comes_back_into_the_database_of_another_project(
    full: Tenant, archive: bytes, target: Tenant
) -> None:
    restored = restore(archive, full, target)

    assert restored.left_out == ()
    assert (restored.host, restored.port, restored.database) == (
        *("127.0.0.1", full.cluster.admin.port),
        target.names.database,
    )
    assert rows_of(target) == rows_of(full)
    # Objects, owners, privileges, policies and comments, each as it was, of the target's roles.
    assert script_of(target) == script_of(full)


def test_all_comes_back_once_the_same_project_is_provisioned_again(
    full: Tenant, archive: bytes
) -> None:
    rows, script = rows_of(full), script_of(full)
    full.engine.remove_database(full.names, full.owner, only_this_job=False)
    prepared(full)

    assert restore(archive, full, full).left_out == ()

    assert rows_of(full) == rows
    assert script_of(full) == script


def test_all_comes_back_into_a_database_of_ones_own(
    full: Tenant, archive: bytes, make_login: Callable[[str], str]
) -> None:
    url = make_login("")

    assert restore(archive, full, url).left_out == ()

    with psycopg.connect(url) as connection:
        found = [connection.execute(query.encode()).fetchall() for query in ROWS]
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) = current_user FROM pg_class"
            " WHERE relnamespace IN ('app'::regnamespace, 'own_schema'::regnamespace)"
        ).fetchall()
        assert connection.execute("SELECT to_regnamespace('provisioner')").fetchone() == (None,)
    assert found == rows_of(full)
    assert owners == [(True,)]


def test_what_forced_policies_show_is_in_materialized_views(source: Tenant, target: Tenant) -> None:
    with source.login() as connection:
        connection.execute("""
            CREATE TABLE hidden (id integer, who text);
            INSERT INTO hidden VALUES (1, 'all'), (2, 'nobody');
            CREATE MATERIALIZED VIEW seen AS SELECT id FROM hidden WHERE who = 'all';
            CREATE POLICY those ON hidden USING (who = 'all');
            ALTER TABLE hidden ENABLE ROW LEVEL SECURITY
        """)
        archive = archive_of(source)
        connection.execute("ALTER TABLE hidden FORCE ROW LEVEL SECURITY")
        forced = superusers_archive(source)
    for snapshot in (archive, forced):
        with target.login() as connection:
            connection.execute("DROP SCHEMA IF EXISTS app CASCADE")
            connection.execute("CREATE SCHEMA app")
        assert restore(snapshot, source, target).left_out == ()
        with target.login() as connection:
            assert connection.execute("SELECT id FROM app.seen").fetchall() == [(1,)]


def superusers_archive(tenant: Tenant) -> bytes:
    """Dump as the superuser, whom no policy stops."""
    with tenant.cluster.connect() as connection:
        user, password = connection.info.user, connection.info.password
    admin = tenant.cluster.admin
    done = subprocess.run(
        [
            *(installed_program("pg_dump", ErrorType.UNKNOWN_ERROR), "--format=custom"),
            *("--host=127.0.0.1", f"--port={admin.port}", f"--username={user}"),
            f"--dbname={tenant.names.database}",
        ],
        env={"PGPASSWORD": password},
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_the_code_in_a_snapshot_runs_as_the_targets_login_and_finds_what_it_found(
    source: Tenant, target: Tenant
) -> None:
    with source.login() as connection:
        connection.execute("""
            CREATE TABLE seen (login text, acting text);
            CREATE FUNCTION act() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO seen VALUES (session_user, current_user); RETURN true; END $$;
            CREATE FUNCTION check_it() RETURNS boolean LANGUAGE plpgsql
                AS 'BEGIN RETURN act(); END';
            CREATE TABLE trap (id integer CHECK (check_it()));
            INSERT INTO trap VALUES (1);
            TRUNCATE seen
        """)

    restore(archive_of(source), source, target)

    with target.login() as connection:
        assert connection.execute("SELECT DISTINCT login, acting FROM app.seen").fetchall() == [
            (target.names.app_role, target.names.owner_role)
        ]


def test_what_names_a_role_that_is_not_there_is_left_out_and_told(
    source: Tenant, target: Tenant, make_login: Callable[[str], str]
) -> None:
    reader = psycopg.conninfo.conninfo_to_dict(make_login(""))["user"]
    with source.login() as connection:
        script = f"""
            CREATE TABLE note (id integer);
            GRANT SELECT ON note TO {reader};
            CREATE POLICY only_his ON note TO {reader};
            COMMENT ON POLICY only_his ON note IS 'his';
            CREATE POLICY ours ON note TO {reader}, {source.names.app_role}
        """
        connection.execute(script.encode())
    archive = archive_of(source)
    with source.cluster.connect(source.names.database) as connection:
        connection.execute(f"ALTER ROLE {reader} RENAME TO {reader}_2".encode())

    try:
        left_out = restore(archive, source, target).left_out
    finally:
        with source.cluster.connect() as connection:
            connection.execute(f"ALTER ROLE {reader}_2 RENAME TO {reader}".encode())
            connection.execute(f"DROP OWNED BY {reader}".encode())
        source.engine.remove_database(source.names, source.owner, only_this_job=False)

    assert [text.partition(" TO ")[0] for text in left_out] == [
        "CREATE POLICY only_his ON app.note",
        "CREATE POLICY ours ON app.note",
        "GRANT SELECT ON TABLE app.note",
    ]
    assert all(text.endswith(f": there is no role {reader}") for text in left_out)
    with target.login() as connection:
        assert connection.execute(
            "SELECT policyname, roles::text[] FROM pg_policies"
        ).fetchall() == [("ours", [target.names.app_role])]


def test_what_only_a_superuser_may_have_is_left_out_and_told(
    source: Tenant, target: Tenant
) -> None:
    with source.cluster.connect(source.names.database) as connection:
        user = connection.info.user
        script = f"""
            SET client_min_messages = error;
            CREATE PUBLICATION everything FOR ALL TABLES;
            CREATE FUNCTION app.noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
            CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION app.noted();
            CREATE TABLE app.operators (id integer);
            GRANT SELECT ON app.operators TO {source.names.app_role}
        """
        connection.execute(script.encode())

    left_out = restore(archive_of(source), source, target).left_out

    assert sorted(left_out) == [
        f"ACL app TABLE operators, of {user}",
        f"EVENT TRIGGER - noted, of {user}",
        f"PUBLICATION - everything, of {user}",
    ]
    with target.login() as connection:
        assert connection.execute("SELECT count(*) FROM app.operators").fetchone() == (0,)


def test_what_is_left_out_does_nothing_to_a_terminal(source: Tenant, target: Tenant) -> None:
    with source.cluster.connect(source.names.database) as connection:
        connection.execute("SET client_min_messages = error")
        connection.execute('CREATE PUBLICATION "red\x1b[31m\nred" FOR ALL TABLES')

    [left_out] = restore(archive_of(source), source, target).left_out

    assert left_out.isprintable()
    assert left_out.startswith("PUBLICATION - red")


def test_rows_of_an_extension_that_belongs_to_another_stay_with_the_extension(
    source: Tenant, target: Tenant
) -> None:
    """The servers of the tests have no extension with such rows: a table is made a part of one."""
    for tenant in (source, target):
        with tenant.cluster.connect(tenant.names.database) as connection:
            connection.execute("CREATE SCHEMA operators; CREATE TABLE operators.known (id integer)")
            connection.execute("CREATE EXTENSION citext SCHEMA operators")
            connection.execute("ALTER EXTENSION citext ADD TABLE operators.known")
            connection.execute(
                "UPDATE pg_extension SET extconfig = ARRAY['operators.known'::regclass::oid],"
                " extcondition = ARRAY[''] WHERE extname = 'citext'"
            )
    with source.cluster.connect(source.names.database) as connection:
        user = connection.info.user
        connection.execute("INSERT INTO operators.known VALUES (1)")
        connection.execute(
            f"GRANT USAGE ON SCHEMA operators TO {source.cluster.admin.user}".encode()
        )
        connection.execute(
            f"GRANT SELECT ON operators.known TO {source.cluster.admin.user}".encode()
        )

    left_out = restore(archive_of(source), source, target).left_out

    assert f"TABLE DATA operators known, of {user}" in left_out


# --- All or nothing -------------------------------------------------------------------------------


def test_a_refusal_in_the_middle_leaves_nothing_and_names_the_place(
    source: Tenant, target: Tenant
) -> None:
    with source.login() as connection:
        script = sql.SQL("""
            CREATE TABLE fine (id serial);
            SELECT lo_from_bytea(77, 'x');
            CREATE FUNCTION at_home() RETURNS boolean LANGUAGE plpgsql
                AS $$ BEGIN RETURN session_user = {}; END $$;
            CREATE TABLE homely (id integer CHECK (at_home()));
            INSERT INTO homely VALUES (1)
        """)
        connection.execute(script.format(sql.Literal(source.names.app_role)))
    archive, before = archive_of(source), contents_of(target)

    error = refused(lambda: restore(archive, source, target))

    assert error.message == "The database refused the snapshot, so nothing of it is restored."
    assert "at TABLE DATA app.homely: ERROR: " in error.cause
    assert "violates check constraint" in error.cause
    assert contents_of(target) == before


#: Restores the archive that is its standard input.
RESTORE = """
import sys
from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.postgresql.restore import PostgresqlRestorer
PostgresqlRestorer(sys.argv[1]).restore(sys.stdin.buffer, TenantNames(*sys.argv[2:]))
"""


def test_a_restore_that_is_interrupted_leaves_nothing_on_the_server_or_the_disk(
    source: Tenant, target: Tenant, tmp_path: Path
) -> None:
    with source.login() as connection:
        script = sql.SQL("""
            CREATE FUNCTION wait_elsewhere() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                IF current_database() <> {} THEN
                    PERFORM pg_sleep(600);
                END IF;
                RETURN true; END $$;
            CREATE TABLE slow (id integer CHECK (wait_elsewhere()));
            INSERT INTO slow VALUES (1)
        """)
        connection.execute(script.format(sql.Literal(source.names.database)))
    before = contents_of(target)
    names = source.names
    with (
        tempfile.TemporaryFile() as archive,
        target.cluster.connect() as superuser,
    ):
        archive.write(archive_of(source))
        archive.flush()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", RESTORE, url_of(target)),
                *(names.database, names.schema, names.owner_role, names.app_role),
            ],
            stdin=archive,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )

        def sessions() -> list[Any]:
            return superuser.execute(
                "SELECT query FROM pg_stat_activity WHERE datname = %s AND usename = %s",
                (target.names.database, target.names.app_role),
            ).fetchall()

        eventually(lambda: any(query.startswith("COPY") for (query,) in sessions()))
        assert list(tmp_path.iterdir()) == []
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=20) != 0
        eventually(lambda: not sessions())
    assert contents_of(target) == before


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("part", [0.5, 0.98], ids=["half", "most"])
def test_a_snapshot_that_is_cut_off_restores_nothing(
    full: Tenant, archive: bytes, target: Tenant, part: float
) -> None:
    before = contents_of(target)

    error = refused(lambda: restore(archive[: int(len(archive) * part)], full, target))

    assert error.message == "The snapshot cannot be read, so nothing of it is restored."
    assert error.cause.startswith("pg_restore ended with 1: ")
    assert contents_of(target) == before


def test_what_is_no_archive_is_refused(full: Tenant, target: Tenant) -> None:
    assert "input file" in refused(lambda: restore(b"PGDM", full, target)).cause


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE app.there (id serial)", "sequence app.there_id_seq, table app.there"),
        ("CREATE FUNCTION app.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "function app.f()"),
        ("CREATE TYPE app.t AS ENUM ()", "type app.t"),
        ("CREATE SCHEMA beside CREATE VIEW v AS SELECT 1", "view beside.v"),
        ("SELECT lo_from_bytea(4711, 'x')", "large object 4711"),
        ("CREATE PUBLICATION mine", "publication mine"),
    ],
)
def test_a_database_that_is_not_empty_is_refused(
    full: Tenant, archive: bytes, target: Tenant, statement: str, named: str
) -> None:
    with target.login() as connection:
        connection.execute("SET client_min_messages = error")
        connection.execute(statement.encode())
    before = contents_of(target)

    message = refused(lambda: restore(archive, full, target)).message

    assert f"is not empty: it holds {named}; empty it" in message
    assert contents_of(target) == before


def test_schemas_and_extensions_that_are_there_already_are_in_nobodys_way(
    full: Tenant, archive: bytes, target: Tenant
) -> None:
    with target.cluster.connect(target.names.database) as connection:
        connection.execute("CREATE SCHEMA ext")
        connection.execute("CREATE EXTENSION citext SCHEMA ext")
        connection.execute(f"GRANT USAGE ON SCHEMA ext TO {target.names.owner_role}".encode())

    restore(archive, full, target)

    found, expected = rows_of(target), rows_of(full)
    # The words about the operator's extension stay the operator's.
    assert found[:-1] == expected[:-1]


# --- Who may, and where from ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("SUPERUSER", "is a superuser"),
        ("CREATEROLE", "may create roles"),
        ("CREATEDB", "may create databases"),
        ("REPLICATION", "may replicate the server"),
        ("BYPASSRLS", "is exempt from row-level security"),
        ("IN ROLE provisioner", "by way of provisioner, may create roles"),
        (
            "NOINHERIT IN ROLE pg_execute_server_program",
            "by way of pg_execute_server_program, has rights on all of the server",
        ),
    ],
)
def test_a_login_that_may_do_more_than_a_tenant_is_refused(
    full: Tenant,
    archive: bytes,
    make_login: Callable[[str], str],
    options: str,
    said: str,
) -> None:
    url = make_login(options)
    with psycopg.connect(url, autocommit=True) as connection:
        # What the role resolves first is of no use to whoever owns the database.
        connection.execute("""
            CREATE SCHEMA trap;
            CREATE FUNCTION trap.pg_has_role(name, oid, text) RETURNS boolean
                LANGUAGE sql AS 'SELECT false';
            CREATE VIEW trap.pg_roles AS SELECT * FROM pg_catalog.pg_roles WHERE false;
            ALTER ROLE CURRENT_USER SET search_path = trap, pg_catalog
        """)

    message = refused(lambda: restore(archive, full, url)).message

    assert said in message
    assert "a snapshot is a tenant's own code" in message


def test_a_server_that_is_older_than_the_snapshots_is_refused(
    full: Tenant, archive: bytes, target: Tenant
) -> None:
    newer = VERSION.sub(b"99", archive, count=1)

    message = refused(lambda: restore(newer, full, target)).message

    assert "The snapshot is of a server of version 99" in message


def test_a_server_that_is_newer_than_the_programs_is_refused(
    target: Tenant, make_program: Callable[..., Path]
) -> None:
    make_program("echo never")

    message = refused(lambda: PostgresqlRestorer(url_of(target)).check()).message

    assert "our pg_restore of version 9, which does not know it" in message


@pytest.fixture
def make_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what puts a stand-in of version 9 in the place of a program."""

    def make(script: str, name: str = "pg_restore") -> Path:
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} (PostgreSQL) 9.6.24" && exit\n'
            f"{script}\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(
            restore_module,
            "installed_program",
            lambda wanted, final: program if wanted == name else installed_program(wanted, final),
        )
        return program

    return make


def test_a_program_gets_the_password_in_its_environment_and_nothing_that_it_does_not_need(
    target: Tenant,
    make_program: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = archive_of(target)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    make_program(
        f'printf "%s\\n" "$@" > {tmp_path}/arguments; env > {tmp_path}/environment; cat >/dev/null',
        "psql",
    )
    without_password = url_of(target).replace(f":{PASSWORD}@", "@")

    restore(archive, target, without_password)

    environment = (tmp_path / "environment").read_text()
    assert f"PGPASSWORD={PASSWORD}\n" in environment
    assert f"PGDATABASE={target.names.database}\n" in environment
    assert "PGREQUIREAUTH=!password,!md5\n" in environment
    assert "AWS_" not in environment
    assert PASSWORD not in (tmp_path / "arguments").read_text()


def test_the_words_of_psql_are_withheld_where_they_hold_the_password(
    full: Tenant, archive: bytes, target: Tenant, make_program: Callable[..., Path]
) -> None:
    make_program('echo "psql: error: no login with $PGPASSWORD" >&2; exit 2', "psql")

    error = refused(lambda: restore(archive, full, target))

    assert error.cause == "psql ended with 2: its words are withheld, for they hold the login"


def test_a_restore_goes_by_tls_to_whom_the_certificate_of_the_authority_lets_us_believe(
    full: Tenant, archive: bytes, target: Tenant, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    certificate(others)
    with tls_in_front_of(target.cluster.admin.port, tmp_path) as port:

        def url(authority: str) -> str:
            root = str(tmp_path / authority)
            return url_of(target, port, sslmode="verify-full", sslrootcert=root)

        error = refused(lambda: restore(archive, full, url("others/server.pem")))
        assert "certificate verify failed" in error.cause

        restore(archive, full, url("server.pem"))

    assert rows_of(target) == rows_of(full)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop",
        "https://example.com",
        f"postgresql://app:{PASSWORD}%zz@host/database",  # kingfisher:ignore
        f"postgresql://app:{PASSWORD}@host",
        f"postgresql://app:{PASSWORD}@host/?nonsense=1",
    ],
)
def test_what_is_no_url_of_a_database_is_refused_without_a_word_of_it(url: str) -> None:
    error = refused(lambda: PostgresqlRestorer(url), ErrorType.INVALID_PAYLOAD)

    assert "into: must be a PostgreSQL connection URL that names a database" in error.message


def test_a_secret_that_would_stand_on_a_command_line_is_refused() -> None:
    url = "postgresql://app@host/database?sslpassword=hidden"

    message = refused(lambda: PostgresqlRestorer(url), ErrorType.INVALID_PAYLOAD).message

    assert message.startswith("into: sslpassword cannot be passed on")


def test_a_server_that_is_not_there_says_so(target: Tenant) -> None:
    refused(PostgresqlRestorer(url_of(target, port=1)).check, ErrorType.NETWORK_ERROR)


def test_a_wrong_password_says_so(target: Tenant) -> None:
    url = url_of(target).replace(PASSWORD, "AnotherPassword0123456789")

    error = refused(PostgresqlRestorer(url).check, ErrorType.INSUFFICIENT_PERMISSIONS)

    assert "AnotherPassword" not in error.cause


def test_a_psql_that_could_not_connect_is_told_and_leaves_nothing_open() -> None:
    nowhere = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGPASSWORD": "x", "PGDATABASE": "none"}
    psql = restore_module._Psql(nowhere)

    def begin_too_late() -> None:
        with closing(psql):
            psql._process.wait()
            psql.begin()

    refused(begin_too_late, ErrorType.NETWORK_ERROR)
    assert psql.stdin.closed
    assert psql._errors.closed
