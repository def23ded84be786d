"""As much HTTP/1.1 as a client of one known server needs: requests out, responses with a length or in chunks back."""

from dataclasses import dataclass

HEAD_LIMIT_BYTES = 64 * 1024


class MalformedResponse(Exception):
    """What came back is not HTTP, so nothing after it on this connection can be trusted."""


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    reusable: bool  # whether the connection may carry another request


def request_bytes(method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def parse_response(buffer: bytearray, ended: bool = False) -> Response | None:
    """The response at the start of `buffer`, or None while bytes are missing. `ended`: no more will come."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        if len(buffer) > HEAD_LIMIT_BYTES:
            raise MalformedResponse(f"no end of headers in {len(buffer)} bytes")
        return None
    status, headers = _parse_head(bytes(buffer[:head_end]))
    if 100 <= status < 200:
        del buffer[: head_end + 4]
        return parse_response(buffer, ended)
    found = _parse_body(buffer, head_end + 4, status, headers, ended)
    if found is None:
        return None
    body, end = found
    closes = ended or headers.get("connection", "").lower() == "close"
    return Response(status, headers, body, reusable=not closes and end == len(buffer))


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise MalformedResponse(f"status line {first[:80]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(rest[:3]), headers


def _parse_body(
    buffer: bytearray, start: int, status: int, headers: dict[str, str], ended: bool
) -> tuple[bytes, int] | None:
    if status in (204, 304):
        return b"", start
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _parse_chunks(buffer, start)
    if "content-length" in headers:
        end = start + _number(headers["content-length"].encode(), 10)
        return (bytes(buffer[start:end]), end) if len(buffer) >= end else None
    # Neither a length nor chunks: the end of the connection is the end of the body.
    return (bytes(buffer[start:]), len(buffer)) if ended else None


def _parse_chunks(buffer: bytearray, position: int) -> tuple[bytes, int] | None:
    chunks: list[bytes] = []
    while (line_end := buffer.find(b"\r\n", position)) >= 0:
        size = _number(bytes(buffer[position:line_end]).partition(b";")[0], 16)
        if size == 0:
            return _skip_trailers(buffer, line_end, b"".join(chunks))
        chunk_end = line_end + 2 + size
        if len(buffer) < chunk_end + 2:
            return None
        chunks.append(bytes(buffer[line_end + 2 : chunk_end]))
        position = chunk_end + 2
    return None


def _skip_trailers(buffer: bytearray, last_size_end: int, body: bytes) -> tuple[bytes, int] | None:
    # Trailers are lines up to an empty one; with none of them that is the line end of the last size itself.
    trailers_end = buffer.find(b"\r\n\r\n", last_size_end)
    return None if trailers_end < 0 else (body, trailers_end + 4)


def _number(digits: bytes, base: int) -> int:
    try:
        value = int(digits, base)
    except ValueError:
        value = -1
    if value < 0:
        raise MalformedResponse(f"length {digits[:20]!r}")
    return value
