"""From the bytes of a picture to the tensor a model takes. Strangers' bytes: bounded before they are decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from bedplate.errors import TooManyPixels, UnreadableMedia, UnsupportedMediaType
from bedplate.tensor import Picture

# Pillow knows dozens of formats; what is not listed here is never parsed.
FORMATS = ("PNG", "JPEG", "WEBP")
# More than 8 bits a channel: Pillow would clip instead of scale, and the answer would be silently wrong.
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})

# Decoders keep several pointers a row: a picture of one column and millions of rows costs 50 bytes a pixel.
MAX_SIDE = 16_384  # pixels
_ORIENTATION = 0x0112  # EXIF

# Our own limit comes first and is lower; Pillow's would only warn.
Image.MAX_IMAGE_PIXELS = None


def open_image(data: bytes | memoryview, max_pixels: int) -> Image.Image:
    """Read what it is and how large; no pixel is decoded.

    Raises:
        UnsupportedMediaType: the content is none of FORMATS, whatever name or type came with it.
        TooManyPixels: the header announces more than `max_pixels`, or a side over MAX_SIDE.
        UnreadableMedia: the header or a sum is broken, or it has more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Checks the sums of a PNG, which decoding passes over; it spoils the object, hence twice.
            Image.open(io.BytesIO(data), formats=FORMATS).verify()
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedMediaType(
            "the content is no picture of a known kind", limit=", ".join(FORMATS), next_step="send one of these formats"
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(error) from None
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


def to_tensor(image: Image.Image, spec: Picture) -> npt.NDArray[np.float32]:
    """Decode, turn upright as its EXIF says, resize and scale.

    Returns: (channels, height, width) float32.

    Raises:
        UnreadableMedia: truncated or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Only where it says so: transposing copies.
            if image.getexif().get(_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            picture = image.convert(spec.mode)
            if picture.size != (spec.width, spec.height):
                picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(error) from None
    return scaled(np.asarray(picture), spec)


def scaled(picture: npt.NDArray[np.uint8], spec: Picture) -> npt.NDArray[np.float32]:
    """(height, width) or (height, width, channels) to (channels, height, width), each channel scaled as `spec` says."""
    pixels = picture.astype(np.float32).reshape(spec.height, spec.width, -1)
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(((pixels * np.float32(spec.scale) - mean) / std).transpose(2, 0, 1))


def _unreadable(error: Exception) -> UnreadableMedia:
    """Only the kind of the fault is told: Pillow's messages may quote the file."""
    return UnreadableMedia(
        f"the picture cannot be decoded ({type(error).__name__})", next_step="check that the file is complete"
    )
