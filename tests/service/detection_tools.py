"""A model that finds lamps: each quarter of a picture that is bright is one, dark quarters are none."""

from __future__ import annotations

import base64
import json
from typing import Any

import torch

from tests.service.lamp import description, png_of

LABELS = ["lamp", "moon"]
NETWORK = [
    {"conv2d": {"in_channels": 1, "out_channels": 4 + len(LABELS), "kernel_size": 1}},
    "grid_boxes",
]
# Boxes of half the picture's sides in the middle of their quarter; the brighter, the surer a lamp, and never a moon.
WEIGHTS = {
    "0.weight": torch.tensor([0.0, 0, 0, 0, 4, 0]).reshape(6, 1, 1, 1),
    "0.bias": torch.tensor([0.0, 0, 0, 0, 0, -9]),
}
CANARY = {"boxes": [{"label": "lamp", "x": 1, "y": 0, "width": 1, "height": 1}]}


def lamps(**changes: Any) -> dict[str, Any]:
    """The description of it."""
    document = {
        "name": "lamps",
        "task": "object-detection",
        "description": "Where are lamps",
        "outputs": [{"name": "candidates", "dtype": "float32", "shape": [4, 4 + len(LABELS)]}],
        "labels": LABELS,
        "activation": "sigmoid",
        "detection": {"box_format": "cxcywh", "score_threshold": 0.6, "iou_threshold": 0.5, "max_boxes": 3},
        "network": NETWORK,
        "canary": {"file": "canary.png", "expect": "expected.json", "iou": 0.9},
        "canary_bytes": base64.b64encode(png_of([[0, 255], [0, 0]])).decode(),
        "expect_bytes": base64.b64encode(json.dumps(CANARY).encode()).decode(),
    }
    return description(**{**document, **changes})
