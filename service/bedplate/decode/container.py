"""Opens sound and video files with FFmpeg's libraries. Only a file's first bytes decide which demuxer reads it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import av
import av.container
import av.logging

from bedplate.decode import riff
from bedplate.errors import MediaTooLong, UnreadableMedia, UnsupportedMediaType

SOUNDS = ("wav", "flac", "mp3", "mp4", "ogg", "webm")  # an m4a is an mp4, and opus comes in ogg
VIDEOS = ("mp4", "avi", "mov", "webm")
# FFmpeg knows hundreds of formats, some of which open other files: what is not listed here is never parsed.
_DEMUXERS = {
    "wav": "wav", "flac": "flac", "mp3": "mp3", "ogg": "ogg",
    "mp4": "mov", "mov": "mov", "avi": "avi", "webm": "matroska",
}  # fmt: skip
_STARTS = {b"fLaC": "flac", b"OggS": "ogg", b"\x1a\x45\xdf\xa3": "webm"}
# Brands of files that hold pictures instead of a film.
_STILL = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"miaf"}
_ID3_BYTES, _HAS_FOOTER = 10, 0x10  # of the head of a tag, and of what may end one
_FIRST_ATOMS = {b"moov", b"mdat", b"wide", b"free", b"skip"}  # of a QuickTime file that does not say what it is
av.logging.set_level(None)  # its words may quote the file


def kind_of(data: bytes | memoryview) -> str | None:
    """Return the key of _DEMUXERS that the first bytes match, or None."""
    content = untagged(data)
    return _kind_of(bytes(content[:16])) or ("mp3" if len(content) < len(data) else None)


def untagged(data: bytes | memoryview) -> memoryview:
    """Return what follows the ID3 tags that some programs write before files of any kind."""
    content = memoryview(data)
    while bytes(content[:3]) == b"ID3" and len(content) > _ID3_BYTES:
        flags, *sizes = content[5:_ID3_BYTES]
        if max(sizes) > 0x7F:  # seven bits each
            break
        size = sum(value << 7 * place for place, value in enumerate(reversed(sizes)))
        content = content[_ID3_BYTES + size + (_ID3_BYTES if flags & _HAS_FOOTER else 0) :]
    return content


def _kind_of(head: bytes) -> str | None:
    if head.startswith(riff.FORMS):
        is_sound = head[8:12] == b"WAVE"
        return "wav" if is_sound else "avi" if head.startswith(b"RIFF") and head[8:12] == b"AVI " else None
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _STILL else "mov" if head[8:12] == b"qt  " else "mp4"
    if head[4:8] in _FIRST_ATOMS:
        return "mov"
    # Of a frame eleven bits are set, and it has neither the reserved version nor the reserved layer.
    is_frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x18 != 0x08 and head[1] & 6
    return "mp3" if is_frame else _STARTS.get(head[:4])


@contextlib.contextmanager
def opened(data: bytes | memoryview, kinds: tuple[str, ...]) -> Iterator[av.container.InputContainer]:
    """Open the file for decoding.

    Raises:
        UnsupportedMediaType: it is none of `kinds`, whatever name or type came with it.
        UnreadableMedia: it is broken; raised here, or while it is read inside the context.
    """
    kind = kind_of(data)
    if kind not in kinds:
        raise unsupported("the content is none of the kinds that this model takes", kinds)
    content = riff.plain(untagged(data)) if kind == "wav" else untagged(data)
    try:
        with av.open(io.BytesIO(content), "r", format=_DEMUXERS[kind]) as container:
            yield container
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        # Only the kind of the fault is told: messages may quote the file.
        raise UnreadableMedia(
            f"the file cannot be decoded ({type(error).__name__})", next_step="check that the file is complete"
        ) from None


def unsupported(what: str, kinds: tuple[str, ...]) -> UnsupportedMediaType:
    return UnsupportedMediaType(what, limit=", ".join(kinds), next_step="send one of these formats")


def codec_of(stream: av.AudioStream | av.VideoStream) -> Any:
    """Return the stream's codec context, limited to one core.

    Raises:
        UnreadableMedia: FFmpeg has no codec for it.
    """
    codec: Any = stream.codec_context
    if codec is None:
        raise UnreadableMedia("the codec is not known", next_step="convert the file to a common one")
    codec.thread_count = 1
    return codec


def require_length(length_s: float, max_s: float) -> None:
    """Refuse what is too long.

    Raises:
        MediaTooLong: it lasts longer than allowed.
    """
    if length_s > max_s:
        raise MediaTooLong(
            f"the file is {length_s:.1f} s long or longer, {max_s:g} s are allowed",
            value=round(length_s, 1),
            limit=max_s,
            next_step="send a shorter piece, or ask the operator to raise bedplate_max_media_s",
        )
