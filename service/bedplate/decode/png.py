"""Removes comments, profiles and times from PNG files: they may be larger than the image, or damaged."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of the chunks that a reader may pass over, those that say how the picture looks.
_LOOKED_AT = (b"tRNS", b"eXIf")
_MOST_BYTES = 1 << 20  # of one of them: an EXIF with its preview has 64 KB
_ANCILLARY = 0x20  # a small first letter


def bare(data: bytes | memoryview) -> bytes:
    """Return the same image with its critical chunks, and those intact ancillary chunks that change how it looks.

    The sums of ancillary chunks that are dropped do not matter; the decoder checks the sums of critical ones.
    """
    view = memoryview(data)
    kept, at = [view[: len(SIGNATURE)]], len(SIGNATURE)
    while at + 12 <= len(view):
        [size] = struct.unpack_from(">I", view, at)
        chunk = view[at : at + 12 + size]
        name = bytes(chunk[4:8])
        if not name[0] & _ANCILLARY or (name in _LOOKED_AT and _is_whole(chunk, size)):
            kept.append(chunk)
        at += 12 + size
        if name == b"IEND":
            break
    return b"".join(kept)


def _is_whole(chunk: memoryview, size: int) -> bool:
    if size > _MOST_BYTES or len(chunk) < 12 + size:
        return False
    return bool(zlib.crc32(chunk[4 : 8 + size]) == int.from_bytes(chunk[8 + size :], "big"))
