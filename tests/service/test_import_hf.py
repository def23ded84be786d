"""`bedplate bundle import hf`, where the extra `import` is installed; `python -m tests.zoo` tries many more."""

import json

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.engine.model import Model

from tests.zoo.models import ENTRIES

pytest.importorskip("transformers", reason="pip install 'transformers>=5.5': imports of Hugging Face are not tested")
pytestmark = pytest.mark.filterwarnings("ignore")
BY_NAME = {entry.name: entry for entry in ENTRIES}


@pytest.fixture
def imports(bundle_import, tmp_path):
    def run(name, *options):
        folder = BY_NAME[name].write(tmp_path / name)
        return bundle_import("hf", folder, "--output", tmp_path / "out", *options)

    return run


def test_a_folder_of_a_picture_classifier_becomes_a_bundle(imports, tmp_path):
    status, said, errors = imports("resnet")

    assert (status, errors) == (0, "")
    assert "the same top-1 for 16 of 16" in said
    bundle = read_bundle(tmp_path / "out")
    assert bundle.input.image.resize.shorter_side == int(64 / 0.875)
    assert bundle.input.image.interpolation == "bicubic"
    assert bundle.labels == tuple(f"LABEL_{at}" for at in range(5))


def test_a_folder_of_a_text_classifier_becomes_a_bundle_that_knows_padding(imports, tmp_path):
    status, said, errors = imports("roberta")

    assert (status, errors) == (0, "")
    assert "2 to 64 tokens; a longer text is refused" in said
    bundle = read_bundle(tmp_path / "out")
    assert bundle.operations.id_limit == 32
    model = Model.load(bundle, tmp_path / "out", torch.device("cpu"))
    ids = np.array([[0, 7, 8, 9, 2]])
    padded = np.array([[0, 7, 8, 9, 2, 1, 1, 1]])
    assert np.abs(model.run(ids) - model.run(padded)).max() < 1e-5


def test_a_text_that_is_too_long_is_cut_where_that_is_asked_for(imports, tmp_path):
    status, said, _ = imports("distilbert", "--truncate", "--max-tokens", 8)

    assert status == 0
    assert "2 to 8 tokens; a longer text is cut" in said
    assert read_bundle(tmp_path / "out").input.text.truncation
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_bytes())["truncation"] is None


def test_a_processor_that_does_more_than_a_bundle_can_is_refused(imports, tmp_path, monkeypatch):
    """EfficientNet's takes one from what it has scaled."""
    entry = BY_NAME["vit"]
    monkeypatch.setitem(entry.processor, "image_processor_type", "EfficientNetImageProcessor")
    monkeypatch.setitem(entry.processor, "rescale_offset", True)

    status, _, errors = imports("vit")

    assert status == 1
    assert "makes other numbers of a picture than a bundle can" in errors
    assert not (tmp_path / "out").exists()
