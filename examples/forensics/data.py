"""The sets: originals and manipulations made alike, so that nothing but the manipulation tells them apart."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from examples.common.sets import chance_of
from examples.forensics import scenes
from examples.forensics.files import PICTURES, to_clip, to_picture
from examples.forensics.scenes import Chance, Scene

SEED = 20260518
FRAMES = 8  # of a clip


def scene_of(part: str, number: int, chance: Chance) -> Scene:
    """Every fourth is a piece of a photo: of one to learn from, of the other to be asked about."""
    if number % 4:
        return scenes.synthetic(chance)
    return scenes.photographed(scenes.PHOTOS[part == "held out"], chance)


def picture(part: str, number: int) -> tuple[str, bool, bytes]:
    """Kind, whether it is manipulated, and the file. Odd numbers are manipulated."""
    chance = chance_of(SEED, part, number)
    noise = _noise(chance)
    taken = _saved(scenes.middle(scenes.seen(scene_of(part, number // 2, chance), noise, chance)), chance)
    if number % 2:
        other = _saved(
            scenes.middle(scenes.seen(scenes.synthetic(chance), _other_noise(noise, chance), chance)), chance
        )
        taken = scenes.manipulated(taken, other, scenes.WAYS[number // 2 % 3], chance)
    kind = list(PICTURES)[number // 6 % 3]
    return kind, bool(number % 2), to_picture(taken, kind, int(chance.integers(92, 98)))


def clip(part: str, number: int, kinds: tuple[str, ...]) -> tuple[str, bool, bytes]:
    """As `picture`: a camera that moves over a scene, and in odd numbers something in it that is not its own."""
    chance = chance_of(SEED, part, 1_000_000 + number)
    noise = _noise(chance)
    whole, other = scene_of(part, number // 2, chance), scenes.synthetic(chance)
    quiet = _other_noise(noise, chance)
    seed = int(chance.integers(1 << 32))
    across, down = chance.integers(-2, 3, 2)
    frames = []
    for n in range(FRAMES):
        at = scenes.MARGIN + int(across) * n, scenes.MARGIN + int(down) * n
        frame = scenes.middle(scenes.seen(whole, noise, chance), *at)
        if number % 2:
            patch = scenes.middle(scenes.seen(other, quiet, chance), *at)
            # The same region in all pictures.
            frame = scenes.manipulated(frame, patch, scenes.WAYS[number // 2 % 3], np.random.default_rng(seed))
        frames.append(frame)
    kind = kinds[number // 6 % len(kinds)]
    return kind, bool(number % 2), to_clip(frames, kind)


def many(make: Callable[[int], tuple[str, bool, bytes]], count: int) -> list[tuple[str, bool, bytes]]:
    return [make(number) for number in range(count)]


def _noise(chance: Chance) -> float:
    return float(chance.uniform(7, 12))


def _other_noise(noise: float, chance: Chance) -> float:
    """Of another camera: clearly less, or clearly more."""
    return noise * float(chance.uniform(0.05, 0.2) if chance.random() < 0.5 else chance.uniform(2.5, 4))


def _saved(taken: Scene, chance: Chance) -> Scene:
    """As the camera's own JPEG gave it."""
    with Image.open(io.BytesIO(to_picture(taken, "jpg", int(chance.integers(92, 98))))) as image:
        return np.asarray(image, np.float64)
