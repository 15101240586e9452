"""A MariaDB server of the project's own, for the local stack and the tests.

Its programs are this machine's: no package of Python's holds them. Debian's packages need not be
installed: unpacked into a folder they run as well, by any account.

It is made for trying things out: `stop` removes its data, and so it does not wait for the disk.
It speaks TLS, with a certificate of an authority of its own.

Sources: MariaDB documentation, "mariadbd Options", "mariadb-install-db", "Server System Variables".
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import pymysql
import trustme
from pymysql.cursors import Cursor

from provision_cli.local.database_servers import PLATFORM_ROLE, DatabaseServer
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK

#: May do everything, from this machine only.
SUPERUSER = "root"

#: Names the folder of the server's program; unset, it is looked for on PATH.
PROGRAMS_VARIABLE = "MYSQL_BIN"

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


class MariadbServer(DatabaseServer):
    """A server of MariaDB."""

    name = "MariaDB"
    data_variable = "MYSQL_DATA"
    version_pattern = r"Ver (\d+\.\d+)"
    kill_signal = signal.SIGKILL
    error = pymysql.Error

    def __init__(self, directory: Path, port: int, *, stack: Path | None = None) -> None:
        """Name a server; see `DatabaseServer`."""
        super().__init__(directory.resolve(), port, stack=stack)
        self._pid_file = self._home / "mariadb.pid"
        self._temporary = self._home / "temporary"
        #: The certificate of the authority that has signed the server's, once it has started.
        self.ca_file = self._home / "ca.pem"
        #: The server's certificate, with its key.
        self._certificate_file = self._home / "server.pem"

    def _program(self) -> list[str]:
        return [str(required_program()), "--no-defaults"]

    def _settings(self) -> list[str]:
        return [
            *self._common_settings(self._data),
            f"--port={self.port}",
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
            f"--ssl-cert={self._certificate_file}",
            f"--ssl-key={self._certificate_file}",
            # What was committed outlives the process, not the machine.
            "--innodb-flush-log-at-trx-commit=2",
            "--debug-no-sync",
        ]

    def _common_settings(self, data: Path) -> list[str]:
        return [
            f"--datadir={data}",
            f"--basedir={_prefix(required_program())}",
            # A server that starts removes what it takes for its own there, of another one too.
            f"--tmpdir={self._temporary}",
            "--innodb-log-file-size=32M",
            "--innodb-buffer-pool-size=64M",
            # It refuses to run as root unless this names that user.
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]

    def _environment(self) -> dict[str, str]:
        # Where the libraries are of packages that were unpacked and not installed.
        libraries = _prefix(required_program()).glob("lib/*-linux-gnu")
        return {
            **super()._environment(),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        }

    def _make_folders(self, password: str) -> None:
        super()._make_folders(password)
        self._home.chmod(0o700)
        self._temporary.mkdir(exist_ok=True)
        # The authority's key is not kept.
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        certificate = authority.issue_cert(LOOPBACK, "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(self._certificate_file)

    def _make_data(self, folder: Path) -> subprocess.CompletedProcess[str]:
        folder.mkdir(mode=0o700)
        return self._run(
            [
                *self._program(),
                *self._common_settings(folder),
                *("--bootstrap", "--max-allowed-packet=8M"),
            ],
            given=_system_tables(required_program()) + _superuser(self._password()),
        )

    def connect(self, database: str | None = None) -> pymysql.Connection[Cursor]:
        """Connect as the superuser, with every statement a transaction of its own."""
        return pymysql.connect(
            host=LOOPBACK,
            port=self.port,
            user=SUPERUSER,
            password=self._password(),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            ssl_disabled=True,
        )

    def prepare_cluster(self) -> str:
        """Make the platform's account a master user; see `DatabaseServer`."""
        password = secrets.token_hex(20)
        self.make_master_user(PLATFORM_ROLE, password)
        return password

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


def find_program() -> Path | None:
    """Return the server's program: of the folder that is named, or on PATH; None if there is none.

    Raises:
        LocalStackError: the folder that is named has no such program.
    """
    chosen = os.environ.get(PROGRAMS_VARIABLE)
    path = chosen or os.pathsep.join([os.environ.get("PATH") or os.defpath, *_SERVER_FOLDERS])
    found = filter(None, (shutil.which(name, path=path) for name in _PROGRAM_NAMES))
    # A `mysqld` may be MySQL's.
    whole = [
        program for program in (Path(one).resolve() for one in found) if _share_folder(program)
    ]
    if chosen and not whole:
        raise LocalStackError(
            f"{PROGRAMS_VARIABLE}: {chosen} holds no {_PROGRAM_NAMES[0]} of MariaDB, or its "
            "installation is not whole; name the folder of MariaDB's server, or unset it."
        )
    return whole[0] if whole else None


def required_program() -> Path:
    """Return the server's program.

    Raises:
        LocalStackError: there is none.
    """
    program = find_program()
    if program is None:
        raise LocalStackError(
            "MariaDB: no server is installed; install your system's package of it (Debian: "
            "mariadb-server-core), or name the folder of its program mariadbd in "
            f"{PROGRAMS_VARIABLE}."
        )
    return program


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
