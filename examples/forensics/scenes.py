"""Pictures that a camera might have taken, and what people do to them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

SIDE = 128  # pixels
MARGIN = 16  # around a scene, for a camera that moves
Scene = npt.NDArray[np.floating]  # (height, width, 3), 0 to 255
Chance = np.random.Generator
WAYS = ("splice", "copy-move", "smooth")
PHOTOS = ("china.jpg", "flower.jpg")  # inside scikit-learn


def synthetic(chance: Chance) -> Scene:
    """Clouds of colour with some soft shapes before them: no photo, but as smooth and as rough in places as one."""
    side = SIDE + 2 * MARGIN
    scene = _clouds(side, chance.uniform(1.2, 2.0), chance) * chance.uniform(20, 50) + chance.uniform(90, 160)
    texture = _clouds(side, chance.uniform(1.2, 1.8), chance)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    for _ in range(chance.integers(1, 6)):
        row, column = chance.uniform(0, side, 2).astype(np.float32)
        angle, size, long = chance.uniform(0, np.pi), chance.uniform(8, 50), chance.uniform(1, 3)
        along = ((rows - row) * np.cos(angle) + (columns - column) * np.sin(angle)) / long
        beside = (columns - column) * np.cos(angle) - (rows - row) * np.sin(angle)
        distance = np.hypot(along, beside) if chance.random() < 0.5 else np.maximum(abs(along), abs(beside))
        cover = np.clip(0.5 - (distance - size) / chance.uniform(1.5, 3), 0, 1)[:, :, None]
        inside = chance.uniform(20, 235, 3) + texture * chance.uniform(2, 30)
        scene = scene * (1 - cover) + inside * cover
    return np.asarray(np.clip(scene, 0, 255))


def _clouds(side: int, smooth: float, chance: Chance) -> Scene:
    """Of mean 0 and deviation 1; the smoother, the larger."""
    distance = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]).astype(np.float32)
    distance[0, 0] = 1
    noise = chance.standard_normal((3, side, side), np.float32)
    grey, *colours = np.fft.irfft2(np.fft.rfft2(noise) / distance**smooth, (side, side))
    clouds = np.stack([grey, *(grey + 0.4 * colour for colour in colours)], axis=2)
    return np.asarray((clouds - clouds.mean()) / clouds.std())


@functools.cache
def _photo(name: str) -> Image.Image:
    found = load_sample_images()
    [place] = [n for n, file in enumerate(found.filenames) if Path(file).name == name]
    return Image.fromarray(found.images[place])


def photographed(name: str, chance: Chance) -> Scene:
    """A piece of a real photo, smaller than it was taken: the traces of its own camera and JPEG are gone."""
    photo, side = _photo(name), SIDE + 2 * MARGIN
    piece = int(chance.integers(int(1.5 * side), min(photo.size) + 1))
    left, top = (int(chance.integers(0, whole - piece + 1)) for whole in photo.size)
    small = photo.crop((left, top, left + piece, top + piece)).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float64)


def seen(scene: Scene, noise: float, chance: Chance) -> Scene:
    """What a sensor of this noise makes of it, exposed so that nothing is too dark or too bright for noise to show."""
    scene = 30 + 0.76 * scene
    return np.clip(scene + noise * chance.standard_normal(scene.shape, np.float32), 0, 255)


def middle(scene: Scene, row: int = MARGIN, column: int = MARGIN) -> Scene:
    return scene[row : row + SIDE, column : column + SIDE]


def region(chance: Chance) -> npt.NDArray[np.float64]:
    """Where a picture is changed, (SIDE, SIDE, 1) from 0 to 1: an ellipse or a box, its edge some pixels soft."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    height, width = chance.uniform(16, 32, 2)
    row, column = chance.uniform(height, SIDE - height), chance.uniform(width, SIDE - width)
    down, right = abs(rows - row) / height, abs(columns - column) / width
    inside = 1 - (np.hypot(down, right) if chance.random() < 0.5 else np.maximum(down, right))
    return np.asarray(np.clip(inside * min(height, width) / chance.uniform(1, 3), 0, 1)[:, :, None])


def manipulated(picture: Scene, other: Scene, way: str, chance: Chance) -> Scene:
    """`picture` with a region that is not its own.

    Args:
        other: what is spliced in, another camera's.
    """
    where = region(chance)
    if way == "splice":
        patch = other
    elif way == "copy-move":
        # From elsewhere in the same picture, made a little larger so that it fits.
        grown = round(SIDE * chance.uniform(1.15, 1.6))
        left, top = (int(part) for part in chance.integers(0, grown - SIDE + 1, 2))
        large = _image(picture).resize((grown, grown), Image.Resampling.BILINEAR)
        patch = np.asarray(large.crop((left, top, left + SIDE, top + SIDE)), np.float64)
    else:
        patch = np.asarray(_image(picture).filter(ImageFilter.GaussianBlur(chance.uniform(1.2, 3))), np.float64)
    return picture * (1 - where) + patch * where


def _image(picture: Scene) -> Image.Image:
    return Image.fromarray(np.rint(picture).astype(np.uint8))
