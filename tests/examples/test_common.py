"""What all examples share: a training that lies there whole is not repeated, and a poor one leaves nothing."""

import sys

import pytest
import torch

from examples.common import run
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out

NAME = "tiny/1"
DOCUMENT = {"weights": "weights.safetensors", "validation": {"file": "validation.safetensors"}}


@pytest.fixture
def source(tmp_path):
    """The folder of an example."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "train.py").write_text("print('learn')")
    return folder


@pytest.fixture
def train(source, tmp_path, monkeypatch):
    """Runs the example, whose training is `make`, with the given arguments."""
    build = tmp_path / "build"

    def once(make, *arguments):
        monkeypatch.setattr(sys, "argv", ["train", f"--build={build}", *arguments])
        return run.run(str(source / "train.py"), [NAME], make)

    return once


class Making:
    """A training that counts how often it was done."""

    def __init__(self):
        self.times = 0

    def __call__(self, build):
        self.times += 1
        validation = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
        write_bundle(
            run.bundle_folder(build, NAME), DOCUMENT, torch.nn.Linear(2, 2), validation, {"canary.json": b"{}"}
        )
        write_held_out(run.held_out_folder(build, NAME), {"one.json": b"{}"}, ["a"])


def test_what_lies_there_whole_is_not_trained_again(train):
    making = Making()

    assert [train(making), train(making)] == [0, 0]

    assert making.times == 1


def test_force_trains_anyway(train):
    making = Making()

    assert [train(making), train(making, "--force")] == [0, 0]

    assert making.times == 2


@pytest.mark.parametrize(
    "changed",
    ["tiny/train.py", "build/bundles/tiny/1/canary.json", "build/examples/tiny/heldout/labels.csv"],
)
def test_a_changed_file_is_a_reason_to_train(train, tmp_path, changed):
    making = Making()
    train(making)

    (tmp_path / changed).write_text("changed")
    train(making)

    assert making.times == 2


def test_what_is_not_good_enough_fails_and_counts_as_nothing(train, capsys):
    def poor(build):
        raise run.NotGoodEnough("accuracy 0.5, wanted 0.95")

    making = Making()

    assert train(poor) == 1
    assert "tiny: accuracy 0.5, wanted 0.95; nothing was written" in capsys.readouterr().err
    assert train(making) == 0
    assert making.times == 1
