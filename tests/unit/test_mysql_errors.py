"""What an error of MySQL or MariaDB, or of the way to it, is for the job: from a real server where
one can be had, by its number where not.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pymysql
import pytest
from provisioner.drivers.mysql.errors import (
    is_connection_limit,
    is_contention,
    is_in_the_way,
    is_refused,
    is_there_already,
    is_unknown_thread,
    is_wrong_password,
    number_of,
    translate,
)
from provisioner.errors import ErrorType, ProvisioningError
from support.mysql_tenants import MysqlTenant

FINAL = ErrorType.DATABASE_CREATION_FAILED

NUMBERS = {
    ErrorType.TIMEOUT: [1020, 1159, 1161, 1205, 1213, 1317, 1969, 3024, 4031],
    ErrorType.NETWORK_ERROR: [
        *(1037, 1038, 1040, 1041, 1042, 1043, 1047, 1053, 1080, 1135, 1152, 1158, 1160, 1184),
        *(1203, 1226, 1836, 1927, 2002, 2003, 2005, 2006, 2013, 2014, 2055),
    ],
    ErrorType.INSUFFICIENT_PERMISSIONS: [
        *(1044, 1045, 1095, 1129, 1130, 1142, 1143, 1227, 1370, 1410, 1419, 1698, 1820, 1862),
        *(3118, 3159, 3955, 4150, 4151),
    ],
    ErrorType.QUOTA_EXCEEDED: [1021, 1114],
    FINAL: [
        *(1007, 1008, 1010, 1046, 1049, 1050, 1054, 1059, 1102, 1133, 1141, 1146, 1193, 1290),
        *(1396, 1470, 1524, 1819, 2012, 2026, 2059, 2061),
    ],
}

FLAT = [(number, error_type) for error_type, numbers in NUMBERS.items() for number in numbers]


def _translated(error: pymysql.Error) -> ProvisioningError:
    return translate(error, FINAL, "create the database")


@pytest.mark.parametrize(("number", "expected"), FLAT)
def test_a_number_has_its_type_and_its_text(number: int, expected: ErrorType) -> None:
    known = _translated(pymysql.OperationalError(number, "the\n  text"))
    assert known.type is expected
    assert known.cause == f"error {number}: the text"


def test_only_the_listed_numbers_are_called_passing() -> None:
    passing = {ErrorType.NETWORK_ERROR, ErrorType.TIMEOUT}
    listed = {number for number, error_type in FLAT if error_type in passing}
    found = {
        number
        for number in range(1, 5000)
        if _translated(pymysql.OperationalError(number, "text")).type in passing
    }
    assert found == listed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (pymysql.ProgrammingError(1064, "near 'x'", sqlstate="42000"), FINAL),
        (pymysql.DataError(1406, "too long", sqlstate="22001"), FINAL),
        (pymysql.IntegrityError(1062, "duplicate", sqlstate="23000"), FINAL),
        (pymysql.NotSupportedError(1235, "not yet", sqlstate="0A000"), FINAL),
        (pymysql.OperationalError(1105, "unknown", sqlstate="HY000"), ErrorType.UNKNOWN_ERROR),
        (pymysql.OperationalError(4999, "unknown"), ErrorType.UNKNOWN_ERROR),
        (pymysql.InterfaceError(0, ""), ErrorType.NETWORK_ERROR),
        (pymysql.InternalError("Packet sequence number wrong"), ErrorType.UNKNOWN_ERROR),
        (pymysql.Error("Already closed"), ErrorType.UNKNOWN_ERROR),
    ],
    ids=str,
)
def test_what_is_not_listed_is_judged_by_its_class_and_shows_no_text(
    error: pymysql.Error, expected: ErrorType
) -> None:
    known = _translated(error)
    assert known.type is expected
    assert known.cause == f"error {number_of(error)}, SQLSTATE {error.sqlstate or 'none'}"


@pytest.mark.parametrize(
    ("number", "text", "expected"),
    [
        (1290, "running with the --read-only option", ErrorType.NETWORK_ERROR),
        (1290, "running with the --super-read-only option", ErrorType.NETWORK_ERROR),
        (1290, "running with the --secure-file-priv option", FINAL),
        (3, "Error writing file 'x' (Errcode: 28 \"No space left\")", ErrorType.QUOTA_EXCEEDED),
        (1005, "Can't create table (errno: 28)", ErrorType.QUOTA_EXCEEDED),
        (1006, "Can't create database 'x' (errno: 28)", ErrorType.QUOTA_EXCEEDED),
        (1030, "Got error 28 from storage engine", ErrorType.QUOTA_EXCEEDED),
        (1030, "Got error 122 from storage engine", ErrorType.UNKNOWN_ERROR),
        (2003, "Can't connect to MySQL server on 'x' (timed out)", ErrorType.TIMEOUT),
        (2013, "Lost connection (The read operation timed out)", ErrorType.TIMEOUT),
        (2013, "Lost connection to MySQL server during query", ErrorType.NETWORK_ERROR),
        (1044, "Access denied to database 'timed out'", ErrorType.INSUFFICIENT_PERMISSIONS),
    ],
)
def test_a_text_says_more_than_its_number(number: int, text: str, expected: ErrorType) -> None:
    known = _translated(pymysql.OperationalError(number, text))
    assert known.type is expected
    assert known.cause == f"error {number}: {text}"


def test_a_certificate_that_is_not_believed_stays() -> None:
    error = pymysql.OperationalError(2003, "Can't connect (certificate verify failed)")
    assert _translated(error).type is ErrorType.NETWORK_ERROR
    error.original_exception = ssl.SSLCertVerificationError()  # type: ignore[attr-defined]
    assert _translated(error).type is FINAL


def test_a_cause_is_short() -> None:
    known = _translated(pymysql.OperationalError(1045, "x" * 1000))
    assert len(known.cause) == 300


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (1205, "It took too long to create the database."),
        (1213, "Other work in the database was in the way, so we could not create the database."),
        (2013, "The database server did not serve us, so we could not create the database."),
        (1045, "The database server does not let us create the database."),
        (1021, "The database server has no room left to create the database."),
        (1105, "The database server gave an unknown error: it did not create the database."),
        (1146, "The database server refused to create the database."),
    ],
)
def test_a_customer_reads_a_sentence(number: int, sentence: str) -> None:
    assert _translated(pymysql.OperationalError(number, "text")).message == sentence


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        (is_contention, {1008, 1020, 1213}),
        (is_wrong_password, {1045, 1698}),
        (is_connection_limit, {1203, 1226}),
        (is_there_already, {1007, 1396}),
        (is_in_the_way, {1205}),
        (is_unknown_thread, {1094}),
        (is_refused, set(NUMBERS[ErrorType.INSUFFICIENT_PERMISSIONS])),
    ],
)
def test_a_question_is_answered_by_the_number(
    question: Callable[[pymysql.Error], bool], numbers: set[int]
) -> None:
    found = {n for n in range(1, 5000) if question(pymysql.OperationalError(n, "text"))}
    assert found == numbers
    assert question(pymysql.Error("no number")) is False


@pytest.mark.parametrize(
    ("statement", "number", "expected"),
    [
        ("SELECT 1 FROM nowhere.t", 1142, ErrorType.INSUFFICIENT_PERMISSIONS),
        ("SELECT 1 FROM t", 1146, FINAL),
        ("CREATE DATABASE another", 1044, ErrorType.INSUFFICIENT_PERMISSIONS),
        ("CREATE USER another", 1227, ErrorType.INSUFFICIENT_PERMISSIONS),
        ("KILL 1000000000", 1094, ErrorType.UNKNOWN_ERROR),
        ("SELECT 'a secret' FORM t", 1064, FINAL),
        ("INSERT INTO missing VALUES ('a secret')", 1146, FINAL),
        ("SET SESSION no_such_variable = 1", 1193, FINAL),
    ],
)
def test_errors_of_a_real_server(
    mysql_tenant: MysqlTenant, statement: str, number: int, expected: ErrorType
) -> None:
    mysql_tenant.ensure_database()
    with pytest.raises(pymysql.Error) as raised:
        mysql_tenant.as_tenant(statement)
    assert number_of(raised.value) == number
    known = _translated(raised.value)
    assert known.type is expected
    assert "a secret" not in known.cause
