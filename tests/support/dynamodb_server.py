"""A DynamoDB that reads items one at a time and answers by sockets that stay open, as AWS's do."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from provisioner.drivers import dynamodb

#: Items by their keys, by table.
type Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]


#: What a connection has asked for whose requests run into each other.
GARBLED = ""


class _Connection(socketserver.StreamRequestHandler):
    """One connection, for as long as the other end keeps it."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        assert isinstance(self.server, Server)
        asked_here: set[str] = set()
        self.server.asked.append(asked_here)
        while self.rfile.readline():
            length = 0
            while (header := self.rfile.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            try:
                asked = json.loads(self.rfile.read(length))
            except ValueError:
                asked_here.add(GARBLED)
                return
            (key,) = (value["S"] for value in asked["Key"].values())
            asked_here.add(key)
            item = self.server.tables[asked["TableName"]].get(key)
            body = json.dumps({} if item is None else {"Item": dynamodb.to_item(item)}).encode()
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
                "x-amzn-RequestId: 1\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            self.wfile.write(head.encode() + body)


class Server(socketserver.ThreadingTCPServer):
    """The server, and what it was asked."""

    daemon_threads = True

    def __init__(self, tables: Tables) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.tables = tables
        #: The keys that each connection has asked for.
        self.asked: list[set[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(tables: Tables) -> Iterator[Server]:
    """Serve tables."""
    with Server(tables) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
