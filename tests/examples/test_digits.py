"""The example keeps its word: what it was not shown stays unseen, and what it writes is what the service reads."""

import csv

import numpy as np
import pytest
import torch
from bedplate import check
from bedplate.bundle import read_bundle
from bedplate.decode import image
from bedplate.engine.model import Model

from examples.digits import train


@pytest.fixture(scope="module")
def data():
    return train.load_pixels()


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    """Bundle and held-out pictures after a training that is much too short."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = data[0][:64], data[1][:64]
    torch.manual_seed(1)
    torch.set_num_threads(train.THREADS)
    module = train.train(pixels, labels, pixels, labels, epochs=1)
    canary = train.choose_canary(module, pixels, labels)
    train.write_bundle(folder / "1", module, canary, pixels, labels)
    train.write_held_out(folder / "heldout", folder / "1", pixels, labels)
    return folder


def test_held_out_pictures_are_neither_learnt_from_nor_chosen_by(data):
    _, labels = data

    sets = train.split(labels)

    assert sorted(np.concatenate(sets)) == list(range(len(labels)))
    assert [len(part) for part in sets] == [1257, 180, 360]
    assert min(np.bincount(labels[sets[2]])) >= 34  # every digit has its share


def test_what_is_written_is_a_bundle_that_runs(written):
    bundle = read_bundle(written / "1")

    Model.load(bundle, written / "1", torch.device("cpu")).warm_up()

    assert (bundle.name, bundle.version) == ("digits", "1")


def test_its_validation_set_says_what_the_model_is_worth(written, data):
    bundle, model = check.load(written / "1", "float32")

    found = check.measure(bundle, written / "1", model)

    _, share = train.measure(model._module, train.to_tensor(data[0][:64]), torch.from_numpy(data[1][:64]))
    assert (found.items, found.share) == (64, pytest.approx(share))


def test_the_service_decodes_pictures_to_the_same_bits_as_the_example(written, data):
    bundle = read_bundle(written / "1")
    names = sorted((written / "heldout").glob("*.png"))

    decoded = [image.to_tensor(image.open_image(name.read_bytes(), 64), bundle.input.image) for name in names]

    assert np.array_equal(np.stack(decoded), train.to_tensor(data[0][:64]).numpy())


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_truth_and_offline_answers_are_written_for_every_picture(written):
    truth, answers = (rows_of(written / "heldout" / name) for name in ("labels.csv", "predictions.csv"))

    assert len(truth) == len(answers) == 64
    for row, answer in zip(truth, answers, strict=True):
        assert row["file"] == answer["file"] == f"{row['file'][:4]}-{row['label']}.png"
        scores = {label: float(answer[f"score_{label}"]) for label in map(str, range(10))}
        assert answer["label"] == max(scores, key=scores.get)
        assert sum(scores.values()) == pytest.approx(1, abs=1e-4)


def test_a_run_is_complete_only_with_its_stamp_and_an_untouched_bundle(written):
    bundle, held_out = written / "1", written / "heldout"
    assert not train.is_complete(bundle, held_out)

    (held_out / train.STAMP).write_text(train.fingerprint(bundle))

    assert train.is_complete(bundle, held_out)
    original = (bundle / "canary.png").read_bytes()
    (bundle / "canary.png").write_bytes(original + b"x")
    assert not train.is_complete(bundle, held_out)
    (bundle / "canary.png").write_bytes(original)
