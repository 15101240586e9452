"""Servers that are not what they should be, spoken to by MySQL's driver."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Of the capabilities that a server offers. Source: MySQL internals, "Capability Flags".
_PROTOCOL_41 = 0x0200
_SSL = 0x0800
_SECURE_CONNECTION = 0x8000
_PLUGIN_AUTH = 0x0008  # in the upper half


@contextmanager
def answering(answer: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """Listen on a port and let a function answer each connection; yield the port."""
    with socket.create_server((host, 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, answer), daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(server: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            with contextlib.suppress(OSError), client:
                client.settimeout(5)
                answer(client)


def packet(number: int, body: bytes) -> bytes:
    """Return a packet. Source: MySQL internals, "MySQL Packets"."""
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


def greeting(plugin: str = "mysql_native_password") -> bytes:
    """Return what a server without TLS begins with."""
    return packet(
        0,
        b"\x0a8.0.36\0"
        + struct.pack("<I", 1)
        + b"12345678\0"
        + struct.pack("<HBHHB", _PROTOCOL_41 | _SECURE_CONNECTION, 45, 2, _PLUGIN_AUTH, 21)
        + bytes(10)
        + b"123456789012\0"
        + plugin.encode()
        + b"\0",
    )


def asking_for(plugin: str, received: list[bytes]) -> Callable[[socket.socket], None]:
    """Ask whoever logs in to do so in another way, and keep all that comes."""

    def answer(client: socket.socket) -> None:
        client.sendall(greeting())
        received.append(client.recv(65_536))
        client.sendall(packet(2, b"\xfe" + plugin.encode() + b"\0" + b"Password: "))
        received.append(client.recv(65_536))

    return answer


def leading_to(port: int, *, with_tls: bool = True) -> Callable[[socket.socket], None]:
    """Lead to a server; take from its greeting, if it is to, that it has TLS."""

    def answer(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            first = bytearray(server.recv(65_536))
            # After the packet's head, the version, the thread and the first part of the salt.
            at = first.index(0, 5) + 1 + 4 + 9
            (capabilities,) = struct.unpack_from("<H", first, at)
            struct.pack_into("<H", first, at, capabilities if with_tls else capabilities & ~_SSL)
            client.sendall(first)
            back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
            back.start()
            _pass_on(client, server)
            back.join()

    return answer


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
