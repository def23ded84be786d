"""`bedplate bundle`: from an empty directory to a bundle that somebody else verifies, and what it says on the way."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from bedplate.bundle.bundle import read_bundle, write_manifest
from bedplate.commands import cli
from bedplate.commands.bundle import TEMPLATES
from safetensors.torch import save_file

from tests.service.detection_tools import lamps
from tests.service.engine_tools import WEIGHTS, write_bundle, write_lamp
from tests.service.lamp import VARYING, numbers, png_of
from tests.service.signing_tools import make_key, signer
from tests.service.text_tools import moods

SERVICE = Path(__file__).parents[2] / "service"
BRIGHT_OR_DARK = torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)


@pytest.fixture
def bundle(capsys):
    """Runs the command; status, output and errors."""

    def run(*arguments):
        status = cli.main(["bundle", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path, "ann@example.org")


@pytest.fixture
def signers(tmp_path, key):
    path = tmp_path / "signers"
    path.write_text(f"# who may\n{signer(key)}")
    return path


def lamp_with_validation(directory, expected, threshold=0.75, items=BRIGHT_OR_DARK, **changes):
    declared = {"file": "validation.safetensors", "metric": "accuracy", "threshold": threshold}
    write_lamp(directory, validation=declared, **changes)
    tensors = {"inputs": items.contiguous(), "expected": torch.as_tensor(expected)}
    save_file(tensors, directory / "validation.safetensors")
    write_manifest(directory)
    return directory


def test_a_bundle_is_made_from_the_template_signed_checked_and_verified(bundle, tmp_path, key, signers, monkeypatch):
    monkeypatch.chdir(tmp_path)

    made = bundle("new", "lamp")
    edited = Path("lamp/bundle.yaml").read_text().replace("max_items: 64", "max_items: 2")
    Path("lamp/bundle.yaml").write_text(edited)
    document = yaml.safe_load(edited)
    [channels, height, width] = document["inputs"][0]["shape"]
    layers = document["network"]
    conv = torch.nn.Conv2d(**layers[0]["conv2d"])
    linear = torch.nn.Linear(**layers[-1]["linear"])
    torch.nn.init.zeros_(linear.weight)
    linear.bias.data = torch.tensor([0.0, 1.0])  # always yes
    weights = {f"0.{name}": value for name, value in conv.state_dict().items()}
    save_file(weights | {f"4.{name}": value for name, value in linear.state_dict().items()}, "lamp/weights.safetensors")
    items = torch.zeros(2, channels, height, width)
    save_file({"inputs": items, "expected": torch.tensor([1, 1])}, "lamp/validation.safetensors")
    Path("lamp/canary.png").write_bytes(png_of([[0]], "RGB"))
    signed = bundle("sign", "lamp", "--key", key)
    checked = bundle("check", "lamp")
    verified = bundle("verify", "lamp", "--signers", signers)

    assert [made[0], signed[0], checked[0], verified[0]] == [0, 0, 0, 0], (made, signed, checked, verified)
    assert "lamp/SHA256SUMS.sig: lamp 1 by ED25519 key SHA256:" in signed[1]
    assert checked[1] == "canary: yes, wanted yes\naccuracy: 1.0000 of 2 items, wanted 0.95\n"
    assert verified[1] == "lamp: lamp 1 is whole, signed by ann@example.org\n"


@pytest.mark.parametrize("task", TEMPLATES)
def test_each_template_is_a_beginning(bundle, tmp_path, task, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert bundle("new", "lamp", "--task", task)[0] == 0
    assert yaml.safe_load(Path("lamp/bundle.yaml").read_text())["task"] == task


def test_of_a_task_without_a_template_the_others_are_told(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    status, _, err = bundle("new", "lamp", "--task", "magic")

    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "begin with image-classification, tabular-classification, recommendation" in err


@pytest.mark.parametrize("name", ["Lamp", "../lamp", "", "a b"])
def test_no_bundle_is_made_under_a_name_that_none_can_have(bundle, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)

    status, _, err = bundle("new", name)

    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "does not do as a name, wanted [a-z0-9]" in err


def test_a_directory_that_is_there_is_left_alone(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lamp").mkdir()

    status, _, err = bundle("new", "lamp")

    assert status == 1
    assert "lamp: is there already" in err
    assert list((tmp_path / "lamp").iterdir()) == []


@pytest.mark.parametrize(
    ("expected", "status", "share"),
    [([1, 1, 0, 0], 0, "1.0000"), ([1, 1, 0, 1], 0, "0.7500"), ([1, 0, 0, 1], 1, "0.5000")],
)
def test_the_validation_set_is_computed_and_decides(bundle, tmp_path, expected, status, share):
    found = bundle("check", lamp_with_validation(tmp_path / "lamp", expected))

    assert found[0] == status
    assert f"accuracy: {share} of 4 items, wanted 0.75\n" in found[1]
    assert (f"accuracy {share} is below the threshold, 0.75" in found[2]) is (status == 1)


def test_a_wrong_canary_fails_the_check(bundle, tmp_path):
    lamp = lamp_with_validation(tmp_path / "lamp", [1, 1, 0, 0], canary={"file": "canary.png", "label": "dark"})

    status, out, err = bundle("check", lamp)

    assert status == 1
    assert out.startswith("canary: bright, wanted dark\n")
    assert "the canary gets bright, wanted dark" in err


def test_items_whose_shape_varies_are_checked_too(bundle, tmp_path):
    items = BRIGHT_OR_DARK.repeat(1, 1, 1, 3)  # (4, 1, 2, 6)
    network = [
        {"adaptive_avg_pool2d": {"output_size": 2}},
        "flatten",
        {"linear": {"in_features": 4, "out_features": 2}},
    ]
    weights = {f"2.{name[2:]}": value for name, value in WEIGHTS.items()}
    lamp = lamp_with_validation(
        tmp_path / "lamp", [1, 1, 0, 0], items=items, network=network, weights=weights, **VARYING
    )

    assert bundle("check", lamp)[:2] == (0, "canary: bright, wanted bright\naccuracy: 1.0000 of 4 items, wanted 0.75\n")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int64", "bool"])
def test_of_raw_tensors_the_share_that_agrees_is_measured(bundle, tmp_path, dtype):
    kind = getattr(torch, dtype)
    inputs = torch.tensor([[[1, 0, 1], [0, 1, 1]]] * 3).to(kind)
    expected = inputs.clone()
    expected[2, 1, 1] = 0
    declared = {"file": "validation.safetensors", "metric": "agreement", "threshold": 0.6}
    directory = write_bundle(tmp_path / "same", {}, numbers(dtype, validation=declared))
    save_file({"inputs": inputs, "expected": expected}, directory / "validation.safetensors")
    write_manifest(directory)

    status, out, err = bundle("check", directory)

    assert (status, err) == (0, "")
    assert "agreement: 0.6667 of 3 items, wanted 0.6\n" in out


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (
            {"others": torch.ones(1)},
            "holds ['expected', 'inputs', 'others'], wanted the tensors 'inputs' and 'expected'",
        ),
        ({"inputs": torch.ones(4, 1, 3, 2)}, "'inputs' is float32 [4, 1, 3, 2], wanted float32 [items, 1, 2, 2]"),
        ({"inputs": torch.ones(4, 1, 2, 2).half()}, "'inputs' is float16 [4, 1, 2, 2], wanted float32"),
        ({"inputs": torch.ones(0, 1, 2, 2)}, "'inputs' is float32 [0, 1, 2, 2], wanted"),
        ({"inputs": torch.tensor(1.0)}, "'inputs' is float32 [], wanted"),
        ({"expected": torch.tensor([1, 1, 0])}, "'expected' is int64 [3], wanted int64 [4]"),
        ({"expected": torch.tensor([1.0, 1, 0, 0])}, "'expected' is float32 [4], wanted int64 [4]"),
        ({"expected": torch.tensor([1, 1, 0, 2])}, "'expected' holds what is none of 2 labels, counted from 0"),
        ({"expected": torch.tensor([1, 1, 0, -1])}, "'expected' holds what is none of 2 labels"),
    ],
)
def test_a_validation_set_that_does_not_fit_is_refused(bundle, tmp_path, tensors, told):
    lamp = lamp_with_validation(tmp_path / "lamp", [1, 1, 0, 0])
    usual = {"inputs": BRIGHT_OR_DARK.contiguous(), "expected": torch.tensor([1, 1, 0, 0])}
    save_file(usual | tensors, lamp / "validation.safetensors")
    write_manifest(lamp)

    status, _, err = bundle("check", lamp)

    assert status == 1
    assert told in err


def test_without_a_validation_set_nothing_is_known(bundle, tmp_path):
    status, _, err = bundle("check", write_lamp(tmp_path / "lamp"))

    assert status == 1
    assert "validation: is missing" in err


def test_inspect_says_which_boxes_are_told(bundle, tmp_path):
    directory = write_bundle(tmp_path / "lamps", {}, lamps())

    _, out, _ = bundle("inspect", directory, "--json")

    assert json.loads(out)["detection"] == (
        "at most 3 boxes of a picture, cxcywh, of a score from 0.6, that overlap by 0.5 at most"
    )


PIXELS = {"mode": "L", "height": 2, "width": 2, "scale": 1, "mean": [0], "std": [1]}


@pytest.mark.parametrize(
    ("task", "spec", "told"),
    [
        (
            "audio",
            {"shape": [1, 8], "audio": {"sample_rate": 4000, "hop": 4}},
            "recording at 4000 Hz, a window every 4 samples",
        ),
        ("video", {"shape": [1, 2, 2], "video": {"frames": 3, **PIXELS}}, "video L 2 x 2 pixels, 3 of its pictures"),
        ("text", moods()["inputs"][0], "text of at most 200 characters by tokenizer.json"),
    ],
)
def test_inspect_says_what_files_become_the_input(bundle, tmp_path, task, spec, told):
    document = moods(task=f"{task}-classification", inputs=[{"name": "x", "dtype": "float32", **spec}])
    if task != "text":
        del document["tokenizer_sha256"]
    directory = write_bundle(tmp_path / "model", {}, document)

    _, out, _ = bundle("inspect", directory, "--json")

    assert json.loads(out)["input"].endswith(f", of a {told}")


def test_inspect_says_what_is_in_it_and_whose_it_is(bundle, tmp_path, key, signers):
    lamp = lamp_with_validation(tmp_path / "lamp", [1, 1, 0, 0])
    unsigned = bundle("inspect", lamp)
    bundle("sign", lamp, "--key", key)

    status, out, _ = bundle("inspect", lamp, "--json", "--signers", signers)
    table = bundle("inspect", lamp)

    found = json.loads(out)
    assert status == 0
    assert (found["name"], found["version"], found["task"]) == ("lamp", "1", "image-classification")
    assert found["input"] == "image: float32 [items, 1, 2, 2], of a picture L 2 x 2 pixels"
    assert found["output"] == "logits: float32 [items, 2]"
    assert found["digest"] == read_bundle(lamp).digest
    assert found["signature"].startswith("ED25519 key SHA256:")
    assert found["signer"] == "ann@example.org"
    assert found["files"]["canary.png"] == (lamp / "canary.png").stat().st_size
    assert [line for line in unsigned[1].splitlines() if line.startswith("signature")] == ["signature    -"]
    assert f"signature    {found['signature']}" in table[1]
    assert "FILE                    BYTES" in table[1]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (lambda key, other: signer(other), "no good signature of anybody in"),
        (lambda key, other: signer(key, 'namespaces="git"'), "no good signature of anybody in"),
        (lambda key, other: signer(key, 'valid-before="20200101"'), "key has expired"),
        (lambda key, other: signer(key, 'valid-after="20900101"'), "key is not yet valid"),
        (lambda key, other: "", "no good signature of anybody in"),
        (lambda key, other: "\x00 not a line", "no good signature of anybody in"),
    ],
)
def test_a_signature_of_nobody_who_may_is_told(bundle, tmp_path, key, signers, lines, told):
    lamp = write_lamp(tmp_path / "lamp")
    bundle("sign", lamp, "--key", key)
    signers.write_text(lines(key, make_key(tmp_path, "other")))

    status, out, err = bundle("verify", lamp, "--signers", signers)

    assert (status, out) == (1, "")
    assert told in err
    assert "SHA256SUMS.sig" in err


@pytest.mark.parametrize("blank", ["\x0b", "\x0c", " ", "\t", "\n\n", "\r\n"])
def test_a_signature_is_written_in_one_way_only(bundle, tmp_path, key, signers, blank):
    lamp = write_lamp(tmp_path / "lamp")
    bundle("sign", lamp, "--key", key)
    begin, first, *others = (lamp / "SHA256SUMS.sig").read_text().split("\n")
    (lamp / "SHA256SUMS.sig").write_bytes("\n".join([begin, first + blank + others[0], *others[1:]]).encode())

    status, _, err = bundle("verify", lamp, "--signers", signers)

    assert status == 1
    assert "not as ssh-keygen writes one" in err


def test_a_list_of_signers_that_is_not_there_is_told(bundle, tmp_path, key):
    lamp = write_lamp(tmp_path / "lamp")
    bundle("sign", lamp, "--key", key)

    status, _, err = bundle("verify", lamp, "--signers", tmp_path / "nobody")

    assert status == 1
    assert "No such file" in err


def test_any_of_several_keys_does_and_the_one_that_signed_is_named(bundle, tmp_path, key, signers):
    second = make_key(tmp_path, "bob@example.org")
    signers.write_text(signer(key) + signer(second))
    lamp = write_lamp(tmp_path / "lamp")
    bundle("sign", lamp, "--key", second)

    assert bundle("verify", lamp, "--signers", signers)[1].endswith("signed by bob@example.org\n")


def test_what_no_engine_takes_is_not_signed(bundle, tmp_path, key):
    lamp = write_lamp(tmp_path / "lamp")
    (lamp / "bundle.yaml").write_text("format: 1\n")

    status, _, err = bundle("sign", lamp, "--key", key)

    assert status == 1
    assert "name: is missing" in err
    assert not (lamp / "SHA256SUMS.sig").exists()


@pytest.mark.parametrize("name", ["nothing", "signers"])
def test_a_key_that_does_not_sign_is_told(bundle, tmp_path, signers, name):
    status, _, err = bundle("sign", write_lamp(tmp_path / "lamp"), "--key", tmp_path / name)

    assert status == 1
    assert f"{tmp_path / name}: " in err


def test_summing_up_anew_takes_the_old_signature_away(bundle, tmp_path, key):
    lamp = write_lamp(tmp_path / "lamp")
    bundle("sign", lamp, "--key", key)

    write_manifest(lamp)

    assert not (lamp / "SHA256SUMS.sig").exists()


def test_without_ssh_keygen_its_package_is_named(bundle, tmp_path, key, signers, monkeypatch):
    lamp = write_lamp(tmp_path / "lamp")
    bundle("sign", lamp, "--key", key)
    monkeypatch.setenv("PATH", str(tmp_path))

    status, _, err = bundle("verify", lamp, "--signers", signers)

    assert status == 1
    assert "openssh-client" in err


@pytest.mark.parametrize("verb", ["verify", "inspect", "sign"])
def test_only_check_loads_torch(tmp_path, key, verb):
    lamp = write_lamp(tmp_path / "lamp")
    arguments = ["bundle", verb, str(lamp), *(["--key", str(key)] if verb == "sign" else [])]
    program = (
        f"import sys; from bedplate.commands import cli; cli.main({arguments!r}); sys.exit('torch' in sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(SERVICE), "PATH": "/usr/bin"}, check=True)


def test_schema_and_template_are_installed_with_the_program():
    listed = (SERVICE / "pyproject.toml").read_text()

    for path in [*(SERVICE / "bedplate").glob("*.json"), *(SERVICE / "bedplate").glob("*.yaml")]:
        assert f'"{path.name}"' in listed
    assert importlib.metadata.version("bedplate")
