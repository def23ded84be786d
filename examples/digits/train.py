"""Train a small network on scikit-learn's handwritten digits and write it out as a bundle.

    python -m examples.digits.train

writes build/bundles/digits/1 (what is deployed) and build/examples/digits/heldout (pictures that the training never
saw, the truth, and what the model says about them offline).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions

SEED = 20240707
HELD_OUT_SHARE = 0.2  # never seen while training or choosing
VALIDATION_SHARE = 0.125  # of the rest: tells which epoch was best
EPOCHS = 60
LEARNING_RATE = 3e-3
THRESHOLD = 0.97  # below it the bundle is not worth deploying, and the script fails

NETWORK: list[Any] = [
    {"conv2d": {"in_channels": 1, "out_channels": 32, "kernel_size": 3, "padding": 1, "bias": False}},
    {"batch_norm2d": {"num_features": 32}},
    "relu",
    {"conv2d": {"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1, "bias": False}},
    {"batch_norm2d": {"num_features": 32}},
    "relu",
    {"max_pool2d": {"kernel_size": 2}},
    {"dropout": {"p": 0.2}},
    {"conv2d": {"in_channels": 32, "out_channels": 64, "kernel_size": 3, "padding": 1, "bias": False}},
    {"batch_norm2d": {"num_features": 64}},
    "relu",
    "flatten",
    {"dropout": {"p": 0.4}},
    {"linear": {"in_features": 1024, "out_features": 10}},
]
IMAGE: dict[str, Any] = {"mode": "L", "height": 8, "width": 8, "scale": 1 / 255, "mean": [0.5], "std": [0.5]}
BUNDLE: dict[str, Any] = {
    "format": 1,
    "name": "digits",
    "version": "1",
    "task": "image-classification",
    "description": "Handwritten digits, 8x8 pixels",
    "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 8, 8], "image": IMAGE}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": [10]}],
    "labels": [str(digit) for digit in range(10)],
    "activation": "softmax",
    "batch": {"max_items": 64},
    "weights": "weights.safetensors",
    "network": NETWORK,
    "validation": {"file": "validation.safetensors", "metric": "accuracy", "threshold": THRESHOLD},
}
NAME = "digits/1"


def main() -> int:
    return run.run(__file__, [NAME], make)


def make(build: Path) -> None:
    pixels, labels = load_pixels()
    learnt, chosen_by, held_out = split(labels)
    print(f"{len(learnt)} pictures to learn from, {len(chosen_by)} to choose by, {len(held_out)} held out", flush=True)
    module = train(pixels, labels, learnt, chosen_by)
    _, accuracy = training.measure(module, to_set(pixels, labels, held_out))
    print(f"held out: {accuracy:.2%} of {len(held_out)} pictures right")
    if accuracy < THRESHOLD:
        raise run.NotGoodEnough(f"that is below {THRESHOLD:.0%}")
    write(build, module, pixels, labels, chosen_by, held_out)


def load_pixels() -> tuple[np.ndarray, np.ndarray]:
    """All pictures as grey bytes, (1797, 8, 8), and their digits. The data has 17 shades, 0 to 16."""
    data = load_digits()
    return np.rint(data.images * 255 / 16).astype(np.uint8), data.target.astype(np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of three sets with the same share of each digit."""
    everything = np.arange(len(labels))
    rest, held_out = train_test_split(everything, test_size=HELD_OUT_SHARE, stratify=labels, random_state=SEED)
    training, validation = train_test_split(rest, test_size=VALIDATION_SHARE, stratify=labels[rest], random_state=SEED)
    return training, validation, held_out


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Grey bytes (items, 8, 8) to what the network takes, (items, 1, 8, 8) float32, as bundle.yaml says."""
    scale, mean, std = (np.float32(value) for value in (IMAGE["scale"], IMAGE["mean"][0], IMAGE["std"][0]))
    return torch.from_numpy((pixels.astype(np.float32) * scale - mean) / std)[:, None]


def to_set(pixels: np.ndarray, labels: np.ndarray, part: np.ndarray) -> training.Set:
    return to_tensor(pixels[part]), torch.from_numpy(labels[part])


def train(
    pixels: np.ndarray, labels: np.ndarray, learnt: np.ndarray, chosen_by: np.ndarray, epochs: int = EPOCHS
) -> nn.Module:
    torch.manual_seed(SEED)
    module = training.build(NETWORK)
    sets = [to_set(pixels, labels, part) for part in (learnt, chosen_by)]
    training.train(module, *sets, epochs=epochs, learning_rate=LEARNING_RATE, vary=vary)
    return module


def vary(inputs: torch.Tensor) -> torch.Tensor:
    """Each picture a little turned, sheared, scaled and shifted, as other hands would have written it."""
    count = len(inputs)
    change = torch.eye(2).repeat(count, 1, 1) + 0.12 * torch.randn(count, 2, 2)
    shift = 0.08 * torch.randn(count, 2, 1)
    grid = nn.functional.affine_grid(torch.cat([change, shift], dim=2), list(inputs.shape), align_corners=False)
    # Shifted by one, because what comes in from outside is zero and the background is -1.
    return nn.functional.grid_sample(inputs + 1, grid, align_corners=False) - 1


def write(
    build: Path, module: nn.Module, pixels: np.ndarray, labels: np.ndarray, chosen_by: np.ndarray, held_out: np.ndarray
) -> None:
    """The bundle, and the held-out pictures with the truth and its answers."""
    canary = chosen_by[training.surest(module, to_set(pixels, labels, chosen_by))]
    document = BUNDLE | {"canary": {"file": "canary.png", "label": str(labels[canary])}}
    bundle = run.bundle_folder(build, NAME)
    write_bundle(bundle, document, module, to_set(pixels, labels, held_out), {"canary.png": to_png(pixels[canary])})
    files = {f"{n:04d}-{labels[at]}.png": to_png(pixels[at]) for n, at in enumerate(held_out)}
    folder = run.held_out_folder(build, NAME)
    write_held_out(folder, files, (str(labels[at]) for at in held_out))
    write_predictions(folder, bundle)


def to_png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
