"""A client that sends a case of the corpus and a good request right behind it, and reads strictly what comes back."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.raw_http.corpus import ANSWERED, PROBE, REFUSED, SMUGGLED, UNFINISHED, Case, Service, infer

PATIENCE_S = 0.5  # a server that says nothing for so long waits for more
END_S = 8  # and one that says nothing for so long after the client has ended hangs

Connect = Callable[[], socket.socket]
_HEAD = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [^\r\n\0]*\r\n((?:[!-9;-~]+:[^\r\n\0]*\r\n)*)\r\n")


@dataclass(frozen=True)
class Response:
    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def id(self) -> str | None:
        """What an infer response says back."""
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(self.body).get("id"))
        return None


@dataclass
class Talk:
    """What a server said until it hung up, answered the request behind, or had been silent for too long."""

    received: bytes = b""
    responses: list[Response] = field(default_factory=list)  # without interim ones
    rest: bytes = b""  # that is no whole response
    closed: bool = False

    def read(self, data: bytes) -> None:
        self.received += data
        self.responses, self.rest = _parsed(self.received)


def talk(connect: Connect, service: Service, case: Case) -> Talk:
    """Send `case`, and a good request in the same piece unless the case is one that waits for more."""
    told = Talk()
    behind = b"" if case.verdict is UNFINISHED else infer(service, PROBE)
    with connect() as sock, contextlib.suppress(ConnectionError, ssl.SSLError):
        sock.settimeout(END_S)
        # A server that has refused it need not read the rest; what it said is still there to be read.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            sock.sendall(case.data + behind)
        _receive(sock, told, PATIENCE_S)
        if not told.closed and not _probed(told):
            sock.shutdown(socket.SHUT_WR)
            # What comes now over TLS cannot be read any more.
            last = Talk() if isinstance(sock, ssl.SSLSocket) else told
            _receive(sock, last, END_S)
            told.closed = last.closed
        return told
    told.closed = True
    return told


def ask(sock: socket.socket, service: Service, marker: str) -> bool:
    """Whether a good request on a connection that stays gets its own answer."""
    told = Talk()
    sock.sendall(infer(service, marker))
    deadline = time.monotonic() + END_S
    while not told.responses and time.monotonic() < deadline:
        data = sock.recv(65536)
        if not data:
            return False
        told.read(data)
    return [response.id for response in told.responses] == [marker] and not told.rest


def complaints(case: Case, told: Talk, strict: bool) -> list[str]:
    """What is wrong with it; nothing for a server that is right.

    Args:
        strict: the verdict counts too. A proxy may mend or pass on what a server has to refuse.
    """
    statuses = [response.status for response in told.responses]
    before = statuses[:-1] if _probed(told) else statuses
    wrong = {
        "this is no response": bool(told.rest) and not _is_old(told, strict),
        "5xx": any(status >= 500 for status in statuses),
        "what was hidden is answered": any(response.id == SMUGGLED for response in told.responses),
        "out of step": PROBE in [response.id for response in told.responses[:-1]],
        "more answers than requests": len(before) > case.requests,
        "the request behind is answered, and not this one": _probed(told) and len(before) < case.requests,
        "it hangs": not told.closed and not _probed(told),
    }
    if strict and case.verdict is REFUSED:
        wrong["not refused"] = _probed(told) or any(status < 400 for status in before[case.requests - 1 :])
    if strict and case.verdict is ANSWERED:
        wrong["not answered"] = len(before) != case.requests
    if case.verdict is UNFINISHED:
        wrong["answered before it was whole"] = any(status < 400 for status in statuses)
    return [f"{name}: {statuses} {told.received[:300]!r}" for name, is_so in wrong.items() if is_so]


def _probed(told: Talk) -> bool:
    return bool(told.responses) and told.responses[-1].id == PROBE


def _is_old(told: Talk, strict: bool) -> bool:
    """To a request of 1991 nginx answers as in 1991: the body alone, and then it hangs up."""
    return not strict and told.received == b"pong" and told.closed


def _receive(sock: socket.socket, told: Talk, patience_s: float) -> None:
    sock.settimeout(patience_s)
    try:
        while not _probed(told):
            data = sock.recv(65536)
            if not data:
                told.closed = True
                return
            told.read(data)
    except TimeoutError:
        return
    except (ConnectionError, OSError):
        told.closed = True


def _parsed(data: bytes) -> tuple[list[Response], bytes]:
    """The responses at the beginning of `data`, and what follows them."""
    responses = []
    while found := _HEAD.match(data):
        status = int(found[1])
        pairs = [line.split(b":", 1) for line in found[2].splitlines()]
        fields = {name.lower(): value.strip() for name, value in pairs}
        body, rest = (b"", data[found.end() :]) if status < 200 else _body(fields, data[found.end() :])
        if body is None:
            break
        data = rest
        if status >= 200:
            responses.append(Response(status, fields, body))
    return responses, data


def _body(fields: dict[bytes, bytes], data: bytes) -> tuple[bytes | None, bytes]:
    """The body and what follows it; None while it is not whole."""
    if b"content-length" in fields:
        length = int(fields[b"content-length"])
        return (data[:length], data[length:]) if len(data) >= length else (None, data)
    body = b""
    while found := re.match(rb"([0-9a-f]+)\r\n", data):
        size = int(found[1], 16)
        end = found.end() + size
        if data[end : end + 2] != b"\r\n":
            break
        body += data[found.end() : end]
        data = data[end + 2 :]
        if size == 0:
            return body, data
    return None, data
