"""The definitions of what a tenant's database holds, fit to be run by another user elsewhere.

They are asked of the server by statements that show a definition and run nothing of it: SHOW
CREATE, and information_schema.

Sources: MySQL Reference Manual, "SHOW Statements", "INFORMATION_SCHEMA Tables"; MariaDB
documentation, "SHOW", "Information Schema Tables".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from pymysql.cursors import DictCursor

from provisioner.drivers.mysql.definition_text import (
    Constant,
    doubtful_constants,
    names_read,
    trigger_body,
    without_database,
    without_definer,
)
from provisioner.drivers.mysql.quoting import SQL, Composable, Identifier, Literal
from provisioner.drivers.mysql.session import Connection, Row, execute
from provisioner.errors import ErrorType, failure

#: Kinds of what information_schema.TABLES lists. Source: MariaDB documentation, "Information Schema
#: TABLES Table"; MySQL knows the first and the last.
TABLE = "BASE TABLE"
VERSIONED_TABLE = "SYSTEM VERSIONED"
SEQUENCE = "SEQUENCE"
VIEW = "VIEW"

#: Engines of tables whose rows are other tables'.
_WITHOUT_ROWS = frozenset({"MRG_MYISAM", "FEDERATED"})

#: Kinds of routines, in the order in which they can be made. All but the first two are MariaDB's.
ROUTINES = ("FUNCTION", "PROCEDURE", "PACKAGE", "PACKAGE BODY")

EVENT = "EVENT"

#: Kinds and names of what is in the session's database, but for triggers, which are their tables'.
OBJECTS = SQL("""
    SELECT table_type, table_name FROM information_schema.tables
    WHERE table_schema = DATABASE()
    UNION ALL
    SELECT routine_type, routine_name FROM information_schema.routines
    WHERE routine_schema = DATABASE()
    UNION ALL
    SELECT 'EVENT', event_name FROM information_schema.events WHERE event_schema = DATABASE()
    ORDER BY 1, 2
""")

#: What has the definition in a row of SHOW CREATE; of all other kinds it is `Create` and the kind.
_DEFINITION_COLUMNS = {"SEQUENCE": "Create Table", "TRIGGER": "SQL Original Statement"}

#: Of a view that cannot be used: something that it reads is not there. Source: MySQL Server Error
#: Message Reference, ER_VIEW_INVALID.
_VIEW_IS_INVALID = 1356


@dataclass(frozen=True, slots=True)
class Table:
    """What information_schema.TABLES lists."""

    name: str
    kind: str
    #: Whether its rows are its own, and not another table's.
    has_rows: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    #: Its type without lengths, such as varchar.
    data_type: str
    #: The expression that the server computes it by; empty where it is stored as it was given.
    expression: str


@dataclass(frozen=True, slots=True)
class Definition:
    """What makes one object."""

    #: Its kind and name, for people.
    what: str
    sql: str
    #: What the session is to have while it is made; None where it does not matter.
    sql_mode: str | None = None
    collation: str | None = None
    time_zone: str | None = None
    #: Whether what it reads is there: otherwise it cannot be made.
    is_valid: bool = True


class Definitions:
    """Reads the definitions of one database."""

    def __init__(self, connection: Connection, database: str) -> None:
        """Bind to a session that has chosen the database.

        Args:
            connection: the session; each of its statements sees the database as it then is.
            database: its name.
        """
        self._connection = connection
        self._database = database

    def server_version(self) -> str:
        """Return the server's version, such as 8.0.36 or 10.11.19-MariaDB."""
        ((text,),) = self._rows(SQL("SELECT VERSION()"))
        number, _, rest = str(text).partition("-")
        return f"{number}-MariaDB" if "MariaDB" in rest else number

    def character_set(self) -> tuple[str, str]:
        """Return the character set and the collation that new tables have by default."""
        ((character_set, collation),) = self._rows(
            SQL(
                "SELECT default_character_set_name, default_collation_name"
                " FROM information_schema.schemata WHERE schema_name = {}"
            ).format(Literal(self._database))
        )
        return str(character_set), str(collation)

    def tables(self) -> list[Table]:
        """Return tables, views and sequences."""
        rows = self._rows(
            SQL(
                "SELECT table_name, table_type, engine FROM information_schema.tables"
                " WHERE table_schema = {} ORDER BY table_name"
            ).format(Literal(self._database))
        )
        return [
            Table(str(name), str(kind), has_rows=str(engine).upper() not in _WITHOUT_ROWS)
            for name, kind, engine in rows
        ]

    def columns(self, table: str) -> list[Column]:
        """Return the columns of a table, in their order."""
        rows = self._rows(
            SQL(
                "SELECT column_name, data_type, generation_expression"
                " FROM information_schema.columns WHERE table_schema = {} AND table_name = {}"
                " ORDER BY ordinal_position"
            ).format(Literal(self._database), Literal(table))
        )
        return [Column(str(row[0]), str(row[1]).lower(), str(row[2] or "")) for row in rows]

    def kind_of(self, table: str) -> str | None:
        """Return the kind of a table as it now is; None where there is none."""
        rows = self._rows(
            SQL(
                "SELECT table_type FROM information_schema.tables"
                " WHERE table_schema = {} AND table_name = {}"
            ).format(Literal(self._database), Literal(table))
        )
        return str(rows[0][0]) if rows else None

    def definition(self, kind: str, name: str) -> Definition:
        """Return what makes an object, as the server shows it, without its definer.

        Args:
            kind: a word of `_WORDS`.
            name: the object's.

        Raises:
            INSUFFICIENT_PERMISSIONS: the server does not show the text of a routine.
        """
        what = f"{kind.lower()} {name}"
        statement = SQL("SHOW CREATE {} {}").format(_WORDS[kind], Identifier(name))
        (row,) = execute(self._connection, statement, DictCursor)
        text = row[_DEFINITION_COLUMNS.get(kind, f"Create {kind.title()}")]
        if text is None:
            raise failure(
                ErrorType.INSUFFICIENT_PERMISSIONS,
                f"The database server does not show us the text of {what}, so it cannot be dumped.",
                "SHOW CREATE gave NULL: the admin needs SELECT on mysql.proc (MariaDB), or SELECT"
                " on *.* or SHOW_ROUTINE (MySQL)",
            )
        return Definition(
            what,
            without_definer(text),
            row.get("sql_mode"),
            row.get("collation_connection"),
            row.get("time_zone"),
        )

    def table(self, name: str) -> Definition:
        """Return what makes a table."""
        shown = self.definition("TABLE", name)
        text = shown.sql
        # From the last to the first, so that the places stay.
        for constant in reversed(doubtful_constants(text)):
            value = Literal(self._constant(name, constant)).render(self._connection)
            text = text[: constant.start] + value + text[constant.end :]
        return replace(shown, sql=without_database(text, self._database))

    def _constant(self, table: str, constant: Constant) -> str:
        """Return a string of a table's definition whole: as the value of such a column."""
        column = Identifier(constant.column)
        copy = Identifier("provisioner dump")
        self._rows(
            SQL("CREATE TEMPORARY TABLE {} SELECT {} FROM {} LIMIT 0").format(
                copy, column, Identifier(table)
            )
        )
        try:
            if constant.value is None:
                self._rows(SQL("INSERT INTO {} () VALUES ()").format(copy))
            else:
                self._rows(SQL("INSERT INTO {} VALUES ({})").format(copy, Literal(constant.value)))
            ((value,),) = self._rows(SQL("SELECT {} FROM {}").format(column, copy))
        finally:
            self._rows(SQL("DROP TEMPORARY TABLE {}").format(copy))
        return str(value)

    def objects(self, *kinds: str) -> Iterator[Definition]:
        """Yield what makes all objects of some kinds, of one kind after the other."""
        rows = self._rows(OBJECTS)
        for kind in kinds:
            for name in (str(row[1]) for row in rows if row[0] == kind):
                yield self.definition(kind, name)

    def views(self) -> list[Definition]:
        """Return what makes views, those that others read before them."""
        made: dict[str, Definition] = {}
        for name in (table.name for table in self.tables() if table.kind == VIEW):
            shown = self.definition("VIEW", name)
            warnings = self._rows(SQL("SHOW WARNINGS"))
            made[name] = replace(
                shown,
                sql=without_database(shown.sql, self._database),
                is_valid=_VIEW_IS_INVALID not in {warning[1] for warning in warnings},
            )
        reads = {name: names_read(made[name].sql) & made.keys() - {name} for name in made}
        try:
            order = list(TopologicalSorter(reads).static_order())
        except CycleError:
            # Names of other things are those of views too, so that nothing tells the order.
            order = list(made)
        return [made[name] for name in order]

    def triggers(self) -> Iterator[Definition]:
        """Yield what makes triggers, those of a table in the order in which they run."""
        rows = self._rows(
            SQL(
                "SELECT trigger_name, action_timing, event_manipulation, event_object_table"
                " FROM information_schema.triggers WHERE trigger_schema = {}"
                " ORDER BY event_object_table, event_manipulation, action_timing, action_order"
            ).format(Literal(self._database))
        )
        for name, timing, event, table in (map(str, row) for row in rows):
            shown = self.definition("TRIGGER", name)
            heading = SQL("CREATE TRIGGER {} {} {} ON {} FOR EACH ROW ").format(
                Identifier(name), _WORDS[timing], _WORDS[event], Identifier(table)
            )
            body = trigger_body(shown.sql, shown.sql_mode or "")
            yield replace(shown, sql=heading.render(self._connection) + body)

    def sessions(self) -> list[str]:
        """Describe the other sessions in the database, the longest at work first."""
        rows = self._rows(
            SQL(
                "SELECT id, user, command, time FROM information_schema.processlist"
                " WHERE db = {} AND user <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"
                " ORDER BY time DESC LIMIT 3"
            ).format(Literal(self._database))
        )
        return [f"session {row[0]} of {row[1]} ({row[2]} for {row[3]} s)" for row in rows]

    def _rows(self, statement: Composable) -> list[Row]:
        return execute(self._connection, statement)


#: Words of statements that the server has named.
_WORDS = {
    word: SQL(word)
    for word in (
        *("TABLE", SEQUENCE, VIEW, "TRIGGER", EVENT),
        *ROUTINES,
        *("BEFORE", "AFTER", "INSERT", "UPDATE", "DELETE"),
    )
}
