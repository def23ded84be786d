"""Train a small network on scikit-learn's handwritten digits and write it out as a bundle.

    PYTHONPATH=service python examples/digits/train.py

writes build/bundles/digits/1 (what is deployed) and build/examples/digits/heldout (pictures that the training never
saw, the truth, and what the model says about them offline).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bedplate.bundle import Bundle, BundleError, Layer, read_bundle, write_manifest
from bedplate.engine import network
from bedplate.engine.model import Model
from bedplate.manifest import MANIFEST, verify_manifest
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 20240707
HELD_OUT_SHARE = 0.2  # never seen while training or choosing
VALIDATION_SHARE = 0.125  # of the rest: tells which epoch was best
EPOCHS = 60
BATCH_ITEMS = 64
LEARNING_RATE = 3e-3
THRESHOLD = 0.97  # below it the bundle is not worth deploying, and the script fails
THREADS = 1  # the same sums everywhere, and no waiting for a second core that others use
STAMP = ".train.sha256"

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


def main() -> int:
    args = parse_arguments()
    if not args.force and is_complete(args.output, args.heldout):
        print(f"{args.output} and {args.heldout} are complete; nothing to do (--force trains again)")
        return 0
    started = time.monotonic()
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    pixels, labels = load_pixels()
    training, validation, held_out = split(labels)
    print(
        f"{len(training)} pictures to learn from, {len(validation)} to choose by, {len(held_out)} held out", flush=True
    )

    module = train(pixels[training], labels[training], pixels[validation], labels[validation])
    _, accuracy = measure(module, to_tensor(pixels[held_out]), torch.from_numpy(labels[held_out]))
    print(f"held out: {accuracy:.2%} of {len(held_out)} pictures right")
    if accuracy < THRESHOLD:
        print(f"that is below {THRESHOLD:.0%}; nothing was written", file=sys.stderr)
        return 1
    canary = choose_canary(module, pixels[validation], labels[validation])
    write_bundle(args.output, module, canary, pixels[held_out], labels[held_out])
    write_held_out(args.heldout, args.output, pixels[held_out], labels[held_out])
    (args.heldout / STAMP).write_text(fingerprint(args.output))
    print(f"bundle: {args.output}\nheld-out pictures: {args.heldout}\ntook {time.monotonic() - started:.0f} s")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the digits example and write its bundle.")
    parser.add_argument("--output", type=Path, default=Path("build/bundles/digits/1"), help="the bundle's directory")
    parser.add_argument("--heldout", type=Path, default=Path("build/examples/digits/heldout"), help="test pictures")
    parser.add_argument("--force", action="store_true", help="train even if the output is complete")
    return parser.parse_args()


def is_complete(bundle: Path, held_out: Path) -> bool:
    """The stamp is written last, so it also says that the run before was not cut off."""
    try:
        verify_manifest(bundle)
        return (held_out / STAMP).read_text() == fingerprint(bundle)
    except (BundleError, OSError):
        return False


def fingerprint(bundle: Path) -> str:
    """Of this script and of what it made."""
    return hashlib.sha256(Path(__file__).read_bytes() + (bundle / MANIFEST).read_bytes()).hexdigest()


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


def train(
    pixels: np.ndarray,
    labels: np.ndarray,
    check_pixels: np.ndarray,
    check_labels: np.ndarray,
    epochs: int = EPOCHS,
) -> nn.Module:
    """The weights of the epoch with the lowest loss on the validation set."""
    layers = [Layer(entry, {}) if isinstance(entry, str) else Layer(*next(iter(entry.items()))) for entry in NETWORK]
    module = network.build(layers, "train.py")
    inputs, targets = to_tensor(pixels), torch.from_numpy(labels)
    check_inputs, check_targets = to_tensor(check_pixels), torch.from_numpy(check_labels)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    steps = epochs * -(-len(inputs) // BATCH_ITEMS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    best_loss, best_weights = float("inf"), module.state_dict()
    for epoch in range(1, epochs + 1):
        module.train()
        for batch in torch.randperm(len(inputs)).split(BATCH_ITEMS):
            loss = nn.functional.cross_entropy(module(vary(inputs[batch])), targets[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        check_loss, check_accuracy = measure(module, check_inputs, check_targets)
        if check_loss < best_loss:
            best_loss = check_loss
            best_weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        if epoch % 10 == 0:
            print(
                f"epoch {epoch} of {epochs}: validation loss {check_loss:.4f}, {check_accuracy:.2%} right", flush=True
            )
    module.load_state_dict(best_weights)
    return module.eval()


def vary(inputs: torch.Tensor) -> torch.Tensor:
    """Each picture a little turned, sheared, scaled and shifted, as other hands would have written it."""
    count = len(inputs)
    change = torch.eye(2).repeat(count, 1, 1) + 0.12 * torch.randn(count, 2, 2)
    shift = 0.08 * torch.randn(count, 2, 1)
    grid = nn.functional.affine_grid(torch.cat([change, shift], dim=2), list(inputs.shape), align_corners=False)
    # Shifted by one, because what comes in from outside is zero and the background is -1.
    return nn.functional.grid_sample(inputs + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def measure(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Loss and share of right answers."""
    logits = module.eval()(inputs)
    accuracy = (logits.argmax(1) == targets).float().mean()
    return float(nn.functional.cross_entropy(logits, targets)), float(accuracy)


def write_bundle(
    directory: Path, module: nn.Module, canary: tuple[np.ndarray, int], pixels: np.ndarray, labels: np.ndarray
) -> None:
    """Write the bundle beside its place, then move it there: a cut-off run leaves no half of one.

    Args:
        pixels, labels: the validation set that `bedplate bundle check` computes.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(weights, partial / "weights.safetensors")
    validation = {"inputs": to_tensor(pixels), "expected": torch.from_numpy(labels)}
    save_file(validation, partial / "validation.safetensors")
    for file in partial.glob("*.safetensors"):
        file.chmod(0o644)  # save_file makes it readable for its owner alone
    picture, label = canary
    Image.fromarray(picture).save(partial / "canary.png")
    document = BUNDLE | {"canary": {"file": "canary.png", "label": str(label)}}
    (partial / "bundle.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    write_manifest(partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


@torch.inference_mode()
def choose_canary(module: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """The validation picture whose right answer is surest: it must not flip with the last bits of a sum."""
    scores = module(to_tensor(pixels)).softmax(1)[torch.arange(len(labels)), torch.from_numpy(labels)]
    index = int(scores.argmax())
    return pixels[index], int(labels[index])


def write_held_out(directory: Path, bundle_directory: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Pictures, labels.csv (the truth) and predictions.csv (the written bundle, one picture at a time, offline)."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    names = [f"{index:04d}-{label}.png" for index, label in enumerate(labels)]
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(directory / name)
    write_csv(directory / "labels.csv", ["file", "label"], zip(names, labels, strict=True))
    bundle = read_bundle(bundle_directory)
    model = Model.load(bundle, bundle_directory, torch.device("cpu"))
    rows = [[name, *predict_file(model, bundle, directory / name)] for name in names]
    write_csv(directory / "predictions.csv", ["file", "label", *(f"score_{label}" for label in bundle.labels)], rows)


def predict_file(model: Model, bundle: Bundle, path: Path) -> list[str]:
    """The label and all scores for one picture file."""
    pixels = np.asarray(Image.open(path).convert("L"))
    scores = model.predict(to_tensor(pixels[None])).softmax(1)[0]
    return [bundle.labels[int(scores.argmax())], *(f"{score:.6f}" for score in scores.tolist())]


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
