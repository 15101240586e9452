"""What the database servers of the local stack have in common, whichever technology they are."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

import psutil

from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK

#: Of what is waited for, seconds between two looks.
POLL_SECONDS = 0.1

#: How long the port of a server that was killed may still be in use. The system takes a process's
#: memory, and with it its command line, before it closes its sockets.
_CLOSING_SECONDS = 5.0


def check_port(what: str, port: int, *, was_killed: bool) -> None:
    """See that a port is free.

    Args:
        what: the server that is to listen on it.
        port: on 127.0.0.1.
        was_killed: whether a server before this one was killed: its port is waited for.

    Raises:
        LocalStackError: the port cannot be listened on; the message says who has to do what.
    """
    deadline = time.monotonic() + (_CLOSING_SECONDS if was_killed else 0.0)
    while (error := _listen_error(port)) is not None:
        if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            continue
        raise LocalStackError(
            f"{what}: port {port} of {LOOPBACK} cannot be listened on "
            f"({os.strerror(error.errno or 0)}); stop what uses it, or choose another."
        ) from error


def _listen_error(port: int) -> OSError | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def process_id_in(file: Path) -> int | None:
    """Read the id of a server's process from the file that the server keeps."""
    with contextlib.suppress(FileNotFoundError):
        first_line = file.read_text(errors="replace").partition("\n")[0]
        if first_line.isdigit():
            return int(first_line)
    return None


def command_line(process_id: int) -> str:
    """Return the arguments of a process; empty where it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(process_id).cmdline())
    return ""


def last_line(text: str) -> str:
    """Return the last line of what a program has said."""
    return (text.strip().splitlines() or ["nothing"])[-1]
