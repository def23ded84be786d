"""The protocol's names of datatypes, and what they are here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bedplate.tensor import Tensor


@dataclass(frozen=True)
class Datatype:
    name: str  # as the protocol has it
    numpy: np.dtype[Any]  # little-endian; bfloat16 as its 16 bits
    # Of `struct`, which refuses whatever is no number of this kind or does not fit, in one go. None: not as JSON.
    code: str | None


BYTES = "BYTES"

_BY_DTYPE = {
    dtype: Datatype(name, np.dtype(numpy), code)
    for dtype, name, numpy, code in (
        ("bool", "BOOL", "?", "?"),
        ("uint8", "UINT8", "u1", "B"),
        ("uint16", "UINT16", "<u2", "H"),
        ("uint32", "UINT32", "<u4", "I"),
        ("uint64", "UINT64", "<u8", "Q"),
        ("int8", "INT8", "i1", "b"),
        ("int16", "INT16", "<i2", "h"),
        ("int32", "INT32", "<i4", "i"),
        ("int64", "INT64", "<i8", "q"),
        ("float16", "FP16", "<f2", "e"),
        ("float32", "FP32", "<f4", "f"),
        ("float64", "FP64", "<f8", "d"),
        ("bfloat16", "BF16", "<u2", None),
    )
}


def datatype_of(spec: Tensor) -> Datatype:
    return _BY_DTYPE[spec.dtype]
