"""vision-boxes: where circles, squares and triangles are in a picture."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from bedplate.bundle.detection import Detection, boxes_of
from bedplate.decode.image import open_image
from torch import nn

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions
from examples.common.sets import chance_of
from examples.vision.pictures import HELD_OUT, SHAPES, TRAINING, Box, Looks, draw_scene, image, to_file, to_inputs

NAME = "vision-boxes/1"
THRESHOLD = 0.95  # of the pictures whose shapes are all found, and of the mean average precision
SEED = 20260519
LABELS = list(SHAPES)
SIDE = 96  # pixels
MAX_PIXELS = 1_000_000  # of a file; those drawn here have fewer
GRID = 12  # cells to a side
BEYOND = 0.25  # of a cell: so far outside of it a centre may be, and the cell still has it
EPOCHS = 20
BATCH = 16  # scenes
COUNTS = {"training": 3000, "validation": 400, "held out": 300}
IN_BUNDLE = 120  # scenes of the validation set, which goes to every host
# Scores from 0.3 to 0.6 get 397 or 398 of the 400 validation scenes right.
DETECTION = {"box_format": "cxcywh", "score_threshold": 0.45, "iou_threshold": 0.4, "max_boxes": 20}
KINDS = ("jpg", "png", "webp")
Scene = tuple[str, bytes, list[Box]]  # kind and content of a file, what is to be seen there


def _convolution(before: int, after: int, stride: int) -> list[Any]:
    size = {"in_channels": before, "out_channels": after, "kernel_size": 3, "stride": stride, "padding": 1}
    return [{"conv2d": size | {"bias": False}}, {"batch_norm2d": {"num_features": after}}, "relu"]


NETWORK: list[Any] = [
    *_convolution(3, 16, stride=2),
    *_convolution(16, 32, stride=2),
    *_convolution(32, 48, stride=2),
    # Each cell sees 63 pixels across: all of the largest shape.
    *_convolution(48, 48, stride=1),
    *_convolution(48, 48, stride=1),
    *_convolution(48, 48, stride=1),
    {"conv2d": {"in_channels": 48, "out_channels": 4 + len(LABELS), "kernel_size": 1}},
    "grid_boxes",
]


def make(build: Path) -> float:
    """Returns: the share of held-out pictures all of whose shapes it finds, and nothing else."""
    torch.manual_seed(SEED)
    module = training.build(NETWORK)
    train(module, drawn("training", TRAINING), EPOCHS)
    chosen_by, held_out = drawn("validation", HELD_OUT), drawn("held out", HELD_OUT)
    print(f"validation: {share_right(module, chosen_by):.2%} right", flush=True)
    files = {f"{number:03d}.{kind}": content for number, (kind, content, _) in enumerate(held_out)}
    folder = run.held_out_folder(build, NAME)
    write_held_out(folder, files, [" ".join(sorted(box.label for box in boxes)) for _, _, boxes in held_out])
    kind, content, boxes = surest(module, chosen_by)
    canary = {f"canary.{kind}": content, "expected.json": expected(content, boxes)}
    validation = to_tensors(held_out[:IN_BUNDLE]), truth_of(held_out[:IN_BUNDLE])
    write_bundle(run.bundle_folder(build, NAME), document(kind), module, validation, canary)
    return write_predictions(folder, run.bundle_folder(build, NAME))


def drawn(part: str, looks: Looks) -> list[Scene]:
    scenes = []
    for number in range(COUNTS[part]):
        picture, boxes = draw_scene(looks, chance_of(SEED, part, number))
        kind = KINDS[number % len(KINDS)]
        scenes.append((kind, to_file(picture, kind), boxes))
    return scenes


def to_tensors(scenes: list[Scene]) -> torch.Tensor:
    return to_inputs((open_image(content, MAX_PIXELS) for _, content, _ in scenes), SIDE)


def truth_of(scenes: list[Scene]) -> torch.Tensor:
    """As a validation set has it: item, label, left, top, right, bottom."""
    rows = [
        (number, LABELS.index(box.label), *box.corners) for number, (_, _, boxes) in enumerate(scenes) for box in boxes
    ]
    return torch.tensor(rows, dtype=torch.float32)


def train(module: nn.Sequential, scenes: list[Scene], epochs: int) -> None:
    """Of each cell: whether a shape's centre is in it or nearly so, and which one; of those that have one, its box."""
    inputs, (wanted, places) = to_tensors(scenes), cells_of(scenes)
    learn = training.learner(module, epochs * -(-len(inputs) // BATCH), learning_rate=4e-3, weight_decay=1e-3)
    module.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.split(torch.randperm(len(inputs)), BATCH):
            pictures, cells, boxes = inputs[batch], wanted[batch], places[batch]
            if torch.rand(()) < 0.5:
                pictures, cells, boxes = mirrored(pictures, cells, boxes)
            candidates = module(recoloured(pictures))
            scores = nn.functional.binary_cross_entropy_with_logits(candidates[..., 4:], cells, reduction="sum")
            has_one = cells.any(dim=2)
            apart = nn.functional.l1_loss(candidates[..., :4][has_one], boxes[has_one], reduction="sum")
            total += learn((scores + 20 * apart) / len(batch)) * len(batch)
        if epoch % 3 == 0:
            print(f"epoch {epoch} of {epochs}: loss {total / len(inputs):.3f}", flush=True)
    module.eval()


def recoloured(pictures: torch.Tensor) -> torch.Tensor:
    """In other colours, each of them bright or dark."""
    sign = torch.where(torch.rand(len(pictures), 3, 1, 1) < 0.5, -1.0, 1.0)
    return pictures[:, torch.randperm(3)] * sign


def mirrored(pictures: torch.Tensor, wanted: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Left for right, with what is to be said of their cells."""
    wanted, places = (cells.reshape(len(cells), GRID, GRID, -1).flip(2).flatten(1, 2) for cells in (wanted, places))
    return pictures.flip(3), wanted, torch.cat([1 - places[..., :1], places[..., 1:]], dim=2)


def cells_of(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """What grid_boxes should say of each cell: (scenes, cells, labels) and (scenes, cells, 4).

    A centre near a border is in the cells on both sides of it: one of them at least is sure, and of two boxes the
    better one stays.
    """
    wanted = torch.zeros(len(scenes), GRID * GRID, len(LABELS))
    places = torch.zeros(len(scenes), GRID * GRID, 4)
    for number, (_, _, boxes) in enumerate(scenes):
        for box in boxes:
            left, top, right, bottom = box.corners
            x, y = (left + right) / 2, (top + bottom) / 2
            for across, down in product((-BEYOND, 0, BEYOND), repeat=2):
                column, row = int(x * GRID + across), int(y * GRID + down)
                wanted[number, row * GRID + column, LABELS.index(box.label)] = 1
                places[number, row * GRID + column] = torch.tensor([x, y, right - left, bottom - top])
    return wanted, places


@torch.inference_mode()
def share_right(module: nn.Module, scenes: list[Scene]) -> float:
    """Of the scenes those whose shapes are all found, and nothing else."""
    right, spec = 0, Detection(**DETECTION)  # type: ignore[arg-type]
    for candidates, (_, _, boxes) in zip(module(to_tensors(scenes)), scenes, strict=True):
        found = boxes_of(candidates[:, :4].numpy(), candidates[:, 4:].sigmoid().numpy(), spec)
        right += sorted(LABELS[label] for label in found.labels) == sorted(box.label for box in boxes)
    return right / len(scenes)


@torch.inference_mode()
def surest(module: nn.Module, scenes: list[Scene]) -> Scene:
    """The one whose cells are least in doubt: a canary must not flip with the last bits of a sum."""
    wanted, _ = cells_of(scenes)
    scores = module(to_tensors(scenes))[..., 4:]
    doubts = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none").amax(dim=(1, 2))
    return scenes[int(doubts.argmin())]


def expected(content: bytes, boxes: list[Box]) -> bytes:
    """In pixels, as a client is told."""
    picture, told = open_image(content, MAX_PIXELS), []
    for box in boxes:
        left, top, right, bottom = box.corners
        place = {"x": left * picture.width, "y": top * picture.height}
        size = {"width": (right - left) * picture.width, "height": (bottom - top) * picture.height}
        told.append({"label": box.label, **{key: round(value, 2) for key, value in (place | size).items()}})
    return json.dumps({"boxes": told}, indent=1).encode()


def document(canary: str) -> dict[str, Any]:
    name, _, version = NAME.partition("/")
    return {
        "format": 1,
        "name": name,
        "version": version,
        "task": "object-detection",
        "description": "Where circles, squares and triangles are",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [3, SIDE, SIDE], "image": image(SIDE)}],
        "outputs": [{"name": "candidates", "dtype": "float32", "shape": [GRID * GRID, 4 + len(LABELS)]}],
        "labels": LABELS,
        "activation": "sigmoid",
        "detection": DETECTION,
        "batch": {"max_items": 64},
        "weights": "weights.safetensors",
        "network": NETWORK,
        "validation": {"file": "validation.safetensors", "metric": "map50", "threshold": THRESHOLD},
        "canary": {"file": f"canary.{canary}", "expect": "expected.json", "iou": 0.6},
    }
