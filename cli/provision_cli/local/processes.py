"""Starts programs that outlive this process, runs programs to their end, and stops what it started.

What was started is known by a mark in its environment, which its children inherit: the local
stack's folder. By it all of it is found, whether or not anybody had the time to write down that it
was started, and nothing is ever ended that was not started here: the system gives a free process id
to the next process, and that has no such mark.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from provision_cli.local.environment import MARK_VARIABLE
from provision_cli.local.errors import LocalStackError

#: Seconds that processes have to end by themselves before they are killed.
_GRACE_SECONDS = 8.0
_POLL_SECONDS = 0.05

#: What ends a program that is at work: Ctrl-C, `kill`, and a terminal that is closed.
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Lines of a failed program's output that are shown.
_SHOWN_LINES = 20


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A process that leads its own group: its children are found, and ended, with it."""

    pid: int
    #: What stands in the environment of it and of its children.
    mark: str

    def is_running(self) -> bool:
        """Whether this very process still runs."""
        return _is_marked(self.pid, self.mark)

    def stop(self) -> bool:
        """End the process and its children; whether there were any, once all of them are gone.

        Where somebody has killed the process itself, its children are ended all the same.
        """
        return _end(lambda: [p for p in _list_marked(self.mark) if _group(p.pid) == self.pid])


def stop_marked(directory: Path) -> bool:
    """End everything that a local stack has started and that still runs; whether there was any.

    Args:
        directory: the stack's folder.
    """
    return _end(partial(_list_marked, str(directory)))


def _list_marked(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_marked(p.pid, mark)]


def _is_marked(process_id: int, mark: str) -> bool:
    """Whether a process has the mark; it has none where it has ended, or is another account's."""
    with suppress(psutil.Error):
        return psutil.Process(process_id).environ().get(MARK_VARIABLE) == mark
    return False


def _list_group(group: int) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if _group(p.pid) == group]


def _group(process_id: int) -> int:
    """Return the group of a process; 0 where it has ended."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        if psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE:
            return os.getpgid(process_id)
    return 0


def _end(listing: Callable[[], list[psutil.Process]]) -> bool:
    """End processes, in the end by force; returns whether there were any, once all are gone."""
    ended = False
    for sent in (signal.SIGTERM, signal.SIGKILL):
        # Asked for twice: what ends may have started more.
        found = listing()
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sent)
        ended = ended or bool(found)
        wait_until(lambda: not listing(), _GRACE_SECONDS)
        # What this process has started itself is only gone once it has been asked for.
        psutil.wait_procs(found, timeout=0)
    return ended


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Look at a condition until it holds; returns whether it did, within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@contextmanager
def end_by_signals() -> Iterator[None]:
    """Let signals that end this process raise, so that it can stop what it has started.

    A second one does not keep it from that. Only a main thread may ask for it.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: another signal, with the shell's code for it.
    """

    def end(number: int, _: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

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


@contextmanager
def _end_children_where_interrupted() -> Iterator[None]:
    """Where this process is ended within, end what was started within.

    It is found as a child of this process: nobody may have got its id yet.
    """
    before = set(psutil.Process().children())
    try:
        yield
    except BaseException:
        for child in set(psutil.Process().children()) - before:
            _end(partial(_list_group, child.pid))
        raise


def _popen(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    directory: Path,
    account: Mapping[str, Any] | None = None,
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - the commands are our own  # nosec B603
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(account or {}),
        )


def start(command: Sequence[str], *, environment: Mapping[str, str], **more: Any) -> StartedProcess:
    """Start a program as the leader of its own group.

    Args:
        command: the program and its arguments.
        environment: its environment, which must have the mark, `MARK_VARIABLE`.
        more: `log`, `directory` and `account`, as `_popen` takes them.
    """
    with _end_children_where_interrupted():
        process = _popen(command, environment=environment, **more)
        started = StartedProcess(process.pid, environment[MARK_VARIABLE])
        # For a moment the system knows no environment of a process that has just been started.
        wait_until(lambda: started.is_running() or process.poll() is not None, _GRACE_SECONDS)
        # It outlives this process on purpose; without a code Popen warns that it is still running.
        process.returncode = 0
        return started


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
        with _end_children_where_interrupted():
            process = _popen(command, environment=environment, log=log, directory=directory)
            # A signal that comes just before a wait without end would not be heard until that.
            while (code := process.poll()) is None:
                time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise LocalStackError(f"{what}: {command[0]} cannot be started: {error}.") from error
    if code != 0:
        raise LocalStackError(f"{what} failed; its output is in {log}:\n{last_lines(log)}")


def last_lines(log: Path, count: int = _SHOWN_LINES) -> str:
    """Return the end of a log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.rstrip().splitlines()[-count:])
