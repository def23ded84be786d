"""JSON of answers, and compressed bodies both ways.

Request bodies are untrusted: they are inflated only up to the limit of a body.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any

import orjson

from bedplate.errors import BodyTooLarge, MalformedEncoding, UnsupportedMediaType

GZIP, DEFLATE = "gzip", "deflate"
# Of zlib: a window of 32 KiB, in gzip's form (31) or in its own (15), which HTTP calls deflate.
_WINDOW_BITS = {GZIP: 31, DEFLATE: 15}
# Work on more than this would hold up the other requests of the process for more than about a millisecond.
_INLINE_BYTES = 64 << 10
_MAX_RATIO = 1032  # of deflate
# Below this the smaller body saves no packet.
_WORTH_IT_BYTES = 1024
_MAX_CODINGS = 3  # one within the other
_LEVEL = 1  # tensors hardly get smaller at higher ones


def to_json(document: Any) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:
        # What a model's own program says may have numbers of more than 64 bits, or halves of characters.
        return json.dumps(document, separators=(",", ":")).encode()


async def inflated(body: bytes, encoding: str | None, allowed_bytes: int, turn: asyncio.Semaphore) -> bytes:
    """Return `body` without its Content-Encoding, which names codings in the order in which they were applied.

    Args:
        turn: held while much may come out.

    Raises:
        UnsupportedMediaType, BodyTooLarge, MalformedEncoding.
    """
    for kind in reversed(_codings_of(encoding)):
        body = await _inflated_once(body, kind, allowed_bytes, turn)
    return body


def _codings_of(encoding: str | None) -> list[str]:
    """Raises: UnsupportedMediaType: one is not known, or there are too many."""
    named = [name.strip().lower() for name in (encoding or "").split(",")]
    codings = ["gzip" if name == "x-gzip" else name for name in named if name not in ("", "identity")]
    if len(codings) > _MAX_CODINGS or not _WINDOW_BITS.keys() >= set(codings):
        raise UnsupportedMediaType(
            f"the Content-Encoding is not one this route takes, or more than {_MAX_CODINGS} in each other",
            limit=", ".join((*_WINDOW_BITS, "identity")),
            next_step="send one of these",
        )
    return codings


async def _inflated_once(body: bytes, kind: str, allowed_bytes: int, turn: asyncio.Semaphore) -> bytes:
    # A few bytes can hold millions: what may come out counts.
    if min(allowed_bytes, len(body) * _MAX_RATIO) <= _INLINE_BYTES:
        return inflate(body, kind, allowed_bytes)
    async with turn:
        return await asyncio.to_thread(inflate, body, kind, allowed_bytes)


def inflate(body: bytes, kind: str, allowed_bytes: int) -> bytes:
    """Decompress one coding.

    Raises:
        BodyTooLarge, MalformedEncoding.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[kind])
    try:
        content = stream.decompress(body, allowed_bytes + 1)
    except zlib.error:
        raise _malformed(kind) from None
    if len(content) > allowed_bytes:
        raise BodyTooLarge(
            f"the body has more than {allowed_bytes} bytes once it is decompressed",
            limit=allowed_bytes,
            next_step="send fewer items",
        )
    if not stream.eof or stream.unused_data:
        raise _malformed(kind)
    return content


def _malformed(kind: str) -> MalformedEncoding:
    return MalformedEncoding(f"the body is not {kind}, not all of it, or more", next_step="send one whole stream")


def accepted(header: str | None) -> str | None:
    """Return the encoding that a client accepts by its Accept-Encoding; None for no encoding."""
    if not header:
        return None
    asked = dict(_choice(part) for part in header.lower().split(","))
    for kind in (GZIP, DEFLATE):
        if asked.get(kind):
            return kind
    return None


def _choice(part: str) -> tuple[str, bool]:
    """Of 'gzip;q=0.5' the name, and whether it is wanted at all."""
    name, _, weight = part.replace(" ", "").partition(";q=")
    return name, not weight or weight.strip("0.") != ""


def is_worth_it(body: bytes) -> bool:
    return len(body) >= _WORTH_IT_BYTES


async def deflated(body: bytes, kind: str | None) -> bytes | None:
    """Return `body` in that encoding; None if it is sent as it is."""
    if kind is None or not is_worth_it(body):
        return None
    if len(body) <= _INLINE_BYTES:
        return _deflate(body, kind)
    return await asyncio.to_thread(_deflate, body, kind)


def _deflate(body: bytes, kind: str) -> bytes:
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[kind])
    return stream.compress(body) + stream.flush()
