"""vision-classes: which of six things a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions
from examples.common.sets import chance_of
from examples.vision.pictures import HELD_OUT, THINGS, TRAINING, Looks, draw_thing, image, to_file, to_inputs

NAME = "vision-classes/1"
THRESHOLD = 0.95
SEED = 20260518
LABELS = list(THINGS)
SIDE = 48  # pixels
EPOCHS = 16
COUNTS = {"training": 3600, "validation": 120, "held out": 300}
IN_BUNDLE = 120  # pictures of the validation set, which goes to every host
KINDS = ("jpg", "png", "webp")


def _halving(before: int, after: int) -> list[Any]:
    size = {"in_channels": before, "out_channels": after, "kernel_size": 3, "padding": 1, "bias": False}
    return [{"conv2d": size}, {"batch_norm2d": {"num_features": after}}, "relu", {"max_pool2d": {"kernel_size": 2}}]


NETWORK: list[Any] = [
    *_halving(3, 16),
    *_halving(16, 32),
    *_halving(32, 64),
    *_halving(64, 64),  # to 3 x 3
    "flatten",
    {"dropout": {"p": 0.3}},
    {"linear": {"in_features": 64 * 9, "out_features": len(LABELS)}},
]


def make(build: Path) -> float:
    """Returns: the share of held-out pictures that it gets right."""
    torch.manual_seed(SEED)
    learnt, chosen_by = drawn("training", TRAINING), drawn("validation", TRAINING)
    module = training.build(NETWORK)
    sets = [to_set(pictures) for pictures in (learnt, chosen_by)]
    training.train(module, *sets, epochs=EPOCHS, learning_rate=4e-3, batch_items=32, vary=vary)
    files, pictures = {}, drawn("held out", HELD_OUT)
    for number, (label, picture) in enumerate(pictures):
        kind = KINDS[number // len(LABELS) % len(KINDS)]
        files[f"{number:03d}-{label}.{kind}"] = to_file(picture, kind)
    folder = run.held_out_folder(build, NAME)
    write_held_out(folder, files, [label for label, _ in pictures])
    canary, picture = chosen_by[training.surest(module, sets[1])]
    write_bundle(
        run.bundle_folder(build, NAME),
        document(canary),
        module,
        to_set(pictures[:IN_BUNDLE]),
        {"canary.png": to_file(picture, "png")},
    )
    return write_predictions(folder, run.bundle_folder(build, NAME))


def drawn(part: str, looks: Looks) -> list[tuple[str, Image.Image]]:
    """Each label as often as the others, with its picture."""
    found = []
    for number in range(COUNTS[part]):
        label = LABELS[number % len(LABELS)]
        found.append((label, draw_thing(label, looks, chance_of(SEED, part, number))))
    return found


def to_set(pictures: list[tuple[str, Image.Image]]) -> training.Set:
    inputs = to_inputs((picture for _, picture in pictures), SIDE)
    return inputs, torch.tensor([LABELS.index(label) for label, _ in pictures])


def vary(inputs: torch.Tensor) -> torch.Tensor:
    """Some of them mirrored, all of them brighter or darker, in other colours."""
    mirrored = torch.where(torch.rand(len(inputs), 1, 1, 1) < 0.5, inputs.flip(3), inputs)
    order = torch.randperm(3)
    return mirrored[:, order] * (1 + 0.2 * torch.randn(len(inputs), 1, 1, 1)) + 0.2 * torch.randn(len(inputs), 3, 1, 1)


def document(canary: str) -> dict[str, Any]:
    name, _, version = NAME.partition("/")
    return {
        "format": 1,
        "name": name,
        "version": version,
        "task": "image-classification",
        "description": "What a drawn picture shows",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [3, SIDE, SIDE], "image": image(SIDE)}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [len(LABELS)]}],
        "labels": LABELS,
        "activation": "softmax",
        "batch": {"max_items": 64},
        "weights": "weights.safetensors",
        "network": NETWORK,
        "validation": {"file": "validation.safetensors", "metric": "accuracy", "threshold": THRESHOLD},
        "canary": {"file": "canary.png", "label": canary},
    }
