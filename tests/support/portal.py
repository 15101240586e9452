"""A web server in the place of AWS: what it answers, whatever it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True)
class Page:
    """What a server answers."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Portal:
    """A server that answers; the last page of several is given from then on."""

    url: str
    pages: Sequence[Page] = ()
    asked: int = 0

    def answer(self, *pages: Page) -> None:
        """Answer these from now on."""
        self.pages, self.asked = pages, 0


@contextmanager
def portal() -> Iterator[Portal]:
    """Start a server; CONNECT, which is asked of a proxy, is answered alike."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            page = made.pages[min(made.asked, len(made.pages) - 1)]
            made.asked += 1
            self.send_response(page.status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in page.headers and page.status != 204:
                self.send_header("Content-Length", str(len(page.body)))
            # What is less than its length ends here.
            self.send_header("Connection", "close")
            self.close_connection = True
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT"):
        setattr(Handler, f"do_{method}", Handler._answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Portal(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
