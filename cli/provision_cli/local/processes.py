"""Starts programs that outlive this process, runs programs to their end, and stops what it started.

A process is known by its id and the moment it started, because the system gives a free id to the
next process: nothing is ever ended that was not started here. What a process leaves behind that was
killed is known by a mark in the environment, which its children inherit: the local stack's folder.
By it all that was started is found, whether or not anybody had the time to write down that it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from provision_cli.local.environment import MARK_VARIABLE
from provision_cli.local.errors import LocalStackError

#: Seconds that a group of processes has to end by itself before it is killed.
_GRACE_SECONDS = 8.0
_POLL_SECONDS = 0.05

#: What ends a program that is at work: Ctrl-C, `kill`, and a terminal that is closed.
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Where a process is being started, the signals that have come meanwhile: raised at once, nobody
#: would know of it yet. It is the main thread's, where signals are handled.
_waiting: list[list[int]] = []

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
        _end_group(self.pid)

    def _has_left_children(self) -> bool:
        """Whether the group is still this one, and not another that has got its id since."""
        group = [p for p in _processes() if p.group == self.pid]
        return bool(self.mark) and any(_is_marked(p.pid, self.mark) for p in group)


def stop_marked(directory: Path) -> bool:
    """End everything that a local stack has started and that still runs; whether there was any.

    It is known by the stack's folder in its environment. This needs /proc; elsewhere only what was
    written down is found.
    """
    mark = str(directory)
    groups = {p.group for p in _processes() if p.pid != os.getpid() and _is_marked(p.pid, mark)}
    # Of a process that does not lead a group of its own, only itself is ours.
    for group in groups:
        if _is_marked(group, mark):
            _end_group(group)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        left = [p.pid for p in _processes() if p.pid != os.getpid() and _is_marked(p.pid, mark)]
        for process_id in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, sent)
        _wait_until(lambda: not any(_is_marked(p.pid, mark) for p in _processes()))
    return bool(groups)


def _end_group(group: int) -> None:
    """End a group of processes; returns once all of them are gone."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, sent)
        if _wait_until(lambda: not any(p.group == group for p in _processes()), reaped=group):
            return


def _wait_until(is_over: Callable[[], bool], *, reaped: int | None = None) -> bool:
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        if reaped is not None:
            with contextlib.suppress(ChildProcessError):  # started by another process
                os.waitpid(reaped, os.WNOHANG)
        if is_over():
            return True
        time.sleep(_POLL_SECONDS)
    return False


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals that end this process raise, so that it can stop what it has started.

    A second one does not keep it from that. In a thread that gets no signals nothing changes.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: another signal, with the shell's code for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        if _waiting:
            _waiting[-1].append(number)
        else:
            _raise(number)

    # One that is ignored, as `nohup` and a shell's background jobs do, stays ignored.
    before = {one: signal.getsignal(one) for one in _ENDING_SIGNALS}
    before = {one: handler for one, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for one in before:
            signal.signal(one, end)
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _popen(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, directory: Path
) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a program; return it with the signals that came meanwhile."""
    came: list[int] = []
    _waiting.append(came)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the commands are our own  # nosec B603
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        _waiting.pop()
    return process, came


def start(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, directory: Path
) -> StartedProcess:
    """Start a program as the leader of its own group; its output goes to `log`."""
    process, came = _popen(command, environment=environment, log=log, directory=directory)
    # It outlives this process on purpose; without a code Popen warns that it is still running.
    process.returncode = 0
    if came:
        _end_group(process.pid)
        _raise(came[0])
    started = next((p.started for p in _processes() if p.pid == process.pid), "")
    return StartedProcess(pid=process.pid, started=started, mark=environment.get(MARK_VARIABLE, ""))


def run(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, directory: Path, what: str
) -> None:
    """Run a program to its end; where this process is ended meanwhile, end it with all it started.

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
        process, came = _popen(command, environment=environment, log=log, directory=directory)
    except OSError as error:
        raise LocalStackError(f"{what}: {command[0]} cannot be started: {error}.") from error
    try:
        if came:
            _raise(came[0])
        code = process.wait()
    except BaseException:
        _end_group(process.pid)
        process.returncode = -signal.SIGTERM
        raise
    if code != 0:
        raise LocalStackError(f"{what} failed; its output is in {log}:\n{last_lines(log)}")


def last_lines(log: Path) -> str:
    """Return the end of a log."""
    lines = (
        log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
        if log.exists()
        else []
    )
    return "\n".join(lines[-_SHOWN_LINES:])


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    group: int
    started: str


def _is_marked(process_id: int, mark: str) -> bool:
    return os.fsencode(f"{MARK_VARIABLE}={mark}") in _environment(process_id)


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
                    fields = (
                        (entry / "stat").read_text(errors="replace").rpartition(") ")[2].split()
                    )
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
