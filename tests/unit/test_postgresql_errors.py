"""What an error of PostgreSQL, or of the way to it, is for the job: from real errors where one can
be had, from the driver's own classes where not.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from provisioner.drivers import database_errors
from provisioner.drivers.postgresql.errors import (
    PSYCOPG,
    is_wrong_password,
    translate,
    translate_text,
)
from provisioner.errors import ErrorType, ProvisioningError
from psycopg import sql
from support.postgresql import PreparedCluster

FINAL = ErrorType.DATABASE_CREATION_FAILED

STATES = {
    ErrorType.NETWORK_ERROR: [
        *("08000", "08001", "08003", "08004", "08006", "08007", "08P01"),
        *("25006", "53000", "53200", "53300", "57P01", "57P02", "57P03"),
    ],
    ErrorType.TIMEOUT: ["25P03", "25P04", "40001", "40P01", "55006", "55P03", "57014", "57P05"],
    ErrorType.INSUFFICIENT_PERMISSIONS: ["28000", "28P01", "42501"],
    ErrorType.QUOTA_EXCEEDED: ["53100", "53400", "54000"],
    FINAL: [
        *("0A000", "0LP01", "22023", "23505", "25001", "2BP01", "3D000", "3F000", "42601"),
        *("42704", "42710", "42P04", "42P06", "54011", "55000", "57P04"),
    ],
    ErrorType.UNKNOWN_ERROR: ["58030", "XX000", "XX001", "F0000", "P0001"],
}

LOGIN_TEXTS = {
    ErrorType.NETWORK_ERROR: [
        "FATAL:  sorry, too many clients already",
        'FATAL:  too many connections for database "x"',
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  the database system is in recovery mode",
        "FATAL:  the database system is not yet accepting connections",
        "failed to resolve host 'db.example': [Errno -2] Name or service not known",
        'could not translate host name "db.example" to address: Name or service not known',
        "Network is unreachable",
        "No route to host",
        "SSL SYSCALL error: EOF detected",
        "consuming input failed: SSL connection has been closed unexpectedly",
        "the connection is lost",
    ],
    ErrorType.TIMEOUT: ["Connection timed out", "timeout expired"],
    ErrorType.INSUFFICIENT_PERMISSIONS: [
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d", no encryption',
        'FATAL:  pg_hba.conf rejects connection for host "10.0.0.1"',
        'FATAL:  role "u" is not permitted to log in',
        "fe_sendauth: no password supplied",
    ],
    FINAL: [
        "SSL error: certificate verify failed",
        'authentication method requirement "!md5" failed: server requested a hashed password',
        'root certificate file "/var/task/root.crt" does not exist',
    ],
    ErrorType.UNKNOWN_ERROR: ["FATAL:  something that nobody has seen yet"],
}


def _dump_texts() -> list[tuple[str, ErrorType]]:
    """Return what pg_dump 18.6 has left, and what it means.

    Each comes from a real server of version 15.18 or 18.6, in the situation that its words tell
    of, its lines joined. Most are provoked anew by the tests of snapshots; here are those too that
    take minutes, a broken file, or a server that speaks German.
    """
    texts = []
    error_type = FINAL
    for line in Path(__file__).with_name("pg_dump_errors.txt").read_text().splitlines():
        if line.startswith("["):
            error_type = FINAL if line == "[FINAL]" else ErrorType(line.strip("[]"))
        elif line:
            texts.append((line, error_type))
    return texts


def _flat(table: dict[ErrorType, list[str]]) -> list[tuple[str, ErrorType]]:
    return [(key, error_type) for error_type, keys in table.items() for key in keys]


def _translated(error: psycopg.Error) -> ProvisioningError:
    return translate(error, FINAL, "create the database")


@pytest.mark.parametrize(("state", "expected"), _flat(STATES))
def test_a_sqlstate_has_its_type(state: str, expected: ErrorType) -> None:
    error = psycopg.errors.lookup(state)("the message")
    known = _translated(error)
    assert known.type is expected
    assert known.cause == f"SQLSTATE {state}: the message"


def test_only_the_listed_sqlstates_are_called_passing() -> None:
    passing = {ErrorType.NETWORK_ERROR, ErrorType.TIMEOUT}
    listed = {state for state, error_type in _flat(STATES) if error_type in passing}
    # By state and by name.
    known = {error("text") for error in psycopg.errors._sqlcodes.values()}
    assert {error.sqlstate for error in known if _translated(error).type in passing} == listed


def test_a_tuple_that_is_updated_at_the_same_time_is_contention() -> None:
    error = psycopg.errors.InternalError_("tuple concurrently updated")
    assert _translated(error).type is ErrorType.TIMEOUT


def test_a_session_that_may_not_be_ended_passes() -> None:
    text = "permission denied to terminate process"
    assert _translated(psycopg.errors.InsufficientPrivilege(text)).type is ErrorType.TIMEOUT
    assert _translated(psycopg.errors.UndefinedTable(text)).type is FINAL


@pytest.mark.parametrize(("text", "expected"), _flat(LOGIN_TEXTS))
def test_a_failed_login_is_known_by_its_text(text: str, expected: ErrorType) -> None:
    assert _translated(psycopg.OperationalError(f"connection failed: {text}")).type is expected


@pytest.mark.parametrize(("text", "expected"), _dump_texts())
def test_what_a_program_has_said_is_known_by_its_text(text: str, expected: ErrorType) -> None:
    known = translate_text(text, FINAL, "dump the database")
    assert known.type is expected
    assert known.cause.removesuffix("…") == text[:300]


@pytest.mark.parametrize(
    "name", ["x timeout expired", "does not exist", "server closed the connection"]
)
def test_the_name_of_an_object_does_not_tell_what_a_text_means(name: str) -> None:
    for text, expected in (
        (f'ERROR:  query would be affected by row-level security policy for table "{name}"', FINAL),
        (f"ERROR:  permission denied for table {name}", ErrorType.INSUFFICIENT_PERMISSIONS),
        (f'ERROR:  invalid input for "{name}"', FINAL),
    ):
        assert translate_text(f"query failed: {text}", FINAL, "dump").type is expected


def test_the_cause_is_one_bounded_line() -> None:
    cause = _translated(psycopg.OperationalError("first\nsecond " + "x" * 1000)).cause
    assert cause.startswith("SQLSTATE none: first second x")
    assert len(cause) == 300


def test_what_the_server_says_at_once_is_no_long_wait(cluster: PreparedCluster) -> None:
    with cluster.connect() as connection, pytest.raises(psycopg.Error) as raised:
        connection.execute("DROP DATABASE postgres")
    assert raised.value.sqlstate == "55006"
    assert _translated(raised.value).message == (
        "Other work in the database was in the way, so we could not create the database."
    )


def _login_error(cluster: PreparedCluster, **change: Any) -> psycopg.Error:
    login = {
        "host": "127.0.0.1",
        "port": cluster.admin.port,
        "user": cluster.admin.user,
        "password": cluster.admin.password,
        "dbname": "postgres",
        **change,
    }
    with pytest.raises(psycopg.Error) as raised:
        psycopg.connect(**login)
    return raised.value


@pytest.mark.parametrize(
    ("change", "expected", "text"),
    [
        ({"password": "wrong"}, ErrorType.INSUFFICIENT_PERMISSIONS, "password authentication"),
        ({"user": "nobody_known"}, ErrorType.INSUFFICIENT_PERMISSIONS, "password authentication"),
        ({"dbname": "no_such_database"}, FINAL, "does not exist"),
        ({"dbname": "template0"}, FINAL, "not currently accepting connections"),
        ({"dbname": "template1"}, ErrorType.INSUFFICIENT_PERMISSIONS, "permission denied"),
        ({"port": 1}, ErrorType.NETWORK_ERROR, "refused"),
        ({"sslmode": "require"}, FINAL, "does not support SSL"),
        ({"sslmode": "no-such-mode"}, FINAL, "invalid sslmode"),
        ({"no_such_option": "x"}, FINAL, "invalid connection option"),
    ],
)
def test_a_real_login_that_fails_is_understood(
    cluster: PreparedCluster, change: dict[str, Any], expected: ErrorType, text: str
) -> None:
    error = _login_error(cluster, **change)
    known = _translated(error)
    assert (error.sqlstate, known.type) == (None, expected)
    assert text in known.cause
    assert is_wrong_password(error) is ("password authentication" in text)
    assert cluster.admin.password not in f"{known.message}{known.cause}"


@contextmanager
def _listener(*, hangs_up: bool) -> Iterator[int]:
    """Listen for one client, who never gets an answer."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            client, _ = server.accept()
            with client:
                if not hangs_up:
                    done.wait()

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join()


def test_a_server_that_hangs_up_is_a_network_error(cluster: PreparedCluster) -> None:
    with _listener(hangs_up=True) as port:
        error = _login_error(cluster, port=port, sslmode="disable", gssencmode="disable")
    assert _translated(error).type is ErrorType.NETWORK_ERROR


def test_a_server_that_never_answers_is_a_time_out(cluster: PreparedCluster) -> None:
    with _listener(hangs_up=False) as port:
        # Two seconds are the shortest that libpq allows.
        error = _login_error(cluster, port=port, connect_timeout=2)
    assert _translated(error).type is ErrorType.TIMEOUT


@pytest.mark.parametrize(
    ("statement", "state", "expected"),
    [
        ("SELEC 1", "42601", FINAL),
        ("SET statement_timeout = -5", "22023", FINAL),
        ("ALTER ROLE no_such_role CREATEDB", "42704", FINAL),
        ("ALTER SYSTEM SET work_mem = 64", "42501", ErrorType.INSUFFICIENT_PERMISSIONS),
        ("SET statement_timeout = 1; SELECT pg_sleep(10)", "57014", ErrorType.TIMEOUT),
        (
            "SET transaction_read_only = on; CREATE ROLE of_a_standby",
            "25006",
            ErrorType.NETWORK_ERROR,
        ),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "57P01", ErrorType.NETWORK_ERROR),
    ],
)
def test_a_real_statement_that_fails_is_understood(
    cluster: PreparedCluster, statement: LiteralString, state: str, expected: ErrorType
) -> None:
    with (
        psycopg.connect(
            host="127.0.0.1",
            port=cluster.admin.port,
            user=cluster.admin.user,
            password=cluster.admin.password,
            dbname="postgres",
            autocommit=True,
        ) as connection,
        pytest.raises(psycopg.Error) as raised,
    ):
        connection.execute(sql.SQL(statement))
    known = _translated(raised.value)
    assert (raised.value.sqlstate, known.type) == (state, expected)
    assert known.cause.startswith(f"SQLSTATE {state}: ")
    assert statement not in known.cause


class Steps:
    """A step that fails with these errors, one after the other, and then works."""

    def __init__(self, *errors: psycopg.Error) -> None:
        self.errors = list(errors)
        self.runs = 0

    def __call__(self) -> str:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


CONTENTION = [
    *(psycopg.errors.lookup(state)("text") for state in ("23505", "40001", "40P01", "42710")),
    psycopg.errors.InternalError_("tuple concurrently updated"),
]


def test_contention_that_ends_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_errors, "_CONTENTION_WAIT", 0)
    step = Steps(*CONTENTION)
    assert PSYCOPG.run_step(step, FINAL, "x") == "done"
    assert step.runs == 6


@pytest.mark.parametrize(
    ("state", "expected"),
    [("40001", ErrorType.TIMEOUT), ("40P01", ErrorType.TIMEOUT), ("23505", FINAL)],
)
def test_contention_that_lasts_has_an_end(
    monkeypatch: pytest.MonkeyPatch, state: str, expected: ErrorType
) -> None:
    monkeypatch.setattr(database_errors, "_CONTENTION_WAIT", 0)
    step = Steps(*[psycopg.errors.lookup(state)("text") for _ in range(20)])
    with pytest.raises(ProvisioningError) as raised:
        PSYCOPG.run_step(step, FINAL, "x")
    assert (raised.value.type, step.runs) == (expected, 6)


@pytest.mark.parametrize("state", ["42501", "57014", "55P03", "53300", "08006", "3D000"])
def test_what_is_no_contention_is_tried_once(state: str) -> None:
    step = Steps(psycopg.errors.lookup(state)("text"))
    with pytest.raises(ProvisioningError):
        PSYCOPG.run_step(step, FINAL, "x")
    assert step.runs == 1
