"""The ports that the local stack listens on, all of them of the loopback address."""

import random
import socket

LOOPBACK = "127.0.0.1"

#: Ports that no outgoing connection is given, neither by Linux (from 32768 on) nor by macOS (from
#: 49152 on): one of them that is free is still free when it is listened on.
_CHOSEN_FROM = range(20_000, 32_768)


def choose_port(*preferred: int | None) -> int:
    """Return a free port to listen on: the first of those that are preferred, else any one."""
    # Two who choose at the same moment are not to choose the same.
    in_any_order = random.SystemRandom().sample(_CHOSEN_FROM, len(_CHOSEN_FROM))
    return next(filter(_is_free, (*filter(None, preferred), *in_any_order)))


def _is_free(port: int) -> bool:
    # Some systems let a second one listen on one address where the first listens on all of them.
    return not is_listened_on(port) and listen_error(port) is None


def is_listened_on(port: int, address: str = LOOPBACK) -> bool:
    """Whether a server listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def listen_error(port: int, address: str = LOOPBACK) -> OSError | None:
    """Return what keeps a server from listening on a port; None where nothing does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error
    return None
