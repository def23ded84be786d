"""An HTTP client of a deployment, which retries where that may help."""

from __future__ import annotations

import http.client
import json
import mimetypes
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from bedplate import __version__

_ATTEMPTS = 5
_LONGEST_PAUSE_S = 30.0
_BAR = 30  # characters
# What a server says that cannot answer now, and will soon.
_LATER = (429, 503)
Answer = dict[str, Any]
T = TypeVar("T")


class Unusable(Exception):
    """No request can be sent. The message says why, and names a remedy."""


class Deployment:
    """A deployment at one address, with a kept-open connection for each thread.

    Raises:
        Unusable: the address, the key or the authority cannot be used.
    """

    def __init__(self, url: str, key: str, ca: Path | None, timeout_s: float, address: str | None = None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unusable(f"{url!r} does not do, wanted https://HOST")
        if address and parts.scheme != "https":
            raise Unusable("--address is for https, which proves that the name answers there")
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._context = _context(ca) if parts.scheme == "https" else None
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": f"bedplate/{__version__}"}
        self._timeout_s = timeout_s
        self._address = address or parts.hostname
        self._mine = threading.local()

    def only_model(self) -> str:
        status, document = self.request("GET", "/v1/models", b"", {})
        if status != 200:
            raise Unusable(f"the models are not told ({reason_of(status, document)})")
        names = [model["name"] for model in document["models"]]
        if len(names) != 1:
            raise Unusable(f"--model is needed: {', '.join(names) or 'no model'} is served")
        return str(names[0])

    def request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Answer]:
        """Return status and document of the answer. While the server is busy, retry after the time that it names.

        Raises:
            Unusable: there is no answer.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer, content = self._once(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                raise Unusable(f"{self._host}: {error or type(error).__name__}") from None
            if answer.status not in _LATER or attempt == _ATTEMPTS:
                break
            time.sleep(_pause_s(answer.getheader("Retry-After")))
        return answer.status, _document(content)

    def _once(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        reused = getattr(self._mine, "connection", None)
        connection = reused or self._connection()
        self._mine.connection = connection
        try:
            connection.request(method, self._prefix + path, body or None, self._headers | headers)
            answer = connection.getresponse()
            return answer, answer.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            connection.close()
            self._mine.connection = None
            if reused is None:
                raise
            # It had been closed while nobody used it.
            return self._once(method, path, body, headers)
        except (OSError, http.client.HTTPException):
            connection.close()
            self._mine.connection = None
            raise

    def _connection(self) -> http.client.HTTPConnection:
        if self._context:
            return VerifiedConnection(self._host, self._port, self._address, self._timeout_s, self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)


class VerifiedConnection(http.client.HTTPSConnection):
    """A connection to an address that requires the certificate of a given name."""

    def __init__(self, host: str, port: int | None, address: str, timeout_s: float, context: ssl.SSLContext):
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        # Header and body are two writes; without this the second would wait for an acknowledgement.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def content_type_of(file: Path) -> str:
    """Return the Content-Type to send: a file, text or a tensor. The server itself detects the kind of a file."""
    kind, packed = mimetypes.guess_type(file.name)
    if packed:
        return "application/octet-stream"
    if kind == "application/json" or (kind and kind.split("/")[0] in ("image", "audio", "video", "text")):
        return kind
    return "application/octet-stream"


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise Unusable(f"{ca}: holds no certificates ({error})") from None


def _document(content: bytes) -> Answer:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def reason_of(status: int, problem: Answer) -> str:
    """Return a problem document as one line: what is wrong, and the next step."""
    words = [str(problem.get("detail") or problem.get("title") or http.client.responses.get(status, "no reason"))]
    words += [str(problem["next_step"])] if problem.get("next_step") else []
    return f"{status}: {'; '.join(words)}"


def _pause_s(retry_after: str | None) -> float:
    return min(float(retry_after), _LONGEST_PAUSE_S) if retry_after and retry_after.isdecimal() else 1.0


def with_progress(answers: Iterable[T], total: int, out: TextIO) -> Iterator[T]:
    """Yield the same items; on a terminal, a bar shows the progress."""
    for number, answer in enumerate(answers, 1):
        if out.isatty() and total > 1:
            filled = _BAR * number // total
            out.write(
                f"\r[{'#' * filled}{'.' * (_BAR - filled)}] {number} of {total}" + ("\n" if number == total else "")
            )
            out.flush()
        yield answer
