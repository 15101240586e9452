"""Dumps of tenant databases of MySQL and MariaDB, as a stream of SQL.

What a tenant has made is shown and copied, and nothing of it runs: of a view the definition alone
is read, never what it yields. A table is read only while it is certain to be one: a tenant could
put a view of the same name in its place.

The rows of tables with transactions are those of one moment. Others (MyISAM, Aria) and the
definitions are as they are when they are read.

Sources: MySQL Reference Manual, "START TRANSACTION, COMMIT, and ROLLBACK Statements", "Metadata
Locking", "Server System Variables"; MariaDB documentation, "START TRANSACTION", "System-Versioned
Tables", "SETVAL()".
"""

import math
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

import pymysql
from pymysql.cursors import SSCursor

from provisioner.drivers.database_engine import AdminConnection, TenantNames, step
from provisioner.drivers.mysql.databases import has_database
from provisioner.drivers.mysql.definitions import (
    EVENT,
    ROUTINES,
    SEQUENCE,
    VERSIONED_TABLE,
    VIEW,
    Column,
    Definition,
    Definitions,
)
from provisioner.drivers.mysql.dump_format import (
    FIRST_LINE,
    LAST_LINE,
    binary_literal,
    frame,
    one_line,
    tell_left_out,
    text_literal,
)
from provisioner.drivers.mysql.errors import PYMYSQL, is_in_the_way, number_of
from provisioner.drivers.mysql.ledger import Kind, find_markers, lock
from provisioner.drivers.mysql.quoting import SQL, Composable, Identifier, Literal
from provisioner.drivers.mysql.session import (
    Connection,
    connect_as_platform,
    execute,
    is_mariadb,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim, tags_of_comment

_FINAL = ErrorType.SNAPSHOT_FAILED

#: Bytes of the rows in one statement. A server takes 16 MiB at least by default, RDS's too.
_ROWS_LENGTH = 512 * 1024

#: What `zlib` takes for the format of gzip. Source: zlib manual, deflateInit2.
_GZIP = 31

#: The time is the bound; higher levels take several times as long.
_LEVEL = 1

#: A session that has the time zone and the character set of the dump. The SQL mode takes dates and
#: zeros as they were stored.
_SETTINGS = (
    "SET NAMES utf8mb4",
    "SET time_zone = '+00:00'",
    "SET foreign_key_checks = 0",
    "SET unique_checks = 0",
)
_SQL_MODE = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION"
_COLLATION = "utf8mb4_general_ci"
_TIME_ZONE = "+00:00"

#: What a table of MariaDB that keeps its history has besides its columns.
_ROW_START, _ROW_END = "ROW START", "ROW END"

#: What was there a moment ago is not, or is another thing. Source: MySQL Server Error Message
#: Reference.
_CHANGED = frozenset(
    {
        1054,  # ER_BAD_FIELD_ERROR
        1146,  # ER_NO_SUCH_TABLE
        1305,  # ER_SP_DOES_NOT_EXIST
        1347,  # ER_WRONG_OBJECT
        1360,  # ER_TRG_DOES_NOT_EXIST
        1412,  # ER_TABLE_DEF_CHANGED
        1539,  # ER_EVENT_DOES_NOT_EXIST
        1792,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION: a view in a table's place
    }
)


def _float_literal(value: bytes) -> bytes:
    # The negation of the whole number zero is zero.
    return b"-0e0" if value == b"-0" else value


@dataclass(frozen=True, slots=True)
class _Format:
    """How the values of a data type are read and written."""

    #: What is selected of a column.
    select: SQL
    #: Writes a value that is there as SQL does.
    write: Callable[[bytes], bytes]


_TEXT = _Format(SQL("{}"), text_literal)

#: By data type; all others are texts.
_FORMATS = {
    **dict.fromkeys(
        ("tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "year"),
        _Format(SQL("{}"), bytes),
    ),
    # The server writes these with fewer digits than it stores, unless they are computed.
    **dict.fromkeys(("float", "double"), _Format(SQL("{} * 1E0"), _float_literal)),
    # The server is asked for the number: it tells a member from none, whatever its name. All 64
    # bits of a SET have a meaning.
    **dict.fromkeys(("enum", "set"), _Format(SQL("CAST({} AS UNSIGNED)"), bytes)),
    **dict.fromkeys(
        (
            *("bit", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"),
            *("vector", "geometry", "point", "linestring", "polygon", "multipoint"),
            *("multilinestring", "multipolygon", "geometrycollection", "geomcollection"),
        ),
        _Format(SQL("{}"), binary_literal),
    ),
}

#: The number of a value that is no member of an ENUM.
_NO_MEMBER = b"0"


class MysqlDump:
    """A dump that is being made, as a `Dump`."""

    def __init__(
        self, shown: Connection, data: Connection, database: str, seconds: float, lock_wait: int
    ) -> None:
        """Begin; `close` ends it, and the sessions.

        Args:
            shown: a session of the platform that shows definitions.
            data: another, which reads rows in one transaction.
            database: what is dumped.
            seconds: how long it may take from now on.
            lock_wait: seconds that it may wait for one lock.

        Raises:
            pymysql.Error: the server does not serve.
        """
        for connection in (shown, data):
            _use(connection, database, lock_wait)
        self._shown = shown
        self._data = data
        self._definitions = Definitions(shown, database)
        self.server_version = self._definitions.server_version()
        # It reads rows as of now, writes nothing, and gets rows as the server sends them.
        for statement in (
            SQL("SET SESSION time_zone = '+00:00'"),
            SQL("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
            SQL("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"),
        ):
            execute(data, statement)
        data.use_unicode = False
        data.decoders = {}
        self.size = 0
        self._seconds = seconds
        self._lock_wait = lock_wait
        self._is_late = False
        self._error: ProvisioningError | None = None
        self._doing = "the database"
        self._buffer = bytearray()
        #: What a session that runs the dump has where it has got to.
        self._settings: dict[str, str] = {}
        self._pieces = self._compress()
        self._timer = threading.Timer(seconds, self._stop_late)
        self._timer.daemon = True
        self._timer.start()

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes of the dump; the end only where it is whole."""
        if self._error is not None:
            raise self._error
        try:
            while size < 0 or len(self._buffer) < size:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._buffer += piece
        except (pymysql.Error, ProvisioningError) as error:
            # Or the driver would read all rows that are left.
            _abandon(self._data)
            self._error = self._explain(error)
        # Outside the except clause, so that the driver's exception is not the context of this one.
        if self._error is not None:
            raise self._error
        end = len(self._buffer) if size < 0 else size
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        self.size += len(data)
        return data

    def close(self) -> None:
        """Give up what is left of it."""
        self._timer.cancel()
        for connection in (self._data, self._shown):
            _abandon(connection)

    def _compress(self) -> Iterator[bytes]:
        compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
        for piece in self._sql():
            if self._is_late:
                raise self._late()
            yield compressor.compress(piece)
        yield compressor.flush()

    def _sql(self) -> Iterator[bytes]:
        shown = self._definitions
        yield FIRST_LINE
        yield f"-- of a server of version {self.server_version}\n".encode()
        yield b"-- It is a tenant's own code: run it as its user, in an empty database.\n"
        for setting in _SETTINGS:
            yield frame(setting.encode(), "settings")
        character_set, collation = shown.character_set()
        yield frame(
            self._render(
                SQL("ALTER DATABASE CHARACTER SET {} COLLATE {}").format(
                    Identifier(character_set), Identifier(collation)
                )
            ),
            "the default character set",
        )
        yield from self._change_settings(_SQL_MODE, _COLLATION, _TIME_ZONE)
        tables = shown.tables()
        # A column's default may be the next value of a sequence.
        for table in tables:
            if table.kind == SEQUENCE:
                yield from self._sequence(table.name)
        for table in tables:
            if table.kind not in {SEQUENCE, VIEW} and table.has_rows:
                yield from self._table(table.name, table.kind)
        for table in tables:
            if not table.has_rows:
                self._doing = one_line(f"table {table.name}")
                yield from self._make(shown.table(table.name))
        # Triggers come last of those that a row could wake, and events of those that a clock could.
        self._doing = "views and routines"
        for definitions in (
            shown.objects(*ROUTINES),
            shown.views(),
            shown.triggers(),
            shown.objects(EVENT),
        ):
            for definition in definitions:
                yield from self._make(definition)
        yield LAST_LINE

    def _change_settings(self, sql_mode: str, collation: str, time_zone: str) -> Iterator[bytes]:
        """Write what a session is to have while an object is made, where that changes."""
        wanted = {"sql_mode": sql_mode, "collation_connection": collation, "time_zone": time_zone}
        for name, value in wanted.items():
            if self._settings.get(name) != value:
                self._settings[name] = value
                statement = SQL("SET {} = {}").format(Identifier(name), Literal(value))
                yield frame(self._render(statement), "settings")

    def _make(self, definition: Definition) -> Iterator[bytes]:
        """Write what makes an object."""
        if not definition.is_valid:
            yield tell_left_out(
                f"{definition.what} reads something that is not there", definition.sql
            )
            return
        yield from self._change_settings(
            _SQL_MODE if definition.sql_mode is None else definition.sql_mode,
            definition.collation or _COLLATION,
            definition.time_zone or _TIME_ZONE,
        )
        yield frame(definition.sql.encode(), definition.what)

    def _sequence(self, name: str) -> Iterator[bytes]:
        self._doing = one_line(f"sequence {name}")
        cursor = SSCursor(self._data)
        query = SQL(
            "SELECT next_not_cached_value, cycle_count, minimum_value, maximum_value FROM {}"
        ).format(Identifier(name))
        cursor.execute(query.render(self._data))
        self._check_kind(name, SEQUENCE)
        definition = self._definitions.definition(SEQUENCE, name)
        ((next_value, rounds, minimum, maximum),) = (map(int, row) for row in cursor.fetchall())
        yield frame(definition.sql.encode(), definition.what)
        is_over = not minimum <= next_value <= maximum
        value = min(max(next_value, minimum), maximum)
        yield frame(
            self._render(
                SQL("DO SETVAL({}, {}, {}, {})").format(
                    Identifier(name), Literal(value), Literal(int(is_over)), Literal(rounds)
                )
            ),
            f"the next value of {definition.what}",
        )

    def _table(self, name: str, kind: str) -> Iterator[bytes]:
        self._doing = one_line(f"table {name}")
        columns = self._definitions.columns(name)
        history = _history(columns) if kind == VERSIONED_TABLE else ()
        stored = [each for each in columns if not each.expression]
        read = [*stored, *history]
        into = self._render(
            SQL(" INTO {} ({}) VALUES\n").format(
                Identifier(name), SQL(", ").join(Identifier(column.name) for column in read)
            )
        )
        cursor = SSCursor(self._data)
        rows = SQL("SELECT {} FROM {} FOR SYSTEM_TIME ALL" if history else "SELECT {} FROM {}")
        values = [
            _FORMATS.get(column.data_type, _TEXT).select.format(Identifier(column.name))
            for column in read
        ]
        query = rows.format(SQL(", ").join(values or [SQL("NULL")]), Identifier(name))
        cursor.execute(query.render(self._data))
        # The transaction has locked the name, whatever is behind it, until its end.
        self._check_kind(name, kind)
        if self._definitions.columns(name) != columns:
            raise self._has_changed()
        definition = self._definitions.table(name)
        yield frame(definition.sql.encode(), definition.what)
        if history:
            yield frame(b"SET system_versioning_insert_history = 1", "settings")
        yield from _inserts(cursor, read, into, f"rows of {definition.what}")
        if history:
            yield frame(b"SET system_versioning_insert_history = 0", "settings")

    def _check_kind(self, name: str, kind: str) -> None:
        if self._definitions.kind_of(name) != kind:
            raise self._has_changed()

    def _render(self, statement: Composable) -> bytes:
        return statement.render(self._shown).encode()

    def _stop_late(self) -> None:
        self._is_late = True
        # What waits for the server gets an error.
        _disconnect(self._data)
        _disconnect(self._shown)

    def _late(self) -> ProvisioningError:
        return failure(
            _FINAL,
            f"The database cannot be dumped in the {self._seconds:.0f} seconds that there are; "
            "dump it yourself and send the job without final_snapshot.",
            f"the dump was stopped after {self.size} bytes, at {self._doing}",
        )

    def _has_changed(self) -> ProvisioningError:
        return failure(
            ErrorType.TIMEOUT,
            f"Something in the database was changed or dropped meanwhile, so we could not dump "
            f"{self._doing}.",
        )

    def _explain(self, error: pymysql.Error | ProvisioningError) -> ProvisioningError:
        if isinstance(error, ProvisioningError):
            return error
        if self._is_late:
            return self._late()
        if number_of(error) in _CHANGED:
            return self._has_changed()
        if is_in_the_way(error):
            return self._explain_lock()
        return PYMYSQL.translate(error, _FINAL, f"dump {self._doing}")

    def _explain_lock(self) -> ProvisioningError:
        sessions: list[str] = []
        with suppress(pymysql.Error):
            sessions = self._definitions.sessions()
        who = f"; there are {', '.join(sessions)}" if sessions else ""
        return failure(
            ErrorType.TIMEOUT,
            f"The database cannot be dumped: after {self._lock_wait} seconds {self._doing} is "
            f"still locked by another session{who}.",
        )


class MysqlDumper:
    """Dumps databases of MySQL and MariaDB, as a `DatabaseDumper`."""

    library = PYMYSQL

    def __init__(self, admin: AdminConnection, *, lock_wait: float = 30.0) -> None:
        """Bind the dumper to a cluster; nothing is connected yet.

        Args:
            admin: the login of the platform's user.
            lock_wait: seconds that the dump may wait for one lock.
        """
        self._admin = admin
        self._lock_wait = lock_wait

    @contextmanager
    def dump(self, names: TenantNames, claim: Claim, seconds: float) -> Iterator[MysqlDump | None]:
        """Begin to dump a tenant's database."""
        # So that a wait that takes too long is reported before the dump's own time is over.
        lock_wait = max(1, math.floor(min(self._lock_wait, seconds / 2)))

        dump = self._begin(names, claim, seconds, lock_wait)
        if dump is None:
            yield None
            return
        with closing(dump):
            yield dump

    @step(_FINAL, "dump the database")
    def _begin(
        self, names: TenantNames, claim: Claim, seconds: float, lock_wait: int
    ) -> MysqlDump | None:
        idle_seconds = math.ceil(seconds) + 60
        with ExitStack() as sessions:
            shown = sessions.enter_context(
                connect_as_platform(self._admin, idle_seconds=idle_seconds)
            )
            lock(shown, names)
            marker = find_markers(shown, names).get(Kind.DATABASE)
            if not claim(tags_of_comment(marker)) or not has_database(shown, names):
                return None
            data = sessions.enter_context(
                connect_as_platform(self._admin, idle_seconds=idle_seconds)
            )
            dump = MysqlDump(shown, data, names.database, seconds, lock_wait)
            # From now on they are the dump's to close.
            sessions.pop_all()
            return dump


def _use(connection: Connection, database: str, lock_wait: int) -> None:
    """Make a session ready to dump a database; no other session of the platform is in a tenant's.

    With the database as the session's own, the server leaves it out of the names that it shows.
    """
    no_limit = SQL("max_statement_time = 0" if is_mariadb(connection) else "max_execution_time = 0")
    execute(connection, SQL("USE {}").format(Identifier(database)))
    execute(
        connection,
        SQL(
            # Definitions are shown for a session that is as the dump's.
            "SET SESSION sql_mode = '', lock_wait_timeout = {}, {},"
            # Who reads the dump may be slower than the server.
            " net_write_timeout = 600"
        ).format(Literal(lock_wait), no_limit),
    )


def _abandon(connection: Connection) -> None:
    """Close a session in the middle of whatever it does."""
    # The driver would read all rows that are left.
    result = getattr(connection, "_result", None)
    if result is not None:
        result.unbuffered_active = False
    with suppress(pymysql.Error):
        connection.close()


def _disconnect(connection: Connection) -> None:
    """Let whoever waits for the server in another thread get an error."""
    # Closing it does not wake another thread.
    way = getattr(connection, "_sock", None)
    if way is not None:
        with suppress(OSError):
            way.shutdown(socket.SHUT_RDWR)


def _history(columns: list[Column]) -> tuple[Column, ...]:
    """Return the columns by which a table keeps its history."""
    named = {column.expression: column for column in columns}
    start = named.get(_ROW_START, Column("row_start", "timestamp", _ROW_START))
    end = named.get(_ROW_END, Column("row_end", "timestamp", _ROW_END))
    # By transactions, a history cannot be written anew.
    return (start, end) if start.data_type == "timestamp" else ()


def _inserts(cursor: SSCursor, columns: list[Column], into: bytes, what: str) -> Iterator[bytes]:
    """Yield statements that insert the rows of a cursor."""
    formats = [_FORMATS.get(column.data_type, _TEXT).write for column in columns]
    lists = [at for at, column in enumerate(columns) if column.data_type == "enum"]
    rows: list[bytes] = []
    length = 0

    def statement(verb: bytes, values: list[bytes]) -> bytes:
        return frame(verb + into + b",\n".join(values), what)

    while (row := cursor.fetchone()) is not None:
        values = [
            b"NULL" if value is None else write(value)
            for write, value in zip(formats, row, strict=False)
        ]
        text = b"(" + b",".join(values) + b")"
        if any(values[at] == _NO_MEMBER for at in lists):
            # A server takes it from nobody who does not say so.
            yield statement(b"INSERT IGNORE", [text])
            continue
        if rows and length + len(text) > _ROWS_LENGTH:
            yield statement(b"INSERT", rows)
            rows, length = [], 0
        rows.append(text)
        length += len(text)
    if rows:
        yield statement(b"INSERT", rows)
