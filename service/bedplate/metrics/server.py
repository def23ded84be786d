"""Serves GET /metrics over HTTP, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

_log = logging.getLogger(__name__)
# Prometheus asks once in 15 s. Past this many at a time a connection is closed unheard.
_MAX_REQUESTS = 8
# For a client to send its request, and between the pieces of an answer that it reads.
_CLIENT_TIMEOUT_S = 5.0


class Server(socketserver.ThreadingTCPServer):
    """Answers on `listener` with the result of `tell`, in a thread for each request."""

    daemon_threads = True
    # Of the socket that the base class makes and nobody listens on. The sandbox forbids any other kind.
    address_family = socket.AF_UNIX

    def __init__(self, listener: socket.socket, tell: Callable[[], bytes]):
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.tell = tell
        self._free = threading.BoundedSemaphore(_MAX_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except Exception:
                # No thread could be started, so none will free its place. An order to stop is no such thing: it may
                # come when the thread runs already, and releasing twice would raise an error in its place.
                self._free.release()
                raise
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.exception("a scrape failed")


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_TIMEOUT_S
    server: Server

    def handle(self) -> None:
        # A client that leaves or is too slow is no event.
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/metrics":
            self._answer(200, self.server.tell(), CONTENT_TYPE_LATEST)
        else:
            self.send_error(404)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is not a GET of /metrics, well-formed or not, is not here."""
        self._answer(404, b"only GET /metrics is here\n", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "bedplate-metrics"

    def log_message(self, format: str, *args: Any) -> None:
        pass
