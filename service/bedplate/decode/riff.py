"""Rewrites WAV files with an unambiguous header, because FFmpeg believes headers that contradict themselves."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from bedplate.errors import UnreadableMedia

# By their first and their third four bytes; those of RIFX have numbers with the highest byte first.
FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
# What a sample of each may take. Unit: bytes.
_WIDTHS = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8), _A_LAW: (1,), _MU_LAW: (1,)}
# ADPCM of Microsoft and of IMA, GSM and MP3 have blocks instead of samples, and FFmpeg reads them by their own headers.
_COMPRESSED = (0x02, 0x11, 0x31, 0x55)
_SUBFORMAT = bytes.fromhex("800000aa00389b71")  # ends every one that stands for a number above
_UNTIL_THE_END = (0, 0xFFFFFFFF)  # sizes that a program writes before it knows better
_MAX_CHUNKS = 10_000
MAX_CHANNELS = 8
_CONVERT = "convert the recording to 16 bits PCM, or to FLAC"


@dataclass(frozen=True)
class _Format:
    tag: int
    channels: int
    rate_hz: int
    width: int  # bytes that a sample takes, whatever number of them is used
    content: bytes  # of its chunk


def plain(data: bytes | memoryview) -> bytes:
    """Return the same sound with a header of 44 bytes, little-endian, with as many bytes per sample as before.

    The size of a sample in the file counts, not the number of its bits that are said to be valid: the others are zero.
    Wrong sizes, an unusual order of chunks and chunks of other kinds do not matter.

    Raises:
        UnreadableMedia: there is no sound in it, or it has another encoding.
    """
    view = memoryview(data)
    order = ">" if bytes(view[:4]) == b"RIFX" else "<"
    chunks = _chunks(view, order)
    if not {b"fmt ", b"data"} <= chunks.keys():
        raise UnreadableMedia("the WAV file has no format or no sound", next_step="check that the file is complete")
    form, sound = _format(bytes(chunks[b"fmt "]), order), chunks[b"data"]
    if form.tag in _COMPRESSED:
        if order == ">":
            raise _unknown(form.tag)
        return _file(form.content, bytes(sound))
    samples = bytes(sound[: len(sound) // (form.width * form.channels) * form.width * form.channels])
    if order == ">":
        samples = np.frombuffer(samples, np.uint8).reshape(-1, form.width)[:, ::-1].tobytes()
    frame_bytes = form.width * form.channels
    header = (form.tag, form.channels, form.rate_hz, form.rate_hz * frame_bytes & 0xFFFFFFFF, frame_bytes)
    return _file(struct.pack("<HHIIHH", *header, form.width * 8), samples)


def require_channels(channels: int) -> None:
    """Raises: UnreadableMedia."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise UnreadableMedia(
            f"{channels} channels, 1 to {MAX_CHANNELS} are understood",
            value=channels,
            limit=MAX_CHANNELS,
            next_step="mix the recording down to stereo",
        )


def _file(form: bytes, sound: bytes) -> bytes:
    parts = struct.pack("<4sI", b"fmt ", len(form)) + form, struct.pack("<4sI", b"data", len(sound)), sound
    return b"".join((struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, parts)), b"WAVE"), *parts))


def _chunks(view: memoryview, order: str) -> dict[bytes, memoryview]:
    """The first of each kind, as much of it as there is."""
    found: dict[bytes, memoryview] = {}
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(view) or {b"fmt ", b"data"} <= found.keys():
            break
        name, size = struct.unpack_from(f"{order}4sI", view, at)
        at += 8
        if name == b"data" and size in _UNTIL_THE_END:
            size = _told_before(found) or len(view) - at
        found.setdefault(name, view[at : at + size])
        at += size + size % 2
    return found


def _told_before(found: dict[bytes, memoryview]) -> int:
    """The sound's size as RF64 has it, whose own field is too small; 0 if it is not told."""
    sizes = found.get(b"ds64", b"")
    return int.from_bytes(sizes[8:16], "little") if len(sizes) >= 16 else 0


def _format(content: bytes, order: str) -> _Format:
    if len(content) < 14:
        raise UnreadableMedia("the WAV file's format is cut off", next_step="check that the file is complete")
    tag, channels, rate_hz, byte_rate, frame_bytes = struct.unpack_from(f"{order}HHIIH", content)
    bits = struct.unpack_from(f"{order}H", content, 14)[0] if len(content) >= 16 else 0
    if tag == _EXTENSIBLE and len(content) >= 40 and content[32:40] == _SUBFORMAT:
        [tag] = struct.unpack_from(f"{order}I", content, 24)
    if tag in _COMPRESSED:
        return _Format(tag, channels, rate_hz, 0, content)
    if tag not in _WIDTHS:
        raise _unknown(tag)
    require_channels(channels)
    said, taken = -(-bits // 8), frame_bytes // channels
    # Bits say how many of a sample count; how many it takes, the bytes of a frame. These are wrong where they are too
    # few, or stand alone against the bits and the bytes of a second.
    is_apart = taken > said and byte_rate != rate_hz * channels * said
    width = taken if said not in _WIDTHS[tag] or is_apart else said
    if width not in _WIDTHS[tag]:
        raise UnreadableMedia(
            f"a sample of the WAV file has {bits} bits and takes {taken} bytes",
            value=bits,
            limit=", ".join(f"{8 * known}" for known in _WIDTHS[tag]),
            next_step=_CONVERT,
        )
    return _Format(tag, channels, rate_hz, width, content)


def _unknown(tag: int) -> UnreadableMedia:
    return UnreadableMedia(
        f"the sound of the WAV file is coded in a way that is not known, {tag}",
        value=tag,
        limit="PCM, floating point, A-law, mu-law, ADPCM, GSM, MP3",
        next_step=_CONVERT,
    )
