"""`bedplate bundle import`: models as people have them, and files that nobody should open."""

import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import BundleError, read_bundle
from bedplate.bundle.strict_yaml import Section
from bedplate.bundle.tensor import Range, read_input
from bedplate.commands import cli
from bedplate.decode.image import open_image, to_tensor
from bedplate.errors import TooManyPixels
from bedplate.importers import offline
from bedplate.importers.export import export
from bedplate.importers.exported import as_program
from bedplate.importers.hugging_face import require_plain
from bedplate.importers.options import labels_of
from bedplate.importers.torch_module import read_example
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.service.lamp import png_of
from tests.service.signing_tools import make_key

MODULE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.relu(x + self.drop(self.relu(self.conv(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x).flatten(1))


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)
"""


@pytest.fixture
def author(tmp_path, monkeypatch):
    """A directory with a module, its weights and examples; `sys.path` and modules as they were, afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(offline, "stay_offline", lambda: None)
    (tmp_path / "author_net.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "author_net", raising=False)
    import author_net  # noqa: PLC0415 - written a line above

    torch.manual_seed(3)
    net = author_net.Net().eval()
    torch.save(net.state_dict(), "weights.pt")
    np.save("inputs.npy", np.random.default_rng(0).normal(size=(5, 1, 2, 2)).astype(np.float32))
    yield net
    del sys.modules["author_net"]


@pytest.fixture
def imports(capsys):
    def run(*arguments):
        status = cli.main(["bundle", "import", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_module_becomes_a_signed_bundle_that_answers_as_it_does(author, imports, tmp_path, capsys):
    key = make_key(tmp_path, "ann@example.org")
    (tmp_path / "labels.txt").write_text("dark\nbright\n")

    status, said, errors = imports(
        "torch", "author_net:Net", "--weights", "weights.pt", "--example", "inputs.npy", "--labels", "labels.txt",
        "--key", key,
    )  # fmt: skip

    assert (status, errors) == (0, "")
    assert "the same top-1 for 32 of 32" in said
    assert "signed by ED25519 key" in said
    bundle = read_bundle(tmp_path / "net")
    assert (bundle.task, bundle.labels, bundle.max_items) == ("classification", ("dark", "bright"), 64)
    assert [step.operation for step in bundle.operations.steps] == [
        "aten.conv2d.default",
        "aten.relu.default",
        "aten.add.Tensor",
        "aten.relu.default",
        "aten.flatten.using_ints",
        "aten.linear.default",
    ]
    assert cli.main(["bundle", "check", "net"]) == 0
    assert "accuracy: 1.0000 of 32 items" in capsys.readouterr().out


def test_an_exported_program_says_itself_what_varies(author, imports, tmp_path):
    free = {0: torch.export.Dim("items", min=1, max=16)}
    torch.export.save(torch.export.export(author, (torch.zeros(2, 1, 2, 2),), dynamic_shapes=(free,)), "net.pt2")

    status, said, errors = imports("torch", "net.pt2", "--example", "inputs.npy", "--output", "net")

    assert (status, errors) == (0, "")
    assert "batch:    at most 16 items" in said
    assert read_bundle(tmp_path / "net").task == "tensors"


@pytest.mark.parametrize(
    ("free", "told"),
    [
        ({0: torch.export.Dim("items")}, "a dimension of its input has no largest size"),
        ({}, "takes 2 items and no other number"),
    ],
)
def test_an_exported_program_without_bounds_is_refused(author, imports, tmp_path, free, told):
    torch.export.save(torch.export.export(author, (torch.zeros(2, 1, 2, 2),), dynamic_shapes=(free,)), "net.pt2")

    status, _, errors = imports("torch", "net.pt2", "--example", "inputs.npy")

    assert (status, told in errors) == (1, True)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("author_net:Noisy", "computes aten.rand.default, which a program cannot"),
        ("author_net:Nothing", "module 'author_net' has no attribute 'Nothing'"),
        ("author_net:nn", "'module' object is not callable"),
        ("author_net", "wanted MODULE:FACTORY"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_imported_is_told_in_its_own_words_and_leaves_nothing(author, imports, tmp_path, place, told):
    before = sorted(path.name for path in tmp_path.iterdir())

    status, _, errors = imports("torch", place, "--example", "inputs.npy")

    assert status == 1
    assert told in errors
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        name for name in before if name != "__pycache__"
    ]


def test_weights_of_another_module_are_refused(author, imports):
    save_file({"head.weight": torch.zeros(2, 4)}, "other.safetensors")

    status, _, errors = imports("torch", "author_net:Net", "--weights", "other.safetensors", "--example", "inputs.npy")

    assert status == 1
    assert "other.safetensors: does not load into the module: RuntimeError" in errors
    assert "block.conv.weight" in errors


class Exploding:
    def __reduce__(self):
        return (print, ("this ran",))


def test_weights_that_are_a_program_do_not_run(author, imports, tmp_path):
    torch.save({"head.weight": Exploding()}, "bad.pt")

    status, said, errors = imports("torch", "author_net:Net", "--weights", "bad.pt", "--example", "inputs.npy")

    assert (status, "this ran" in said) == (1, False)
    assert "bad.pt: does not load into the module: UnpicklingError" in errors


@pytest.mark.parametrize("name", ["inputs.npy", "inputs.json", "inputs.safetensors"])
def test_examples_come_as_numpy_json_or_safetensors(tmp_path, name):
    path, inputs = tmp_path / name, np.ones((2, 3), np.float32)
    {
        ".npy": lambda: np.save(path, inputs),
        ".json": lambda: path.write_text(json.dumps({"inputs": inputs.tolist()})),
        ".safetensors": lambda: save_file({"inputs": torch.from_numpy(inputs)}, path),
    }[path.suffix]()

    assert read_example(path).shape == (2, 3)


def test_examples_that_are_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "inputs.npy", np.array([Exploding()], object), allow_pickle=True)

    with pytest.raises(BundleError, match=r"is no example \(ValueError: Object arrays cannot be loaded"):
        read_example(tmp_path / "inputs.npy")


class Aliased(nn.Module):
    """Writes into what it still looks at by another name."""

    def forward(self, x):
        twice = x * 2
        view = twice.view(-1, 4)
        twice.add_(1)
        return view.sum(1, keepdim=True) + twice.flatten(1)


def test_what_writes_into_what_others_look_at_computes_the_same():
    module, inputs = Aliased().eval(), torch.arange(8.0).reshape(2, 1, 2, 2)

    graph = export(module, inputs, 4, {}, "aliased")
    program = as_program(graph.exported, "aliased")

    assert torch.equal(_computed(program, inputs), module(inputs))


class Elsewhere(nn.Module):
    """Goes to a device and to another datatype in one call."""

    def forward(self, x):
        return (x * 1.5).to(x.device, torch.int64).to(torch.float32).flatten(1)


def test_a_move_to_a_device_keeps_its_datatype():
    module, inputs = Elsewhere().eval(), torch.arange(8.0).reshape(2, 1, 2, 2)

    program = as_program(export(module, inputs, 4, {}, "elsewhere").exported, "elsewhere")

    assert torch.equal(_computed(program, inputs), module(inputs))


def test_a_dimension_varies_between_its_bounds():
    module = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    graph = export(module, torch.randn(2, 1, 8), 4, {2: Range(4, 32)}, "sound")
    program = as_program(graph.exported, "sound")

    for length in (4, 9, 32):
        inputs = torch.randn(3, 1, length)
        assert torch.allclose(_computed(program, inputs), module(inputs), atol=1e-6)


def _computed(program, inputs):
    from bedplate.bundle.program import read_program  # noqa: PLC0415
    from bedplate.engine.program import build, load  # noqa: PLC0415

    read = read_program(json.dumps(program.document).encode(), "program")
    module = build(read)
    load(module, read, program.tensors)
    return module(inputs)


def test_an_import_opens_no_connection(tmp_path):
    refused = offline._refuse

    with pytest.raises(PermissionError, match="an import opens no connection"):
        refused("socket.connect", (None, ("203.0.113.1", 80)))
    refused("socket.connect", (None, "/run/local.sock"))
    refused("open", ("file", "r", 0))


def test_labels_are_each_once_and_short():
    assert labels_of({0: "cat", 1: "cat", 2: "a\nb", 3: "", 4: "x" * 300}) == [
        "cat",
        "cat (1)",
        "a b",
        "LABEL_3",
        "x" * 200,
    ]


CONFIG = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}


def folder_of(path, files, weights=True):
    path.mkdir()
    for name, content in {"config.json": CONFIG, **files}.items():
        (path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    if weights:
        save_file({"x": torch.zeros(1)}, path / "model.safetensors")
    return path


INDEX = "model.safetensors.index.json"
HOSTILE = {
    "a program in config.json": ({"config.json": CONFIG | {"auto_map": {"AutoModel": "net.Net"}}}, True, "auto_map"),
    "a program for pictures": ({"preprocessor_config.json": {"auto_map": {"A": "b.C"}}}, True, "auto_map"),
    "a program for texts": ({"tokenizer_config.json": {"auto_map": {"A": ["b.C", None]}}}, True, "auto_map"),
    "a program that lies deep": ({"config.json": CONFIG | {"a": [{"b": {"auto_map": {"A": "b"}}}]}}, True, "auto_map"),
    "a program that is asked for": ({"config.json": CONFIG | {"trust_remote_code": True}}, True, "trust_remote_code"),
    "pickles alone": ({"pytorch_model.bin": b"\x80\x04."}, False, "pickles (.bin, .pt, .ckpt) are not opened"),
    "a shard outside": ({INDEX: {"weight_map": {"x": "../other.safetensors"}}}, False, "is no file of the folder"),
    "a shard by its path": ({INDEX: {"weight_map": {"x": "/etc/passwd"}}}, False, "is no file of the folder"),
    "a shard that is a pickle": ({INDEX: {"weight_map": {"x": "model-1.bin"}}}, False, "is no file of the folder"),
    "a shard that is missing": ({INDEX: {"weight_map": {"x": "model-1.safetensors"}}}, False, "is missing"),
    "shards that are no names": ({INDEX: {"weight_map": {"x": ["a"]}}}, False, "is no file of the folder"),
    "no shards": ({INDEX: {"weight_map": {}}}, False, "has no weight_map"),
    "a configuration that is none": ({"config.json": b"{"}, True, "config.json: is no JSON"),
    "a configuration that is a list": ({"config.json": b"[]"}, True, "config.json: is no JSON object"),
    "a deep configuration": ({"config.json": b"[" * 100_000}, True, "config.json: is no JSON"),
    "an architecture that is not known": (
        {"config.json": CONFIG | {"architectures": ["LlamaForCausalLM"]}},
        True,
        "'LlamaForCausalLM' is not imported yet, wanted ...ForImageClassification",
    ),
    "a module of sentence-transformers outside": (
        {"modules.json": [{"type": "sentence_transformers.models.Transformer", "path": "../other"}]},
        True,
        "'../other' is no folder in it",
    ),
    "a module of its author's": (
        {"modules.json": [{"type": "custom_st.Transformer", "path": ""}, {"type": "custom_st.Reader", "path": "a"}]},
        True,
        "Transformer, Reader is not imported; wanted Transformer, Pooling",
    ),
    "modules that are none": ({"modules.json": [7]}, True, "is no list of modules"),
    "no architecture": ({"config.json": {"architectures": [7]}}, True, "architectures: 7 is not imported yet"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_folder_that_wants_more_than_to_be_read_is_refused(imports, tmp_path, monkeypatch, case):
    files, weights, told = HOSTILE[case]
    monkeypatch.setattr(offline, "stay_offline", lambda: None)
    monkeypatch.setattr("bedplate.importers.hugging_face._transformers", lambda: None)
    folder = folder_of(tmp_path / "model", files, weights)

    status, _, errors = imports("hf", folder, "--output", tmp_path / "out")

    assert (status, told in errors, str(folder) in errors) == (1, True, True), errors
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is no folder; name one with config"):
        require_plain(tmp_path / "absent")


def test_an_archive_with_paths_is_no_exported_program(author, imports, tmp_path):
    with zipfile.ZipFile(tmp_path / "slip.pt2", "w") as archive:
        archive.writestr("../../outside.py", "raise SystemExit")

    status, _, errors = imports("torch", "slip.pt2", "--example", "inputs.npy")

    assert status == 1
    assert "slip.pt2: torch.export.load cannot read it" in errors
    assert not (tmp_path.parent.parent / "outside.py").exists()


RGB = {"mode": "RGB", "height": 4, "width": 4, "scale": 1 / 255, "mean": [0, 0, 0], "std": [1, 1, 1]}


def picture(**changes):
    entry = {"name": "picture", "dtype": "float32", "shape": [3, 4, 4], "image": RGB | changes}
    return read_input(Section("test", entry), "image").image


@pytest.mark.parametrize(
    ("size", "resize", "resized"),
    [
        ((100, 50), {"shorter_side": 8}, (16, 8)),
        ((50, 101), {"shorter_side": 8}, (8, 16)),
        ((9, 9), {"shorter_side": 8}, (8, 8)),
        ((100, 50), {"height": 6, "width": 7}, (7, 6)),
    ],
)
def test_a_picture_is_resized_by_its_shorter_side_and_its_middle_taken(size, resize, resized):
    random = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    whole = Image.fromarray(random).resize(resized, Image.Resampling.BICUBIC)
    left, top = (resized[0] - 4) // 2, (resized[1] - 4) // 2
    wanted = np.asarray(whole)[top : top + 4, left : left + 4].transpose(2, 0, 1) / 255

    found = to_tensor(open_image(png_of(random, "RGB"), 10_000), picture(resize=resize, interpolation="bicubic"))

    assert np.abs(found - wanted).max() < 1e-6


def test_a_picture_so_narrow_that_it_would_become_endless_is_refused():
    content = png_of(np.zeros((1, 9000, 3)), "RGB")

    with pytest.raises(TooManyPixels, match="too narrow for its length"):
        to_tensor(open_image(content, 10_000), picture(resize={"shorter_side": 8}))


@pytest.mark.parametrize("resize", [{"shorter_side": 3}, {"height": 3, "width": 9}, {"height": 9, "width": 3}])
def test_no_more_is_cut_out_of_a_picture_than_there_is(resize):
    with pytest.raises(BundleError, match="no less than is cut out of the middle"):
        picture(resize=resize)
