r"""Archives of pg_dump, restored into an empty database: all of one, or nothing.

An archive is its tenant's own code: the constraints, defaults and expressions of its tables call
functions while they are restored. So it is restored by a role that may do no more than a tenant,
never by the platform's, and the rights of a login are looked at before anything is sent.

pg_restore writes the script and psql runs it, in one transaction whose COMMIT is sent once
pg_restore has ended well. pg_restore cannot run it by itself: it sets transaction_timeout, which
servers before version 17 do not know, and the roles are others in another database. psql takes no
command of its own from the script, after `\restrict`.

Sources: PostgreSQL documentation, "pg_restore", "psql", "Role Attributes", "Predefined Roles",
"Database Connection Control Functions", "Environment Variables".
"""

import bisect
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, override

import psycopg
from psycopg import pq, sql
from psycopg.rows import tuple_row

from provisioner.drivers.database_engine import CONNECT_SECONDS, Restored, TenantNames, step
from provisioner.drivers.database_errors import CAUSE_LENGTH, refuse_contents, snapshot_refused
from provisioner.drivers.postgresql.archive import (
    Entry,
    Existing,
    later_statements,
    ownership_statements,
    read_list,
    select,
)
from provisioner.drivers.postgresql.errors import PSYCOPG, type_of_text
from provisioner.drivers.postgresql.programs import (
    Program,
    environment,
    installed_program,
    refuse_newer,
)
from provisioner.drivers.postgresql.schema import PLATFORM_SCHEMA
from provisioner.drivers.postgresql.session import (
    REQUIRED_AUTHENTICATION,
    SAFE_SEARCH_PATH,
    Connection,
    session_options,
)
from provisioner.errors import ErrorType, ProvisioningError, failure

_FINAL = ErrorType.DATABASE_CHANGE_FAILED

#: Bytes that are passed on at once.
_CHUNK = 1024 * 1024

#: Seconds that psql gets to cancel what it runs.
_STOP_SECONDS = 5.0

#: The first and the last of the settings that begin a script.
_FIRST_SETTING = b"SET statement_timeout = 0;\n"
_LAST_SETTING = b"SET row_security = off;\n"

#: A setting that servers before version 17 do not know.
_SETTING_OF_17 = b"SET transaction_timeout = 0;\n"
_VERSION_17 = 170_000

#: What ends a script, and more bytes than come from there on.
_END = b"COMMIT;\n\n--\n-- PostgreSQL database dump complete\n"
_END_LENGTH = 1024

#: What stands before each object in a script.
_HEADING = re.compile(
    rb"^-- (?:Data for )?Name: (.*); Type: ([A-Z ]+); Schema: (.*); Owner: ", re.MULTILINE
)

#: What psql says that ends it.
_ERROR = re.compile(r"^psql:(?:<stdin>:(\d+):)? *((?:ERROR|FATAL|error): .*)", re.MULTILINE)

#: Of psql's session: what a killed process leaves, the server notices within a minute.
_SESSION = ("tcp_keepalives_idle=20", "tcp_keepalives_interval=10", "tcp_keepalives_count=3")

#: What a role may do beyond its databases, by the column of pg_roles that says so.
_RIGHTS = {
    "rolsuper": "is a superuser",
    "rolcreaterole": "may create roles",
    "rolcreatedb": "may create databases",
    "rolreplication": "may replicate the server",
    "rolbypassrls": "is exempt from row-level security",
}

#: The first role with such a right that the login is or may become, itself first. Whose database it
#: is may do with it what he likes.
_RIGHTS_OF_LOGIN = sql.SQL("""
    SELECT session_user, rolname, {rights} FROM pg_catalog.pg_roles
    WHERE pg_catalog.pg_has_role(session_user, oid, 'MEMBER')
      AND ({any_right}
           OR (pg_catalog.starts_with(rolname, 'pg_') AND rolname <> 'pg_database_owner'))
    ORDER BY rolname <> session_user, pg_catalog.starts_with(rolname, 'pg_'), rolname LIMIT 1
""").format(
    rights=sql.SQL(", ").join(map(sql.Identifier, _RIGHTS)),
    any_right=sql.SQL(" OR ").join(map(sql.Identifier, _RIGHTS)),
)

#: What is in schemas that are neither the server's nor the platform's, and not an extension's.
_CONTENTS = """
    SELECT DISTINCT pg_catalog.pg_describe_object(classid, objid, 0)
    FROM pg_catalog.pg_depend AS content
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = refobjid
    WHERE refclassid = 'pg_catalog.pg_namespace'::regclass AND deptype = 'n'
      AND nspname <> %(platform)s AND nspname <> 'information_schema' AND nspname !~ '^pg_'
      AND classid NOT IN (
          'pg_catalog.pg_extension'::regclass, 'pg_catalog.pg_default_acl'::regclass)
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_depend AS extension
          WHERE extension.classid = content.classid AND extension.objid = content.objid
            AND extension.deptype = 'e')
    UNION ALL
    SELECT 'large object ' || oid FROM pg_catalog.pg_largeobject_metadata
    UNION ALL
    SELECT 'publication ' || pubname FROM pg_catalog.pg_publication
    WHERE pg_catalog.pg_has_role(session_user, pubowner, 'USAGE')
    ORDER BY 1
"""

#: The login's roles, and what it may change of what is there.
_TARGET = """
    SELECT session_user::text, current_user::text,
           ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles),
           (SELECT json_object_agg(
                       nspname, pg_catalog.pg_has_role(session_user, nspowner, 'USAGE'))
            FROM pg_catalog.pg_namespace),
           (SELECT json_object_agg(
                       extname, pg_catalog.pg_has_role(session_user, extowner, 'USAGE'))
            FROM pg_catalog.pg_extension)
"""

#: What the target grants by default on new objects is taken away from the restored ones: they get
#: what they had. Then the login acts as itself, for it may hand over to both of its roles.
_BEFORE_PRIVILEGES = b"""
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT pg_catalog.format('REVOKE ALL ON %s %s FROM %s',
            CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(
                pg_catalog.pg_get_userbyid(grantee)) END)
        FROM pg_catalog.pg_class, pg_catalog.aclexplode(relacl)
        WHERE pg_catalog.pg_get_userbyid(relowner) = current_user AND grantee <> relowner
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                          WHERE classid = 'pg_catalog.pg_class'::regclass
                            AND objid = pg_class.oid AND deptype = 'e')
        UNION ALL
        SELECT pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', oid::regprocedure,
            pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)))
        FROM pg_catalog.pg_proc, pg_catalog.aclexplode(proacl)
        WHERE pg_catalog.pg_get_userbyid(proowner) = current_user
          AND grantee <> proowner AND grantee <> 0
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                          WHERE classid = 'pg_catalog.pg_proc'::regclass
                            AND objid = pg_proc.oid AND deptype = 'e')
        UNION ALL
        SELECT pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', oid::regprocedure)
        FROM pg_catalog.pg_proc
        WHERE pg_catalog.pg_get_userbyid(proowner) = current_user AND proacl IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                          WHERE classid = 'pg_catalog.pg_proc'::regclass
                            AND objid = pg_proc.oid AND deptype = 'e')
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
SET ROLE NONE;
SET row_security = on;
"""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a login has found in a database."""

    host: str
    port: int
    database: str
    #: As PQserverVersion gives it.
    server_version: int
    #: The role that logs in.
    app_role: str
    #: The role that its sessions act as: it gets what is restored.
    owner_role: str
    roles: frozenset[str]
    existing: Existing
    #: What a program gets to log in with.
    environment: dict[str, str] = field(repr=False)


class PostgresqlRestorer:
    """Restores archives into one database."""

    library = PSYCOPG

    def __init__(self, url: str) -> None:
        """Read where the database is and who logs in; nothing is connected yet.

        Args:
            url: a connection string of libpq; what it leaves out comes from libpq's environment
                variables and password file.

        Raises:
            INVALID_PAYLOAD: it is none, or names no database, or holds what cannot be passed on.
        """
        self._url = url
        self._parameters = _parameters(url)

    def check(self) -> None:
        """See whether the database may be restored into; nothing of it is changed.

        Raises:
            DATABASE_CHANGE_FAILED: the login may do more than a tenant, or the database holds
                something already, or its server is newer than our programs.
            ProvisioningError: as `translate` says.
        """
        self._look()

    def restore(self, archive: IO[bytes], source: TenantNames) -> Restored:
        """Restore an archive: all of it, or nothing.

        Args:
            archive: a file of pg_dump's custom format.
            source: the names that the tenant had.

        Raises:
            DATABASE_CHANGE_FAILED: as `check` says; or the archive is broken, or of a server that
                is newer than the target's; or the server refuses a part of it.
            ProvisioningError: as `translate` says.
        """
        dump = _Archive(archive)
        source_version, entries = read_list(dump.text("--list"))
        target = self._look()
        _refuse_older(target.server_version, source_version)
        selection = select(entries, source, target.existing)
        # They may be one there.
        roles = {source.owner_role: target.owner_role, source.app_role: target.app_role}
        left_out = selection.left_out
        owners = dump.text("--file=-", selection.of_app_role)
        later = dump.text("--file=-", selection.later)
        ending = [
            *ownership_statements(owners, source.app_role, roles),
            *later_statements(later, roles, target.roles, left_out),
        ]
        with closing(_Psql(target.environment)) as psql:
            psql.begin()
            for section, search_path in (
                ("pre-data", ""),
                # The archive names everything with its schema. A function that a constraint or an
                # index calls may not: it finds what it found for the tenant.
                ("data", source.schema),
                ("post-data", source.schema),
            ):
                with dump.section(section, selection.first) as (settings, chunks):
                    psql.write(_settings(settings, target.server_version, search_path))
                    for chunk in chunks:
                        psql.write(chunk)
            psql.write(_BEFORE_PRIVILEGES, "privileges")
            for statement in ending:
                psql.write(f"{statement};\n".encode(errors="surrogateescape"))
            psql.write(b"COMMIT;\n", "the end")
            psql.end()
        return Restored(target.host, target.port, target.database, tuple(map(_printable, left_out)))

    @step(_FINAL, "restore the snapshot")
    def _look(self) -> _Target:
        with psycopg.connect(
            self._url,
            require_auth=REQUIRED_AUTHENTICATION,
            options=self._options(SAFE_SEARCH_PATH),
            connect_timeout=self._parameters["connect_timeout"],
            autocommit=True,
            row_factory=tuple_row,
        ) as connection:
            program = installed_program("pg_restore", _FINAL)
            advice = "restore with one that does"
            refuse_newer(connection.info.server_version, program, _FINAL, advice)
            _refuse_rights(connection)
            _refuse_contents(connection)
            return self._target(connection)

    def _target(self, connection: Connection) -> _Target:
        row = connection.execute(_TARGET).fetchone()
        app_role, owner_role, roles, schemas, extensions = row or ("", "", [], {}, {})
        info = connection.info
        return _Target(
            host=info.host,
            port=info.port,
            database=info.dbname,
            server_version=info.server_version,
            app_role=app_role,
            owner_role=owner_role,
            roles=frozenset(roles),
            existing=Existing(schemas, extensions),
            environment={
                **environment(password=info.password, sslmode=self._parameters["sslmode"]),
                **{
                    option.envvar.decode(): self._parameters[option.keyword.decode()]
                    for option in pq.Conninfo.get_defaults()
                    if option.envvar and option.keyword.decode() in self._parameters
                },
                "PGPASSWORD": info.password,
                "PGOPTIONS": self._options(*_SESSION),
                "PGREQUIREAUTH": REQUIRED_AUTHENTICATION,
            },
        )

    def _options(self, *settings: str) -> str:
        return f"{self._parameters.get('options', '')} {session_options(*settings)}"


def _parameters(url: str) -> dict[str, str]:
    """Return the parameters of a connection, with libpq's defaults.

    Raises:
        INVALID_PAYLOAD: as `PostgresqlRestorer` says. libpq's own words would repeat a part of the
            URL, and with it a part of the password.
    """
    try:
        parsed = pq.Conninfo.parse(url.encode())
    except psycopg.Error:
        parsed = []
    given = [option for option in parsed if option.val]
    if not any(option.keyword == b"dbname" for option in given):
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            "into: must be a PostgreSQL connection URL that names a database, such as "
            "postgresql://role@host:5432/database?sslmode=verify-full.",
        )
    for option in given:
        if option.dispchar and option.envvar is None:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                f"into: {option.keyword.decode()} cannot be passed on to psql; leave it out.",
            )
    return {"connect_timeout": str(CONNECT_SECONDS)} | {
        option.keyword.decode(): option.val.decode()
        for option in (*pq.Conninfo.get_defaults(), *given)
        if option.val
    }


def _refuse_older(server_version: int, source: int) -> None:
    major = server_version // 10_000
    if major < source:
        raise failure(
            _FINAL,
            f"The snapshot is of a server of version {source} and the database's is of version "
            f"{major}; restore into one of version {source} or newer.",
        )


def _refuse_rights(connection: Connection) -> None:
    """Refuse a login that may do more than a tenant, or may become a role that does."""
    row = connection.execute(_RIGHTS_OF_LOGIN).fetchone()
    if row is None:
        return
    login, role, *rights = row
    texts = [text for text, is_right in zip(_RIGHTS.values(), rights, strict=True) if is_right]
    right = texts[0] if texts else "has rights on all of the server"
    who = login if role == login else f"{login}, by way of {role},"
    raise failure(
        _FINAL,
        f"The role {who} {right}; a snapshot is a tenant's own code, so log in as a role without "
        "such a right.",
    )


def _refuse_contents(connection: Connection) -> None:
    """Refuse a database that holds anything of a tenant's."""
    rows = connection.execute(_CONTENTS, {"platform": PLATFORM_SCHEMA}).fetchall()
    refuse_contents(connection.info.dbname, [_printable(text) for (text,) in rows])


def _printable(text: str) -> str:
    """Return a text that does nothing to a terminal: its names are a tenant's."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _settings(settings: bytes, server_version: int, search_path: str) -> bytes:
    """Return the settings of a script as a server knows them, with another search path."""
    if server_version < _VERSION_17:
        settings = settings.replace(_SETTING_OF_17, b"")
    path = sql.SQL("SELECT pg_catalog.set_config('search_path', {}, false);\n")
    return settings + path.format(sql.Literal(search_path)).as_bytes(None)


class _Archive:
    """Runs pg_restore on an archive; it connects to no server."""

    def __init__(self, archive: IO[bytes]) -> None:
        self._archive = archive
        self._program = installed_program("pg_restore", _FINAL)

    def text(self, option: str, entries: Sequence[Entry] | None = None) -> str:
        """Return what pg_restore prints: the list of what it holds, or a script.

        Args:
            option: `--list`, or `--file=-` for the script that makes objects with their owners.
            entries: of these alone.
        """
        with self._run(option, entries=entries) as chunks:
            return b"".join(chunks).decode(errors="surrogateescape")

    @contextmanager
    def section(
        self, name: str, entries: Sequence[Entry]
    ) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        """Yield the settings, and then the script, of the entries that are in a section."""
        with self._run(
            *("--file=-", "--single-transaction", "--no-owner", "--no-tablespaces"),
            f"--section={name}",
            entries=entries,
        ) as chunks:
            head = b""
            for chunk in chunks:
                head += chunk
                if _LAST_SETTING in head:
                    break
            settings, last, script = head.partition(_LAST_SETTING)
            settings = settings.partition(_FIRST_SETTING)[2]
            yield _FIRST_SETTING + settings + last, _without_end(script, chunks)

    @contextmanager
    def _run(
        self, *options: str, entries: Sequence[Entry] | None = None
    ) -> Iterator[Iterator[bytes]]:
        self._archive.seek(0)
        with tempfile.TemporaryFile() as use_list:
            command = [str(self._program), *options]
            if entries is not None:
                use_list.write(
                    "".join(f"{entry.line}\n" for entry in entries).encode(errors="surrogateescape")
                )
                use_list.seek(0)
                command.append(f"--use-list=/dev/fd/{use_list.fileno()}")
            program = Program(
                command,
                {"LC_ALL": "C"},
                pass_fds=[use_list.fileno()],
                stdin=self._archive,
                stdout=subprocess.PIPE,
            )
            with closing(program):
                yield _output(program)


def _output(program: Program) -> Iterator[bytes]:
    """Yield what pg_restore prints; end only where it has ended well."""
    while chunk := program.stdout.read(_CHUNK):
        yield chunk
    if code := program.wait():
        said = program.words().strip().rpartition("\n")[2]
        raise failure(
            _FINAL,
            "The snapshot cannot be read, so nothing of it is restored.",
            _printable(f"pg_restore ended with {code}: {said}")[:CAUSE_LENGTH],
        )


def _without_end(script: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a script without its COMMIT and what comes after it."""
    for chunk in chunks:
        script += chunk
        yield script[:-_END_LENGTH]
        script = script[-_END_LENGTH:]
    yield script[: script.rindex(_END)]


class _Psql(Program):
    """One run of psql, which is sent a script and stops at its first error."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lines = 0
        #: Where a part of the script begins, and what it makes.
        self._parts: list[tuple[int, str]] = []
        super().__init__(
            [
                installed_program("psql", _FINAL),
                *("--no-psqlrc", "--no-password", "--quiet", "--file=-"),
                *("--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse", "--set=SHOW_CONTEXT=never"),
            ],
            environment,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )

    def begin(self) -> None:
        """Begin the transaction, in which psql takes no command of its own from the script.

        Raises:
            ProvisioningError: psql has stopped, since it could not connect.
        """
        self.write(f"\\restrict {secrets.token_hex(16)}\nBEGIN;\n".encode())

    @override
    def close(self) -> None:
        """Stop psql where it still runs: what has not been committed is undone."""
        # It cancels the statement that runs, which the server would end otherwise.
        self._process.send_signal(signal.SIGINT)
        self.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        super().close()

    def write(self, script: bytes, part: str = "") -> None:
        """Send a part of the script.

        Args:
            script: whole lines, or what goes on with them.
            part: what it makes, where no heading in it says so.

        Raises:
            ProvisioningError: psql has stopped.
        """
        if part:
            self._parts.append((self._lines + 1, part))
        begin = 0
        for heading in _HEADING.finditer(script):
            self._lines += script.count(b"\n", begin, heading.start())
            begin = heading.start()
            name, kind, schema = (text.decode(errors="replace") for text in heading.groups())
            self._parts.append((self._lines + 1, f"{kind} {schema}.{name}".replace("-.", "")))
        self._lines += script.count(b"\n", begin)
        rest = memoryview(script)
        try:
            while rest:
                rest = rest[self.stdin.write(rest) :]
        except BrokenPipeError:
            raise self._failure() from None

    def end(self) -> None:
        """Wait until all has been run.

        Raises:
            ProvisioningError: psql has not ended well.
        """
        self.stdin.close()
        if self.wait() != 0:
            raise self._failure()

    def _failure(self) -> ProvisioningError:
        code, text = self.wait(), self.words()
        found = _ERROR.search(text)
        said = " ".join(found[2].split()) if found else text.strip() or "it did not say why"
        line = int(found[1]) if found and found[1] else 0
        at = bisect.bisect_right(self._parts, (line, chr(0x10FFFF)))
        where = f" at {self._parts[at - 1][1]}" if at else ""
        return snapshot_refused(
            type_of_text(said) or _FINAL, _printable(f"psql ended with {code}{where}: {said}")
        )
