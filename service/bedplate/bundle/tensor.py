"""Inputs and outputs of a model: dimensions that are fixed or vary, and the cost of an item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle import dtypes
from bedplate.bundle.columns import Column, read_columns, width_of
from bedplate.bundle.manifest import FILE_NAME
from bedplate.bundle.strict_yaml import Section

# Filters of Pillow, by its names for them.
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_MAX_FRAMES = 64  # of one video
MAX_DIMENSION = 1 << 20  # of a tensor: half a minute of sound
# Of a picture, in pixels. Decoders keep several pointers a row: one of one column and millions of rows costs 50 bytes a
# pixel.
MAX_SIDE = 16384
_MAX_CHARACTERS = 1_000_000  # of one text: some 170,000 words
DROP, REFUSE = "drop", "refuse"  # in place of a ground
ALLOW = "allow"
_BACKGROUND = rf"#[0-9A-Fa-f]{{6}}|{DROP}|{REFUSE}"
_FIELD_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"


@dataclass(frozen=True)
class Range:
    """A dimension that varies from item to item; both ends are included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


@dataclass(frozen=True)
class Resize:
    """To which size a picture is brought before its middle is cut out: the shorter side's, or both sides'."""

    shorter_side: int = 0  # pixels; 0: height and width say it
    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class Picture:
    """How an image becomes a tensor: value = (pixel * scale - mean) / std, per channel."""

    mode: str  # L (grey) or RGB
    height: int  # pixels
    width: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # What a transparent picture is put on, as #rrggbb; DROP takes the colours under the transparency, REFUSE no picture
    # that is transparent anywhere. Black, as what surrounds the digits that examples/digits learns from.
    background: str = "#000000"
    resize: Resize | None = None  # None: to height and width, whatever its proportions
    interpolation: str = "bilinear"  # of INTERPOLATIONS

    @property
    def channels(self) -> int:
        return len(self.mode)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of these has before its middle is cut out."""
        if self.resize is None:
            return self.width, self.height
        if not self.resize.shorter_side:
            return self.resize.width, self.resize.height
        shorter, longer = sorted((width, height))
        # Rounded down, as torchvision and Hugging Face's processors do.
        sides = self.resize.shorter_side, self.resize.shorter_side * longer // shorter
        return sides if width <= height else sides[::-1]


@dataclass(frozen=True)
class Sound:
    """How a recording becomes tensors: one channel, resampled, cut into windows that may overlap."""

    rate_hz: int
    window: int  # samples
    hop: int  # samples from the beginning of one window to that of the next


@dataclass(frozen=True)
class Clip:
    """How a video becomes tensors: evenly spaced frames."""

    frames: int
    picture: Picture


@dataclass(frozen=True)
class Text:
    """How a text becomes ids. The tokenizer's file decides what is added to it."""

    tokenizer: str  # a file of the bundle, as Hugging Face's tokenizers write it
    max_characters: int  # of one text
    # Whether a text is cut that has more ids than the shape takes; if not, the tokenizer's file may still say so.
    truncation: bool = False


@dataclass(frozen=True)
class Tensor:
    """One input or output; `shape` is of one item, without the batch dimension."""

    name: str
    dtype: str  # a name of dtypes.HOLDERS
    shape: tuple[int | Range, ...]
    image: Picture | None = None
    sound: Sound | None = None
    clip: Clip | None = None
    text: Text | None = None
    columns: tuple[Column, ...] = ()  # of a table whose rows become it
    allows_non_finite: bool = False  # of an output: NaN and infinity are answers

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The little-endian numpy type that holds an element: uint16 for bfloat16."""
        return dtypes.HOLDERS[self.dtype]

    @property
    def takes_files(self) -> bool:
        return bool(self.image or self.sound or self.clip or self.text)

    @property
    def cuts_files(self) -> bool:
        """Whether a file becomes several items: windows of a recording, frames of a video."""
        return bool(self.sound or self.clip)

    @property
    def is_floating(self) -> bool:
        return self.dtype in dtypes.FLOATING

    def finite(self, held: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which elements of a tensor in `numpy_dtype` are neither infinite nor NaN."""
        return dtypes.finite(self.dtype, held)

    def answerable(self, held: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which elements of an output, in `numpy_dtype`, a client may get: all, or only finite ones."""
        return np.ones(held.shape, bool) if self.allows_non_finite else self.finite(held)

    @property
    def varies(self) -> bool:
        return self.smallest != self.largest

    @property
    def smallest(self) -> tuple[int, ...]:
        return tuple(size.low if isinstance(size, Range) else size for size in self.shape)

    @property
    def largest(self) -> tuple[int, ...]:
        return tuple(size.high if isinstance(size, Range) else size for size in self.shape)

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an item may have this shape."""
        return len(shape) == len(self.shape) and all(
            low <= size <= high for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )

    def item_bytes_of(self, shape: Sequence[int]) -> int:
        return math.prod(shape) * self.numpy_dtype.itemsize

    def cost_of(self, shape: Sequence[int]) -> int:
        """Return the product of the dimensions that vary, such as tokens or pixels; 1 if none does."""
        return math.prod(size for size, wanted in zip(shape, self.shape, strict=True) if isinstance(wanted, Range))

    @property
    def numbers_per_cost(self) -> int:
        """The product of the fixed dimensions: an item has this many numbers for each unit of its cost."""
        return math.prod(size for size in self.shape if not isinstance(size, Range))

    def batch_bytes_of(self, cost: int) -> int:
        return cost * self.numbers_per_cost * self.numpy_dtype.itemsize

    def most_items(self, shape: Sequence[int], max_items: int, max_cost: int) -> int:
        """Return how many items of one shape make a full batch."""
        return min(max_items, max_cost // self.cost_of(shape))

    @property
    def shown(self) -> str:
        """The shape with the items before it, for people: [items, 3, 32..64, 32..64]."""
        return f"[items, {', '.join(map(str, self.shape))}]"

    @property
    def document(self) -> list[int | list[int]]:
        """The shape as bundle.yaml writes it."""
        return [[size.low, size.high] if isinstance(size, Range) else size for size in self.shape]


def read_input(section: Section, media: str | None) -> Tensor:
    """Read one of `inputs`.

    Args:
        media: the key that says how files of a kind, or rows of a table, become this tensor; None where only numbers
            are accepted.
    """
    tensor = Tensor(
        name=section.text("name", _FIELD_NAME),
        dtype=section.choice("dtype", _DTYPES[media] if media else dtypes.HOLDERS),
        shape=_shape(section),
    )
    if media:
        tensor = _MEDIA[media](section, tensor)
    section.done()
    return tensor


def _with_image(section: Section, tensor: Tensor) -> Tensor:
    picture = _picture(section.section("image"), is_one=True)
    _require_pictures(section, tensor, picture, "image")
    return replace(tensor, image=picture)


def _with_sound(section: Section, tensor: Tensor) -> Tensor:
    keys = section.section("audio")
    rate_hz, hop = keys.integer("sample_rate", 4_000, 192_000), keys.integer("hop", 1, MAX_DIMENSION)
    keys.done()
    if len(tensor.shape) != 2 or tensor.varies or tensor.smallest[0] != 1:
        raise section.disagree("shape", tensor.document, "[1, samples of a window]")
    window = tensor.smallest[1]
    # Eight windows at a moment are plenty, and bound what a file becomes.
    if not window / 8 <= hop <= window:
        raise keys.disagree("hop", hop, f"from an eighth of the window, {window} samples, to all of it")
    return replace(tensor, sound=Sound(rate_hz, window, hop))


def _with_clip(section: Section, tensor: Tensor) -> Tensor:
    keys = section.section("video")
    frames = keys.integer("frames", 1, _MAX_FRAMES)
    picture = _picture(keys)
    _require_pictures(section, tensor, picture, "video")
    return replace(tensor, clip=Clip(frames, picture))


def _with_text(section: Section, tensor: Tensor) -> Tensor:
    keys = section.section("text")
    text = Text(
        tokenizer=keys.text("tokenizer", FILE_NAME.pattern),
        max_characters=keys.integer("max_characters", 1, _MAX_CHARACTERS),
        truncation=keys.has("truncation") and keys.flag("truncation"),
    )
    keys.done()
    if len(tensor.shape) != 1:
        raise section.disagree("shape", tensor.document, "[[fewest, most]] ids of a text, or [ids]")
    return replace(tensor, text=text)


def _with_columns(section: Section, tensor: Tensor) -> Tensor:
    columns = read_columns(section)
    width = width_of(columns)
    if tensor.shape != (width,):
        raise section.disagree("shape", tensor.document, f"[{width}], as many numbers as 'columns' become")
    return replace(tensor, columns=columns)


_MEDIA = {
    "image": _with_image,
    "audio": _with_sound,
    "video": _with_clip,
    "text": _with_text,
    "columns": _with_columns,
}
MEDIA = tuple(_MEDIA)
# Of ids, and of what was decoded and scaled.
_DTYPES = {media: ["int32", "int64"] if media == "text" else ["float32"] for media in MEDIA}


def _require_pictures(section: Section, tensor: Tensor, picture: Picture, key: str) -> None:
    if tensor.shape != (picture.channels, picture.height, picture.width):
        raise section.disagree("shape", tensor.document, f"[channels, height, width] as '{key}' has them")


def read_output(section: Section) -> Tensor:
    tensor = Tensor(
        name=section.text("name", _FIELD_NAME),
        dtype=section.choice("dtype", dtypes.HOLDERS),
        shape=section.integers("shape", 1, MAX_DIMENSION),
        allows_non_finite=section.has("non_finite") and section.choice("non_finite", [REFUSE, ALLOW]) == ALLOW,
    )
    if tensor.allows_non_finite and not tensor.is_floating:
        raise section.disagree("non_finite", ALLOW, f"{REFUSE}, or a floating dtype")
    section.done()
    return tensor


def _shape(section: Section) -> tuple[int | Range, ...]:
    value = section.take("shape")
    shape = [_dimension(size) for size in value] if isinstance(value, list) else []
    known = tuple(size for size in shape if size is not None)
    wanted = f"a list of whole numbers from 1 to {MAX_DIMENSION}, or of ranges [low, high] of them"
    if not known or len(known) != len(shape):
        raise section.refuse("shape", value, wanted)
    if any(isinstance(size, Range) and size.low >= size.high for size in known):
        raise section.disagree("shape", value, wanted)
    return known


def _dimension(value: object) -> int | Range | None:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_size, value)):
        return Range(*value)
    return value if _is_size(value) and isinstance(value, int) else None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_DIMENSION


def _picture(section: Section, is_one: bool = False) -> Picture:
    """
    Args:
        is_one: and no frame of a video, which is resized where it is decoded.
    """
    mode = section.choice("mode", ["L", "RGB"])
    picture = Picture(
        mode=mode,
        height=section.integer("height", 1, MAX_SIDE),
        width=section.integer("width", 1, MAX_SIDE),
        scale=section.number("scale", 1e-9, 1e9),
        mean=section.numbers("mean", len(mode), -1e9, 1e9),
        std=section.numbers("std", len(mode), 1e-9, 1e9),
    )
    if section.has("background"):
        picture = replace(picture, background=section.text("background", _BACKGROUND))
    if is_one and section.has("resize"):
        picture = replace(picture, resize=_resize(section.section("resize"), picture))
    if is_one and section.has("interpolation"):
        picture = replace(picture, interpolation=section.choice("interpolation", INTERPOLATIONS))
    section.done()
    return picture


def _resize(section: Section, picture: Picture) -> Resize:
    if section.has("shorter_side"):
        resize = Resize(shorter_side=section.integer("shorter_side", 1, MAX_SIDE))
    else:
        height, width = section.integer("height", 1, MAX_SIDE), section.integer("width", 1, MAX_SIDE)
        resize = Resize(height=height, width=width)
    section.done()
    sides = (resize.shorter_side,) * 2 if resize.shorter_side else (resize.height, resize.width)
    if sides[0] < picture.height or sides[1] < picture.width:
        key = "shorter_side" if resize.shorter_side else "height"
        raise section.disagree(key, sides[0], "no less than is cut out of the middle, 'height' and 'width'")
    return resize
