"""The data of examples/vision: the same for the same seed, apart where it is held out, and told rightly."""

import io

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.bundle.detection import overlap
from bedplate.engine.model import Model
from PIL import Image

from examples.common import training
from examples.vision import boxes, classes, sentiment
from examples.vision.pictures import HELD_OUT, THINGS, TRAINING, Box, draw_scene, draw_thing, to_file, to_inputs
from examples.vision.sentences import LABELS, NEW_THINGS, sentence


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_is_seen_on_its_ground(name):
    picture = np.asarray(draw_thing(name, TRAINING, np.random.default_rng(1)), float)

    edge = np.concatenate([picture[0], picture[-1]]).mean(axis=0)
    assert (np.abs(picture - edge).sum(axis=2) > 100).mean() > 0.05


def test_a_seed_is_a_picture_and_another_one_is_not():
    def drawn(seed):
        return draw_thing("tree", HELD_OUT, np.random.default_rng(seed)).tobytes()

    assert drawn([1, 0]) == drawn([1, 0])
    assert drawn([1, 0]) != drawn([2, 0])


def test_held_out_pictures_come_from_wider_ranges():
    assert HELD_OUT.sides[0] < TRAINING.sides[0] < TRAINING.sides[1] < HELD_OUT.sides[1]
    assert HELD_OUT.scale[0] < TRAINING.scale[0] < TRAINING.scale[1] < HELD_OUT.scale[1]
    assert (HELD_OUT.turn, HELD_OUT.noise) > (TRAINING.turn, TRAINING.noise)


def test_boxes_are_around_shapes_and_off_one_another():
    for seed in range(50):
        picture, found = draw_scene(TRAINING, np.random.default_rng(seed))
        corners = np.array([box.corners for box in found])

        assert 1 <= len(found) <= 4
        assert ((corners >= 0) & (corners <= 1)).all()
        for number, one in enumerate(corners):
            assert overlap(one, np.delete(corners, number, axis=0)).max(initial=0) == 0
            x, y = (one[:2] + one[2:]) / 2 * picture.size
            inside = np.asarray(picture, float)[int(y), int(x)]
            outside = np.asarray(picture, float)[0, 0]
            assert np.abs(inside - outside).sum() > 50


@pytest.mark.parametrize(("kind", "opened"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_a_file_is_of_its_kind(kind, opened):
    picture = draw_thing("boat", HELD_OUT, np.random.default_rng(3))

    read = Image.open(io.BytesIO(to_file(picture, kind)))

    assert (read.format, read.size) == (opened, picture.size)


def test_what_a_cell_should_say_is_what_the_layer_says_of_it():
    """The box of a shape, in the cell of its centre and in those that the centre nearly is in."""
    _, found = draw_scene(TRAINING, np.random.default_rng(4))

    wanted, places = boxes.cells_of([("png", b"", found)])

    centres = [(np.array(box.corners[:2]) + box.corners[2:]) / 2 * boxes.GRID for box in found]
    expected = {
        (row * boxes.GRID + column, boxes.LABELS.index(box.label))
        for box, centre in zip(found, centres, strict=True)
        for row, column in np.ndindex(boxes.GRID, boxes.GRID)
        if (np.abs(centre - np.array([column + 0.5, row + 0.5])) <= 0.5 + boxes.BEYOND).all()
    }
    assert {(cell, label) for _, cell, label in wanted.nonzero().tolist()} == expected
    for cell, _ in expected:
        centre = places[0, cell, :2].numpy() * boxes.GRID
        assert min(np.abs(centre - each).max() for each in centres) < 1e-4
    candidates = training.build(boxes.NETWORK).eval()(torch.zeros(1, 3, boxes.SIDE, boxes.SIDE))
    assert candidates.shape == (1, boxes.GRID**2, 4 + len(boxes.LABELS))


def test_a_scene_is_mirrored_together_with_what_is_to_be_said_of_it():
    picture, found = draw_scene(TRAINING, np.random.default_rng(4))
    inputs = to_inputs([picture], boxes.SIDE)

    pictures, cells, places = boxes.mirrored(inputs, *boxes.cells_of([("png", b"", found)]))

    turned = [Box(box.label, (1 - box.corners[2], box.corners[1], 1 - box.corners[0], box.corners[3])) for box in found]
    expected_cells, expected_places = boxes.cells_of([("png", b"", turned)])
    assert torch.equal(pictures, inputs.flip(3))
    assert torch.equal(cells, expected_cells)
    has_one = cells.any(dim=2)
    torch.testing.assert_close(places[has_one], expected_places[has_one])


def test_held_out_sentences_are_put_together_as_no_learnt_one_is():
    def said(held_out):
        return {sentence(LABELS[n % 3], held_out, np.random.default_rng([held_out, n])) for n in range(600)}

    learnt, kept = said(False), said(True)

    assert not learnt & kept
    assert not any(thing in text.lower() for text in learnt for thing in NEW_THINGS)
    assert any(thing in text.lower() for text in kept for thing in NEW_THINGS)
    assert all(text[0].isupper() for text in learnt | kept)


def test_what_is_written_is_a_bundle_that_runs(tmp_path, monkeypatch):
    """After a training that is much too short."""
    torch.set_num_threads(1)
    for module, counts in ((classes, (12, 6, 6)), (boxes, (8, 2, 3)), (sentiment, (60, 9, 9))):
        monkeypatch.setattr(module, "COUNTS", dict(zip(module.COUNTS, counts, strict=True)))
        monkeypatch.setattr(module, "EPOCHS", 1)

        module.make(tmp_path)

        folder = tmp_path / "bundles" / module.NAME
        bundle = read_bundle(folder)
        Model.load(bundle, folder, torch.device("cpu")).warm_up()
        held_out = tmp_path / "examples" / bundle.name / "heldout"
        assert len((held_out / "predictions-1.csv").read_text().splitlines()) == counts[2] + 1
        assert len(list(held_out.glob("[0-9]*"))) == counts[2]
