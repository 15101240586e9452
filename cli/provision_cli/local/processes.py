"""Starts programs that outlive this process, runs programs to their end, and stops what it started.

A process is known by its id and the moment it started, because the system gives a free id to the
next process: nothing is ever ended that was not started here. What a process leaves behind that was
killed is known by a mark in the environment, which its children inherit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from provision_cli.local.errors import LocalStackError

#: Seconds that a group of processes has to end by itself before it is killed.
_GRACE_SECONDS = 8.0
_POLL_SECONDS = 0.05

#: The environment variable that holds the mark.
_MARK_VARIABLE = "PROVISION_STARTED"

#: Lines of a failed program's output that are shown.
_SHOWN_LINES = 20


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A process that leads its own group: its children are found, and ended, with it."""

    pid: int
    #: When it started, in the system's own notation.
    started: str
    #: What stands in the environment of it and of its children.
    mark: str

    def as_json(self) -> dict[str, Any]:
        """Return what the state file keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what the state file kept."""
        return cls(
            pid=int(value["pid"]), started=str(value["started"]), mark=str(value.get("mark", ""))
        )

    def is_running(self) -> bool:
        """Whether this very process still runs."""
        return any(p.pid == self.pid and p.started == self.started for p in _processes())

    def stop(self) -> None:
        """End the process and its children; returns once all of them are gone.

        Where somebody has killed the process itself, its children are ended all the same. This
        needs /proc; elsewhere they are left alone.
        """
        if not self.is_running() and not self._has_left_children():
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sent)
            deadline = time.monotonic() + _GRACE_SECONDS
            while time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):  # started by another process
                    os.waitpid(self.pid, os.WNOHANG)
                if not any(p.group == self.pid for p in _processes()):
                    return
                time.sleep(_POLL_SECONDS)

    def _has_left_children(self) -> bool:
        """Whether the group is still this one, and not another that has got its id since."""
        mark = f"{_MARK_VARIABLE}={self.mark}".encode()
        group = [p for p in _processes() if p.group == self.pid]
        return bool(self.mark) and any(mark in _environment(p.pid) for p in group)


def start(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, directory: Path
) -> StartedProcess:
    """Start a program as the leader of its own group; its output goes to `log`."""
    mark = uuid.uuid4().hex
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the commands are this package's own  # nosec B603
            command,
            env={**environment, _MARK_VARIABLE: mark},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives this process on purpose; without a code Popen warns that it is still running.
    process.returncode = 0
    started = next((p.started for p in _processes() if p.pid == process.pid), "")
    return StartedProcess(pid=process.pid, started=started, mark=mark)


def run(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, directory: Path, what: str
) -> None:
    """Run a program to its end.

    Args:
        command: the program and its arguments.
        environment: its environment.
        log: takes its output.
        directory: where it runs.
        what: what it does, as it stands in the error.

    Raises:
        LocalStackError: it could not be started or failed; the message ends with its last lines.
    """
    try:
        with log.open("wb") as output:
            code = subprocess.run(  # noqa: S603 - the commands are this package's own  # nosec B603
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
    except OSError as error:
        raise LocalStackError(f"{what}: {command[0]} cannot be started: {error}.") from error
    if code != 0:
        raise LocalStackError(f"{what} failed; its output is in {log}:\n{last_lines(log)}")


def last_lines(log: Path) -> str:
    """Return the end of a log."""
    lines = log.read_text(errors="replace").rstrip().splitlines() if log.exists() else []
    return "\n".join(lines[-_SHOWN_LINES:])


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    group: int
    started: str


def _environment(process_id: int) -> list[bytes]:
    """Return the environment of a process; empty where it may not be read, or has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
    return []


def _processes() -> list[_Process]:
    """List the processes that have not ended, from /proc, or from `ps` where there is none."""
    if Path("/proc/self/stat").exists():
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended meanwhile
                    # Source: proc_pid_stat(5); the name, in parentheses, may hold anything.
                    fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                    if fields[0] not in "ZX":
                        found.append(_Process(int(entry.name), int(fields[2]), fields[19]))
        return found
    listing = subprocess.run(  # the one of POSIX  # nosec B603
        ["/bin/ps", "-A", "-o", "pid=,pgid=,stat=,lstart="],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = (line.split(maxsplit=3) for line in listing.splitlines())
    return [_Process(int(r[0]), int(r[1]), r[3]) for r in rows if not r[2].startswith("Z")]
