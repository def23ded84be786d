"""Bundles that the measurements serve, and what a right answer of them is.

A lamp's numbers say everything about it: item of brightness b, version v → logits (10v - b, 10v + b). Nothing is
rounded away, because brightness comes in 64ths.
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from bedplate.bundle.bundle import write_manifest
from safetensors.numpy import save_file

from tests.service.lamp import description

Array = npt.NDArray[np.float32]
LABELS = ["dark", "bright"]
LAMP_NETWORK = ["flatten", {"linear": {"in_features": 4, "out_features": 2}}]
VERSION_STEP = 10.0
# An item with this in it fails the whole batch of the sleeping lamp.
POISON = 1000.0
BODIES = 64


def brightness_of(body: int) -> float:
    """Different for each of BODIES bodies, and never 0, which would be neither dark nor bright."""
    return (2 * (body % BODIES) + 1 - BODIES) / 64


def lamp_item(brightness: float) -> Array:
    return np.full((1, 1, 2, 2), brightness, np.float32)


def lamp_logits(items: Array, version: int) -> Array:
    """items (n, 1, 2, 2) float32 → logits (n, 2)."""
    brightness = items.reshape(len(items), -1).mean(axis=1)
    return (VERSION_STEP * version + np.stack([-brightness, brightness], axis=1)).astype(np.float32)


def read_lamp(scores: dict[str, float]) -> tuple[float, float]:
    """Brightness and version that an answer's numbers stand for."""
    return (scores["bright"] - scores["dark"]) / 2, (scores["bright"] + scores["dark"]) / 2 / VERSION_STEP


def write_lamp(folder: Path, version: int = 1, name: str = "lamp", max_items: int = 8) -> Path:
    """A bundle with real weights that compute what `lamp_logits` computes."""
    document = description(
        name=name,
        version=str(version),
        activation="none",
        network=LAMP_NETWORK,
        batch={"max_items": max_items},
    )
    quarter = np.full((1, 4), 0.25, np.float32)
    bias = np.full(2, VERSION_STEP * version, np.float32)
    return _write(folder / f"{name}-{version}", document, {"1.weight": np.vstack([-quarter, quarter]), "1.bias": bias})


def write_network(folder: Path, name: str, shape: list[int], labels: int, max_items: int) -> Path:
    """A bundle whose network the measuring program puts in (models.py): no weights of its own."""
    channels, height, width = shape
    image = {
        "mode": "L" if channels == 1 else "RGB",
        "height": height,
        "width": width,
        "scale": 1 / 255,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
    }
    document = description(
        name=name,
        inputs=[{"name": "image", "dtype": "float32", "shape": shape, "image": image}],
        outputs=[{"name": "logits", "dtype": "float32", "shape": [labels]}],
        labels=[str(number) for number in range(labels)],
        canary={"file": "canary.png", "label": "0"},
        batch={"max_items": max_items},
    )
    return _write(folder / name, document, {"unused": np.zeros(1, np.float32)})


def write_layers(folder: Path, name: str, features: list[int], max_items: int) -> Path:
    """Linear layers of these sizes with relu between them; real weights, whose answers mean nothing."""
    random = np.random.default_rng(0)
    network: list[Any] = []
    weights: dict[str, Array] = {}
    for size, following in itertools.pairwise(features):
        weights[f"{len(network)}.weight"] = random.normal(0, size**-0.5, (following, size)).astype(np.float32)
        weights[f"{len(network)}.bias"] = np.zeros(following, np.float32)
        network += [{"linear": {"in_features": size, "out_features": following}}, "relu"]
    document = description(
        name=name,
        task="classification",
        inputs=[{"name": "image", "dtype": "float32", "shape": features[:1]}],
        outputs=[{"name": "logits", "dtype": "float32", "shape": features[-1:]}],
        labels=[str(number) for number in range(features[-1])],
        network=network[:-1],
        canary={"file": "canary.json", "label": "0"},
        canary_bytes=base64.b64encode(json.dumps({"inputs": [[0] * features[0]]}).encode()).decode(),
        batch={"max_items": max_items},
    )
    return _write(folder / name, document, weights)


def _write(directory: Path, document: dict[str, Any], weights: dict[str, Array]) -> Path:
    directory.mkdir(parents=True)
    (directory / document["canary"]["file"]).write_bytes(base64.b64decode(document.pop("canary_bytes")))
    del document["digest"]
    (directory / "bundle.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(document))))
    save_file(weights, directory / "weights.safetensors")
    write_manifest(directory)
    return directory
