"""`bedplate bundle import onnx`: files of several exporters, in one piece and in several."""

import json

import numpy as np
import onnx
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.bundle.tensor import Range
from bedplate.commands import cli
from bedplate.engine.model import Model
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from tests.service.onnx_tools import LAMP, OPSETS, WEIGHTS, graph_of, lamp_model, stored
from tests.service.signing_tools import make_key

node = helper.make_node
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def imports(bundle_import, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(model, *arguments):
        if isinstance(model, str):
            return bundle_import("onnx", model, *arguments)
        onnx.save(model, "lamp.onnx")
        return bundle_import("onnx", "lamp.onnx", *arguments)

    return run


def computed(directory, items):
    bundle = read_bundle(directory)
    return Model.load(bundle, directory, torch.device("cpu")).run(items)


def test_a_file_becomes_a_signed_bundle_that_answers_as_it_does(imports, tmp_path, capsys):
    key = make_key(tmp_path, "ann@example.org")
    (tmp_path / "labels.txt").write_text("dark\nbright\n")

    status, said, errors = imports(lamp_model(), "--labels", "labels.txt", "--key", key)

    assert (status, errors) == (0, "")
    assert "model:    lamp 1, classification, 2 nodes" in said
    assert "largest difference 0 (0 of the largest), the same top-1 for 32 of 32" in said
    assert "chosen:   activation softmax" in said
    assert "signed by ED25519 key" in said
    bundle = read_bundle(tmp_path / "lamp")
    assert (bundle.onnx, bundle.labels, bundle.max_items) == ("network.onnx", ("dark", "bright"), 64)
    assert cli.main(["bundle", "check", "lamp"]) == 0
    assert "accuracy: 1.0000 of 32 items" in capsys.readouterr().out


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.words(ids).mean(1))


@pytest.mark.parametrize("dynamo", [True, False], ids=["by torch.export", "by tracing"])
def test_what_torch_exports_becomes_a_bundle(imports, tmp_path, dynamo):
    net, ids = Net().eval(), torch.randint(0, 50, (2, 6))
    free = (
        {"dynamic_shapes": ({0: torch.export.Dim("items", max=64), 1: torch.export.Dim("words", max=20)},)}
        if dynamo
        else {"dynamic_axes": {"ids": {0: "items", 1: "words"}}}
    )
    torch.onnx.export(
        net, (ids,), str(tmp_path / "net.onnx"), dynamo=dynamo, input_names=["ids"], verbose=False, **free
    )

    status, said, errors = imports("net.onnx", "--vary", "1=1..20")

    assert (status, errors) == (0, "")
    bundle = read_bundle(tmp_path / "net")
    assert bundle.graph.id_limit == 50
    assert bundle.input.shape == (Range(1, 20),)
    more = torch.randint(0, 50, (7, 11))
    assert np.allclose(computed(tmp_path / "net", more.numpy()), net(more).detach(), atol=1e-6)
    assert "largest difference" in said


def test_weights_beside_the_file_are_packed_into_it(imports, tmp_path):
    big = lamp_model([node("Add", ["logits", "zeros"], ["more"])], [stored("zeros", np.zeros((1, 2)))])
    big.graph.output[0].name = "more"
    onnx.save(big, "lamp.onnx", save_as_external_data=True, location="lamp.data", size_threshold=0)
    assert (tmp_path / "lamp.data").exists()

    status, _, errors = imports("lamp.onnx")

    assert (status, errors) == (0, "")
    assert not (tmp_path / "lamp/lamp.data").exists()
    assert computed(tmp_path / "lamp", np.ones((1, 1, 2, 2), np.float32)).tolist() == [[-1, 1]]


def test_weights_outside_of_its_folder_are_not_read(imports, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    model = lamp_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "inner/lamp.onnx").write_bytes(model.SerializeToString())

    status, _, errors = imports("inner/lamp.onnx")

    assert status != 0
    assert "inner/lamp.onnx: onnx cannot read it" in errors


def test_functions_are_written_out_and_notes_left_out(imports, tmp_path):
    double = helper.make_function("own", "Double", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])], OPSETS[:1])
    model = lamp_model([node("Double", ["logits"], ["more"], domain="own")])
    model.graph.output[0].name = "more"
    model.functions.append(double)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].doc_string = "/home/ann/secret/train.py"
    model.metadata_props.add(key="author", value="ann")

    status, _, errors = imports(model)

    assert (status, errors) == (0, "")
    content = (tmp_path / "lamp/network.onnx").read_bytes()
    assert b"ann" not in content
    assert computed(tmp_path / "lamp", np.ones((1, 1, 2, 2), np.float32)).tolist() == [[-2, 2]]


def test_one_of_several_outputs_is_kept_with_what_it_needs(imports, tmp_path):
    model = lamp_model([node("Softmax", ["logits"], ["shares"]), node("NonZero", ["logits"], ["rest"])])
    for name, kind in (("shares", TensorProto.FLOAT), ("rest", TensorProto.INT64)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    (tmp_path / "labels.txt").write_text("dark\nbright\n")

    refused, _, errors = imports(model, "--labels", "labels.txt")
    status, said, _ = imports(model, "--labels", "labels.txt", "--answer", "shares")

    assert refused != 0
    assert "lamp.onnx: gives logits, shares, rest; name the one to keep with --answer" in errors
    assert status == 0
    assert "3 nodes" in said
    assert "chosen:   activation none" in said


def test_a_file_that_takes_one_item_becomes_a_bundle_of_one(imports, tmp_path):
    status, said, errors = imports(lamp_model(shape=[1, 1, 2, 2]))

    assert (status, errors) == (0, "")
    assert "takes one item at a time" in said
    assert read_bundle(tmp_path / "lamp").max_items == 1


def test_examples_of_the_author_are_asked(imports, tmp_path):
    (tmp_path / "inputs.json").write_text(json.dumps({"inputs": [[[[1, 0], [0, 1]]]]}))

    status, said, errors = imports(lamp_model(shape=["n", 1, "height", "width"]), "--example", "inputs.json")

    assert (status, errors) == (0, "")
    assert "questions like those of inputs.json" in said
    assert read_bundle(tmp_path / "lamp").input.shape == (1, 2, 2)


def test_a_file_that_takes_pictures_gets_them_as_its_author_says(imports, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for number, grey in enumerate((0, 40, 255)):
        Image.new("L", (6, 4), grey).save(tmp_path / f"pictures/{number}.png")
    (tmp_path / "labels.txt").write_text("dark\nbright\n")

    status, said, errors = imports(
        lamp_model(), "--task", "image-classification", "--labels", "labels.txt", "--examples", "pictures",
        "--mean", "0.5", "--std", "0.5", "--shorter-side", "4", "--interpolation", "bicubic",
    )  # fmt: skip

    assert (status, errors) == (0, "")
    assert "shorter side 4, the middle 2 x 2, bicubic; validation set and canary of 3 pictures of pictures" in said
    picture = read_bundle(tmp_path / "lamp").input.image
    assert (picture.mode, picture.mean, picture.std) == ("L", (0.5,), (0.5,))
    assert cli.main(["bundle", "check", "lamp"]) == 0
    assert "accuracy: 1.0000 of 3 items" in capsys.readouterr().out


TWO_INPUTS = lamp_model()
TWO_INPUTS.graph.input.append(helper.make_tensor_value_info("mask", 1, ["items", 2]))
TWO_INPUTS.graph.node.append(node("Add", ["logits", "mask"], ["masked"]))
TWO_INPUTS.graph.output[0].name = "masked"
RANDOM = lamp_model([node("RandomNormalLike", ["logits"], ["chance"])])
RANDOM.graph.output[0].name = "chance"
BATCHED = helper.make_model(
    graph_of([node("Reshape", ["picture", "shape"], ["flat"]), LAMP[1]], [*WEIGHTS, stored("shape", [1, 4], np.int64)]),
    opset_imports=OPSETS,
    ir_version=10,
)
REFUSED = {
    "no file": ("missing.onnx", [], "missing.onnx: onnx cannot read it: FileNotFoundError"),
    "several inputs": (TWO_INPUTS, [], "takes 2 tensors (picture, mask), wanted one"),
    "random numbers": (RANDOM, [], "ai.onnx.RandomNormalLike is not on the list of operators"),
    "an answer that there is not": (lamp_model(), ["--answer", "other"], "gives logits; name the one to keep"),
    "a number of items": (lamp_model(shape=[4, 1, 2, 2]), [], "takes 4 items and no other number"),
    "a size that is not said": (
        lamp_model(shape=["n", 1, 2, "w"]),
        [],
        "dimension 3 of its input varies; say --vary 3=",
    ),
    "no shape at all": (lamp_model(shape=None), [], "does not say the shape of its input; give an --example"),
    "one item inside": (BATCHED, [], "try --max-items 1"),
    "keys of a picture without one": (lamp_model(), ["--mean", "0.5"], "want --task image-classification"),
    "a picture of four numbers": (
        lamp_model(shape=["n", 4]),
        ["--task", "image-classification"],
        "takes items of the shape [4], wanted [1 or 3 channels, height, width]",
    ),
    "a picture without labels": (
        lamp_model(),
        ["--task", "image-classification"],
        "gives [2] numbers, but there are 0 labels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_told_and_leaves_nothing(imports, tmp_path, case):
    model, arguments, told = REFUSED[case]

    status, _, errors = imports(model, "--output", tmp_path / "out", *arguments)

    assert status != 0
    assert told in errors
    assert not (tmp_path / "out").exists()
