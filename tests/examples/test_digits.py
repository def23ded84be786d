"""The example keeps its word: what it was not shown stays unseen, and what it writes is what the service reads."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.decode import image
from bedplate.engine.model import Model
from bedplate.optimize import check

from examples.common import run, training
from examples.digits import train as digits


@dataclass(frozen=True)
class Written:
    bundle: Path
    held_out: Path


@pytest.fixture(scope="module")
def data():
    return digits.load_pixels()


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    """Bundle and held-out pictures after a training that is much too short, by where they are."""
    build = tmp_path_factory.mktemp("build")
    pixels, labels = data
    few = np.arange(64)
    torch.set_num_threads(run.THREADS)
    module = digits.train(pixels, labels, few, few, epochs=1)
    digits.write(build, module, pixels, labels, few, few)
    return Written(build / "bundles" / "digits" / "1", build / "examples" / "digits" / "heldout")


def test_held_out_pictures_are_neither_learnt_from_nor_chosen_by(data):
    _, labels = data

    sets = digits.split(labels)

    assert sorted(np.concatenate(sets)) == list(range(len(labels)))
    assert [len(part) for part in sets] == [1257, 180, 360]
    assert min(np.bincount(labels[sets[2]])) >= 34  # every digit has its share


def test_what_is_written_is_a_bundle_that_runs(written):
    bundle = read_bundle(written.bundle)

    Model.load(bundle, written.bundle, torch.device("cpu")).warm_up()

    assert (bundle.name, bundle.version) == ("digits", "1")


def test_its_validation_set_says_what_the_model_is_worth(written, data):
    bundle, model = check.load(written.bundle, "float32")

    found = check.measure(bundle, written.bundle, model)

    _, share = training.measure(model._module, digits.to_set(*data, np.arange(64)))
    assert (found.items, found.share) == (64, pytest.approx(share))


def test_the_service_decodes_pictures_to_the_same_bits_as_the_example(written, data):
    bundle = read_bundle(written.bundle)
    names = sorted(written.held_out.glob("*.png"))

    decoded = [image.to_tensor(image.open_image(name.read_bytes(), 64), bundle.input.image) for name in names]

    assert np.array_equal(np.stack(decoded), digits.to_tensor(data[0][:64]).numpy())


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_truth_and_offline_answers_are_written_for_every_picture(written, data):
    truth, answers = (rows_of(written.held_out / name) for name in ("labels.csv", "predictions-1.csv"))
    _, model = check.load(written.bundle, "float32")

    scores = model.predict(digits.to_tensor(data[0][:64])).softmax(1)

    assert len(truth) == len(answers) == 64
    for number, (row, answer) in enumerate(zip(truth, answers, strict=True)):
        assert row["file"] == answer["file"] == f"{number:04d}-{data[1][number]}.png"
        assert row["label"] == str(data[1][number])
        assert answer["label"] == str(int(scores[number].argmax()))
        assert float(answer["score"]) == pytest.approx(float(scores[number].max()), abs=1e-4)
