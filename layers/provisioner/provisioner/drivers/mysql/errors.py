"""What an error of MySQL or MariaDB, or of the way to it, means: one table by its number.

Only causes that pass by waiting get a type that is retried. Numbers from 2000 to 2999 are the
driver's. The others are the server's: most are the same in MySQL and MariaDB, and of those from
1900 to 1999 and from 3000 each has its own. A number that is not in the table is judged by the
class of its SQLSTATE.

Sources: MySQL 8.0 Error Message Reference, "Server Error Message Reference", "Client Error Message
Reference"; MariaDB documentation, "MariaDB Error Code Reference"; PyMySQL source, `Connection`.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pymysql

from provisioner.drivers.database_errors import IN_THE_WAY, ClientLibrary, database_failure
from provisioner.errors import ErrorType, ProvisioningError

#: ER_OPTION_PREVENTS_STATEMENT; its text names the option.
_PREVENTED_BY_OPTION = 1290

#: None is the stage's own type, of causes that stay.
_NUMBERS: dict[int, ErrorType | None] = {
    # Passing: other sessions were in the way all the time, or the time was up.
    1205: ErrorType.TIMEOUT,  # ER_LOCK_WAIT_TIMEOUT
    1213: ErrorType.TIMEOUT,  # ER_LOCK_DEADLOCK
    1020: ErrorType.TIMEOUT,  # ER_CHECKREAD
    1317: ErrorType.TIMEOUT,  # ER_QUERY_INTERRUPTED
    1969: ErrorType.TIMEOUT,  # ER_STATEMENT_TIMEOUT, MariaDB's max_statement_time
    3024: ErrorType.TIMEOUT,  # ER_QUERY_TIMEOUT, MySQL's max_execution_time
    4031: ErrorType.TIMEOUT,  # ER_CLIENT_INTERACTION_TIMEOUT, MySQL's wait_timeout
    1159: ErrorType.TIMEOUT,  # ER_NET_READ_INTERRUPTED
    1161: ErrorType.TIMEOUT,  # ER_NET_WRITE_INTERRUPTED
    # Passing: the server cannot serve now.
    1037: ErrorType.NETWORK_ERROR,  # ER_OUTOFMEMORY
    1038: ErrorType.NETWORK_ERROR,  # ER_OUT_OF_SORTMEMORY
    1040: ErrorType.NETWORK_ERROR,  # ER_CON_COUNT_ERROR
    1041: ErrorType.NETWORK_ERROR,  # ER_OUT_OF_RESOURCES
    1042: ErrorType.NETWORK_ERROR,  # ER_BAD_HOST_ERROR
    1043: ErrorType.NETWORK_ERROR,  # ER_HANDSHAKE_ERROR
    1047: ErrorType.NETWORK_ERROR,  # ER_UNKNOWN_COM_ERROR: a Galera node that is not ready
    1053: ErrorType.NETWORK_ERROR,  # ER_SERVER_SHUTDOWN
    1080: ErrorType.NETWORK_ERROR,  # ER_FORCING_CLOSE
    1135: ErrorType.NETWORK_ERROR,  # ER_CANT_CREATE_THREAD
    1152: ErrorType.NETWORK_ERROR,  # ER_ABORTING_CONNECTION
    1158: ErrorType.NETWORK_ERROR,  # ER_NET_READ_ERROR
    1160: ErrorType.NETWORK_ERROR,  # ER_NET_ERROR_ON_WRITE
    1184: ErrorType.NETWORK_ERROR,  # ER_NEW_ABORTING_CONNECTION
    1203: ErrorType.NETWORK_ERROR,  # ER_TOO_MANY_USER_CONNECTIONS
    1226: ErrorType.NETWORK_ERROR,  # ER_USER_LIMIT_REACHED
    1836: ErrorType.NETWORK_ERROR,  # ER_READ_ONLY_MODE: a replica, during a failover
    1927: ErrorType.NETWORK_ERROR,  # ER_CONNECTION_KILLED, MariaDB's
    2002: ErrorType.NETWORK_ERROR,  # CR_CONNECTION_ERROR
    2003: ErrorType.NETWORK_ERROR,  # CR_CONN_HOST_ERROR: no such host, no connection, no TLS
    2005: ErrorType.NETWORK_ERROR,  # CR_UNKNOWN_HOST
    2006: ErrorType.NETWORK_ERROR,  # CR_SERVER_GONE_ERROR
    2013: ErrorType.NETWORK_ERROR,  # CR_SERVER_LOST
    2014: ErrorType.NETWORK_ERROR,  # CR_COMMANDS_OUT_OF_SYNC
    2055: ErrorType.NETWORK_ERROR,  # CR_SERVER_LOST_EXTENDED
    # Staying: someone has to allow it.
    1044: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_DBACCESS_DENIED_ERROR
    1045: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_ACCESS_DENIED_ERROR
    1095: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_KILL_DENIED_ERROR
    1129: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_HOST_IS_BLOCKED
    1130: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_HOST_NOT_PRIVILEGED
    1142: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_TABLEACCESS_DENIED_ERROR
    1143: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_COLUMNACCESS_DENIED_ERROR
    1227: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_SPECIFIC_ACCESS_DENIED_ERROR
    1370: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_PROCACCESS_DENIED_ERROR
    1410: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_CANT_CREATE_USER_WITH_GRANT
    1419: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_BINLOG_CREATE_ROUTINE_NEED_SUPER
    1698: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
    1820: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_MUST_CHANGE_PASSWORD
    1862: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_MUST_CHANGE_PASSWORD_LOGIN
    3118: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_ACCOUNT_HAS_BEEN_LOCKED, MySQL's
    3159: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_SECURE_TRANSPORT_REQUIRED, MySQL's
    3955: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_USER_ACCESS_DENIED_FOR_USER_ACCOUNT_BLOCKED
    4150: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_USER_IS_BLOCKED, MariaDB's
    4151: ErrorType.INSUFFICIENT_PERMISSIONS,  # ER_ACCOUNT_HAS_BEEN_LOCKED, MariaDB's
    # Staying: a limit.
    1021: ErrorType.QUOTA_EXCEEDED,  # ER_DISK_FULL
    1114: ErrorType.QUOTA_EXCEEDED,  # ER_RECORD_FILE_FULL
    # Staying, for the code or the server to change.
    1007: None,  # ER_DB_CREATE_EXISTS
    1008: None,  # ER_DB_DROP_EXISTS
    1010: None,  # ER_DB_DROP_RMDIR: a file that is no table's is in the database's folder
    1046: None,  # ER_NO_DB_ERROR
    1049: None,  # ER_BAD_DB_ERROR
    1050: None,  # ER_TABLE_EXISTS_ERROR
    1054: None,  # ER_BAD_FIELD_ERROR
    1059: None,  # ER_TOO_LONG_IDENT
    1102: None,  # ER_WRONG_DB_NAME
    1133: None,  # ER_PASSWORD_NO_MATCH
    1141: None,  # ER_NONEXISTING_GRANT
    1146: None,  # ER_NO_SUCH_TABLE
    1193: None,  # ER_UNKNOWN_SYSTEM_VARIABLE
    1290: None,  # ER_OPTION_PREVENTS_STATEMENT; another type while it is read-only, as below
    1396: None,  # ER_CANNOT_USER
    1470: None,  # ER_WRONG_STRING_LENGTH: of a user's name
    1524: None,  # ER_PLUGIN_IS_NOT_LOADED
    1819: None,  # ER_NOT_VALID_PASSWORD: the server's rules for passwords
    2012: None,  # CR_SERVER_HANDSHAKE_ERR: no MySQL server, or one whose logins need TLS
    2026: None,  # CR_SSL_CONNECTION_ERROR: the server has no TLS
    2059: None,  # CR_AUTH_PLUGIN_CANNOT_LOAD
    2061: None,  # CR_AUTH_PLUGIN_ERR
}

_READ_ONLY = "read-only"

#: In the text of the driver's own errors, from the system or from TLS.
_TIMED_OUT = "timed out"

#: Errors of writing a file, which hold the number of the system's error, here of a full disk.
_NO_SPACE = ("Errcode: 28", "error 28", "errno: 28", "No space left on device")
_OF_WRITING = frozenset({3, 1004, 1005, 1006, 1026, 1030})

#: Of those that pass, what the server says at once: nobody has waited for long.
_AT_ONCE = frozenset({1020, 1213, 1317})

#: Classes of SQLSTATE that stay, for numbers that are not in the table.
_FINAL_CLASSES = ("0A", "21", "22", "23", "25", "28", "2F", "34", "38", "3D", "42", "44", "45")


def number_of(error: pymysql.Error) -> int:
    """Return the number of an error; 0 where the driver gives none."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def _is_one_of(*numbers: int) -> Callable[[pymysql.Error], bool]:
    """Return what tells errors of some numbers from others."""
    return lambda error: number_of(error) in numbers


#: Whether the same step, made again at once, is likely to succeed: another session has worked at
#: the same object. The whole step is made again, from its look at what is there.
is_contention = _is_one_of(
    1008,  # ER_DB_DROP_EXISTS: it has been dropped meanwhile
    1020,  # ER_CHECKREAD: a row has changed since it was read
    1213,  # ER_LOCK_DEADLOCK
)

#: Whether a login failed because of its password.
is_wrong_password = _is_one_of(
    1045,  # ER_ACCESS_DENIED_ERROR
    1698,  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
)

#: Whether a login failed because its user has no connection left, and its password is right: the
#: server counts a user's connections once it has found the password right. Source: source of MySQL
#: and of MariaDB, `acl_authenticate`.
is_connection_limit = _is_one_of(
    1203,  # ER_TOO_MANY_USER_CONNECTIONS: the limit of all users
    1226,  # ER_USER_LIMIT_REACHED: the user's own
)

#: Whether a database or a user could not be made because there is one of that name.
is_there_already = _is_one_of(
    1007,  # ER_DB_CREATE_EXISTS
    1396,  # ER_CANNOT_USER
)

#: Whether there is no such database or table.
is_not_there = _is_one_of(
    1049,  # ER_BAD_DB_ERROR
    1109,  # ER_UNKNOWN_TABLE, of information_schema
    1146,  # ER_NO_SUCH_TABLE
)

#: Whether a session could not be ended because it has ended: ER_NO_SUCH_THREAD.
is_unknown_thread = _is_one_of(1094)

#: Whether a statement has waited in vain for another session: ER_LOCK_WAIT_TIMEOUT.
is_in_the_way = _is_one_of(1205)


@contextmanager
def ignore(is_expected: Callable[[pymysql.Error], bool]) -> Iterator[None]:
    """Let an error that is expected end the body, and nothing else."""
    try:
        yield
    except pymysql.Error as error:
        if not is_expected(error):
            raise


def is_refused(error: pymysql.Error) -> bool:
    """Whether the session's user may not do what it tried."""
    return _NUMBERS.get(number_of(error)) is ErrorType.INSUFFICIENT_PERMISSIONS


def translate(error: pymysql.Error, final: ErrorType, doing: str) -> ProvisioningError:
    """Turn an exception of the driver into an error of the table.

    The result does not refer to the exception: the password stands in variables of its traceback.
    Raise it outside the except clause for the same reason.

    Args:
        error: what PyMySQL raised.
        final: the stage's own type, of causes that stay, such as DATABASE_CREATION_FAILED.
        doing: what was tried, for the sentence that people read, such as "create the database".
    """
    sentence = IN_THE_WAY if number_of(error) in _AT_ONCE else None
    return database_failure(_type_of(error) or final, doing, _cause(error), sentence)


def _type_of(error: pymysql.Error) -> ErrorType | None:
    """Return the type, None for the stage's own."""
    number = number_of(error)
    by_text = _type_by_text(number, _text_of(error))
    if by_text is not None:
        return by_text
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return None
    if number in _NUMBERS:
        return _NUMBERS[number]
    if isinstance(error, pymysql.InterfaceError):
        return ErrorType.NETWORK_ERROR  # the connection has been closed
    state = error.sqlstate or ""
    return None if state.startswith(_FINAL_CLASSES) else ErrorType.UNKNOWN_ERROR


def _type_by_text(number: int, text: str) -> ErrorType | None:
    """Return the type of an error whose number says less than its text; None for any other."""
    if number in _OF_WRITING and any(part in text for part in _NO_SPACE):
        return ErrorType.QUOTA_EXCEEDED
    if number == _PREVENTED_BY_OPTION and _READ_ONLY in text:
        return ErrorType.NETWORK_ERROR
    if _NUMBERS.get(number) is ErrorType.NETWORK_ERROR and _TIMED_OUT in text:
        return ErrorType.TIMEOUT
    return None


def _text_of(error: pymysql.Error) -> str:
    return str(error.args[1]) if len(error.args) > 1 else str(error)


def _cause(error: pymysql.Error) -> str:
    """Return the number and, of a number in the table, the text.

    The server quotes the statement in others, such as a syntax error, and a statement can hold a
    password.
    """
    number = number_of(error)
    if number not in _NUMBERS and number not in _OF_WRITING:
        return f"error {number}, SQLSTATE {error.sqlstate or 'none'}"
    text = " ".join(_text_of(error).split())
    return f"error {number}: {text}"


#: PyMySQL, in whose tracebacks the password stands.
PYMYSQL = ClientLibrary(
    pymysql.Error, translate, is_contention, is_wrong_password, is_connection_limit
)
