"""Turns the files of one request into items for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bedplate.bundle.tensor import Clip, Picture, Sound, Tensor
from bedplate.decode.clip import frames_of
from bedplate.decode.image import open_image, to_tensor, upright
from bedplate.decode.settings import DecodeSettings
from bedplate.decode.sound import samples_of, windows_of
from bedplate.decode.text import ids_of
from bedplate.errors import Internal

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Decoded:
    # (items, *shape) each, those of one file after those of another, C-contiguous: texts have one each, of all else
    # there is one for all files.
    parts: list[Array]
    # Of each file: how many `items` it became; of a picture `width` and `height` as it is seen, in pixels; of a
    # recording `length_s`; of recordings and videos `at_s`, where in it each item begins.
    files: list[dict[str, Any]]


def decode(
    files: Sequence[bytes | memoryview], spec: Tensor, settings: DecodeSettings, tokenizer: Tokenizer | None = None
) -> Decoded:
    """Return the items of `files` for a model that takes `spec`.

    Args:
        tokenizer: that splits texts into ids.

    Raises:
        InvalidRequest: a file has the wrong kind, is broken, or exceeds a limit.
    """
    if spec.image:
        return _pictures(files, spec.image, settings)
    if spec.sound:
        return _recordings(files, spec.sound, settings)
    if spec.clip:
        return _joined([_video(file, spec.clip, settings) for file in files])
    if spec.text and tokenizer:
        parts = [ids_of(file, spec, spec.text, tokenizer) for file in files]
        return Decoded(parts, [{"items": 1} for _ in files])
    raise Internal("the model takes no files")


def _pictures(files: Sequence[bytes | memoryview], spec: Picture, settings: DecodeSettings) -> Decoded:
    pixels_left = settings.max_pixels  # of the whole request, or many pictures would do what one may not
    tensors, found = [], []
    for file in files:
        image = open_image(file, pixels_left)
        pixels_left -= image.width * image.height
        image = upright(image)
        tensors.append(to_tensor(image, spec))
        found.append({"items": 1, "width": image.width, "height": image.height})
    return Decoded([np.stack(tensors)], found)


def _recordings(files: Sequence[bytes | memoryview], spec: Sound, settings: DecodeSettings) -> Decoded:
    left_s = settings.max_media_s  # as with pixels
    parts = []
    for file in files:
        samples = samples_of(file, spec.rate_hz, left_s)
        length_s = len(samples) / spec.rate_hz
        left_s -= length_s
        windows = windows_of(samples, spec)
        at_s = [round(number * spec.hop / spec.rate_hz, 3) for number in range(len(windows))]
        parts.append((windows, {"items": len(windows), "at_s": at_s, "length_s": round(length_s, 3)}))
    return _joined(parts)


def _video(file: bytes | memoryview, spec: Clip, settings: DecodeSettings) -> tuple[Array, dict[str, Any]]:
    frames = frames_of(file, spec, settings.max_media_s, settings.max_pixels)
    return frames.tensors, {"items": len(frames.tensors), "at_s": frames.times_s}


def _joined(parts: list[tuple[Array, dict[str, Any]]]) -> Decoded:
    return Decoded([np.concatenate([items for items, _ in parts])], [found for _, found in parts])
