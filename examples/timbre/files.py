"""Samples as the files that people send: wav, flac and mp3."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import numpy.typing as npt

CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame"}


def to_file(
    samples: npt.NDArray[np.float64], rate_hz: int, kind: str, channels: int = 1, bit_rate: int = 128_000
) -> bytes:
    """The same in each channel."""
    out = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(out, "w", format=kind) as container:
        stream: Any = container.add_stream(CODECS[kind], rate=rate_hz, layout=layout)
        stream.bit_rate = bit_rate  # of what loses something
        whole = np.repeat(np.rint(samples * 32767).astype(np.int16), channels)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout=layout)
        frame.rate = rate_hz
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return out.getvalue()
