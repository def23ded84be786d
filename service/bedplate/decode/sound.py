"""From the bytes of a recording to windows of samples. Strangers' bytes: bounded before and while they are decoded."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt

from bedplate.decode.container import SOUNDS, codec_of, opened, require_length
from bedplate.errors import UnreadableMedia
from bedplate.tensor import Sound

MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000


def samples_of(data: bytes | memoryview, rate_hz: int, max_s: float) -> npt.NDArray[np.float32]:
    """The recording as one channel of `rate_hz`, (samples,) from -1 to 1.

    Raises:
        UnsupportedMediaType, UnreadableMedia: no wav, flac or mp3, or broken.
        MediaTooLong: longer than `max_s`, by its header or once it is decoded.
    """
    with opened(data, SOUNDS) as container:
        if not container.streams.audio:
            raise UnreadableMedia("the file holds no sound", next_step="send a recording")
        stream = container.streams.audio[0]
        _require_format(codec_of(stream))
        if stream.duration and stream.time_base:
            require_length(float(stream.duration * stream.time_base), max_s)
        pieces, length = [], 0
        for piece in _resampled(container.decode(stream), rate_hz):
            pieces.append(piece)
            length += len(piece)
            require_length(length / rate_hz, max_s)
    if not length:
        raise UnreadableMedia("the file holds no sound", value=0, next_step="send a recording")
    samples = np.concatenate(pieces)
    if not np.isfinite(samples).all():
        raise UnreadableMedia("the file holds samples that are no numbers", next_step="export it again")
    return samples


def windows_of(samples: npt.NDArray[np.float32], spec: Sound) -> npt.NDArray[np.float32]:
    """(windows, 1, spec.window): one each `spec.hop` samples, the last filled up with silence."""
    count = 1 + max(0, -(-(len(samples) - spec.window) // spec.hop))
    padded = np.zeros((count - 1) * spec.hop + spec.window, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    views = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop]
    return np.ascontiguousarray(views)[:, np.newaxis]


def _require_format(codec: av.AudioCodecContext) -> None:
    if not MIN_RATE_HZ <= (codec.sample_rate or 0) <= MAX_RATE_HZ:
        raise UnreadableMedia(
            f"{codec.sample_rate} samples a second, {MIN_RATE_HZ} to {MAX_RATE_HZ} are understood",
            value=codec.sample_rate,
            limit=MAX_RATE_HZ,
            next_step="convert the recording to a common rate, such as 44100",
        )
    if not 1 <= codec.channels <= MAX_CHANNELS:
        raise UnreadableMedia(
            f"{codec.channels} channels, 1 to {MAX_CHANNELS} are understood",
            value=codec.channels,
            limit=MAX_CHANNELS,
            next_step="mix the recording down to stereo",
        )


def _resampled(frames: Iterator[av.AudioFrame], rate_hz: int) -> Iterator[npt.NDArray[np.float32]]:
    # Channels are averaged here: FFmpeg's own mix of them is louder than each, and may be too loud for its format.
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)
    for frame in frames:
        yield from (piece.to_ndarray().mean(axis=0) for piece in resampler.resample(frame))
    yield from (piece.to_ndarray().mean(axis=0) for piece in resampler.resample(None))
