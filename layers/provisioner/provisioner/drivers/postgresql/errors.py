"""What an error of PostgreSQL, or of the way to it, means: one table.

Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes". While a connection is being
made, libpq passes no SQLSTATE on, so that there the text of the message has to do.
"""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from provisioner.errors import ErrorType, ProvisioningError, failure

#: Another session worked at the same object: the whole step is made again at once.
_CONTENTION_STATES = frozenset({"23505", "40001", "40P01", "42710", "42P04", "42P06", "55000"})
_CONTENTION_TEXT = "tuple concurrently updated"

_STATES: dict[str, ErrorType] = {
    "23505": ErrorType.TIMEOUT,  # unique_violation in a system catalogue: two creations at once
    "40001": ErrorType.TIMEOUT,  # serialization_failure
    "40P01": ErrorType.TIMEOUT,  # deadlock_detected
    "42710": ErrorType.TIMEOUT,  # duplicate_object, made by another session in this moment
    "42P04": ErrorType.TIMEOUT,  # duplicate_database, likewise
    "42P06": ErrorType.TIMEOUT,  # duplicate_schema, likewise
    "55000": ErrorType.TIMEOUT,  # object_not_in_prerequisite_state: an interrupted drop
    "55006": ErrorType.TIMEOUT,  # object_in_use
    "55P03": ErrorType.TIMEOUT,  # lock_not_available
    "57014": ErrorType.TIMEOUT,  # query_canceled: statement_timeout
    "53300": ErrorType.NETWORK_ERROR,  # too_many_connections
    "57P01": ErrorType.NETWORK_ERROR,  # admin_shutdown
    "57P02": ErrorType.NETWORK_ERROR,  # crash_shutdown
    "57P03": ErrorType.NETWORK_ERROR,  # cannot_connect_now
    "28000": ErrorType.INSUFFICIENT_PERMISSIONS,  # invalid_authorization_specification
    "28P01": ErrorType.INSUFFICIENT_PERMISSIONS,  # invalid_password
    "42501": ErrorType.INSUFFICIENT_PERMISSIONS,  # insufficient_privilege
    "53100": ErrorType.QUOTA_EXCEEDED,  # disk_full
    "53200": ErrorType.NETWORK_ERROR,  # out_of_memory
    "54000": ErrorType.QUOTA_EXCEEDED,  # program_limit_exceeded
}

#: Classes of states whose causes stay: syntax and access rule, data, feature, catalogue, role.
_PERMANENT_CLASSES = frozenset({"0A", "22", "23", "25", "2B", "3D", "3F", "42", "44", "54"})

#: Texts of failed connections, in order.
_CONNECT_TEXTS: tuple[tuple[str, ErrorType], ...] = (
    ("password authentication failed", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("no pg_hba.conf entry", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("permission denied for database", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("is not permitted to log in", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("too many connections", ErrorType.NETWORK_ERROR),
    ("too many clients", ErrorType.NETWORK_ERROR),
    ("remaining connection slots", ErrorType.NETWORK_ERROR),
    ("starting up", ErrorType.NETWORK_ERROR),
    ("shutting down", ErrorType.NETWORK_ERROR),
    ("in recovery mode", ErrorType.NETWORK_ERROR),
    ("connection refused", ErrorType.NETWORK_ERROR),
    ("server closed the connection", ErrorType.NETWORK_ERROR),
    ("could not translate host name", ErrorType.NETWORK_ERROR),
    ("failed to resolve host", ErrorType.NETWORK_ERROR),
    ("network is unreachable", ErrorType.NETWORK_ERROR),
    ("no route to host", ErrorType.NETWORK_ERROR),
    ("connection reset", ErrorType.NETWORK_ERROR),
    ("ssl error", ErrorType.NETWORK_ERROR),
    ("timeout expired", ErrorType.TIMEOUT),
    ("timed out", ErrorType.TIMEOUT),
)

_CAUSE_LENGTH = 300


def is_contention(error: psycopg.Error) -> bool:
    """Whether the same step, made again at once, is likely to succeed."""
    return error.sqlstate in _CONTENTION_STATES or _CONTENTION_TEXT in str(error)


def is_wrong_password(error: psycopg.Error) -> bool:
    """Whether a login failed because of its password."""
    return error.sqlstate == "28P01" or "password authentication failed" in str(error)


def translate(error: psycopg.Error, final: ErrorType, doing: str) -> ProvisioningError:
    """Turn an exception of the driver into an error of the table.

    The result does not refer to the exception: psycopg keeps the connection, and with it the
    password, in an exception's `pgconn`.

    Args:
        error: what psycopg raised.
        final: the type of causes that stay, such as DATABASE_CREATION_FAILED.
        doing: what was tried, for the sentence that people read, such as "create the database".
    """
    return _sentence(_error_type(error, final), doing, _cause(error))


def _error_type(error: psycopg.Error, final: ErrorType) -> ErrorType:
    state = error.sqlstate
    if state is None:
        return _connect_error_type(error, final)
    if _CONTENTION_TEXT in str(error):
        return ErrorType.TIMEOUT
    if state in _STATES:
        return _STATES[state]
    if state.startswith("08"):
        return ErrorType.NETWORK_ERROR
    return final if state[:2] in _PERMANENT_CLASSES else ErrorType.UNKNOWN_ERROR


def _connect_error_type(error: psycopg.Error, final: ErrorType) -> ErrorType:
    if isinstance(error, pg.ConnectionTimeout):
        return ErrorType.TIMEOUT
    text = str(error).lower()
    for part, error_type in _CONNECT_TEXTS:
        if part in text:
            return error_type
    if isinstance(error, psycopg.ProgrammingError):
        return final
    if 'database "' in text and "does not exist" in text:
        return final
    return ErrorType.NETWORK_ERROR if isinstance(error, psycopg.OperationalError) else final


def _cause(error: psycopg.Error) -> str:
    """Return the state and the server's first line: never a parameter, detail or statement."""
    text = error.diag.message_primary or str(error).partition("\n")[0]
    return f"SQLSTATE {error.sqlstate or 'none'}: {text}"[:_CAUSE_LENGTH]


def _sentence(error_type: ErrorType, doing: str, cause: str) -> ProvisioningError:
    sentences = {
        ErrorType.NETWORK_ERROR: f"The database server did not serve us, so we could not {doing}.",
        ErrorType.TIMEOUT: f"It took too long to {doing}.",
        ErrorType.INSUFFICIENT_PERMISSIONS: f"The database server does not let us {doing}.",
        ErrorType.QUOTA_EXCEEDED: f"The database server has no room left to {doing}.",
        ErrorType.UNKNOWN_ERROR: f"The database server gave an unknown error: it did not {doing}.",
    }
    text = sentences.get(error_type, f"The database server refused to {doing}.")
    return failure(error_type, text, cause)
