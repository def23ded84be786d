"""python -m tests.service.flood_http: what a front end's memory grows by under tiny chunks and under broken gzip.

A million chunks of one byte, 100 times: less than 1 MB. 100 bodies that are no gzip, or far too much: less than 32 MB.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.service.running_service import RunningService, running_service

CHUNKS_GROWTH_BYTES = 1 << 20
GZIP_GROWTH_BYTES = 32 << 20
_TIMEOUT_S = 120
_WARM_UP = 3  # as many as it takes until what is kept for good is there


def flood_of_chunks(service: RunningService, chunks: int, times: int) -> int:
    """Returns: bytes that the front end's memory grew by, once it has seen such bodies."""
    head = _head(service, "/v1/models/lamp/predict", "application/octet-stream", "Transfer-Encoding: chunked")
    request = head + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"
    return _growth(service, lambda: [_status(service, request)], times, {413})


def flood_of_refused(service: RunningService, body_bytes: int, times: int) -> int:
    """Bodies of more items than the model takes. Returns: bytes that the memory grew by, at most, meanwhile."""
    length = f"Content-Length: {body_bytes}"
    request = _head(service, "/v1/models/lamp/predict", "application/octet-stream", length) + bytes(body_bytes)
    return _growth(service, lambda: [_status(service, request)], times, {413})


def flood_of_gzip(service: RunningService) -> int:
    """100 bodies of 10 kinds. Returns: bytes that the front end's memory grew by, at most, meanwhile."""
    return _growth(service, lambda: [_status(service, request) for request in _broken_gzip(service)], 10, {400, 413})


def _growth(service: RunningService, flood: Callable[[], list[int]], times: int, expected: set[int]) -> int:
    before = 0
    most = 0
    for number in range(_WARM_UP + times):
        statuses = flood()
        assert set(statuses) <= expected, statuses
        now = service.web_rss_bytes()
        before = now if number < _WARM_UP else before
        most = max(most, now - before)
    return most


def _broken_gzip(service: RunningService) -> Iterator[bytes]:
    noise = random.Random(1).randbytes(1 << 20)
    whole = gzip.compress(noise, 1)
    bomb = gzip.compress(bytes(64 << 20), 9)
    yield from (
        _post_gzip(service, body)
        for body in (
            noise,  # no gzip at all
            whole[:-1],
            whole[: len(whole) // 2],
            whole[:10],
            whole[:-8] + bytes(8),  # a wrong sum
            whole[:5000] + noise[:5000] + whole[10_000:],
            whole + b"more",
            whole + whole,
            bomb,
            gzip.compress(bomb, 9),
        )
    )


def _post_gzip(service: RunningService, body: bytes) -> bytes:
    length = f"Content-Length: {len(body)}"
    return _head(service, "/v2/models/lamp/infer", "application/json", "Content-Encoding: gzip", length) + body


def _head(service: RunningService, path: str, kind: str, *fields: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {service.key}", f"Content-Type: {kind}"]
    return "\r\n".join([*lines, *fields, "Connection: close", "", ""]).encode()


def _status(service: RunningService, request: bytes) -> int:
    """Of the answer to a request that may be refused before it was sent."""
    with socket.create_connection(("127.0.0.1", service.port), _TIMEOUT_S) as sock:
        with contextlib.suppress(ConnectionError):  # the answer may be there all the same
            sock.sendall(request)
        return int(sock.recv(65536).split(b" ", 2)[1])


def main() -> int:
    with tempfile.TemporaryDirectory() as name, running_service(Path(name)) as service:
        chunks = flood_of_chunks(service, 1_000_000, 100)
        print(f"a million chunks of one byte, 100 times: {chunks / 1024:.0f} KiB more", flush=True)
        broken = flood_of_gzip(service)
        print(f"100 broken gzip bodies: {broken / 1024:.0f} KiB more")
    return int(chunks >= CHUNKS_GROWTH_BYTES or broken >= GZIP_GROWTH_BYTES)


if __name__ == "__main__":
    sys.exit(main())
