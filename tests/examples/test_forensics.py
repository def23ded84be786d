"""Scenes and what is done to them: a manipulation changes one region, and nothing else tells the two classes apart."""

import io

import numpy as np
import pytest
from bedplate.decode.container import kind_of
from PIL import Image

from examples.common.sets import SETS
from examples.forensics import data, scenes
from examples.forensics import train as forensics


def chance():
    return np.random.default_rng(3)


@pytest.mark.parametrize("way", scenes.WAYS)
def test_a_manipulation_changes_a_region_and_leaves_the_rest(way):
    picture = scenes.middle(scenes.seen(scenes.synthetic(chance()), 8, chance()))
    other = scenes.middle(scenes.synthetic(np.random.default_rng(4)))

    changed = np.abs(scenes.manipulated(picture, other, way, chance()) - picture).max(axis=2) > 0

    assert 0.02 < changed.mean() < 0.4


def test_originals_and_manipulations_come_in_the_same_kinds_of_files():
    files = [data.picture("held out", number) for number in range(36)]

    kinds = [sorted(kind for kind, is_manipulated, _ in files if is_manipulated == wanted) for wanted in (False, True)]
    assert kinds[0] == kinds[1]
    assert set(kinds[0]) == {"jpg", "png", "webp"}
    for kind, _, content in files[::6]:
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format.lower(), picture.size) == (kind.replace("jpg", "jpeg"), (scenes.SIDE, scenes.SIDE))


@pytest.mark.parametrize("number", [0, 6, 12])
def test_a_clip_is_a_file_of_its_kind_and_becomes_as_many_pictures_as_it_has(number):
    kind, _, content = data.clip("held out", number, forensics.CLIPS)

    assert kind_of(content) == kind
    assert forensics.pixels_of("clip", content).shape == (data.FRAMES, 1, scenes.SIDE, scenes.SIDE)


def test_no_piece_of_the_photo_that_is_asked_about_was_learnt_from(monkeypatch):
    asked = []
    monkeypatch.setattr(scenes, "photographed", lambda name, chance: asked.append(name))

    for part in SETS:
        data.scene_of(part, 4, chance())

    assert asked == ["china.jpg", "china.jpg", "flower.jpg"]


def test_a_seed_is_a_picture_and_no_two_sets_share_one():
    assert data.picture("training", 5) == data.picture("training", 5)
    assert data.picture("training", 5) != data.picture("held out", 5)
