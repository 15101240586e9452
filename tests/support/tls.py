"""A way to a PostgreSQL server that demands TLS: the server of the tests itself speaks none."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

#: Source: PostgreSQL documentation, "Message Formats", SSLRequest.
_SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)


@contextmanager
def tls_in_front_of(port: int, directory: Path) -> Iterator[int]:
    """Listen on a port that takes TLS only and leads to the server on another; yield it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(directory))
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, context, port), daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(server: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            threading.Thread(target=_serve, args=(client, context, port), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, port: int) -> None:
    if client.recv(len(_SSL_REQUEST)) != _SSL_REQUEST:
        client.close()
        return
    client.sendall(b"S")
    with (
        # Who does not believe the certificate breaks off.
        contextlib.suppress(ssl.SSLError),
        context.wrap_socket(client, server_side=True) as near,
        socket.create_connection(("127.0.0.1", port)) as far,
    ):
        back = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
        back.start()
        _pass_on(near, far)
        back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def certificate(directory: Path) -> Path:
    """Write a certificate of 127.0.0.1, with its key and its authority, which nobody knows."""
    authority = trustme.CA()
    file = directory / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    authority.cert_pem.write_to_path(file, append=True)
    return file
