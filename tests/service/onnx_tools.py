"""A network as an .onnx file, and the bundle that it is of; small models that tests change by one thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bedplate.bundle.bundle import write_manifest
from onnx import TensorProto, helper, numpy_helper

from tests.service.engine_tools import write_bundle
from tests.service.lamp import description

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("com.microsoft", 1)]
Node = onnx.NodeProto


def stored(name: str, numbers: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, dtype), name)


WEIGHTS = [stored("weight", [[-0.25] * 4, [0.25] * 4]), stored("bias", [0, 0])]
# Computes what `lamp_logits` computes.
LAMP = [
    helper.make_node("Flatten", ["picture"], ["flat"]),
    helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
]


def graph_of(
    nodes: Sequence[Node],
    weights: Sequence[onnx.TensorProto] = (),
    shape: Sequence[Any] | None = ("items", 1, 2, 2),
    taken: int = TensorProto.FLOAT,
    given: int = TensorProto.FLOAT,
) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "lamp",
        [helper.make_tensor_value_info("picture", taken, shape)],
        [helper.make_tensor_value_info("logits", given, None)],
        list(weights),
    )


def lamp_model(more: Sequence[Node] = (), weights: Sequence[onnx.TensorProto] = (), **graph: Any) -> onnx.ModelProto:
    """The lamp, and more nodes behind it."""
    made = graph_of([*LAMP, *more], [*WEIGHTS, *weights], **graph)
    return helper.make_model(made, opset_imports=OPSETS, ir_version=10)


def write_onnx(directory: Path, model: onnx.ModelProto | bytes | None = None, **changes: Any) -> Path:
    """A bundle of the lamp whose network is `model`."""
    document = description(**{"onnx": "lamp.onnx", **changes})
    del document["network"], document["weights"]
    directory.mkdir(parents=True, exist_ok=True)
    model = lamp_model() if model is None else model
    (directory / "lamp.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    write_bundle(directory, {}, document)
    (directory / "weights.safetensors").unlink()
    write_manifest(directory)
    return directory
