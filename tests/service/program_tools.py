"""A network as a list of operations, and the bundle that it is of."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from bedplate.bundle.bundle import write_manifest

from tests.service.engine_tools import write_bundle
from tests.service.lamp import description

# Computes what `lamp_logits` computes, and adds zeros that it makes itself.
PROGRAM: dict[str, Any] = {
    "format": 1,
    "input": "picture",
    "output": "sum",
    "tensors": {
        "head.weight": {"dtype": "float32", "shape": [2, 4]},
        "head.bias": {"dtype": "float32", "shape": [2]},
    },
    "steps": [
        {"to": "items", "op": "aten.sym_size.int", "with": {"self": "picture", "dim": 0}},
        {"to": "flat", "op": "aten.reshape.default", "with": {"self": "picture", "shape": ["items", -1]}},
        {
            "to": "linear",
            "op": "aten.linear.default",
            "with": {"input": "flat", "weight": "head.weight", "bias": "head.bias"},
        },
        {
            "to": "zeros",
            "op": "aten.zeros.default",
            "with": {"size": ["items", 2], "dtype": "float32", "device": "input", "pin_memory": False},
        },
        {"to": "sum", "op": "aten.add.Tensor", "with": {"self": "linear", "other": "zeros"}},
    ],
}
WEIGHTS = {"head.weight": torch.tensor([[-0.25] * 4, [0.25] * 4]), "head.bias": torch.zeros(2)}


def changed(*path_and_value: Any) -> dict[str, Any]:
    """The program with another value at a place, such as ("steps", 0, "op", "aten.relu.default")."""
    document: Any = copy.deepcopy(PROGRAM)
    *path, last, value = path_and_value
    place = document
    for key in path:
        place = place[key]
    if value is ...:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return dict(document)


def with_step(op: str, **arguments: Any) -> dict[str, Any]:
    """The program with one more step, which nothing uses."""
    return changed("steps", 5, {"to": "more", "op": op, "with": arguments})


def write_program(
    directory: Path, program: Any = PROGRAM, weights: dict[str, torch.Tensor] | None = None, **changes: Any
) -> Path:
    """A bundle of the lamp whose network is a program; `program` may be text that is none."""
    document = description(**{"program": "network.json", **changes})
    del document["network"]
    directory.mkdir(parents=True, exist_ok=True)
    text = program if isinstance(program, (str, bytes)) else json.dumps(program)
    (directory / "network.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    write_bundle(directory, WEIGHTS if weights is None else weights, document)
    write_manifest(directory)
    return directory
