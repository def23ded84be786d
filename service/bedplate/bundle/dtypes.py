"""The datatypes of tensors, and the conversion of bytes and numbers to arrays of each.

numpy has no bfloat16. Its 16 bits are held as uint16, and converted to numbers only where somebody reads the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BFLOAT16 = "bfloat16"
_WHOLE = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATING = ("float16", BFLOAT16, "float32", "float64")

# What holds each in memory and on the wire: little-endian, without padding.
HOLDERS: Mapping[str, np.dtype[Any]] = {
    "bool": np.dtype(bool),
    **{name: np.dtype(name).newbyteorder("<") for name in _WHOLE},
    **{name: np.dtype("uint16" if name == BFLOAT16 else name).newbyteorder("<") for name in FLOATING},
}
_BFLOAT16_INFINITY = 0x7F80  # all bits of the exponent; with more of the others it is not a number
_BFLOAT16_NAN = 0x7FC0


def from_bytes(dtype: str, raw: bytes | memoryview) -> Array:
    """Return the elements of a raw tensor as a flat array. As in C, every byte of a bool except 0 is true.

    Raises:
        ValueError: the bytes are not a whole number of elements.
    """
    if dtype == "bool":
        # Kept as they came, other bytes would be values that are neither.
        return np.asarray(np.frombuffer(raw, np.uint8) != 0)
    return np.frombuffer(raw, HOLDERS[dtype])


def from_numbers(dtype: str, numbers: Array) -> Array:
    """Convert numbers to this datatype: they are rounded to the nearest, and infinite beyond the largest.

    Args:
        numbers: values that the datatype can take; for integers, integers within their range.
    """
    with np.errstate(over="ignore"):
        return _to_bfloat16(numbers.astype("<f4")) if dtype == BFLOAT16 else numbers.astype(HOLDERS[dtype])


def to_numbers(dtype: str, held: Array) -> Array:
    """Convert elements back to numbers: bfloat16 to float32, all others unchanged."""
    return (held.astype("<u4") << 16).view("<f4") if dtype == BFLOAT16 else held


def finite(dtype: str, held: Array) -> npt.NDArray[np.bool_]:
    """Return for each element whether it is finite. Integers always are."""
    if dtype == BFLOAT16:
        return np.asarray(held & _BFLOAT16_INFINITY != _BFLOAT16_INFINITY)
    return np.isfinite(held) if dtype in FLOATING else np.ones(held.shape, bool)


def _to_bfloat16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = numbers.view("<u4")
    # The upper half, rounded to the nearest; of two that are equally near, to the even one.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(numbers), _BFLOAT16_NAN, rounded).astype("<u2")
