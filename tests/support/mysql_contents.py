"""A MySQL database with all that a tenant may have in one, and what tells two of them apart."""

from __future__ import annotations

import re
from typing import Any

from support.mysql import Connection
from support.mysql_tenants import MysqlTenant

#: Statements of a tenant's; `{db}` is the name of its database.
RICH = (
    # Sequences and defaults are MariaDB's: see `RICH_OF_MARIADB`.
    "CREATE TABLE plain (id int AUTO_INCREMENT PRIMARY KEY, word varchar(50), note text)",
    """INSERT INTO plain VALUES
       (5, 'fünf', NULL), (1, '', 'a''b\\\\c\\n\\r\\t\\0\\Z%_"'), (7, '😀', '末')""",
    "ALTER TABLE plain AUTO_INCREMENT = 1000",
    "CREATE TABLE zero (id int AUTO_INCREMENT PRIMARY KEY, v int)",
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
    "INSERT INTO zero VALUES (0, 1), (-5, 2), (3, NULL)",
    "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'",
    """CREATE TABLE moments (d date, t time(6), dt datetime(3), ts timestamp(6) NULL, y year)""",
    """INSERT INTO moments VALUES
       ('0000-00-00', '-838:59:59', '0000-00-00 00:00:00', NULL, 0),
       ('2024-02-31', '12:00:00.5', '9999-12-31 23:59:59.999', '2024-03-31 02:30:00.123456', 2024),
       ('2024-00-15', '00:00:00', '1000-01-01', '1970-01-01 00:00:01', 1901)""",
    """CREATE TABLE numbers (
         t tinyint, s smallint unsigned, m mediumint, i int(5) zerofill, b bigint unsigned,
         d decimal(65, 30), f float, fd float(7, 3), g double, gd double(15, 4), bits bit(13))""",
    """INSERT INTO numbers VALUES
       (-128, 65535, -8388608, 42, 18446744073709551615,
        -12345678901234567890123456789012345.123456789012345678901234567890,
        16777217, 1234.567, 0.1, 12345678.9012, b'1010101010101'),
       (127, 0, 8388607, 0, 0, 0, 3.4028235e38, -0.001, 2.2250738585072014e-308, 0, b'0'),
       (0, 1, 2, 3, 4, 5, -0e0, 0.1, -0e0, 1e10, 1),
       (NULL, NULL, NULL, NULL, NULL, NULL, 1.1754944e-38, NULL, 1.7976931348623157e308, NULL,
        NULL)""",
    """CREATE TABLE bytes (
         id int PRIMARY KEY, b binary(4), v varbinary(300), l longblob, g geometry,
         t varchar(20) CHARACTER SET latin1, u varchar(20) CHARACTER SET utf16,
         c char(5) COLLATE utf8mb4_bin)""",
    """INSERT INTO bytes VALUES
       (1, 'ab', x'00ff27220a5c1a', REPEAT(x'00270a5cff', 300000),
        ST_GeomFromText('POINT(1 2)', 4326), 'é€', 'é末', 'x  '),
       (2, '', '', '', NULL, '', '', ''), (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL)""",
    """CREATE TABLE choices (e enum('a', 'b', 'it''s'), s set('x', 'y?', '😀'),
         f enum('', '?', '🎉') DEFAULT '🎉', d varchar(9) DEFAULT 'é?😀')""",
    "INSERT INTO choices (e, s) VALUES ('a', ''), ('it''s', 'x,😀'), (NULL, NULL)",
    "INSERT IGNORE INTO choices (e, s, f) VALUES ('none', 'x,y?', 'none'), ('b', 'x', '')",
    f"CREATE TABLE most_members (s set({', '.join(f"'m{at}'" for at in range(64))}))",
    "INSERT INTO most_members VALUES ('m0,m63'), ('m62,m1'), ('')",
    "CREATE TABLE documents (id int, doc json)",
    """INSERT INTO documents VALUES (1, '{{"a": [1, 2.5, null, "😀\\\\n"]}}'), (2, NULL)""",
    """CREATE TABLE computed (
         a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, kept varchar(20)
         GENERATED ALWAYS AS (CONCAT('<', a, '>')) STORED, b int DEFAULT 7, KEY (twice))""",
    "INSERT INTO computed (a, b) VALUES (1, 1), (NULL, 2), (3, 3)",
    "CREATE TABLE father (id int PRIMARY KEY, child int, KEY (child))",
    """CREATE TABLE child (
         id int PRIMARY KEY, father int, FOREIGN KEY (father) REFERENCES father (id))""",
    "ALTER TABLE father ADD FOREIGN KEY (child) REFERENCES child (id) ON DELETE SET NULL",
    "INSERT INTO father VALUES (1, NULL)",
    "INSERT INTO child VALUES (10, 1)",
    "UPDATE father SET child = 10",
    "CREATE TABLE `a``b` (`c``d` int COMMENT 'it''s; {db}.', `select` int, `ü 末` int)",
    "INSERT INTO `a``b` VALUES (1, 2, 3)",
    "CREATE TABLE `{db}` (`{db}` int DEFAULT 4)",
    "INSERT INTO `{db}` VALUES (1)",
    "CREATE TABLE empty_one (id int)",
    "CREATE TABLE parts (id int, day date) PARTITION BY HASH (id) PARTITIONS 3",
    "INSERT INTO parts VALUES (1, '2024-01-01'), (2, '2024-02-02'), (3, NULL)",
    "CREATE TABLE old_engine (id int, FULLTEXT (w), w text) ENGINE = MyISAM",
    "INSERT INTO old_engine VALUES (1, 'words')",
    "CREATE TABLE log (id int AUTO_INCREMENT PRIMARY KEY, what varchar(200))",
    "SET SESSION sql_mode = DEFAULT",
    """CREATE FUNCTION {db}.noted(what varchar(100)) RETURNS int MODIFIES SQL DATA BEGIN
         -- '; // //0
         INSERT INTO log (what) VALUES (CONCAT('😀;', what)); RETURN 1; END""",
    """CREATE PROCEDURE sum_up(IN a int, OUT b int) COMMENT 'it''s' SQL SECURITY INVOKER
         BEGIN SELECT COUNT(*) + a INTO b FROM plain; END""",
    "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'",
    """CREATE FUNCTION "odd;mode"() RETURNS varchar(9) DETERMINISTIC RETURN 'a\\';""",
    "SET SESSION sql_mode = DEFAULT",
    "SET SESSION collation_connection = utf8mb4_bin",
    "CREATE FUNCTION strict(a varchar(9)) RETURNS int DETERMINISTIC RETURN 'A' = 'a'",
    "SET SESSION collation_connection = utf8mb4_general_ci",
    # Views that read each other and call a function, the first by name last by need.
    "CREATE VIEW z_base AS SELECT id, word, '😀;' AS e, noted('view') AS n FROM plain",
    """CREATE ALGORITHM = MERGE SQL SECURITY INVOKER VIEW b_on_z AS
       SELECT id, e FROM z_base WHERE id > 1""",
    "CREATE VIEW a_on_b AS SELECT x.id FROM b_on_z AS x JOIN plain ON plain.id = x.id",
    "CREATE VIEW checked AS SELECT * FROM plain WHERE id < 100 WITH CASCADED CHECK OPTION",
    """CREATE VIEW `v``1` (`x``y`) AS
       WITH t AS (SELECT 1 AS one) SELECT one FROM t UNION SELECT id FROM zero""",
    "CREATE TABLE gone (id int)",
    "CREATE VIEW broken AS SELECT id FROM gone",
    "DROP TABLE gone",
    # Of three triggers of one event the order is kept.
    """CREATE TRIGGER {db}.second /* FOR EACH ROW */ BEFORE INSERT ON {db}.plain
       FOR EACH ROW SET NEW.note = CONCAT(IFNULL(NEW.note, ''), '2;')""",
    """CREATE TRIGGER first BEFORE INSERT ON plain FOR EACH ROW PRECEDES second
       BEGIN SET NEW.note = '1😀;'; END""",
    """/*!50003 CREATE*/ /*!50003 TRIGGER `third``t` BEFORE INSERT ON plain
       FOR EACH ROW SET NEW.note = CONCAT(NEW.note, '3') */""",
    """CREATE TRIGGER on_zero AFTER DELETE ON zero
       FOR EACH ROW INSERT INTO log (what) VALUES ('gone')""",
    """CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2024-01-01 03:00:00'
       ON COMPLETION PRESERVE DISABLE COMMENT 'it''s'
       DO BEGIN DELETE FROM log WHERE what = ';😀'; END""",
    "SET SESSION time_zone = '+05:30'",
    "CREATE EVENT `e``2` ON SCHEDULE AT '2037-01-01 00:00:00' DO DELETE FROM log",
    "SET SESSION time_zone = DEFAULT",
    "DELETE FROM log",
)

#: What MySQL does not have.
RICH_OF_MARIADB = (
    "CREATE SEQUENCE seq START WITH 5 INCREMENT BY 3",
    "SELECT NEXTVAL(seq)",
    "CREATE SEQUENCE used_up MAXVALUE 2 NOCACHE",
    "SELECT NEXTVAL(used_up), NEXTVAL(used_up)",
    "CREATE SEQUENCE rounds MAXVALUE 3 CYCLE NOCACHE",
    "SELECT NEXTVAL(rounds), NEXTVAL(rounds), NEXTVAL(rounds), NEXTVAL(rounds)",
    "CREATE SEQUENCE down INCREMENT BY -2 START WITH -1 MAXVALUE -1 MINVALUE -100 NOCACHE",
    "SELECT NEXTVAL(down)",
    "CREATE TABLE numbered (id int DEFAULT NEXTVAL({db}.seq), u uuid, i inet6, j inet4)",
    """INSERT INTO numbered VALUES
       (1, '123e4567-e89b-12d3-a456-426614174000', '::ffff:1.2.3.4', '1.2.3.4'),
       (2, NULL, NULL, NULL)""",
    "CREATE TABLE kept (id int, hidden int INVISIBLE DEFAULT 3) WITH SYSTEM VERSIONING",
    "INSERT INTO kept (id) VALUES (1), (2)",
    "UPDATE kept SET id = 20 WHERE id = 2",
    "DELETE FROM kept WHERE id = 1",
    """CREATE TABLE kept_too (id int, s timestamp(6) GENERATED ALWAYS AS ROW START,
         e timestamp(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e))
       WITH SYSTEM VERSIONING""",
    "INSERT INTO kept_too (id) VALUES (1)",
    "UPDATE kept_too SET id = 2",
    "CREATE TABLE crash_safe (id int) ENGINE = Aria",
    "INSERT INTO crash_safe VALUES (1)",
    "CREATE TABLE merged (id int) ENGINE = MRG_MyISAM UNION = (only_id)",
    "CREATE TABLE only_id (id int) ENGINE = MyISAM",
    "INSERT INTO only_id VALUES (1), (2)",
    """CREATE TABLE bits_compressed (t text COMPRESSED)""",
    "INSERT INTO bits_compressed VALUES (REPEAT('a', 1000))",
    "SET SESSION sql_mode = 'ORACLE'",
    "CREATE PACKAGE pack AS FUNCTION f RETURN int; END",
    "CREATE PACKAGE BODY pack AS FUNCTION f RETURN int AS BEGIN RETURN 1; END; END",
    "SET SESSION sql_mode = DEFAULT",
    "DELETE FROM log",
)


def fill(tenant: MysqlTenant) -> None:
    """Give a tenant's database all that there may be in one."""
    with tenant.login() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        ((version,),) = cursor.fetchall()
        for statement in RICH + (RICH_OF_MARIADB if "MariaDB" in version else ()):
            cursor.execute(statement.format(db=tenant.names.database))


#: What is between a trigger's name and its body, as it may be typed.
_BEFORE_BODY = re.compile(r".*FOR EACH ROW\s+(?:PRECEDES \w+\s+)?", re.DOTALL)

#: Of what is not a table: its kinds and names.
_LISTED = """
    SELECT routine_type, routine_name FROM information_schema.routines
    WHERE routine_schema = DATABASE()
    UNION ALL
    SELECT 'TRIGGER', trigger_name FROM information_schema.triggers
    WHERE trigger_schema = DATABASE()
    UNION ALL
    SELECT 'EVENT', event_name FROM information_schema.events WHERE event_schema = DATABASE()
"""


def contents(connection: Connection) -> dict[str, Any]:
    """Return all that is in a database, with a checksum of the rows of each table.

    Args:
        connection: a session in the database, of its user.
    """
    found: dict[str, Any] = {}
    with connection.cursor() as cursor:

        def rows(statement: str) -> list[tuple[Any, ...]]:
            cursor.execute(statement)
            return list(cursor.fetchall())

        ((database, user),) = rows("SELECT DATABASE(), SUBSTRING_INDEX(CURRENT_USER(), '@', 1)")

        def known(value: object) -> str:
            """Leave out what a copy in another database has another of."""
            return str(value).replace(f"`{database}`.", "").replace(user, "<user>")

        found["character set"] = rows("SELECT @@character_set_database, @@collation_database")
        tables = rows(
            "SELECT table_name, table_type FROM information_schema.tables"
            " WHERE table_schema = DATABASE() ORDER BY 1"
        )
        for name, kind in tables:
            quoted = _quoted(name)
            found[f"{kind} {name}"] = [*map(known, rows(f"SHOW CREATE TABLE {quoted}")[0])]
            if kind != "VIEW":
                found[f"rows of {name}"] = rows(f"CHECKSUM TABLE {quoted} EXTENDED")[0][1]
            if kind == "SYSTEM VERSIONED":
                # Columns of the history that are none of the table's own have these names.
                is_own = "ROW START" in found[f"{kind} {name}"][1]
                columns = "*" if is_own else "*, row_start, row_end"
                history = rows(f"SELECT {columns} FROM {quoted} FOR SYSTEM_TIME ALL")  # nosec B608
                found[f"history of {name}"] = sorted(map(str, history))
        for kind, name in rows(_LISTED):
            (row,) = rows(f"SHOW CREATE {kind} {_quoted(name)}")
            if kind == "TRIGGER":
                # Without the moment when it was made.
                row = (name, row[1], _BEFORE_BODY.sub("", row[2]), *row[3:6])
            found[f"{kind} {name}"] = [*map(known, row)]
        found["orders"] = rows(
            "SELECT trigger_name, event_object_table, action_order, action_timing,"
            " event_manipulation FROM information_schema.triggers"
            " WHERE trigger_schema = DATABASE() ORDER BY 1"
        )
        found["columns"] = [
            [*map(known, row)]
            for row in rows(
                "SELECT table_name, column_name, column_default, is_nullable, column_type, extra,"
                " generation_expression, collation_name FROM information_schema.columns"
                " WHERE table_schema = DATABASE() ORDER BY 1, ordinal_position"
            )
        ]
    return found


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
