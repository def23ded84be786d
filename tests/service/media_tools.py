"""Pictures, recordings and videos, made here: small files of every kind that is taken, and damaged ones."""

from __future__ import annotations

import io
from random import Random

import av
import numpy as np
from PIL import Image

SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame"}
VIDEOS = {"mp4": "libx264", "mov": "mpeg4", "avi": "mpeg4"}
PICTURES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
KINDS = (*PICTURES, *SOUNDS, *VIDEOS)


def picture(kind: str, size: tuple[int, int] = (24, 16)) -> bytes:
    """A grey ramp, width x height; a large one is all grey."""
    out = io.BytesIO()
    if size[0] * size[1] > 1_000_000:
        Image.new("L", size, 128).save(out, PICTURES[kind], compress_level=1)
        return out.getvalue()
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    Image.fromarray(ramp).save(out, PICTURES[kind])
    return out.getvalue()


def recording(kind: str, length_s: float = 0.2, rate_hz: int = 16_000, loud: float = 0.3, channels: int = 1) -> bytes:
    """A tone of 440 Hz, `loud` of 1 in every channel."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        layout = {1: "mono", 2: "stereo"}[channels]
        stream = container.add_stream(SOUNDS[kind], rate=rate_hz, layout=layout)
        tone = np.sin(2 * np.pi * 440 * np.arange(int(length_s * rate_hz)) / rate_hz) * loud * 32767
        frame = av.AudioFrame.from_ndarray(
            np.repeat(tone.astype(np.int16), channels)[np.newaxis], format="s16", layout=layout
        )
        frame.rate = rate_hz
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return out.getvalue()


def video(kind: str, frames: int = 12, size: tuple[int, int] = (64, 48), rate: int = 10) -> bytes:
    """Grey, the brighter the later: picture n is 255 * n / frames."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(VIDEOS[kind], rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), 255 * number // frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def sample(kind: str) -> bytes:
    """A small file of this kind."""
    if kind in PICTURES:
        return picture(kind)
    return recording(kind) if kind in SOUNDS else video(kind)


def damaged(whole: bytes, chance: Random) -> bytes:
    """One way in which a file gets damaged: bits, bytes, a piece lost, doubled or zeroed, or cut short."""
    data = bytearray(whole)
    start = chance.randrange(len(data))
    length = min(chance.choice([1, 4, 64, 512]), len(data) - start)
    way = chance.choice(["bits", "bytes", "lost", "doubled", "zeros", "short", "largest"])
    if way == "bits":
        for _ in range(chance.choice([1, 8, 64])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == "bytes":
        data[start : start + length] = chance.randbytes(length)
    elif way == "lost":
        del data[start : start + length]
    elif way == "doubled":
        data[start:start] = data[start : start + length]
    elif way == "zeros":
        data[start : start + length] = bytes(length)
    elif way == "largest":  # of a number: sizes and counts are what parsers trip over
        data[start : start + 4] = b"\xff" * 4
    else:
        del data[start:]
    return bytes(data)
