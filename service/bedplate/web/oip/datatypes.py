"""The protocol's names of datatypes, and what they are here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bedplate.bundle.dtypes import HOLDERS
from bedplate.bundle.tensor import Tensor


@dataclass(frozen=True)
class Datatype:
    name: str  # as the protocol has it
    numpy: np.dtype[Any]  # little-endian; bfloat16 as its 16 bits
    # Of `struct`, which refuses whatever is no number of this kind or does not fit, in one go. None: not as JSON.
    code: str | None


BYTES = "BYTES"

_BY_DTYPE = {
    dtype: Datatype(name, HOLDERS[dtype], code)
    for dtype, name, code in (
        ("bool", "BOOL", "?"),
        ("uint8", "UINT8", "B"),
        ("uint16", "UINT16", "H"),
        ("uint32", "UINT32", "I"),
        ("uint64", "UINT64", "Q"),
        ("int8", "INT8", "b"),
        ("int16", "INT16", "h"),
        ("int32", "INT32", "i"),
        ("int64", "INT64", "q"),
        ("float16", "FP16", "e"),
        ("float32", "FP32", "f"),
        ("float64", "FP64", "d"),
        ("bfloat16", "BF16", None),
    )
}


def datatype_of(spec: Tensor) -> Datatype:
    return _BY_DTYPE[spec.dtype]
