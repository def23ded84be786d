"""Checks the head of a request: it accepts HTTP/1.1 (RFC 9112) that no two servers can read differently."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

# Of the request line and all fields, bytes; and fields. nginx's own are half as large.
MAX_HEAD_BYTES = 32 << 10
MAX_FIELDS = 100
_MAX_TARGET_BYTES = 8 << 10
# Name or address, and port (RFC 3986 without userinfo; without the comma, with which proxies join two fields to one).
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?")

Fields = list[tuple[bytes, bytes]]  # names in lower case, in the order of arrival


class BadRequest(Exception):
    """A request that the application does not see; the connection closes after the answer.

    Args:
        status: of the answer, 4xx or 5xx.
        detail: what is wrong, without a word of the request.
        code: of the problem, with its title.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        code: str = "bad-request",
        title: str = "Bad request",
        next_step: str = "send what RFC 9112 describes",
    ):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.title = title
        self.next_step = next_step


@dataclass(slots=True)
class Head:
    method: str
    path: str  # percent-decoded
    raw_path: bytes
    query: bytes
    version: str  # 1.0 or 1.1
    fields: Fields
    by_name: dict[bytes, bytes]  # of those that stand twice the last

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for 100 Continue before it sends the body."""
        expected = next((value for name, value in self.fields if name == b"expect"), b"")
        return self.version == "1.1" and expected.lower() == b"100-continue"

    @property
    def has_twins(self) -> bool:
        """Whether a field appears twice."""
        return len(self.by_name) < len(self.fields)


def checked_head(method: bytes, target: bytes, version: str, fields: Fields) -> Head:
    """Return the head that a parser found, if it has exactly one reading.

    Raises:
        BadRequest: it has none, or exceeds a limit.
    """
    if version not in ("1.1", "1.0"):
        raise BadRequest(400, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if len(target) > _MAX_TARGET_BYTES:
        raise BadRequest(414, f"the target has more than {_MAX_TARGET_BYTES} bytes")
    if len(fields) > MAX_FIELDS:
        raise BadRequest(431, f"more than {MAX_FIELDS} header fields")
    by_name = dict(fields)
    if len(by_name) < len(fields) or b"host" not in by_name or b"transfer-encoding" in by_name:
        _check_framing(fields, version)
    if not _is_host(by_name.get(b"host", b"")):
        raise BadRequest(400, "Host is no name or address, with a port or without")
    return Head(method.decode("ascii"), *_parts_of(target), version, fields, by_name)


def _check_framing(fields: Fields, version: str) -> None:
    """Where a body ends and whom it is for must not be a matter of taste: that is what smuggling lives on."""
    names = [name for name, _ in fields]
    hosts = names.count(b"host")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadRequest(400, "wanted one Host")
    lengths = names.count(b"content-length")
    if lengths > 1:
        raise BadRequest(400, "Content-Length stands twice")
    if b"transfer-encoding" in names:
        codings = [value.strip().lower() for name, value in fields if name == b"transfer-encoding"]
        if lengths or version == "1.0" or codings != [b"chunked"]:
            raise BadRequest(400, "Transfer-Encoding can only be chunked, in HTTP/1.1 and without Content-Length")


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    """Most requests of a process are for a few hosts."""
    return _HOST.fullmatch(value) is not None


@lru_cache(maxsize=256)
def _parts_of(target: bytes) -> tuple[str, bytes, bytes]:
    """Path, as text and as it came, and query. Most requests of a process are for a few targets."""
    raw_path, _, query = _origin_form(target).partition(b"?")
    return _decoded(raw_path), raw_path, query


def _origin_form(target: bytes) -> bytes:
    if target.startswith(b"/"):
        return target
    scheme, separator, rest = target.partition(b"://")
    authority = re.split(rb"[/?]", rest, maxsplit=1)[0]
    if separator and scheme.lower() in (b"http", b"https") and authority and _is_host(authority):
        _, slash, path = rest.partition(b"/")
        return slash + path or b"/"
    raise BadRequest(400, "the target is no path")


def _decoded(raw_path: bytes) -> str:
    try:
        return (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode()
    except UnicodeDecodeError:
        raise BadRequest(400, "the path is not UTF-8") from None
