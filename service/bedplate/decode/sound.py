"""Decodes a recording to windows of samples. The bytes are untrusted: they are bounded before and during decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import av.container
import numpy as np
import numpy.typing as npt

from bedplate.bundle.tensor import Sound
from bedplate.decode.container import SOUNDS, codec_of, opened, require_length, unsupported
from bedplate.decode.riff import require_channels
from bedplate.errors import UnreadableMedia

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000


def samples_of(data: bytes | memoryview, rate_hz: int, max_s: float) -> npt.NDArray[np.float32]:
    """Return the recording as one channel of `rate_hz`: (samples,), clipped to -1 to 1.

    Raises:
        UnsupportedMediaType, UnreadableMedia: it is none of SOUNDS, broken, or has samples that are not numbers.
        MediaTooLong: it is longer than `max_s`, by its header or once it is decoded.
    """
    with opened(data, SOUNDS) as container:
        if not container.streams.audio:
            raise unsupported("the file holds no sound", SOUNDS)
        stream = container.streams.audio[0]
        codec = codec_of(stream)
        _require_format(codec.sample_rate or 0, codec.channels)
        # Of an mp3 it is a guess from the first frames.
        if stream.duration and stream.time_base and container.format.name != "mp3":
            require_length(float(stream.duration * stream.time_base), max_s)
        pieces, length = [], 0
        for piece in _resampled(_frames(container, stream), rate_hz):
            pieces.append(piece)
            length += len(piece)
            require_length(length / rate_hz, max_s)
    if not length:
        raise UnreadableMedia("the file holds no sound", value=0, next_step="send a recording")
    # A resampler swings over where a sound goes from one end to the other.
    return np.concatenate(pieces).clip(-1, 1)


def windows_of(samples: npt.NDArray[np.float32], spec: Sound) -> npt.NDArray[np.float32]:
    """Return (windows, 1, spec.window): a window every `spec.hop` samples, the last padded with silence."""
    count = 1 + max(0, -(-(len(samples) - spec.window) // spec.hop))
    padded = np.zeros((count - 1) * spec.hop + spec.window, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    views = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop]
    return np.ascontiguousarray(views)[:, np.newaxis]


def _require_format(rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise UnreadableMedia(
            f"{rate_hz} samples a second, {MIN_RATE_HZ} to {MAX_RATE_HZ} are understood",
            value=rate_hz,
            limit=MAX_RATE_HZ,
            next_step="convert the recording to a common rate, such as 44100",
        )
    require_channels(channels)


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Of an mp3 without the pieces that are none, as where one was put behind another; else a broken piece ends it."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if container.format.name != "mp3":
                raise
            continue
        yield from frames


def _resampled(frames: Iterator[av.AudioFrame], rate_hz: int) -> Iterator[npt.NDArray[np.float32]]:
    """Pieces of one channel. Rate and channels may change in the middle of a file."""
    resampler, found_hz = None, rate_hz
    for frame in frames:
        _require_format(frame.sample_rate, frame.layout.nb_channels)
        if frame.sample_rate != found_hz:
            yield from _through(resampler, None)
            found_hz = frame.sample_rate
            resampler = av.AudioResampler("fltp", "mono", rate_hz) if found_hz != rate_hz else None
        levels = _levels(frame)
        if resampler is None:
            yield levels
            continue
        piece = av.AudioFrame.from_ndarray(levels[np.newaxis], format="fltp", layout="mono")
        piece.sample_rate = found_hz
        yield from _through(resampler, piece)
    yield from _through(resampler, None)


def _through(resampler: av.AudioResampler | None, piece: av.AudioFrame | None) -> Iterator[npt.NDArray[np.float32]]:
    """What comes out for `piece`; for None what is left in there."""
    if resampler:
        yield from (np.asarray(out.to_ndarray()[0], np.float32) for out in resampler.resample(piece))


def _levels(frame: av.AudioFrame) -> npt.NDArray[np.float32]:
    """The mean of its channels, (samples,) from -1 to 1: FFmpeg's own mix is louder than each."""
    values: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UnreadableMedia("the file holds samples that are no numbers", next_step="export it again")
        levels = values.clip(-1, 1)
    elif values.dtype == np.uint8:
        levels = (values - np.float32(128)) / np.float32(128)
    else:
        levels = values * np.float32(-1 / np.iinfo(values.dtype).min)
    return np.asarray(levels.mean(axis=0), np.float32)
