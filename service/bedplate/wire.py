"""Frames between web and engine, the one thing that both programs know (docs/adr/0001).

A frame is a fixed header, metadata as JSON, and raw tensor bytes. `FrameReader` turns whatever pieces a socket
delivers into whole frames; it never trusts a length that it has not checked.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import orjson

MAGIC = b"BEDP"
VERSION = 1
MAX_META_BYTES = 1 << 20
MAX_TENSOR_BYTES = 1 << 30

# magic, version, type, priority, reserved, id, deadline (CLOCK_MONOTONIC, ns), metadata bytes, tensor bytes
_HEADER = struct.Struct("<4sBBBBQQII")
HEADER_BYTES = _HEADER.size
# Made once: json.dumps with options of its own builds an encoder for each call.
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# Questions for one model and shape carry the same metadata again and again; answers do not.
_REMEMBERED = 64
_REMEMBERED_BYTES = 1024
# A tensor of this size or more stays where it was received; the copy of a smaller one costs less than the reference.
_KEPT_BYTES = 16384


class Type(IntEnum):
    PREDICT = 1
    RESULT = 2
    ERROR = 3
    CANCEL = 4
    DESCRIBE = 5
    DESCRIPTION = 6
    ADMIN = 7  # on an admin socket only
    ADMIN_ANSWER = 8
    DECODE = 9  # to a decoder; answered as PREDICT is
    ENCODE = 10  # to a decoder; answered by a RESULT whose metadata have the predictions
    BEGUN = 11  # an engine computes a PREDICT from now on that was to be alone; the answer follows


_TYPES = {int(known): known for known in Type}
INTERACTIVE = 0
BATCH = 1
PROBE = 2  # asks whether the device still answers; no client has it


class FrameError(Exception):
    """The peer broke the protocol; the connection cannot be used any further."""


class FixedMeta(dict[str, Any]):
    """Metadata that is sent again and again, encoded once and never changed."""

    @cached_property
    def encoded(self) -> bytes:
        return to_json(self)


@dataclass(slots=True)  # not frozen, which would take as long as the rest of a small frame's way
class Frame:
    """Immutable once made: frames of one reader may share their metadata."""

    type: Type
    id: int
    meta: dict[str, Any]
    tensors: bytes | memoryview = b""
    deadline_ns: int = 0  # absolute, CLOCK_MONOTONIC; 0 is none
    priority: int = INTERACTIVE


# The clock deadlines are written in, CLOCK_MONOTONIC; the same for every process of a host.
now_ns = time.monotonic_ns


def to_json(meta: dict[str, Any]) -> bytes:
    """Encode metadata for a frame."""
    return _to_json(meta).encode()


def encode(frame: Frame) -> list[bytes | memoryview]:
    """Return pieces for `writelines`, so that tensors are not copied into a new buffer first.

    Raises:
        FrameError: metadata or tensors are longer than a header can announce.
    """
    meta = frame.meta.encoded if isinstance(frame.meta, FixedMeta) else to_json(frame.meta)
    return assemble(frame.type, frame.id, meta, frame.tensors, frame.deadline_ns, frame.priority)


def assemble(
    kind: Type,
    request_id: int,
    meta: bytes,
    tensors: bytes | memoryview = b"",
    deadline_ns: int = 0,
    priority: int = INTERACTIVE,
) -> list[bytes | memoryview]:
    """Return what `encode` returns, for metadata that is JSON already."""
    meta_bytes, tensor_bytes = len(meta), len(tensors)
    if meta_bytes > MAX_META_BYTES or tensor_bytes > MAX_TENSOR_BYTES:
        raise _too_long(meta_bytes, tensor_bytes, MAX_TENSOR_BYTES)
    header = _HEADER.pack(MAGIC, VERSION, kind, priority, 0, request_id, deadline_ns, meta_bytes, tensor_bytes)
    if tensor_bytes < _KEPT_BYTES:
        return [b"".join((header, meta, tensors))]
    return [header + meta, tensors]


class FrameReader:
    """Collects bytes until frames are whole. Use one for each connection.

    Args:
        max_tensor_bytes: of one frame; a peer that sends no tensors gets a lower limit.
    """

    def __init__(self, max_tensor_bytes: int = MAX_TENSOR_BYTES) -> None:
        self._max_tensor_bytes = max_tensor_bytes
        self._buffer = bytearray()  # begins with a header
        self._wanted = HEADER_BYTES  # bytes that the buffer needs before there is anything to do
        self._questions: dict[bytes, dict[str, Any]] = {}

    def feed(self, data: bytes) -> list[Frame]:
        """Add what the socket delivered; return the frames that are now complete, in order.

        Raises:
            FrameError: a header or metadata breaks the protocol. Close the connection.
        """
        if not self._buffer:
            return self._take(data)
        self._buffer += data
        if len(self._buffer) < self._wanted:
            return []
        # Never changed any more: tensors may stay in it.
        whole, self._buffer = self._buffer, bytearray()
        return self._take(whole)

    @property
    def idle(self) -> bool:
        """True between frames: a peer that leaves now has not broken off in the middle of one."""
        return not self._buffer

    def _take(self, data: bytes | bytearray) -> list[Frame]:
        frames, start, length = [], 0, len(data)
        while True:
            self._wanted = HEADER_BYTES
            if length - start < HEADER_BYTES:
                break
            kind, priority, request_id, deadline_ns, meta_bytes, tensor_bytes = self._parse_header(data, start)
            meta_at = start + HEADER_BYTES
            tensors_at = meta_at + meta_bytes
            end = tensors_at + tensor_bytes
            if end > length:
                self._wanted = end - start
                break
            meta = self._meta(kind, bytes(data[meta_at:tensors_at]))
            kept = tensor_bytes >= _KEPT_BYTES
            tensors = memoryview(data)[tensors_at:end] if kept else bytes(data[tensors_at:end])
            frames.append(Frame(kind, request_id, meta, tensors, deadline_ns, priority))
            start = end
        self._buffer += memoryview(data)[start:]
        return frames

    def _parse_header(self, data: bytes | bytearray, start: int) -> tuple[Type, int, int, int, int, int]:
        magic, version, number, priority, reserved, request_id, deadline_ns, meta_bytes, tensor_bytes = (
            _HEADER.unpack_from(data, start)
        )
        kind = _TYPES.get(number)
        if magic != MAGIC or version != VERSION or reserved or priority > PROBE or kind is None:
            raise _broken_header(magic, version, number, priority, reserved)
        if meta_bytes > MAX_META_BYTES or tensor_bytes > self._max_tensor_bytes:
            raise _too_long(meta_bytes, tensor_bytes, self._max_tensor_bytes)
        return kind, priority, request_id, deadline_ns, meta_bytes, tensor_bytes

    def _meta(self, kind: Type, raw: bytes) -> dict[str, Any]:
        if kind is not Type.PREDICT or len(raw) > _REMEMBERED_BYTES:
            return _parse_meta(raw)
        meta = self._questions.get(raw)
        if meta is None:
            meta = _parse_meta(raw)
            if len(self._questions) >= _REMEMBERED:
                self._questions.clear()
            self._questions[raw] = meta
        return meta


def _broken_header(magic: bytes, version: int, kind: int, priority: int, reserved: int) -> FrameError:
    if magic != MAGIC:
        return FrameError("frame does not start with the magic bytes")
    if version != VERSION:
        return FrameError(f"frame version {version}, this program speaks {VERSION}")
    if reserved != 0 or priority > PROBE:
        return FrameError(f"priority {priority} and reserved byte {reserved}; wanted 0 to {PROBE}, and 0")
    return FrameError(f"frame type {kind} is not known")


def _too_long(meta_bytes: int, tensor_bytes: int, max_tensor_bytes: int) -> FrameError:
    if meta_bytes > MAX_META_BYTES:
        return FrameError(f"metadata of {meta_bytes} bytes, {MAX_META_BYTES} are allowed")
    return FrameError(f"tensors of {tensor_bytes} bytes, {max_tensor_bytes} are allowed")


def _parse_meta(raw: bytes) -> dict[str, Any]:
    try:
        meta = orjson.loads(raw)
    except ValueError:
        raise FrameError("metadata is not JSON") from None
    if not isinstance(meta, dict):
        raise FrameError(f"metadata is a JSON {type(meta).__name__}, wanted an object")
    return meta
