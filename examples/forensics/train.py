"""Train two networks to tell whether a picture, or a clip, was manipulated.

    PYTHONPATH=service python -m examples.forensics.train

writes build/bundles/forensics-picture/1 and forensics-clip/1, and build/examples/forensics-{picture,clip}/heldout:
files of all kinds that no training saw, with the truth and what the bundle says of each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.bundle.tensor import Clip, Picture
from bedplate.decode.clip import frames_of
from bedplate.decode.image import open_image, to_tensor
from torch import nn

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions
from examples.common.sets import SETS
from examples.forensics import data
from examples.forensics.scenes import SIDE

SEED = 20260518
THRESHOLDS = {"picture": 0.95, "clip": 0.9}  # of the held-out files, and of the validation set in the bundle
LABELS = ["original", "manipulated"]
COUNTS = {  # of files
    "picture": {"training": 1800, "validation": 240, "held out": 300},
    "clip": {"training": 480, "validation": 60, "held out": 120},
}
EPOCHS = {"picture": 12, "clip": 10}
IN_BUNDLE = 120  # items of the validation set, which goes to every host
CLIPS = ("mp4", "avi", "mov")
IMAGE: dict[str, Any] = {"mode": "L", "height": SIDE, "width": SIDE, "scale": 1 / 255, "mean": [0.5], "std": [0.5]}
SPEC = Picture("L", SIDE, SIDE, 1 / 255, (0.5,), (0.5,))
# What of a pixel its neighbours do not tell: noise, mostly. Across, down, both, along a diagonal.
HIGH_PASSES = torch.tensor(
    [
        [[0, 0, 0], [-1, 2, -1], [0, 0, 0]],
        [[0, -1, 0], [0, 2, 0], [0, -1, 0]],
        [[1, -2, 1], [-2, 4, -2], [1, -2, 1]],
        [[-1, 0, 0], [0, 2, 0], [0, 0, -1]],
    ]
)
FIXED = 3  # layers that learn nothing: how strong the noise is, in each square of 4 x 4 pixels
NETWORK: list[Any] = [
    {"conv2d": {"in_channels": 1, "out_channels": 8, "kernel_size": 3, "bias": False}},
    "relu",
    {"avg_pool2d": {"kernel_size": 4}},
    {"batch_norm2d": {"num_features": 8}},
    {"conv2d": {"in_channels": 8, "out_channels": 24, "kernel_size": 3, "padding": 1, "bias": False}},
    {"batch_norm2d": {"num_features": 24}},
    "relu",
    {"max_pool2d": {"kernel_size": 2}},
    {"conv2d": {"in_channels": 24, "out_channels": 48, "kernel_size": 3, "padding": 1, "bias": False}},
    {"batch_norm2d": {"num_features": 48}},
    "relu",
    {"max_pool2d": {"kernel_size": 2}},
    {"conv2d": {"in_channels": 48, "out_channels": 64, "kernel_size": 3, "padding": 1, "bias": False}},
    {"batch_norm2d": {"num_features": 64}},
    "relu",
    "flatten",
    {"dropout": {"p": 0.4}},
    {"linear": {"in_features": 64 * 7 * 7, "out_features": 2}},
]
BUNDLES = ["forensics-picture/1", "forensics-clip/1"]
Files = list[tuple[str, bool, bytes]]  # kind, whether it is manipulated, content


def main() -> int:
    return run.run(__file__, BUNDLES, make)


def make(build: Path) -> None:
    for medium in COUNTS:
        learnt, chosen_by, held_out = (files_of(medium, part) for part in SETS)
        print(f"{len(learnt)} {medium}s to learn from, {len(held_out)} held out", flush=True)
        sets = [to_set(medium, files) for files in (learnt, chosen_by, held_out)]
        module = train(medium, sets[0], sets[1])
        bundle = run.bundle_folder(build, f"forensics-{medium}/1")
        write(bundle, medium, module, chosen_by, a_part(sets[2]))
        folder = run.held_out_folder(build, f"forensics-{medium}")
        write_held_out(folder, *named(held_out))
        right = write_predictions(folder, bundle)
        print(f"held out: {right:.2%} of {len(held_out)} {medium}s right", flush=True)
        if right < THRESHOLDS[medium]:
            raise run.NotGoodEnough(f"{right:.1%} of the held-out {medium}s right, wanted {THRESHOLDS[medium]:.0%}")


def files_of(medium: str, part: str) -> Files:
    if medium == "picture":
        return data.many(lambda number: data.picture(part, number), COUNTS[medium][part])
    return data.many(lambda number: data.clip(part, number, CLIPS), COUNTS[medium][part])


def named(files: Files) -> tuple[dict[str, bytes], list[str]]:
    """By NUMBER.KIND, a name that does not tell; and their labels."""
    contents = {f"{number:03d}.{kind}": content for number, (kind, _, content) in enumerate(files)}
    return contents, [LABELS[is_manipulated] for _, is_manipulated, _ in files]


def to_set(medium: str, files: Files) -> training.Set:
    """As the service decodes them: of a picture one item, of a clip its frames, each with the file's label."""
    items = [pixels_of(medium, content) for _, _, content in files]
    places = [[int(is_manipulated)] * len(each) for (_, is_manipulated, _), each in zip(files, items, strict=True)]
    return torch.from_numpy(np.concatenate(items)), torch.tensor(np.concatenate(places))


def pixels_of(medium: str, content: bytes) -> np.ndarray[Any, Any]:
    """(items, 1, SIDE, SIDE) float32."""
    if medium == "picture":
        return to_tensor(open_image(content, SIDE * SIDE), SPEC)[np.newaxis]
    return frames_of(content, Clip(data.FRAMES, SPEC), 60, SIDE * SIDE).tensors


def a_part(whole: training.Set) -> training.Set:
    """Evenly spread over files and frames."""
    places = torch.linspace(0, len(whole[0]) - 1, IN_BUNDLE).long()
    return whole[0][places], whole[1][places]


def train(medium: str, learnt: training.Set, chosen_by: training.Set) -> nn.Module:
    torch.manual_seed(SEED)
    module = training.build(NETWORK)
    high_passes = HIGH_PASSES[:, None].float()
    # Each and its opposite: after the ReLU their sum is the absolute value.
    module[0].weight.data = torch.cat([high_passes, -high_passes])
    fixed, rest = module[:FIXED], module[FIXED:]
    with torch.inference_mode():
        maps = [torch.cat([fixed(part) for part in torch.split(inputs, 256)]) for inputs, _ in (learnt, chosen_by)]
    sets = [(inputs.clone(), places) for inputs, (_, places) in zip(maps, (learnt, chosen_by), strict=True)]
    training.train(rest, *sets, epochs=EPOCHS[medium], learning_rate=3e-3, vary=vary)
    return module


def vary(maps: torch.Tensor) -> torch.Tensor:
    """Some mirrored or turned upside down, and each by a stronger or weaker noise."""
    flips = [dims for dims, toss in zip(((2,), (3,)), torch.rand(2), strict=True) if toss < 0.5]
    for dims in flips:
        maps = maps.flip(dims)
    return maps * torch.exp(0.2 * torch.randn(len(maps), 1, 1, 1))


def document(medium: str, canary: dict[str, str]) -> dict[str, Any]:
    media = {"image": IMAGE} if medium == "picture" else {"video": {"frames": data.FRAMES} | IMAGE}
    return {
        "format": 1,
        "name": f"forensics-{medium}",
        "version": "1",
        "task": "image-classification" if medium == "picture" else "video-classification",
        "description": f"Whether a {medium} was manipulated",
        "inputs": [{"name": "picture", "dtype": "float32", "shape": [1, SIDE, SIDE]} | media],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [2]}],
        "labels": LABELS,
        "activation": "softmax",
        "batch": {"max_items": 64},
        "weights": "weights.safetensors",
        "network": NETWORK,
        "validation": {"file": "validation.safetensors", "metric": "accuracy", "threshold": THRESHOLDS[medium]},
        "canary": canary,
    }


def write(bundle: Path, medium: str, module: nn.Module, chosen_by: Files, validation: training.Set) -> None:
    kind, is_manipulated, content = surest(medium, module, chosen_by)
    canary = {"file": f"canary.{kind}", "label": LABELS[is_manipulated]}
    write_bundle(bundle, document(medium, canary), module, validation, {canary["file"]: content})


@torch.inference_mode()
def surest(medium: str, module: nn.Module, files: Sequence[tuple[str, bool, bytes]]) -> tuple[str, bool, bytes]:
    def score(file: tuple[str, bool, bytes]) -> float:
        return float(module.eval()(torch.from_numpy(pixels_of(medium, file[2]))).softmax(1)[:, int(file[1])].mean())

    return max(files, key=score)


if __name__ == "__main__":
    sys.exit(main())
