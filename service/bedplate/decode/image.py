"""Decodes an image to the tensor that a model takes. The bytes are untrusted, so they are bounded before decoding."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image, ImageOps

from bedplate.bundle.tensor import DROP, MAX_SIDE, REFUSE, Picture
from bedplate.decode import png
from bedplate.errors import ServiceError, TooManyPixels, UnreadableMedia, UnsupportedMediaType

# Pillow knows dozens of formats; what is not listed here is never parsed.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
# More than 8 bits a channel: Pillow would clip instead of scale, and the answer would be silently wrong.
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})

_ORIENTATION = 0x0112  # EXIF
_OPAQUE = 255

# This process is on one core.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Our own limit comes first and is lower; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None


def open_image(data: bytes | memoryview, max_pixels: int) -> Image.Image:
    """Read format and size without decoding a pixel.

    Raises:
        UnsupportedMediaType: the content is none of FORMATS, whatever name or type came with it.
        TooManyPixels: the header announces more than `max_pixels`, or a side over MAX_SIDE.
        UnreadableMedia: the header or a checksum is broken, or it has more than 8 bits per channel.
    """
    kind = _kind_of(bytes(data[:16]))
    if kind is None:
        raise UnsupportedMediaType(
            "the content is no picture of a known kind",
            limit=", ".join(FORMATS),
            next_step="send one of these formats",
        )
    content = png.bare(data) if kind == "PNG" else data
    with _reading():
        # Checks the sums of a PNG, which decoding passes over; it spoils the object, hence twice.
        Image.open(io.BytesIO(content), formats=[kind]).verify()
        image = Image.open(io.BytesIO(content), formats=[kind])
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise TooManyPixels(
            f"the picture has {pixels} pixels, {max_pixels} are allowed",
            value=pixels,
            limit=max_pixels,
            next_step="send a smaller picture, or ask the operator to raise bedplate_max_pixels",
        )
    if max(image.size) > MAX_SIDE:
        raise TooManyPixels(
            f"a side has {max(image.size)} pixels, {MAX_SIDE} are allowed",
            value=max(image.size),
            limit=MAX_SIDE,
            next_step="send a smaller picture",
        )
    if image.mode in _DEEP_MODES:
        raise UnreadableMedia(
            f"pixels of kind {image.mode} are not understood", value=image.mode, limit="8 bits a channel",
            next_step="convert the picture to 8 bits a channel",
        )  # fmt: skip
    return image


def _kind_of(head: bytes) -> str | None:
    """One of FORMATS; None of anything else."""
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return "WEBP" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else None


def upright(image: Image.Image) -> Image.Image:
    """Rotate the image as its EXIF says. Only an image that says so is decoded and copied.

    Raises:
        UnreadableMedia: it is truncated or damaged.
    """
    with _reading():
        return ImageOps.exif_transpose(image) if _is_turned(image) else image


def to_tensor(image: Image.Image, spec: Picture) -> npt.NDArray[np.float32]:
    """Decode, resize, draw transparent pixels over the background that `spec` names, and scale.

    Returns: (channels, height, width) float32.

    Raises:
        UnreadableMedia: it is truncated or damaged, or transparent where `spec` refuses that.
    """
    with _reading():
        if image.has_transparency_data and spec.background != DROP:
            picture = _on_ground(image.convert("RGBA"), spec)
        else:
            picture = _resized(image.convert(spec.mode), spec)
    return scaled(np.asarray(picture), spec)


def _is_turned(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except MemoryError:
        raise
    except Exception:  # whatever Pillow makes of an EXIF that is broken: browsers do without it
        return False


def _on_ground(image: Image.Image, spec: Picture) -> Image.Image:
    if spec.background == REFUSE:
        _require_opaque(image)
        return _resized(image.convert(spec.mode), spec)
    # Pillow weighs colours by their alpha where it resizes, so that those under the transparency stay out of it.
    picture = _resized(image, spec)
    return Image.alpha_composite(Image.new("RGBA", picture.size, spec.background), picture).convert(spec.mode)


def _require_opaque(image: Image.Image) -> None:
    least = int(image.getchannel("A").getextrema()[0])  # type: ignore[arg-type]
    if least < _OPAQUE:
        raise UnreadableMedia(
            "the picture is transparent in parts, which this model does not take",
            value=least, limit=_OPAQUE, next_step="put it on a ground of one colour, and save it without alpha",
        )  # fmt: skip


def _resized(image: Image.Image, spec: Picture) -> Image.Image:
    """Resized as `spec` says, and the middle cut out where it says that, too."""
    width, height = spec.resized(*image.size)
    if max(width, height) > MAX_SIDE:
        raise TooManyPixels(
            f"the picture, {image.width} x {image.height} pixels, is too narrow for its length",
            value=max(image.size) // min(image.size),
            limit=MAX_SIDE // min(spec.width, spec.height),
            next_step="send a part of it",
        )
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[spec.interpolation.upper()])
    left, top = (width - spec.width) // 2, (height - spec.height) // 2
    whole = (left, top, width, height) == (0, 0, spec.width, spec.height)
    return image if whole else image.crop((left, top, left + spec.width, top + spec.height))


def scaled(picture: npt.NDArray[np.uint8], spec: Picture) -> npt.NDArray[np.float32]:
    """Convert (height, width[, channels]) to (channels, height, width), with each channel scaled as `spec` says."""
    pixels = picture.astype(np.float32).reshape(spec.height, spec.width, -1)
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(((pixels * np.float32(spec.scale) - mean) / std).transpose(2, 0, 1))


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Whatever Pillow makes of a broken file, as an error of ours. Too little memory is no fault of the file's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, ServiceError):
        raise
    except Exception as error:
        # Only the kind of the fault is told: Pillow's messages may quote the file.
        raise UnreadableMedia(
            f"the picture cannot be decoded ({type(error).__name__})", next_step="check that the file is complete"
        ) from None
