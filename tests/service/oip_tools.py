"""Models of any datatype, and requests as a client of the Open Inference Protocol writes them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import ml_dtypes
import numpy as np
from bedplate.bundle.bundle import Bundle
from bedplate.web.items.limits import Limits
from bedplate.wire import Frame, Type

from tests.service.lamp import description, varying

LIMITS = Limits(body_bytes=1 << 20, items=64)

# As bundles name them, as the protocol does, and as clients hold them.
DATATYPES = {
    "bool": ("BOOL", np.dtype("?")),
    "uint8": ("UINT8", np.dtype("u1")),
    "uint16": ("UINT16", np.dtype("<u2")),
    "uint32": ("UINT32", np.dtype("<u4")),
    "uint64": ("UINT64", np.dtype("<u8")),
    "int8": ("INT8", np.dtype("i1")),
    "int16": ("INT16", np.dtype("<i2")),
    "int32": ("INT32", np.dtype("<i4")),
    "int64": ("INT64", np.dtype("<i8")),
    "float16": ("FP16", np.dtype("<f2")),
    "float32": ("FP32", np.dtype("<f4")),
    "float64": ("FP64", np.dtype("<f8")),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def model_of(dtype: str = "float32", varied: bool = False) -> Bundle:
    """Takes [items, 1, 2, 2], or [items, 1, 2..8, 2..6], and gives [items, 2]; both of `dtype`."""
    bundle = Bundle.from_description(varying() if varied else description())
    return dataclasses.replace(
        bundle,
        input=dataclasses.replace(bundle.input, dtype=dtype, image=bundle.input.image if dtype == "float32" else None),
        output=dataclasses.replace(bundle.output, dtype=dtype),
    )


def request(
    items: Any, datatype: str, binary: bool = False, nested: bool = False, name: str = "image", **fields: Any
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where that is not all of it."""
    tensor: dict[str, Any] = {"name": name, "shape": list(items.shape), "datatype": datatype}
    if binary:
        tensor["parameters"] = {"binary_data_size": items.nbytes}
    else:
        tensor["data"] = items.tolist() if nested else items.ravel().tolist()
    if datatype == "BF16":
        fields.setdefault("parameters", {"binary_data_output": True})  # its answers have no form as JSON
    text = json.dumps({"inputs": [tensor], **fields}).encode()
    return (text + items.tobytes(), len(text)) if binary else (text, None)


def answer(outputs: Any, dtype: str = "float32") -> Frame:
    """What an engine sends."""
    meta = {"outputs": [{"name": "logits", "dtype": dtype, "shape": list(outputs.shape)}]}
    return Frame(Type.RESULT, 1, meta, outputs.tobytes())
