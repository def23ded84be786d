"""Renders an answer as bytes."""

from __future__ import annotations

import http
import time
from collections.abc import Iterable
from email.utils import formatdate

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
_dated: tuple[int, bytes] = (0, b"")


def render_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def render_head(status: int, fields: bytes, close: bool) -> bytes:
    """Return status line, `fields` as `render_fields` returns them, Date, and whether the connection ends."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"".join((line, fields, b"Connection: close\r\n" if close else b"", _date()))


def _date() -> bytes:
    """The last field, made once a second."""
    global _dated  # noqa: PLW0603
    now_s = int(time.time())
    if _dated[0] != now_s:
        _dated = now_s, f"Date: {formatdate(now_s, usegmt=True)}\r\n\r\n".encode()
    return _dated[1]
