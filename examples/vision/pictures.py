"""Drawn things and scenes, what the two models of pictures learn from. All is made here, nothing was photographed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bedplate.bundle.tensor import Picture
from bedplate.decode.image import to_tensor
from PIL import Image, ImageDraw

Polygon = np.ndarray  # (corners, 2), x and y from -1 to 1


@dataclass(frozen=True)
class Looks:
    """From which ranges a picture is drawn."""

    sides: tuple[int, int]  # pixels
    scale: tuple[float, float]  # of a thing, as a share of half the picture
    turn: float  # degrees to either side
    noise: float  # of a pixel, most standard deviation


TRAINING = Looks(sides=(48, 256), scale=(0.55, 0.9), turn=15, noise=14)
# Wider than what was learnt from, so that the figures are not about the same pictures again.
HELD_OUT = Looks(sides=(40, 400), scale=(0.52, 0.92), turn=17, noise=15)


def _oval(x: float, y: float, across: float, down: float, corners: int = 24) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _around(x: float, y: float, radius: float, size: float, count: int) -> list[Polygon]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [_oval(x + radius * np.cos(angle), y + radius * np.sin(angle), size, size) for angle in angles]


# Parts from back to front, each with the number of its colour.
THINGS: dict[str, list[tuple[int, Polygon]]] = {
    "boat": [
        (0, np.array([[-0.9, 0.3], [0.9, 0.3], [0.55, 0.8], [-0.55, 0.8]])),
        (1, _box(-0.06, -0.9, 0.06, 0.3)),
        (2, np.array([[0.1, -0.85], [0.8, 0.15], [0.1, 0.15]])),
    ],
    "car": [
        (0, _box(-0.95, -0.05, 0.95, 0.45)),
        (0, np.array([[-0.5, -0.05], [-0.3, -0.5], [0.3, -0.5], [0.55, -0.05]])),
        (1, _oval(-0.5, 0.5, 0.24, 0.24)),
        (1, _oval(0.5, 0.5, 0.24, 0.24)),
    ],
    "fish": [
        (0, _oval(-0.1, 0, 0.7, 0.4)),
        (0, np.array([[0.45, 0], [0.95, -0.45], [0.95, 0.45]])),
        (1, _oval(-0.5, -0.1, 0.09, 0.09)),
    ],
    "flower": [
        (1, _box(-0.06, 0, 0.06, 0.95)),
        *((0, petal) for petal in _around(0, -0.35, 0.35, 0.24, 6)),
        (2, _oval(0, -0.35, 0.2, 0.2)),
    ],
    "house": [
        (0, _box(-0.7, -0.1, 0.7, 0.85)),
        (1, np.array([[-0.9, -0.1], [0, -0.9], [0.9, -0.1]])),
        (2, _box(-0.18, 0.3, 0.18, 0.85)),
    ],
    "tree": [
        (1, _box(-0.13, 0.2, 0.13, 0.95)),
        (0, _oval(0, -0.3, 0.6, 0.6)),
    ],
}
SHAPES: dict[str, Polygon] = {
    "circle": _oval(0, 0, 1, 1, corners=48),
    "square": _box(-1, -1, 1, 1),
    "triangle": np.array([[-1.0, 1.0], [0.0, -1.0], [1.0, 1.0]]),
}


@dataclass(frozen=True)
class Box:
    label: str
    corners: tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture


def image(side: int) -> dict[str, Any]:
    """What bundle.yaml says of a picture."""
    return {"mode": "RGB", "height": side, "width": side, "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}


def to_inputs(pictures: Iterable[Image.Image], side: int) -> torch.Tensor:
    """(pictures, 3, side, side) float32, as the service decodes them."""
    spec = Picture("RGB", side, side, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    return torch.from_numpy(np.stack([to_tensor(picture, spec) for picture in pictures]))


def draw_thing(name: str, looks: Looks, chance: np.random.Generator) -> Image.Image:
    picture, tone = _ground(looks, chance)
    colours = [_colour(tone, chance) for _ in range(3)]
    half = np.array(picture.size) / 2
    scale = chance.uniform(*looks.scale)
    centre = half * (1 + chance.uniform(-1, 1, 2) * (1 - scale))
    turn = _turn(chance.uniform(-looks.turn, looks.turn))
    mirror = np.array([chance.choice([-1, 1]), 1])
    pen = ImageDraw.Draw(picture)
    for colour, corners in THINGS[name]:
        placed = centre + (corners * mirror @ turn) * scale * half.min()
        pen.polygon([tuple(corner) for corner in placed], fill=colours[colour])
    return _noisy(picture, looks, chance)


def draw_scene(looks: Looks, chance: np.random.Generator) -> tuple[Image.Image, list[Box]]:
    """One to four shapes that hardly touch, and where they are."""
    picture, tone = _ground(looks, chance)
    size = np.array(picture.size)
    pen = ImageDraw.Draw(picture)
    boxes: list[Box] = []
    for _ in range(chance.integers(1, 5)):
        half = chance.uniform(0.08, 0.2) * size.min() * np.ones(2)
        place = _free_place(half / size, [box.corners for box in boxes], chance)
        if place is None:
            continue
        name = str(chance.choice(list(SHAPES)))
        placed = place * size + SHAPES[name] * half
        pen.polygon([tuple(corner) for corner in placed], fill=_colour(tone, chance))
        left, top, right, bottom = (float(side) for side in (*(place - half / size), *(place + half / size)))
        boxes.append(Box(name, (left, top, right, bottom)))
    return _noisy(picture, looks, chance), boxes


def to_file(picture: Image.Image, kind: str) -> bytes:
    """The bytes of a jpg, png or webp."""
    out = io.BytesIO()
    picture.save(out, {"jpg": "JPEG"}.get(kind, kind.upper()), **({} if kind == "png" else {"quality": 85}))
    return out.getvalue()


def _free_place(half: np.ndarray, taken: list[tuple[float, ...]], chance: np.random.Generator) -> np.ndarray | None:
    """The centre of a box that stays in the picture and off the others; None if chance finds none."""
    for _ in range(20):
        centre = chance.uniform(half, 1 - half)
        low, high = centre - half - 0.02, centre + half + 0.02
        if all((low > box[2:]).any() or (high < box[:2]).any() for box in map(np.array, taken)):
            return np.asarray(centre)
    return None


def _ground(looks: Looks, chance: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """An empty picture with its colour, which changes a little from one corner to the other."""
    width, height = (int(side) for side in chance.integers(*looks.sides, 2))
    width, height = min(width, 2 * height), min(height, 2 * width)
    tone = chance.integers(0, 256, 3)
    slope = chance.uniform(-30, 30, 3) * (np.linspace(-0.5, 0.5, width)[None, :, None] + np.zeros((height, 1, 1)))
    return Image.fromarray((tone + slope).clip(0, 255).astype(np.uint8)), tone


def _colour(tone: np.ndarray, chance: np.random.Generator) -> tuple[int, int, int]:
    """One that is seen on `tone`."""
    while True:
        colour = chance.integers(0, 256, 3)
        if np.abs(colour - tone).sum() > 200:
            red, green, blue = (int(part) for part in colour)
            return red, green, blue


def _turn(degrees: float) -> np.ndarray:
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[cosine, sine], [-sine, cosine]])


def _noisy(picture: Image.Image, looks: Looks, chance: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, float)
    pixels = pixels + chance.normal(0, chance.uniform(0, looks.noise), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
