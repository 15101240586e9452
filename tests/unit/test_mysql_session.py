"""The way to a MySQL or MariaDB server: by TLS, and to nobody else."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest
from provisioner.drivers import database_errors
from provisioner.drivers.database_engine import AdminConnection
from provisioner.drivers.mysql import session as session_module
from provisioner.drivers.mysql.errors import PYMYSQL
from provisioner.drivers.mysql.quoting import SQL
from provisioner.drivers.mysql.session import connect_as_platform, execute
from provisioner.errors import ErrorType, ProvisioningError
from support.mysql import PreparedMysql
from support.mysql_tenants import admin_of
from support.mysql_wire import answering, asking_for, greeting, leading_to, packet
from support.tenants import refused
from support.tls import certificate

FINAL = ErrorType.DATABASE_CREATION_FAILED


@pytest.fixture
def admin(mysql_server: PreparedMysql) -> AdminConnection:
    return admin_of(mysql_server)


def cipher(admin: AdminConnection) -> str:
    """Log in, and return what the session is encrypted by."""

    def look() -> str:
        with connect_as_platform(admin) as connection:
            ((_, value),) = execute(connection, SQL("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
        return str(value)

    return PYMYSQL.run_step(look, FINAL, "log in")


def refusal(admin: AdminConnection, error_type: ErrorType = FINAL) -> ProvisioningError:
    return refused(error_type, lambda: cipher(admin))


@pytest.mark.parametrize("sslmode", ["prefer", "require", "verify-ca", "verify-full"])
def test_sessions_are_encrypted(admin: AdminConnection, sslmode: str) -> None:
    assert cipher(replace(admin, sslmode=sslmode)).startswith("TLS_")


def test_a_login_that_is_refused_is_read_anew_once(admin: AdminConnection) -> None:
    old = replace(admin, password="of-yesterday")  # kingfisher:ignore
    assert cipher(replace(old, renew=lambda: admin))
    for refused_login in (old, replace(old, renew=lambda: old)):
        error = refusal(refused_login, ErrorType.INSUFFICIENT_PERMISSIONS)
        assert "of-yesterday" not in str(error)


def test_a_session_is_not_encrypted_where_none_is_to_be(admin: AdminConnection) -> None:
    assert cipher(replace(admin, sslmode="disable")) == ""


@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
def test_a_server_of_another_authority_is_refused(
    admin: AdminConnection, sslmode: str, tmp_path: Path
) -> None:
    """As libpq does, `require` looks where there are certificates to look with."""
    other = certificate(tmp_path)
    error = refusal(replace(admin, sslmode=sslmode, root_certificates=str(other)))
    assert "certificate verify failed" in error.cause
    assert cipher(replace(admin, sslmode="prefer", root_certificates=str(other)))


def test_a_server_of_another_name_is_refused_where_the_name_counts(
    admin: AdminConnection,
) -> None:
    elsewhere = replace(admin, host="127.0.0.2")
    with answering(leading_to(admin.port), host="127.0.0.2") as port:
        assert cipher(replace(elsewhere, port=port, sslmode="verify-ca"))
        error = refusal(replace(elsewhere, port=port, sslmode="verify-full"))
    assert "certificate verify failed" in error.cause


def test_without_certificates_of_ours_those_of_the_system_are_looked_with(
    admin: AdminConnection,
) -> None:
    assert cipher(replace(admin, sslmode="require", root_certificates=None))
    error = refusal(replace(admin, sslmode="verify-full", root_certificates=None))
    assert "certificate verify failed" in error.cause


def test_a_file_of_certificates_that_is_missing_or_holds_none_is_named(
    admin: AdminConnection, tmp_path: Path
) -> None:
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_text("none")
    for file in (missing, empty):
        error = refusal(replace(admin, sslmode="verify-ca", root_certificates=str(file)))
        assert str(file) in error.cause
    # As libpq does.
    assert cipher(replace(admin, sslmode="require", root_certificates=str(missing)))


@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
def test_a_server_that_says_it_has_no_tls_is_refused(admin: AdminConnection, sslmode: str) -> None:
    with answering(leading_to(admin.port, with_tls=False)) as port:
        error = refusal(replace(admin, port=port, sslmode=sslmode))
        assert "SSL is required" in error.cause
        # What was asked for.
        assert cipher(replace(admin, port=port, sslmode="prefer")) == ""


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
@pytest.mark.parametrize("way", ["mysql_clear_password", "dialog", "mysql_old_password"])
def test_no_server_gets_the_password_that_asks_for_it(
    admin: AdminConnection, sslmode: str, way: str
) -> None:
    received: list[bytes] = []
    with answering(asking_for(way, received)) as port:
        error = refusal(replace(admin, port=port, sslmode=sslmode))
    assert "in a way that we refuse" in error.cause
    assert any(admin.user.encode() in data for data in received)
    assert not any(admin.password.encode() in data for data in received)


def test_a_login_that_needs_tls_is_told_so(admin: AdminConnection) -> None:
    """MySQL's way from 8.0 on sends the password by TLS, or by a package that we do not bring."""

    def answer(client: socket.socket) -> None:
        client.sendall(greeting("caching_sha2_password"))
        client.recv(65_536)
        client.sendall(packet(2, b"\x01\x04"))  # the whole way, not the short one
        client.recv(65_536)
        client.sendall(packet(4, b"\x01" + b"no public key"))
        client.recv(65_536)

    with answering(answer) as port:
        error = refusal(replace(admin, port=port, sslmode="disable"))
    assert error.cause.startswith("error 2012: ")


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", packet(0, b"\x0a"), packet(0, b"\x0a8.0\0\x01")],
    ids=["http", "nothing", "the_beginning", "some_more"],
)
def test_what_is_no_mysql_server_is_an_error_of_the_table(
    admin: AdminConnection, said: bytes
) -> None:
    with answering(lambda client: client.sendall(said)) as port, pytest.raises(ProvisioningError):
        cipher(replace(admin, port=port, sslmode="disable"))


def _say_nothing(client: socket.socket) -> None:
    client.recv(1)


def test_a_server_that_does_not_answer_is_a_time_out(
    admin: AdminConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "STATEMENT_SECONDS", 0)
    monkeypatch.setattr(session_module, "_ANSWER_SECONDS", 0.2)
    with answering(_say_nothing) as port:
        began = time.monotonic()
        error = refusal(replace(admin, port=port), ErrorType.TIMEOUT)
        assert time.monotonic() - began < 5
    assert "timed out" in error.cause


def test_a_statement_that_takes_too_long_is_stopped(
    admin: AdminConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "STATEMENT_SECONDS", 1)

    def wait() -> None:
        with connect_as_platform(admin) as connection:
            # What MySQL limits reads; what MariaDB limits is all.
            execute(
                connection,
                SQL(
                    "SELECT COUNT(*) FROM information_schema.COLUMNS a"
                    " JOIN information_schema.COLUMNS b JOIN information_schema.COLUMNS c"
                ),
            )

    error = refused(ErrorType.TIMEOUT, lambda: PYMYSQL.run_step(wait, FINAL, "wait"))
    assert error.cause.startswith(("error 1969", "error 3024"))


def test_a_step_is_made_again_after_contention_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_errors, "_CONTENTION_WAIT", 0)
    deadlock = pymysql.OperationalError(1213, "Deadlock found")
    met = iter([deadlock, deadlock])

    def act() -> str:
        for error in met:
            raise error
        return "done"

    assert PYMYSQL.run_step(act, FINAL, "act") == "done"
    tries: list[int] = []

    def always() -> None:
        tries.append(1)
        raise deadlock

    error = refused(ErrorType.TIMEOUT, lambda: PYMYSQL.run_step(always, FINAL, "act"))
    assert error.message == "Other work in the database was in the way, so we could not act."
    assert error.__cause__ is error.__context__ is None
    assert len(tries) == 6
