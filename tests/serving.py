"""HTTP servers in tests: what they print belongs to no test, and nothing of them outlives the test that asked for them.

A client that goes away in the middle of an answer is an event of the network and no failure of the server. Without
this a handler that notices it late would print a traceback into whatever test is running by then.
"""

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """On a free port. Leaving the context cuts what is still connected and waits for every handler."""

    daemon_threads = False  # so that `server_close` waits for handlers

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.closing = False  # what a handler that waits for something looks at
        self._connected: set[socket.socket] = set()

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self.shutdown()
        for connection in list(self._connected):
            with suppress(OSError):  # closed in this moment
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connected.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connected.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


class Quiet(BaseHTTPRequestHandler):
    """A handler that keeps no log on stderr; its connections are kept alive as real servers' are."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """A whole answer, of a media type."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server with this handler."""
    with Server(handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"
