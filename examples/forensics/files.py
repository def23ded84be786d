"""Pictures and clips as the files that people send."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from PIL import Image

from examples.forensics.scenes import Scene

PICTURES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
CODECS = {"mp4": "libx264", "mov": "libx264", "avi": "mpeg4"}
FRAMES_A_SECOND = 8


def to_picture(scene: Scene, kind: str, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.rint(scene).astype(np.uint8)).save(out, PICTURES[kind], quality=quality)
    return out.getvalue()


def to_clip(scenes: Sequence[Scene], kind: str) -> bytes:
    """As cameras of good quality write them."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream: Any = container.add_stream(CODECS[kind], rate=FRAMES_A_SECOND)
        stream.height, stream.width, stream.pix_fmt = *scenes[0].shape[:2], "yuv420p"
        stream.codec_context.thread_count = 1
        if CODECS[kind] == "libx264":
            stream.options = {"crf": "16", "preset": "veryfast"}
        else:
            stream.codec_context.bit_rate = 4_000_000
        for scene in scenes:
            picture = np.ascontiguousarray(np.rint(scene).astype(np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()
