"""Frames between web and engine: the one thing both programs know (docs/adr/0001).

A frame is a fixed header, metadata as JSON, and raw tensor bytes. `FrameReader` turns whatever pieces a socket
delivers into whole frames; it never trusts a length it has not checked.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MAGIC = b"BEDP"
VERSION = 1
MAX_META_BYTES = 1 << 20
MAX_TENSOR_BYTES = 1 << 30

# magic, version, type, priority, reserved, id, deadline (CLOCK_MONOTONIC, ns), metadata bytes, tensor bytes
_HEADER = struct.Struct("<4sBBBBQQII")
HEADER_BYTES = _HEADER.size
# Made once: json.dumps with options of its own builds an encoder for each call.
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Type(IntEnum):
    PREDICT = 1
    RESULT = 2
    ERROR = 3
    CANCEL = 4
    DESCRIBE = 5
    DESCRIPTION = 6
    ADMIN = 7  # on an admin socket only
    ADMIN_ANSWER = 8


INTERACTIVE = 0
BATCH = 1


class FrameError(Exception):
    """The peer broke the protocol; the connection cannot be used any further."""


@dataclass(frozen=True, slots=True)
class Frame:
    type: Type
    id: int
    meta: dict[str, Any]
    tensors: bytes | memoryview = b""
    deadline_ns: int = 0  # absolute, CLOCK_MONOTONIC; 0 is none
    priority: int = INTERACTIVE


def now_ns() -> int:
    """The clock deadlines are written in; the same for every process of a host."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def encode(frame: Frame) -> list[bytes | memoryview]:
    """Pieces to hand to `writelines`, so that tensors are not copied into a new buffer first.

    Raises:
        FrameError: metadata or tensors are longer than the header may announce.
    """
    meta = _to_json(frame.meta).encode()
    tensor_bytes = len(frame.tensors)
    _check_lengths(len(meta), tensor_bytes)
    header = _HEADER.pack(
        MAGIC, VERSION, frame.type, frame.priority, 0, frame.id, frame.deadline_ns, len(meta), tensor_bytes
    )
    pieces: list[bytes | memoryview] = [header + meta]
    if tensor_bytes:
        pieces.append(frame.tensors)
    return pieces


class FrameReader:
    """Collects bytes until frames are whole. One per connection.

    Args:
        max_tensor_bytes: what one frame may carry; a peer that has no business with tensors gets less.
    """

    def __init__(self, max_tensor_bytes: int = MAX_TENSOR_BYTES) -> None:
        self._max_tensor_bytes = max_tensor_bytes
        self._buffer = bytearray()
        self._header: tuple[Type, int, int, int, int, int] | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Add what the socket delivered; returns the frames that are now complete, in order.

        Raises:
            FrameError: a header or metadata that breaks the protocol. Close the connection.
        """
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    @property
    def idle(self) -> bool:
        """True between frames: a peer that leaves now has not broken off in the middle of one."""
        return self._header is None and not self._buffer

    def _next(self) -> Frame | None:
        if self._header is None:
            if len(self._buffer) < HEADER_BYTES:
                return None
            self._header = _parse_header(self._buffer[:HEADER_BYTES])
            _check_lengths(*self._header[-2:], self._max_tensor_bytes)
            del self._buffer[:HEADER_BYTES]
        kind, priority, request_id, deadline_ns, meta_bytes, tensor_bytes = self._header
        if len(self._buffer) < meta_bytes + tensor_bytes:
            return None
        meta = _parse_meta(self._buffer[:meta_bytes])
        tensors = bytes(memoryview(self._buffer)[meta_bytes : meta_bytes + tensor_bytes])
        del self._buffer[: meta_bytes + tensor_bytes]
        self._header = None
        return Frame(kind, request_id, meta, tensors, deadline_ns, priority)


def _parse_header(raw: bytes | bytearray) -> tuple[Type, int, int, int, int, int]:
    magic, version, kind, priority, reserved, request_id, deadline_ns, meta_bytes, tensor_bytes = _HEADER.unpack(raw)
    if magic != MAGIC:
        raise FrameError("frame does not start with the magic bytes")
    if version != VERSION:
        raise FrameError(f"frame version {version}, this program speaks {VERSION}")
    if reserved != 0 or priority not in (INTERACTIVE, BATCH):
        raise FrameError(f"priority {priority} and reserved byte {reserved}; wanted 0 or 1, and 0")
    try:
        known = Type(kind)
    except ValueError:
        raise FrameError(f"frame type {kind} is not known") from None
    _check_lengths(meta_bytes, tensor_bytes)
    return known, priority, request_id, deadline_ns, meta_bytes, tensor_bytes


def _check_lengths(meta_bytes: int, tensor_bytes: int, max_tensor_bytes: int = MAX_TENSOR_BYTES) -> None:
    if meta_bytes > MAX_META_BYTES:
        raise FrameError(f"metadata of {meta_bytes} bytes, {MAX_META_BYTES} are allowed")
    if tensor_bytes > max_tensor_bytes:
        raise FrameError(f"tensors of {tensor_bytes} bytes, {max_tensor_bytes} are allowed")


def _parse_meta(raw: bytes | bytearray) -> dict[str, Any]:
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError):
        raise FrameError("metadata is not JSON") from None
    if not isinstance(meta, dict):
        raise FrameError(f"metadata is a JSON {type(meta).__name__}, wanted an object")
    return meta
