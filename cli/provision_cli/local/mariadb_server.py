"""A MariaDB server of the project's own, for the local stack and the tests.

Its programs are this machine's: no package of Python's holds them. Debian's packages need not be
installed: unpacked into a folder they run as well, by any account.

It is made for trying things out: `stop` removes its data, and so it does not wait for the disk.
It speaks TLS, with a certificate of an authority of its own.

Sources: MariaDB documentation, "mariadbd Options", "mariadb-install-db", "Server System Variables".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pymysql
from pymysql.cursors import Cursor

from provision_cli.local import certificates, environment, processes
from provision_cli.local.database_servers import (
    POLL_SECONDS,
    check_port,
    command_line,
    last_line,
    process_id_in,
)
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK

#: May do everything, from this machine only.
SUPERUSER = "root"

#: Names the folder of the server's program; unset, it is looked for on PATH.
PROGRAMS_VARIABLE = "MYSQL_BIN"

#: Names a folder to keep the data below, such as one in memory; unset, they are with the rest.
DATA_VARIABLE = "MYSQL_DATA"

_PROGRAM_NAMES = ("mariadbd", "mysqld")

#: Where systems keep programs of servers, which is not on every account's PATH.
_SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")

#: What makes the system tables, as mariadb-install-db runs it. The names begin with `mysql` or,
#: since version 11, with `mariadb`.
_SYSTEM_TABLES = (
    "m*_system_tables.sql",
    "m*_performance_tables.sql",
    "m*_system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "m*_sys_schema.sql",
)

#: Below the folder that the programs' folder is in.
_SHARE_FOLDERS = ("share/mysql", "share/mariadb", "share")

#: Enough for the tests of several workers, each tenant having its own connections.
_MAX_CONNECTIONS = 300

#: What RDS gives its master user. No SUPER is among it, nor what MariaDB has split from it.
#: Source: Amazon RDS User Guide, "Master user account privileges".
_SERVER_PRIVILEGES = (
    "CREATE USER, PROCESS, RELOAD, REPLICATION CLIENT, REPLICATION SLAVE, SHOW DATABASES"
)
_DATABASE_PRIVILEGES = (
    "ALTER, ALTER ROUTINE, CREATE, CREATE ROUTINE, CREATE TEMPORARY TABLES, CREATE VIEW, DELETE, "
    "DROP, EVENT, EXECUTE, INDEX, INSERT, LOCK TABLES, REFERENCES, SELECT, SHOW VIEW, TRIGGER, "
    "UPDATE"
)

_START_SECONDS = 30
_STOP_SECONDS = 10


class MariadbServer:
    """One server with its data; another process can find and stop it by the same arguments.

    Whoever may start or stop it from several processes at once has them take turns.
    """

    def __init__(self, directory: Path, port: int, *, stack: Path | None = None) -> None:
        """Name a server; nothing is started.

        Args:
            directory: holds its data, log, certificates and superuser password; need not exist.
                It belongs to the server alone, which removes it when it stops.
            port: where it listens, on 127.0.0.1.
            stack: the folder of the local stack that it is part of.
        """
        self._home = directory.resolve()
        self._stack = stack
        self._port = port
        self._password_file = self._home / "password"
        self._log = self._home / "mariadb.log"
        self._data = self._home / "data"
        if chosen := os.environ.get(DATA_VARIABLE):
            name = hashlib.sha256(str(self._home).encode()).hexdigest()[:12]
            self._data = Path(chosen).resolve() / f"project-provisioner-mariadb-{name}"

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self._port

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._log

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that has signed the server's, once it has started."""
        return self._home / certificates.AUTHORITY_FILE

    def start(self) -> None:
        """Start the server, and make its data first if there is none; twice is as good as once.

        Returns once it answers.

        Raises:
            LocalStackError: no program is found, its port is in use, or it does not start and the
                message says why.
        """
        if self.is_running():
            return
        program = required_program()
        check_port("MariaDB", self._port, was_killed=self.process_id() is not None)
        if not self._data.exists():
            self._initialize(program)
        self._pid_file.unlink(missing_ok=True)
        process = processes.start(
            [
                *self._command(program, self._data),
                f"--port={self._port}",
                f"--bind-address={LOOPBACK}",
                "--socket=",
                f"--pid-file={self._pid_file}",
                f"--max-connections={_MAX_CONNECTIONS}",
                "--character-set-server=utf8mb4",
                "--local-infile=OFF",
                f"--secure-file-priv={self._home}",
                # No client is known by a name that a server of names gives.
                "--skip-name-resolve",
                f"--ssl-ca={self.ca_file}",
                f"--ssl-cert={self._home / certificates.CERTIFICATE_FILE}",
                f"--ssl-key={self._home / certificates.KEY_FILE}",
                # What was committed outlives the process, not the machine.
                "--innodb-flush-log-at-trx-commit=2",
                "--debug-no-sync",
            ],
            environment=self._environment(program),
            log=self._log,
            directory=self._home,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if not process.is_running() or time.monotonic() > deadline:
                process.stop()
                raise LocalStackError(
                    f"MariaDB did not start on port {self._port}; its log, {self._log}, ends with: "
                    f"{last_line(self._log.read_text(errors='replace'))}"
                )
            time.sleep(POLL_SECONDS / 5)

    def stop(self) -> None:
        """Stop the server and remove its data; one that does not run is as good as stopped.

        Raises:
            LocalStackError: it does not stop; its data are left.
        """
        self.kill()
        for folder in (self._data, self._home):
            shutil.rmtree(folder, ignore_errors=True)

    def kill(self) -> None:
        """End the server at once, as a crash does; its data are left, to be started on.

        Raises:
            LocalStackError: it does not end.
        """
        process_id = self.process_id()
        if process_id is None or not self.is_running():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.is_running():
            if time.monotonic() > deadline:
                raise LocalStackError(
                    f"MariaDB did not stop; see its log, {self._log}, and end process {process_id}."
                )
            time.sleep(POLL_SECONDS / 5)
        with contextlib.suppress(ChildProcessError):  # started by another process
            os.waitpid(process_id, 0)

    def copy_data(self, target: Path) -> None:
        """Copy the data of a server that does not run into a folder that is not there yet."""
        shutil.copytree(self._data, target / "data", symlinks=True)
        shutil.copy(self._password_file, target / "password")

    def take_data(self, source: Path) -> None:
        """Make the data of a server that has none from a copy of another's."""
        self._make_folder((source / "password").read_text(encoding="utf-8"))
        unfinished = self._data.with_suffix(".unfinished")
        shutil.copytree(source / "data", unfinished, symlinks=True)
        unfinished.rename(self._data)

    def is_running(self) -> bool:
        """Whether the server of this data runs."""
        process_id = self.process_id()
        # After a restart of the machine, another process can have the id that the file names.
        return process_id is not None and f"--datadir={self._data} " in command_line(process_id)

    def has_data(self) -> bool:
        """Whether there are data to start on."""
        return self._data.exists()

    def process_id(self) -> int | None:
        """Return the id of the server's process, or of the one before it that was killed."""
        return process_id_in(self._pid_file)

    def connect(self, database: str | None = None) -> pymysql.Connection[Cursor]:
        """Connect as the superuser, with every statement a transaction of its own."""
        return pymysql.connect(
            host=LOOPBACK,
            port=self._port,
            user=SUPERUSER,
            password=self._password_file.read_text(encoding="utf-8"),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            ssl_disabled=True,
        )

    def make_master_user(self, name: str, password: str) -> None:
        """Make a user with what RDS's master user may do; one that is there gets the password.

        On RDS nobody changes the tables of the schema mysql directly. So the privileges are given
        on all databases by their pattern, beside which those on the schema mysql alone count there.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            user = f"{connection.escape(name)}@'%'"
            secret = connection.escape(password)
            for statement in (
                f"CREATE USER IF NOT EXISTS {user}",
                f"ALTER USER {user} IDENTIFIED BY {secret}",
                f"GRANT {_SERVER_PRIVILEGES} ON *.* TO {user} WITH GRANT OPTION",
                f"GRANT {_DATABASE_PRIVILEGES} ON `%`.* TO {user} WITH GRANT OPTION",
                f"GRANT SELECT, EXECUTE ON mysql.* TO {user} WITH GRANT OPTION",
            ):
                cursor.execute(statement)

    @property
    def _temporary(self) -> Path:
        return self._home / "temporary"

    @property
    def _pid_file(self) -> Path:
        return self._home / "mariadb.pid"

    def _make_folder(self, password: str) -> None:
        """Make the folder of a server that has no data, and keep its superuser's password."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._temporary.mkdir(exist_ok=True)
        certificates.make(self._home, LOOPBACK)
        # What an interrupted start has left.
        self._password_file.unlink(missing_ok=True)
        shutil.rmtree(self._data.with_suffix(".unfinished"), ignore_errors=True)
        with os.fdopen(os.open(self._password_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(password)

    def _initialize(self, program: Path) -> None:
        password = secrets.token_hex(16)
        self._make_folder(password)
        unfinished = self._data.with_suffix(".unfinished")
        unfinished.mkdir(mode=0o700, parents=True)
        made = subprocess.run(  # noqa: S603  # no part of it is anyone's input  # nosec B603
            [*self._command(program, unfinished), "--bootstrap", "--max-allowed-packet=8M"],
            cwd=self._home,
            env=self._environment(program),
            input=_system_tables(program) + _superuser(password),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise LocalStackError(f"MariaDB could not make its data: {last_line(made.stdout)}")
        unfinished.rename(self._data)

    def _command(self, program: Path, data: Path) -> list[str]:
        return [
            str(program),
            # The machine's own settings are another server's.
            "--no-defaults",
            f"--datadir={data}",
            f"--basedir={_prefix(program)}",
            # A server that starts removes what it takes for its own there, of another one too.
            f"--tmpdir={self._temporary}",
            "--innodb-log-file-size=32M",
            "--innodb-buffer-pool-size=64M",
            # It refuses to run as root unless this names that user.
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]

    def _environment(self, program: Path) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "LC_ALL": "C",
            "LD_LIBRARY_PATH": _library_path(program),
            environment.MARK_VARIABLE: str(self._stack or self._home),
        }

    def _answers(self) -> bool:
        with contextlib.suppress(pymysql.Error):
            self.connect().close()
            # The port may be another server's, which has taken it meanwhile.
            return self.is_running()
        return False


def find_program() -> Path | None:
    """Return the server's program: of the folder that is named, or on PATH; None if there is none.

    Raises:
        LocalStackError: the folder that is named has no such program.
    """
    chosen = os.environ.get(PROGRAMS_VARIABLE)
    path = chosen or os.pathsep.join([os.environ.get("PATH") or os.defpath, *_SERVER_FOLDERS])
    found = next(filter(None, (shutil.which(name, path=path) for name in _PROGRAM_NAMES)), None)
    if chosen and found is None:
        raise LocalStackError(
            f"{PROGRAMS_VARIABLE}: {chosen} holds no {_PROGRAM_NAMES[0]}; name the folder of "
            "MariaDB's server, or unset it."
        )
    return Path(found).resolve() if found else None


def required_program() -> Path:
    """Return the server's program.

    Raises:
        LocalStackError: there is none, or it is not MariaDB's.
    """
    program = find_program()
    if program is None:
        raise LocalStackError(
            "MariaDB: no server is installed; install your system's package of it (Debian: "
            "mariadb-server-core), or name the folder of its program mariadbd in "
            f"{PROGRAMS_VARIABLE}."
        )
    if _share_folder(program) is None:
        raise LocalStackError(
            f"{program} is no MariaDB server, or its installation is not whole: there is no "
            f"*_system_tables.sql in {_prefix(program) / _SHARE_FOLDERS[0]}."
        )
    return program


def version() -> str:
    """Return the version of the server's program, such as 10.11.

    Raises:
        LocalStackError: there is none, it is not MariaDB's, or it does not say.
    """
    program = required_program()
    said = subprocess.run(  # noqa: S603  # the server's own program  # nosec B603
        [program, "--no-defaults", "--version"],
        env={"PATH": os.defpath, "LD_LIBRARY_PATH": _library_path(program)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout
    found = re.search(r"Ver (\d+\.\d+)", said)
    if found is None:
        raise LocalStackError(f"MariaDB does not tell its version: {last_line(said)}")
    return found[1]


def _library_path(program: Path) -> str:
    """Return where the libraries are of packages that were unpacked and not installed."""
    return os.pathsep.join(map(str, _prefix(program).glob("lib/*-linux-gnu")))


def _prefix(program: Path) -> Path:
    """Return the folder of the whole installation."""
    return program.parent.parent


def _share_folder(program: Path) -> Path | None:
    folders = (_prefix(program) / folder for folder in _SHARE_FOLDERS)
    return next((folder for folder in folders if any(folder.glob(_SYSTEM_TABLES[0]))), None)


def _system_tables(program: Path) -> str:
    """Return what makes the system tables; each statement ends at the end of a line."""
    share = _share_folder(program)
    assert share is not None  # noqa: S101  # looked for before  # nosec B101
    files = [next(share.glob(pattern), None) for pattern in _SYSTEM_TABLES]
    return "\n".join(
        [
            "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;",
            *(file.read_text(encoding="utf-8") for file in files if file is not None),
            "",
        ]
    )


def _superuser(password: str) -> str:
    """Return what leaves one superuser, with a password of hexadecimal digits."""
    user = f"'{SUPERUSER}'@'{LOOPBACK}'"
    return "\n".join(
        [
            "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';",
            "DELETE FROM mysql.proxies_priv;",
            "FLUSH PRIVILEGES;",
            f"CREATE USER {user} IDENTIFIED BY '{password}';",
            f"GRANT ALL ON *.* TO {user} WITH GRANT OPTION;",
            "",
        ]
    )
