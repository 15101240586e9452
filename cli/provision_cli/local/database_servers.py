"""What the database servers of the local stack have in common, whichever technology they are."""

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil

from provision_cli.local import processes
from provision_cli.local.environment import MARK_VARIABLE
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK, listen_error

#: The platform's own account: docs/cluster.sql makes it, and docs/cluster-mysql.sql.
PLATFORM_ROLE = "provisioner"

#: How long the port of a server that was killed may still be in use. The system takes a process's
#: memory, and with it its command line, before it closes its sockets.
_CLOSING_SECONDS = 5.0

_START_SECONDS = 30
_STOP_SECONDS = 10

#: The last lines of a log in which a server says why it does not start.
_REFUSAL_LINES = 3


class DatabaseServer(ABC):
    """One server with its data; another process can find and stop it by the same arguments.

    Whoever may start or stop it from several processes at once has them take turns.
    """

    #: What people call it.
    name: ClassVar[str]

    #: Names a folder to keep the data below, such as one in memory; unset, they are with the rest.
    data_variable: ClassVar[str]

    #: What its program says of its version.
    version_pattern: ClassVar[str]

    #: Ends it at once; what was committed is kept.
    kill_signal: ClassVar[signal.Signals]

    #: What the end of its log holds where something of a server that was killed has not ended yet.
    not_ended_yet: ClassVar[tuple[str, ...]] = ()

    #: The file in which the server keeps the id of its process.
    _pid_file: Path

    #: What `connect` raises where it does not serve.
    error: ClassVar[type[Exception]]

    def __init__(self, home: Path, port: int, *, stack: Path | None) -> None:
        """Name a server; nothing is started.

        Args:
            home: holds its data, log and superuser password; need not exist. It belongs to the
                server alone, which removes it when it stops.
            port: where it listens, on 127.0.0.1.
            stack: the folder of the local stack that it is part of.
        """
        #: Where it listens.
        self.port = port
        self._home = home
        self._mark = str(stack or home)
        self._password_file = home / "password"
        #: What the account that runs the server may write to.
        self._server = home / "server"
        if chosen := os.environ.get(self.data_variable):
            self._server = Path(chosen).resolve() / folder_name(home)
        self._data = self._server / "data"
        #: The server's log.
        self.log = self._server / "log"

    @abstractmethod
    def connect(self) -> AbstractContextManager[Any]:
        """Connect as the superuser, with every statement a transaction of its own."""

    @abstractmethod
    def make_master_user(self, name: str, password: str) -> None:
        """Make an account with what RDS's master user may do; one that is there gets the password.

        It is no superuser.
        """

    @abstractmethod
    def prepare_cluster(self) -> str:
        """Make the platform's account, as the deployment guide says; return its new password.

        A second time it only changes the password.
        """

    @abstractmethod
    def _program(self) -> list[str]:
        """Return the server's program, with what makes it read no settings of the machine.

        Raises:
            LocalStackError: there is none; the message says what to do.
        """

    @abstractmethod
    def _settings(self) -> list[str]:
        """Return the arguments with which the server serves its data."""

    @abstractmethod
    def _make_data(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """Make the data of a new server in a folder that is not there yet."""

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C", MARK_VARIABLE: self._mark}

    def _account(self) -> dict[str, Any]:
        """Return the account that runs the server, as `subprocess` takes it; none for this one."""
        return {}

    def start(self) -> None:
        """Start the server, and make its data first if there is none; twice is as good as once.

        Returns once it answers.

        Raises:
            LocalStackError: no program is found, its port is in use, or it does not start and the
                message says why.
        """
        if self.is_running():
            return
        program = self._program()
        self._check_port()
        if not self.has_data():
            self._initialize()
        # What is left of a server that was killed ends by itself.
        processes.wait_until(
            lambda: self._serve(program) or not self._is_kept_from_it(), _START_SECONDS
        )
        if not self.is_running():
            raise LocalStackError(
                f"{self.name} did not start on port {self.port}; its log, {self.log}, ends with: "
                f"{processes.last_lines(self.log, 1)}"
            )

    def _check_port(self) -> None:
        if self.process_id() is not None:
            processes.wait_until(lambda: listen_error(self.port) is None, _CLOSING_SECONDS)
        if error := listen_error(self.port):
            raise LocalStackError(
                f"{self.name}: port {self.port} of {LOOPBACK} cannot be listened on "
                f"({os.strerror(error.errno or 0)}); stop what uses it, or choose another."
            ) from error

    def _initialize(self) -> None:
        self._make_folders(os.urandom(32).hex())
        unfinished = self._data.with_suffix(".unfinished")
        made = self._make_data(unfinished)
        if made.returncode != 0:
            raise LocalStackError(f"{self.name} could not make its data: {last_line(made.stdout)}")
        unfinished.rename(self._data)

    def _make_folders(self, password: str) -> None:
        """Make the folders of a server that has no data, and keep its superuser's password."""
        self._home.mkdir(parents=True, exist_ok=True)
        if not is_own_folder(self._home):
            raise LocalStackError(f"{self._home}: exists and is somebody else's; remove it.")
        # What an interrupted start has left.
        shutil.rmtree(self._server, ignore_errors=True)
        self._password_file.unlink(missing_ok=True)
        self._server.mkdir(mode=0o700, parents=True)
        with os.fdopen(os.open(self._password_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(password)
        self._give(self._server, self._password_file)

    def _give(self, *paths: Path) -> None:
        """Give files to the account that runs the server."""
        if account := self._account():
            for path in paths:
                os.chown(path, account["user"], account["group"], follow_symlinks=False)

    def _serve(self, program: Sequence[str]) -> bool:
        """Start the server's process, and return whether it answers."""
        _reap(self.process_id())
        process = processes.start(
            [*program, *self._settings()],
            environment=self._environment(),
            log=self.log,
            directory=Path("/"),
            account=self._account(),
        )
        processes.wait_until(lambda: self._answers() or not process.is_running(), _START_SECONDS)
        if self._answers():
            return True
        process.stop()
        return False

    def _answers(self) -> bool:
        with suppress(self.error), self.connect():
            # The port may be another server's, which has taken it meanwhile.
            return self.is_running()
        return False

    def _is_kept_from_it(self) -> bool:
        """Whether what is left of a server that was killed keeps it from starting."""
        said = processes.last_lines(self.log, _REFUSAL_LINES)
        return any(reason in said for reason in self.not_ended_yet)

    def stop(self) -> None:
        """Stop the server and remove its data; one that does not run is as good as stopped.

        Raises:
            LocalStackError: it does not stop; its data are left.
        """
        self.kill()
        if is_own_folder(self._home):
            shutil.rmtree(self._home, ignore_errors=True)
        if not self._server.is_relative_to(self._home):
            shutil.rmtree(self._server, ignore_errors=True)

    def kill(self) -> None:
        """End the server at once, as a crash does; its data are left, to be started on.

        Raises:
            LocalStackError: it does not end.
        """
        process_id = self.process_id()
        if process_id is None or not self.is_running():
            return
        with suppress(ProcessLookupError):
            os.kill(process_id, self.kill_signal)
        if not processes.wait_until(lambda: not self.is_running(), _STOP_SECONDS):
            raise LocalStackError(
                f"{self.name} did not stop; see its log, {self.log}, and end process {process_id}."
            )
        _reap(process_id)

    def copy_data(self, target: Path) -> None:
        """Copy the data of a server that does not run into a folder that is not there yet."""
        ignored = shutil.ignore_patterns(self._pid_file.name)
        shutil.copytree(self._data, target / "data", symlinks=True, ignore=ignored)
        shutil.copy(self._password_file, target / "password")

    def take_data(self, source: Path) -> None:
        """Make the data of a server that has none from a copy of another's.

        Raises:
            LocalStackError: its folder is somebody else's.
        """
        self._make_folders((source / "password").read_text(encoding="utf-8"))
        unfinished = self._data.with_suffix(".unfinished")
        shutil.copytree(source / "data", unfinished, symlinks=True)
        self._give(unfinished, *unfinished.rglob("*"))
        unfinished.rename(self._data)

    def has_data(self) -> bool:
        """Whether there are data to start on."""
        return self._data.exists()

    def is_running(self) -> bool:
        """Whether the server of this data runs."""
        process_id = self.process_id()
        if process_id is None:
            return False
        # After a restart of the machine, another process can have the id that the file names.
        with suppress(psutil.Error):
            arguments = psutil.Process(process_id).cmdline()
            return any(argument.endswith(str(self._data)) for argument in arguments)
        return False

    def process_id(self) -> int | None:
        """Return the id of the server's process, or of the one before it that was killed."""
        with suppress(FileNotFoundError, ValueError):
            return int(self._pid_file.read_text(errors="replace").partition("\n")[0])
        return None

    def version(self) -> str:
        """Return the version of the server's program, as its technology counts them.

        Raises:
            LocalStackError: there is none, or it does not say.
        """
        said = self._run([*self._program(), "--version"]).stdout
        found = re.search(self.version_pattern, said)
        if found is None:
            raise LocalStackError(f"{self.name} does not tell its version: {last_line(said)}")
        return found[1]

    def _password(self) -> str:
        return self._password_file.read_text(encoding="utf-8")

    def _run(self, command: Sequence[str], *, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end, as the account that runs the server."""
        return subprocess.run(  # noqa: S603  # no part of it is anyone's input  # nosec B603
            command,
            cwd="/",
            env=self._environment(),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._account(),
        )


def _reap(process_id: int | None) -> None:
    """Let a process of ours that has ended be gone: until then others take it for running."""
    if process_id is not None:
        with suppress(ChildProcessError):  # started by another process
            os.waitpid(process_id, os.WNOHANG)


def folder_name(directory: Path) -> str:
    """Return the name of a server's folder that is elsewhere than it was to be."""
    return f"project-provisioner-{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"


def is_own_folder(path: Path) -> bool:
    """Whether it is a folder of this account: in /var/tmp, anyone can make one of any name."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def last_line(text: str) -> str:
    """Return the last line of what a program has said."""
    return (text.strip().splitlines() or ["nothing"])[-1]
