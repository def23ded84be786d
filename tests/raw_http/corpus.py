"""Requests that no honest client sends: each a name, its bytes, and what a strict server may do with it.

What hides behind them is a whole request of its own, whose answer would say that two readers disagree on where a
request ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

PROBE, SMUGGLED = "probe", "smuggled"  # ids that answers say back


class Verdict(Enum):
    REFUSED = "4xx or nothing, and the connection ends"
    ANSWERED = "one answer below 500, and the next request gets its own if the connection stays"
    EITHER = "the one or the other"
    UNFINISHED = "the rest never comes: 4xx or nothing, once the client has stopped sending"


REFUSED, ANSWERED, EITHER, UNFINISHED = Verdict


@dataclass(frozen=True)
class Service:
    """Whom the corpus is for: what its requests must say to be let in."""

    host: str
    key: str
    model: str
    tensor: dict[str, object]  # the input of an infer request that the model takes


@dataclass(frozen=True)
class Case:
    name: str
    verdict: Verdict
    data: bytes
    requests: int = 1  # that `data` holds, the bad one included


Row = tuple[str, Verdict, bytes] | tuple[str, Verdict, bytes, int]


def infer(service: Service, marker: str) -> bytes:
    """A good request whose answer says `marker` back."""
    body = json.dumps({"id": marker, "inputs": [service.tensor]}).encode()
    return _head(service, b"Content-Length: %d" % len(body)) + body


def cases(service: Service) -> list[Case]:
    rows = [*_lengths(service), *_chunks(service), *_fields(service), *_targets(service), *_lines(service)]
    rows += [*_amounts(service), *_odd_but_good(service), *_unfinished(service)]
    return [Case(*row) for row in rows]


def _head(service: Service, *fields: bytes) -> bytes:
    """Of a POST to the model."""
    return _lines_of(b"POST /v2/models/%b/infer HTTP/1.1" % service.model.encode(), *_ours(service), *fields)


def _ours(service: Service) -> list[bytes]:
    return [
        b"Host: " + service.host.encode(),
        b"Authorization: Bearer " + service.key.encode(),
        b"Content-Type: application/json",
    ]


def _get(service: Service, *fields: bytes, line: bytes = b"GET /v1/models HTTP/1.1") -> bytes:
    return _lines_of(line, *_ours(service), *fields)


def _lines_of(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _lengths(service: Service) -> Iterator[Row]:
    """Where Content-Length and Transfer-Encoding leave more than one reading of where the body ends."""
    hidden = infer(service, SMUGGLED)
    size = b"%d" % len(hidden)
    chunked = b"Transfer-Encoding: chunked"
    chunk_size = b"%x\r\n" % len(hidden)
    for name, fields, body in (
        ("CL.TE", [b"Content-Length: %d" % (len(hidden) + 5), chunked], b"0\r\n\r\n" + hidden),
        ("TE.CL", [chunked, b"Content-Length: %d" % len(chunk_size)], chunk_size + hidden + b"\r\n0\r\n\r\n"),
        ("CL 0 and TE", [b"Content-Length: 0", chunked], b"0\r\n\r\n"),
        ("two CL, 0 first", [b"Content-Length: 0", b"Content-Length: " + size], hidden),
        ("two CL, 0 last", [b"Content-Length: " + size, b"Content-Length: 0"], hidden),
        ("two CL in a list", [b"Content-Length: 0, " + size], hidden),
        ("list of equal CL", [b"Content-Length: %b, %b" % (size, size)], hidden),
        ("two equal CL", [b"Content-Length: " + size, b"content-length: " + size], hidden),
        ("two CL, one with a zero", [b"Content-Length: " + size, b"Content-Length: 0" + size], hidden),
    ):
        yield name, REFUSED, _head(service, *fields) + body
    for value in (
        b"+4",
        b"-4",
        b"-0",
        b"0x4",
        b"4h",
        b"4.0",
        b"4e0",
        b"4 4",
        b"1_0",
        b"",
        b",",
        b"4,",
        b";4",
        b'"4"',
        b"abc",
    ):
        yield f"CL {value!r}", REFUSED, _head(service, b"Content-Length: " + value) + b"{}{}"
    for value in (
        b"18446744073709551616",
        b"18446744073709551620",
        b"9223372036854775808",
        b"9" * 400,
        b"\xb2",
        b"4\x00",
    ):
        yield f"CL {value[:24]!r}", REFUSED, _head(service, b"Content-Length: " + value) + b"{}{}"
    for value in (
        b"xchunked", b"chunked, identity", b"identity, chunked", b"chunked, chunked", b"gzip, chunked", b"identity",
        b"cow", b"chunked;q=1", b"'chunked'", b'"chunked"', b"chunke", b"chunked\x0b", b"\x0bchunked", b"chunked\x00",
        b"", b"chunked,", b"c\xe4unked", b"\xefchunked",
    ):  # fmt: skip
        yield f"TE {value!r}", REFUSED, _head(service, b"Transfer-Encoding: " + value) + b"0\r\n\r\n"
        both = [b"Content-Length: 5", b"Transfer-Encoding: " + value]
        yield f"CL and TE {value!r}", REFUSED, _head(service, *both) + b"0\r\n\r\n"
    for name, fields in (
        ("TE twice", [chunked, chunked]),
        ("TE twice, the last is not chunked", [chunked, b"Transfer-Encoding: identity"]),
        ("TE twice, the first is not chunked", [b"Transfer-Encoding: identity", chunked]),
        ("TE folded", [b"Transfer-Encoding:\r\n chunked"]),
        ("TE with a space before the colon", [b"Transfer-Encoding : chunked"]),
        ("TE with a tab before the colon", [b"Transfer-Encoding\t: chunked"]),
        ("CL with a space before the colon", [b"Content-Length : 5"]),
        ("TE with a space before the name", [b"X: y", b" Transfer-Encoding: chunked"]),
        ("TE behind a bare CR", [b"X: y\rTransfer-Encoding: chunked", b"Content-Length: 5"]),
        ("TE behind a bare LF", [b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5"]),
        ("CL behind a NUL", [b"X: y\x00Content-Length: 5"]),
        ("TE with an underscore beside CL", [b"Transfer-Encoding : chunked", b"Content-Length: 5"]),
        ("TE with a NUL in its name", [b"Transfer-\x00Encoding: chunked", b"Content-Length: 5"]),
    ):
        yield name, REFUSED, _head(service, *fields) + b"0\r\n\r\n"
    old = b"POST /v2/models/%b/infer HTTP/1.0" % service.model.encode()
    yield "TE on HTTP/1.0", REFUSED, _get(service, chunked, line=old) + b"0\r\n\r\n"
    old_kept = _get(service, chunked, b"Connection: keep-alive", b"Content-Length: 5", line=old)
    yield "TE and CL on a kept HTTP/1.0", REFUSED, old_kept + b"0\r\n\r\n"


def _chunks(service: Service) -> Iterator[Row]:
    """Bodies in chunks that are none."""
    head = _head(service, b"Transfer-Encoding: chunked")
    end = b"0\r\n\r\n"
    for name, body in (
        ("size that is no number", b"xyz\r\n{}\r\n" + end),
        ("size is empty", b"\r\n{}\r\n" + end),
        ("negative size", b"-2\r\n{}\r\n" + end),
        ("size with a plus", b"+2\r\n{}\r\n" + end),
        ("size with 0x", b"0x2\r\n{}\r\n" + end),
        ("size with an underscore", b"0_2\r\n{}\r\n" + end),
        ("space before the size", b" 2\r\n{}\r\n" + end),
        ("size of 17 digits that wraps to 2", b"10000000000000002\r\n{}\r\n" + end),
        ("size of 2^64 - 1", b"ffffffffffffffff\r\n{}\r\n" + end),
        ("size of 300 digits", b"f" * 300 + b"\r\n{}\r\n" + end),
        ("size ends in a bare LF", b"2\n{}\r\n" + end),
        ("size ends in a bare CR", b"2\r{}\r\n" + end),
        ("size ends in CR CR LF", b"2\r\r\n{}\r\n" + end),
        ("size with a NUL", b"2\x00\r\n{}\r\n" + end),
        ("data longer than its size", b"1\r\n{}\r\n" + end),
        ("data shorter than its size", b"3\r\n{}\r\n" + end),
        ("data ends in a bare LF", b"2\r\n{}\n" + end),
        ("data ends in nothing", b"2\r\n{}" + end),
        ("data ends in two other bytes", b"2\r\n{}XX" + end),
        ("last chunk ends in bare LFs", b"2\r\n{}\r\n0\n\n"),
        ("extension with a bare LF", b"2;a=b\n{}\r\n" + end),
        ("extension with a bare CR", b"2;a\rb\r\n{}\r\n" + end),
        ("extension with a NUL", b"2;a=\x00\r\n{}\r\n" + end),
        ("trailer without a colon", b"2\r\n{}\r\n0\r\nnothing\r\n\r\n"),
        ("trailer with a space before its colon", b"2\r\n{}\r\n0\r\nX : y\r\n\r\n"),
        ("trailer with a NUL", b"2\r\n{}\r\n0\r\nX: \x00\r\n\r\n"),
    ):
        yield f"chunk: {name}", REFUSED, head + body


def _fields(service: Service) -> Iterator[Row]:
    """Fields that are none."""
    for name, field in (
        ("without a colon", b"nothing"),
        ("without a name", b": value"),
        ("space in the name", b"X Y: z"),
        ("space before the colon", b"X : z"),
        ("tab before the colon", b"X\t: z"),
        ("folded", b"X: a\r\n b"),
        ("folded by a tab", b"X: a\r\n\tb"),
        ("NUL in the name", b"X\x00: a"),
        ("NUL in the value", b"X: \x00"),
        ("bare CR in the value", b"X: a\rb"),
        ("bare LF ends it", b"X: a\nY: b"),
        ("a CR and a NUL", b"X: a\r\x00"),
        ("BEL in the value", b"X: \x07"),
        ("DEL in the name", b"X\x7f: a"),
        ("ESC in the value", b"X: \x1b[2J"),
        ("high byte in the name", b"X\xff: a"),
        ("parentheses in the name", b"(X): a"),
        ("brace in the name", b"{X}: a"),
        ("quotes in the name", b'"X": a'),
        ("at in the name", b"X@Y: a"),
        ("second Host", b"Host: elsewhere.test"),
        ("second Host, the same", b"Host: " + service.host.encode()),
    ):
        yield f"field: {name}", REFUSED, _get(service, field)
    ping = b"GET /ping HTTP/1.1"
    yield "field: first is folded", REFUSED, _lines_of(ping, b" folded", *_ours(service))
    yield "field: no Host", REFUSED, _lines_of(ping, b"X: y")
    for value in (b"", b"a b", b"a/b", b"a\x00b", b"user@" + service.host.encode(), b"[::1", b"a,b", b"..", b"\xe4"):
        yield f"Host {value!r}", EITHER, _lines_of(ping, b"Host: " + value)


def _targets(service: Service) -> Iterator[Row]:
    """What is asked for, by names that are none."""
    for target in (
        b"ping", b"*", b"http://", b"http:///ping", b"//ping", b"ftp://x/ping", b"/../../etc/passwd",
        b"/%2e%2e/etc/passwd", b"/v1/../v2", b"/%", b"/%zz", b"/%1", b"/%00", b"/ping%00", b"/%ff%fe",
        b"/%c0%ae%c0%ae/", b"/ping%0d%0aX:%20y", b"/v1%2fmodels", b"/ping#fragment", b"/ping\\..", b"/ping?\x7f",
        b"/ping\x80", b"/\xc3\x28", b"/ping;x=y", b"/./ping", b"/v1/models/%2e%2e/predict",
        b"/v1/models/" + b"a" * 3000 + b"/predict", b"/ping?" + b"a=b&" * 500, b"http://elsewhere.test/ping",
        b"https://elsewhere.test@x/ping", b"elsewhere.test:443",
    ):  # fmt: skip
        yield f"target {target[:30]!r}", EITHER, _get(service, line=b"GET %b HTTP/1.1" % target)
    for target in (b"/pi ng", b"/ping\x00", b"/ping\t", b"/ping\rX", b"/ping\x01"):
        yield f"target {target!r}", REFUSED, _get(service, line=b"GET %b HTTP/1.1" % target)
    yield "target of 100,000 bytes", REFUSED, _get(service, line=b"GET /%b HTTP/1.1" % (b"a" * 100_000))
    for method in (b"NOSUCHMETHOD", b"get", b"Get", b"M-SEARCH", b"!#$%&'*+-.^_`|~"):
        yield f"method {method!r}", EITHER, _get(service, line=method + b" /ping HTTP/1.1")
    yield "CONNECT", EITHER, _get(service, line=b"CONNECT elsewhere.test:443 HTTP/1.1")
    yield "CONNECT to a path", EITHER, _get(service, line=b"CONNECT /ping HTTP/1.1")
    yield "TRACE", EITHER, _get(service, line=b"TRACE /ping HTTP/1.1")
    yield "OPTIONS *", EITHER, _get(service, line=b"OPTIONS * HTTP/1.1")


def _lines(service: Service) -> Iterator[Row]:
    """First lines that are none."""
    for line in (
        b"GET /ping", b"GET", b"GET\t/ping\tHTTP/1.1", b" GET /ping HTTP/1.1", b"GET /ping HTTP/1.1 x",
        b"GET /ping HTTP/2.0", b"GET /ping HTTP/9.9", b"GET /ping HTTP/1.10", b"GET /ping HTTP/01.1",
        b"GET /ping HTTP/1", b"GET /ping HTTP/1.x", b"GET /ping HTTP/-1.1", b"GET /ping http/1.1",
        b"GET /ping HTTPS/1.1", b"GET /ping FTP/1.1", b"GET /ping HTTP/0.9", b"G\x00T /ping HTTP/1.1",
        b"G(T /ping HTTP/1.1", b"A" * 300 + b" /ping HTTP/1.1", b"\xff\xfe", b"GET /ping HTTP/1.1\r",
        b"GET /ping HTTP/1.1\nX: y", b"HTTP/1.1 200 OK", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x80\x2e\x01\x00\x02", b"EHLO elsewhere.test", b"*1",
    ):  # fmt: skip
        yield f"line {line[:30]!r}", REFUSED, _get(service, line=line)
    for line in (b"GET  /ping HTTP/1.1", b"GET /ping  HTTP/1.1"):
        yield f"line {line!r}", EITHER, _get(service, line=line)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    yield "HTTP/2 preface", REFUSED, preface
    yield "binary noise", REFUSED, bytes(range(256)) * 4 + b"\r\n\r\n"


def _amounts(service: Service) -> Iterator[Row]:
    """More than anybody needs."""
    yield "field of 100,000 bytes", REFUSED, _get(service, b"X: " + b"a" * 100_000)
    yield "name of 100,000 bytes", REFUSED, _get(service, b"a" * 100_000 + b": x")
    yield "200 fields of 1,000 bytes", REFUSED, _get(service, *[b"X-%d: %b" % (i, b"a" * 1000) for i in range(200)])
    yield "10,000 small fields", REFUSED, _get(service, *[b"X: y"] * 10_000)
    yield "1,000 folds", REFUSED, _get(service, b"X: a" + b"\r\n b" * 1000)
    yield "1,000 cookies", REFUSED, _get(service, *[b"Cookie: a=b"] * 1000)
    yield "CL over every limit", REFUSED, _head(service, b"Content-Length: 99999999999")
    extension = b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"
    yield "chunk extension of 100,000 bytes", EITHER, _head(service, b"Transfer-Encoding: chunked") + extension
    trailers = b"0\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"
    yield "100,000 trailers", EITHER, _head(service, b"Transfer-Encoding: chunked") + trailers


def _odd_but_good(service: Service) -> Iterator[Row]:
    """What RFC 9112 allows, and parsers get wrong."""
    chunked = b"Transfer-Encoding: chunked"
    whole = infer(service, "other").partition(b"\r\n\r\n")[2]
    in_chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in whole)
    for name, data in (
        ("empty lines before it", b"\r\n\r\n" + _get(service)),
        ("chunks of one byte", _head(service, chunked) + in_chunks + b"0\r\n\r\n"),
        ("chunk extensions", _head(service, chunked) + b'2;a;b=c;d="e;\\"f"\r\n{}\r\n0;last\r\n\r\n'),
        ("zeros before a chunk size", _head(service, chunked) + b"0002\r\n{}\r\n000\r\n\r\n"),
        ("a trailer", _head(service, chunked) + b"2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n"),
        ("a trailer with another Host", _head(service, chunked) + b"2\r\n{}\r\n0\r\nHost: elsewhere.test\r\n\r\n"),
        ("CHUNKED in capitals", _head(service, b"TRANSFER-ENCODING: CHUNKED") + b"2\r\n{}\r\n0\r\n\r\n"),
        ("tabs around a value", _head(service, b"Content-Length:\t2\t") + b"{}"),
        ("no space after the colon", _head(service, b"Content-Length:2") + b"{}"),
        ("zeros before a length", _head(service, b"Content-Length: 0002") + b"{}"),
        ("empty value", _get(service, b"X:")),
        ("bytes above 127 in a value", _get(service, b"X: \xe4\xff")),
        ("body on a GET", _get(service, b"Content-Length: 5") + b"12345"),
        ("request as the body of a GET", _get(service, b"Content-Length: 200") + infer(service, SMUGGLED)[:200]),
        ("chunked body on a GET", _get(service, chunked) + b"5\r\n12345\r\n0\r\n\r\n"),
        ("Expect: 100-continue", _head(service, b"Expect: 100-continue", b"Content-Length: 2") + b"{}"),
        ("Expect of something else", _head(service, b"Expect: the-unexpected", b"Content-Length: 2") + b"{}"),
        (
            "Connection names Content-Length",
            _head(service, b"Connection: Content-Length", b"Content-Length: 2") + b"{}",
        ),
        ("Connection names Authorization", _get(service, b"Connection: Authorization, close")),
        ("Connection: close", _get(service, b"Connection: close")),
        ("Connection: keep-alive, close", _get(service, b"Connection: keep-alive, close")),
        ("HTTP/1.0", _get(service, line=b"GET /ping HTTP/1.0")),
        ("HTTP/1.0 that stays", _get(service, b"Connection: keep-alive", line=b"GET /ping HTTP/1.0")),
        (
            "method that needs no body, with one",
            _get(service, b"Content-Length: 2", line=b"DELETE /ping HTTP/1.1") + b"{}",
        ),
        ("TE: trailers", _get(service, b"TE: trailers", b"Connection: TE")),
        ("Content-Encoding of a lie", _head(service, b"Content-Encoding: gzip", b"Content-Length: 2") + b"{}"),
        (
            "Inference-Header-Content-Length of a lie",
            _head(service, b"Inference-Header-Content-Length: 9", b"Content-Length: 2") + b"{}",
        ),
        ("Range", _get(service, b"Range: bytes=0-0,-1")),
        ("X-Forwarded-For of a lie", _get(service, b"X-Forwarded-For: 127.0.0.1\t, \x80")),
        ("X-HTTP-Method-Override", _get(service, b"X-HTTP-Method-Override: DELETE")),
        (
            "Transfer_Encoding with an underscore",
            _head(service, b"Transfer_Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
        ),
    ):
        yield name, ANSWERED, data
    for name, data in (
        ("WebSocket", _get(service, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")),
        ("h2c", _get(service, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")),
        ("x, with a body", _head(service, b"Connection: Upgrade", b"Upgrade: x", b"Content-Length: 2") + b"{}"),
    ):
        yield f"upgrade to {name}", EITHER, data
    framing = b"2\r\n{}\r\n0\r\nContent-Length: 900\r\n\r\n"
    yield "a trailer that would frame", EITHER, _head(service, chunked) + framing
    for name, bad in (("a bad line", b"GET /ping\x00 HTTP/1.1\r\n\r\n"), ("noise", b"\x00\x01\x02\r\n\r\n")):
        yield f"{name} behind a good request", REFUSED, _get(service) + bad, 2


def _unfinished(service: Service) -> Iterator[Row]:
    for name, data in (
        ("half a line", b"GET /pi"),
        ("half a head", _get(service)[:-2]),
        ("no body", _head(service, b"Content-Length: 100")),
        ("half a body", _head(service, b"Content-Length: 100") + b"{" * 50),
        ("half a chunk size", _head(service, b"Transfer-Encoding: chunked") + b"1"),
        ("half a chunk", _head(service, b"Transfer-Encoding: chunked") + b"5\r\n{}"),
        ("no last chunk", _head(service, b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n"),
        ("half a last chunk", _head(service, b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n"),
        ("Expect: 100-continue and nothing", _head(service, b"Expect: 100-continue", b"Content-Length: 2")),
        ("chunk of 2^63 - 1 bytes", _head(service, b"Transfer-Encoding: chunked") + b"7fffffffffffffff\r\n{}"),
    ):
        yield f"unfinished: {name}", UNFINISHED, data
