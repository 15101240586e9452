"""What an error of PostgreSQL, or of the way to it, means: one table.

Only causes that pass by waiting get a type that is retried. Source: PostgreSQL documentation,
appendix A, "PostgreSQL Error Codes". While a connection is being made, libpq passes no SQLSTATE on,
and programs such as pg_dump pass none on ever: there the text of the message has to do. A server
whose messages are not English (`lc_messages`) is understood less well: what is not recognized is
UNKNOWN_ERROR.
"""

import re

import psycopg

from provisioner.drivers.database_errors import (
    CAUSE_LENGTH,
    IN_THE_WAY,
    ClientLibrary,
    database_failure,
)
from provisioner.drivers.postgresql.quoting import visible
from provisioner.errors import ErrorType, ProvisioningError

#: Another session worked at the same object, or made what was missing a moment ago: the whole step
#: is made again at once, from its look at what is there.
_CONTENTION_STATES = frozenset(
    {
        "23505",  # unique_violation, of a system catalogue
        "2BP01",  # dependent_objects_still_exist: something has been granted meanwhile
        "3F000",  # invalid_schema_name: it has been removed or renamed meanwhile
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "42710",  # duplicate_object
        "42P04",  # duplicate_database
        "42P06",  # duplicate_schema
        "55000",  # object_not_in_prerequisite_state: a drop was interrupted
    }
)
#: The server has no SQLSTATE of its own (XX000) for this one.
_CONTENTION_TEXT = "tuple concurrently updated"

#: Another role's session is in the way, which the platform may not end (42501): it ends by itself,
#: or someone ends it.
#: Source: PostgreSQL source, `TerminateOtherDBBackends`.
_SESSION_TEXT = "permission denied to terminate process"

_STATES: dict[str, ErrorType] = {
    # Passing: other sessions were in the way all the time.
    "25P03": ErrorType.TIMEOUT,  # idle_in_transaction_session_timeout
    "25P04": ErrorType.TIMEOUT,  # transaction_timeout
    "40001": ErrorType.TIMEOUT,  # serialization_failure
    "40P01": ErrorType.TIMEOUT,  # deadlock_detected
    "55006": ErrorType.TIMEOUT,  # object_in_use
    "55P03": ErrorType.TIMEOUT,  # lock_not_available
    "57014": ErrorType.TIMEOUT,  # query_canceled: statement_timeout
    "57P05": ErrorType.TIMEOUT,  # idle_session_timeout
    # Passing: the server cannot serve now.
    "25006": ErrorType.NETWORK_ERROR,  # read_only_sql_transaction: a standby, during a failover
    "53000": ErrorType.NETWORK_ERROR,  # insufficient_resources
    "53200": ErrorType.NETWORK_ERROR,  # out_of_memory
    "53300": ErrorType.NETWORK_ERROR,  # too_many_connections
    "57P01": ErrorType.NETWORK_ERROR,  # admin_shutdown
    "57P02": ErrorType.NETWORK_ERROR,  # crash_shutdown
    "57P03": ErrorType.NETWORK_ERROR,  # cannot_connect_now
    # Staying.
    "28000": ErrorType.INSUFFICIENT_PERMISSIONS,  # invalid_authorization_specification
    "28P01": ErrorType.INSUFFICIENT_PERMISSIONS,  # invalid_password
    "42501": ErrorType.INSUFFICIENT_PERMISSIONS,  # insufficient_privilege
    "53100": ErrorType.QUOTA_EXCEEDED,  # disk_full
    "53400": ErrorType.QUOTA_EXCEEDED,  # configuration_limit_exceeded
    "54000": ErrorType.QUOTA_EXCEEDED,  # program_limit_exceeded
}

#: Of those that pass, what the server says at once: nobody has waited for long.
_STATES_AT_ONCE = frozenset({"40001", "40P01", "55006"})

#: Staying, by class or state, and for the code or the cluster to change: the stage's own type.
_FINAL_STATES = (
    *("0A", "0L", "0P"),  # feature not supported, invalid grantor, invalid role specification
    *("22", "23", "25", "2B"),  # data, integrity constraint, transaction state, dependent privilege
    *("3D", "3F"),  # no such database, no such schema
    *("42", "44"),  # syntax error or access rule violation
    *("54", "55000", "57P04"),  # program limit, prerequisite state, database dropped
)

#: Texts of programs, as `_TEXTS`. Those that stay come first: the name of an object may hold
#: anything.
_TEXTS_OF_PROGRAMS: tuple[tuple[str, ErrorType | None], ...] = (
    ("row-level security", None),
    ("permission denied", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("must be owner of", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("root certificate file", None),
    ("no space left on device", ErrorType.QUOTA_EXCEEDED),
    ("temporary file size exceeds", ErrorType.QUOTA_EXCEEDED),
    ("you might need to increase", ErrorType.QUOTA_EXCEEDED),  # max_locks_per_transaction
    # A row of more than 1 GiB, whose error is "out of memory" before version 18.
    ("cannot enlarge string buffer", None),
    ("invalid memory alloc request size", None),
    # Broken files, and libraries that are missing.
    ("too many open files", ErrorType.NETWORK_ERROR),
    ("could not access file", None),
    ("could not load library", None),
    ("could not open file", None),
    ("could not read block", None),
    ("could not access status of transaction", None),
    ("invalid page", None),
    ("chunk number", None),  # missing or unexpected, of a long value
    ("data is corrupt", None),
    ("server version mismatch", None),
    ("canceling statement due to", ErrorType.TIMEOUT),  # a time-out, a user's request, a standby
    ("deadlock detected", ErrorType.TIMEOUT),
    ("could not serialize access", ErrorType.TIMEOUT),
    ("could not obtain lock", ErrorType.TIMEOUT),
    ("out of memory", ErrorType.NETWORK_ERROR),
)

#: Texts of a program that reads, as `_TEXTS`: what it has seen in the catalogues and not locked is
#: gone, or another thing. When it is run again, it sees the database as it then is.
_TEXTS_OF_CHANGE: tuple[tuple[str, ErrorType | None], ...] = tuple(
    (text, ErrorType.TIMEOUT)
    for text in (
        "does not exist",
        "could not open relation with oid",
        "cache lookup failed",
        "may have been concurrently dropped",  # pg_dump's, of a sequence
        "cannot copy from",  # a table that has become a view
        "cannot lock relation",  # or a sequence
        "access to non-system",  # or is read as a view: restrict_nonsystem_relation_kind
        # A session has just begun with this password: it has been changed since.
        "password authentication failed",
    )
)

#: Texts of failed connections, in lower case; the first that is found counts, None for the stage's
#: own type.
_TEXTS: tuple[tuple[str, ErrorType | None], ...] = (
    ("authentication method requirement", None),  # libpq's, of require_auth
    ("authentication failed", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("no password supplied", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("no pg_hba.conf entry", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("pg_hba.conf rejects", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("permission denied for database", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("is not permitted to log in", ErrorType.INSUFFICIENT_PERMISSIONS),
    ("too many connections", ErrorType.NETWORK_ERROR),
    ("too many clients", ErrorType.NETWORK_ERROR),
    ("remaining connection slots", ErrorType.NETWORK_ERROR),
    ("the database system is", ErrorType.NETWORK_ERROR),  # starting up, shutting down, …
    ("terminating connection", ErrorType.NETWORK_ERROR),
    ("is not currently accepting connections", None),  # ALLOW_CONNECTIONS false
    ("cannot connect to invalid database", None),  # a drop was interrupted
    ("does not exist", None),  # the database, the file of a root certificate
    ("does not support ssl", None),
    ("certificate verify failed", None),
    ("invalid sslmode", None),
    ("timeout expired", ErrorType.TIMEOUT),
    ("timed out", ErrorType.TIMEOUT),
    ("connection refused", ErrorType.NETWORK_ERROR),
    ("closed the connection", ErrorType.NETWORK_ERROR),
    ("connection has been closed", ErrorType.NETWORK_ERROR),
    ("connection is closed", ErrorType.NETWORK_ERROR),
    ("connection is lost", ErrorType.NETWORK_ERROR),
    ("connection reset", ErrorType.NETWORK_ERROR),
    ("broken pipe", ErrorType.NETWORK_ERROR),
    ("could not receive data", ErrorType.NETWORK_ERROR),
    ("could not send data", ErrorType.NETWORK_ERROR),
    ("could not translate host name", ErrorType.NETWORK_ERROR),
    ("failed to resolve host", ErrorType.NETWORK_ERROR),
    ("network is unreachable", ErrorType.NETWORK_ERROR),
    ("no route to host", ErrorType.NETWORK_ERROR),
    ("ssl syscall error", ErrorType.NETWORK_ERROR),
    # Of a connection that was cut, or that something on the way has spoilt.
    ("unexpected eof while reading", ErrorType.NETWORK_ERROR),
    ("bad record", ErrorType.NETWORK_ERROR),
    ("lost synchronization with server", ErrorType.NETWORK_ERROR),
)

#: What a message of the server begins with: its severity, in the language of `lc_messages`. Source:
#: PostgreSQL source, fe-protocol3.c, `pqBuildErrorMessage3`.
_SEVERITY = re.compile(r"(?:^|\s)(\S+):  ")

#: Of a text that is a TIMEOUT: whether someone has waited for long.
_IS_LATE = re.compile("timeout|timed out")

#: Names of objects in a message may hold anything. Source: PostgreSQL documentation, "Error Message
#: Style Guide".
_QUOTED = re.compile('"[^"]*"')

#: Kinds of exception that, without a SQLSTATE, are the driver's own refusal of what it was given.
_REFUSED_BY_DRIVER = (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError)

_CHANGED = "Something in the database was changed or dropped meanwhile, so we could not {doing}."


def is_contention(error: psycopg.Error) -> bool:
    """Whether the same step, made again at once, is likely to succeed."""
    return error.sqlstate in _CONTENTION_STATES or _CONTENTION_TEXT in str(error)


def is_wrong_password(error: psycopg.Error) -> bool:
    """Whether a login failed because of its password."""
    return "password authentication failed" in str(error)


def is_connection_limit(error: psycopg.Error) -> bool:
    """Whether a login failed because its role or its database has no connection left.

    The server looks at these limits after the password. Source: PostgreSQL source,
    `InitializeSessionUserId` and `CheckMyDatabase`.
    """
    text = str(error)
    return "too many connections for role" in text or "too many connections for database" in text


def translate(error: psycopg.Error, final: ErrorType, doing: str) -> ProvisioningError:
    """Turn an exception of the driver into an error of the table.

    The result does not refer to the exception: psycopg keeps the connection, and with it the
    password, in an exception's `pgconn`. Raise it outside the except clause for the same reason.

    Args:
        error: what psycopg raised.
        final: the stage's own type, of causes that stay, such as DATABASE_CREATION_FAILED.
        doing: what was tried, for the sentence that people read, such as "create the database".
    """
    is_at_once = error.sqlstate in _STATES_AT_ONCE or _CONTENTION_TEXT in str(error)
    # The server's primary message: never a detail or a statement.
    text = " ".join((error.diag.message_primary or str(error)).split())
    return database_failure(
        _type_of(error) or final,
        doing,
        f"SQLSTATE {error.sqlstate or 'none'}: {text}",
        IN_THE_WAY if is_at_once else None,
    )


def translate_text(text: str, final: ErrorType, doing: str) -> ProvisioningError:
    """Turn what a program that reads a database has said into an error of the table.

    Args:
        text: its words.
        final: as `translate` takes it.
        doing: as `translate` takes it.
    """
    cause = visible(text, CAUSE_LENGTH)
    row = _row_of_text(text, _TEXTS_OF_PROGRAMS + _TEXTS_OF_CHANGE)
    if row in _TEXTS_OF_CHANGE:
        return database_failure(ErrorType.TIMEOUT, doing, cause, _CHANGED)
    error_type = type_of_text(text) or final
    is_at_once = error_type is ErrorType.TIMEOUT and not _IS_LATE.search(text)
    return database_failure(error_type, doing, cause, IN_THE_WAY if is_at_once else None)


def type_of_text(text: str) -> ErrorType | None:
    """Return what a text says that a program of PostgreSQL's has left; None for the stage's own.

    UNKNOWN_ERROR is what the server says in another language than English: the cause may pass. What
    a program says of its own is always English, and without a row of the table it stays.
    """
    row = _row_of_text(text, _TEXTS_OF_PROGRAMS + _TEXTS)
    if row is not None:
        return row[1]
    severity = _SEVERITY.search(_QUOTED.sub('""', text))
    return None if severity is None or severity[1] == "ERROR" else ErrorType.UNKNOWN_ERROR


def _type_of(error: psycopg.Error) -> ErrorType | None:
    """Return the type, None for the stage's own."""
    state = error.sqlstate
    if state is None:
        return _type_without_state(error)
    is_session = state == "42501" and _SESSION_TEXT in str(error)
    if is_session or _CONTENTION_TEXT in str(error):
        return ErrorType.TIMEOUT
    if state in _STATES:
        return _STATES[state]
    if state.startswith("08"):  # the class of connection exceptions
        return ErrorType.NETWORK_ERROR
    return None if state.startswith(_FINAL_STATES) else ErrorType.UNKNOWN_ERROR


def _type_without_state(error: psycopg.Error) -> ErrorType | None:
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return ErrorType.TIMEOUT
    row = _row_of_text(str(error), _TEXTS)
    if row is not None:
        return row[1]
    return None if isinstance(error, _REFUSED_BY_DRIVER) else ErrorType.UNKNOWN_ERROR


def _row_of_text(
    text: str, table: tuple[tuple[str, ErrorType | None], ...]
) -> tuple[str, ErrorType | None] | None:
    lower = _QUOTED.sub('""', text).lower()
    return next((row for row in table if row[0] in lower), None)


#: psycopg, whose errors keep the connection, and with it the password, in `pgconn`.
PSYCOPG = ClientLibrary(
    psycopg.Error, translate, is_contention, is_wrong_password, is_connection_limit
)
