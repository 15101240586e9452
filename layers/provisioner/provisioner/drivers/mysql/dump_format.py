"""The format of our dumps of MySQL databases: SQL, compressed by gzip, that any client can run.

Each statement stands below a comment that says how many bytes it has and what it makes. So our own
reader finds its end without knowing SQL, and a client finds it by a delimiter that does not occur
in it. The last line says that the dump is whole.

Sources: RFC 1952, "GZIP file format specification"; MySQL Reference Manual, "String Literals",
"Hexadecimal Literals", "mysql Client Commands"; MariaDB documentation, "mariadb Command-Line
Client".
"""

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

#: The first line of every dump.
FIRST_LINE = b"-- project-provisioner dump of a MySQL database, format 1\n"

#: The last line of a dump that is whole.
LAST_LINE = b"-- project-provisioner dump is whole\n"

_STATEMENT = re.compile(rb"-- (\d+) bytes: (.*)\n")
_LEFT_OUT = re.compile(rb"-- left out: (.*)\n")

#: Bytes of a line of a dump that is no part of a statement.
_LONGEST_LINE = 1024 * 1024

#: Bytes of the longest statement that any server takes. Source: MySQL Reference Manual,
#: max_allowed_packet.
_LONGEST_STATEMENT = 1024 * 1024 * 1024

#: Characters of a statement that is left out.
_LEFT_OUT_LENGTH = 100_000

#: Characters of a name in a comment.
_NAME_LENGTH = 200

#: A value of more bytes than this is written as a string with escapes: its hexadecimal digits would
#: make twice as much of it, and a statement has a bound (`max_allowed_packet`).
_LONG_VALUE = 1024 * 1024

#: What an escape stands for in a string, the backslash first.
_ESCAPES = (
    (b"\\", b"\\\\"),
    (b"'", b"\\'"),
    (b"\0", b"\\0"),
    (b"\n", b"\\n"),
    (b"\r", b"\\r"),
    (b"\x1a", b"\\Z"),
)


class DumpError(ValueError):
    """What is read is no dump of this format, or not the whole of one."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a dump, or what it tells that it has left out."""

    #: Empty where it is left out.
    sql: bytes
    #: What it makes, for people; or what is left out, and why.
    what: str


def text_literal(value: bytes) -> bytes:
    """Return a text in UTF-8 as a constant of SQL."""
    for character, escape in _ESCAPES:
        value = value.replace(character, escape)
    return b"'" + value + b"'"


def binary_literal(value: bytes) -> bytes:
    """Return bytes as a constant of SQL."""
    if len(value) > _LONG_VALUE:
        return b"_binary" + text_literal(value)
    return b"x'" + value.hex().encode() + b"'"


def frame(sql: bytes, what: str) -> bytes:
    """Return a statement as it stands in a dump.

    Args:
        sql: the statement.
        what: what it makes; names in it may hold anything.
    """
    comment = f"-- {len(sql)} bytes: {one_line(what)}\n".encode()
    if b";" not in sql:
        return comment + sql + b";\n"
    delimiters = (b"//%d" % number for number in itertools.count())
    delimiter = next(each for each in delimiters if each not in sql)
    return b"".join(
        (b"DELIMITER ", delimiter, b"\n", comment, sql, b"\n", delimiter, b"\nDELIMITER ;\n")
    )


def one_line(what: str) -> str:
    """Return a text on one line that does nothing to a terminal."""
    shown = "".join(letter if letter.isprintable() else " " for letter in what)
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[:_NAME_LENGTH]}…"


def tell_left_out(what: str, sql: str) -> bytes:
    """Return what tells in a dump of something that it cannot make.

    Args:
        what: what it is, and why.
        sql: the statement that would make it, for whoever puts that right.
    """
    statement = "".join(letter if letter.isprintable() else " " for letter in sql)
    return f"-- left out: {one_line(what)}\n-- {statement[:_LEFT_OUT_LENGTH]}\n".encode()


def read_statements(archive: IO[bytes]) -> Iterator[Statement]:
    """Read the statements of a dump from its beginning.

    Raises:
        DumpError: it is none, or it is broken or not whole; statements may have been read before.
    """
    archive.seek(0)
    with gzip.GzipFile(fileobj=archive) as dump:
        try:
            yield from _statements(dump)
        except EOFError:
            raise DumpError("its end is missing") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DumpError(f"it is broken: {error}") from None


def _statements(dump: gzip.GzipFile) -> Iterator[Statement]:
    if dump.readline(_LONGEST_LINE) != FIRST_LINE:
        raise DumpError("it is no dump of a MySQL database")
    last = b""
    while line := dump.readline(_LONGEST_LINE):
        last = line
        if found := _STATEMENT.fullmatch(line):
            size = int(found[1])
            sql = dump.read(size) if size <= _LONGEST_STATEMENT else b""
            if len(sql) < size:
                raise DumpError("its end is missing")
            yield Statement(sql, found[2].decode(errors="replace"))
        elif found := _LEFT_OUT.fullmatch(line):
            yield Statement(b"", found[1].decode(errors="replace"))
        elif len(line) == _LONGEST_LINE:
            raise DumpError("a line of it is too long")
    if last != LAST_LINE:
        raise DumpError("its end is missing")
