"""The same weights as a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bedplate.bundle.bundle import write_manifest
from PIL import Image

from benchmarks.peers.cases import INPUT, OUTPUT, Case

# Items of a batch.
MAX_ITEMS = {"tiny": 64, "cnn": 8, "transformer": 8}
_TINY = [
    {"linear": {"in_features": 64, "out_features": 128}},
    "relu",
    {"linear": {"in_features": 128, "out_features": 10}},
]


def write_bundle(folder: Path, case: Case) -> Path:
    name, shape = case.model.name, list(case.model.shape)
    directory = folder / name
    directory.mkdir(parents=True)
    tensor: dict[str, Any] = {"name": INPUT, "dtype": case.model.dtype, "shape": shape}
    if name == "cnn":
        # A canary of so many numbers would be too long as JSON. White becomes ones.
        label = case.label_of_ones
        canary = "canary.png"
        Image.new("RGB", (shape[2], shape[1]), "white").save(directory / canary)
        tensor["image"] = {
            "mode": "RGB",
            "height": shape[1],
            "width": shape[2],
            "scale": 1 / 255,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        }
    else:
        label = int(np.argmax(case.expected[0]))
        canary = "canary.json"
        (directory / canary).write_text(json.dumps({"inputs": [case.inputs[0].round(4).tolist()]}))
    document = {
        "format": 1,
        "name": name,
        "version": "1",
        "task": "image-classification" if name == "cnn" else "classification",
        "description": "Measured beside other servers",
        "inputs": [tensor],
        "outputs": [{"name": OUTPUT, "dtype": "float32", "shape": [case.model.outputs]}],
        "labels": [str(number) for number in range(case.model.outputs)],
        "activation": "none",
        "batch": {"max_items": MAX_ITEMS[name]},
        "weights": "weights.safetensors",
        # The measuring program puts the other networks in (benchmarks/engine/models.py).
        "network": _TINY if name == "tiny" else ["flatten"],
        "canary": {"file": canary, "label": str(label)},
    }
    shutil.copy(case.folder / f"{name}.safetensors", directory / "weights.safetensors")
    (directory / "bundle.yaml").write_text(yaml.safe_dump(document))
    write_manifest(directory)
    return directory
