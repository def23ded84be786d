"""A bundle's own programs: who lets them run, which bytes run, and what becomes of their faults."""

import base64
import json
import os

import numpy as np
import pytest
import torch
from bedplate.bundle import user_code
from bedplate.bundle.bundle import Bundle, BundleError, read_bundle, write_manifest
from bedplate.commands import cli
from bedplate.engine.model import Model
from bedplate.engine.variant import ModelVariant

from tests.service.code_tools import LAMP, sums_of, write_coded, write_custom
from tests.service.engine_tools import bright
from tests.service.lamp import CODEC, custom, description, lamp_logits

CPU = torch.device("cpu")


def loaded(directory, allowed=None):
    sums = sums_of(directory) if allowed is None else allowed
    return Model.load(read_bundle(directory), directory, CPU, allowed=sums)


def tracing(program, trace):
    """The program, leaving a trace wherever it runs."""
    return f"open({str(trace)!r}, 'w').close()\n{program}"


def test_a_model_that_is_code_computes_as_its_network_would(tmp_path):
    model = loaded(write_coded(tmp_path / "lamp"))
    model.warm_up()

    assert np.allclose(model.run(bright(3, 0.5)), lamp_logits(bright(3, 0.5)))
    assert model.weights_bytes == 4 * (8 + 2)


def test_its_weights_are_computed_with_in_half_the_bits_where_the_engine_does_so(tmp_path):
    directory = write_coded(tmp_path / "lamp")

    model = Model.load(read_bundle(directory), directory, CPU, ModelVariant("bfloat16"), sums_of(directory))

    assert model.weights_bytes == 2 * (8 + 2)
    assert model.run(bright()).dtype == np.float32


def test_its_tensors_lie_in_memory_as_it_laid_them(tmp_path):
    """`view` takes no picture that lies pixel by pixel, as engines lay those of their own networks."""
    program = """
from torch import nn

def load(weights):
    return nn.Conv2d(1, 3, 1)

def predict(module, batch):
    return module(batch).view(len(batch), -1)[:, :2]
"""

    model = loaded(write_coded(tmp_path / "lamp", program))

    assert model.run(bright(2)).shape == (2, 2)
    assert model.form == "float32"


def test_a_dataclass_in_it_finds_its_module(tmp_path):
    program = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  a: int\n" + LAMP
    )

    loaded(write_coded(tmp_path / "lamp", program)).warm_up()


@pytest.mark.parametrize("write", [write_coded, write_custom], ids=["code", "codec"])
def test_nobody_runs_it_who_was_not_told_to(tmp_path, capsys, write):
    trace = tmp_path / "it-ran"
    directory = write(tmp_path / "lamp")
    program = next(directory.glob("*.py"))
    program.write_text(tracing(program.read_text(), trace))
    write_manifest(directory)

    with pytest.raises(BundleError, match=f"{program.name}: is a program.*bedplate_bundles_with_code"):
        loaded(directory, allowed=())
    with pytest.raises(BundleError, match="is a program"):
        loaded(directory, allowed=["0" * 64])
    assert [cli.main(["bundle", verb, str(directory)]) for verb in ("inspect", "verify", "check")] == [0, 0, 1]
    assert "--allow-code" in capsys.readouterr().err

    assert not trace.exists()


def test_only_the_bytes_run_whose_sum_was_compared(tmp_path):
    trace = tmp_path / "it-ran"
    directory = write_coded(tmp_path / "lamp")
    bundle, sums = read_bundle(directory), sums_of(directory)
    (directory / "model.py").write_text(tracing(LAMP, trace))

    with pytest.raises(BundleError, match=r"model\.py: has sha256"):
        Model.load(bundle, directory, CPU, allowed=sums)

    assert not trace.exists()


def test_nothing_is_imported_by_its_path_and_nothing_is_written_beside_it(tmp_path):
    directory = write_coded(tmp_path / "lamp", "import helper\n" + LAMP)
    (directory / "helper.py").write_text("")
    write_manifest(directory)
    before = sorted(directory.iterdir())

    with pytest.raises(BundleError, match=r"ModuleNotFoundError in line 1 of bundle's model\.py"):
        loaded(directory)

    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (b"def load(:\n", "is no Python .SyntaxError, line 1"),
        (b"\x00", "is no Python"),
        (b"(" * 20_000, "is no Python"),
        (b"def load(weights): ...", "has no function 'predict'"),
        (b"load = predict = print", "has no function 'load'"),
        (b"#" * (user_code.MAX_BYTES + 1), "is larger than"),
    ],
)
def test_what_is_no_program_is_refused_without_running_it(tmp_path, program, told):
    with pytest.raises(BundleError, match=told):
        read_bundle(write_coded(tmp_path / "lamp", program))


def test_a_codec_that_lacks_a_function_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"codec\.py: has no function 'encode'"):
        read_bundle(write_custom(tmp_path / "lamp", codec="def decode(content, content_type): ..."))


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (description(code="model.py"), "network: unknown key"),
        ({**description(), "codec": "codec.py"}, "codec: unknown key"),
        (custom() | {"codec": "../codec.py"}, "codec: "),
        (custom() | {"codec": "codec.txt"}, "codec: "),
    ],
)
def test_a_description_that_disagrees_is_refused(document, told):
    with pytest.raises(BundleError, match=told):
        Bundle.from_description(document)


FAULTS = [
    ("raise KeyError('what it was')", "KeyError in line 2 of bundle's model.py"),
    ("import sys; sys.exit(0)", "SystemExit in line 2"),
    ("import nowhere", "ModuleNotFoundError in line 2"),
]


@pytest.mark.parametrize(("line", "told"), FAULTS)
def test_a_program_that_fails_at_import_refuses_the_bundle(tmp_path, line, told):
    with pytest.raises(BundleError, match=told):
        loaded(write_coded(tmp_path / "lamp", f"\n{line}\n{LAMP}"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise KeyError('what it was')", r"model.py: fails \(KeyError in line 2 of bundle's model.py"),
        ("raise SystemExit", "SystemExit in line 2"),
        ("return weights", "load gives dict, wanted a torch.nn.Module"),
    ],
)
def test_a_load_that_fails_refuses_the_bundle(tmp_path, line, told):
    program = f"def load(weights):\n    {line}\ndef predict(module, batch): ..."

    with pytest.raises(BundleError, match=told):
        loaded(write_coded(tmp_path / "lamp", program))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("return None", "model.py: fails on 1 items .*predict gives NoneType, wanted a tensor"),
        ("raise KeyError('x')", "model.py: fails on 1 items .*KeyError in line"),
        ("raise SystemExit", "model.py: fails on 1 items .*SystemExit in line"),
        ("return batch.flatten(1)", r"outputs\[0\]: model.py gives float32 \(1, 4\)"),
        ("return module(batch) / 0", "model.py gives values that are not finite"),
    ],
)
def test_a_predict_that_does_not_do_is_found_by_the_warm_up(tmp_path, line, told):
    model = loaded(write_coded(tmp_path / "lamp", LAMP.replace("return module(batch)", line)))

    with pytest.raises(BundleError, match=told):
        model.warm_up()


@pytest.mark.parametrize(("line", "told"), FAULTS)
def test_a_codec_that_would_not_run_refuses_the_bundle_and_runs_in_no_process_with_a_model(tmp_path, line, told):
    pid = "import os; open({!r}, 'w').write(str(os.getpid()))".format(str(tmp_path / "pid"))
    codec = f"\n{pid};{line}\n{CODEC}"

    with pytest.raises(BundleError, match=told.replace("model.py", "codec")):
        loaded(write_custom(tmp_path / "lamp", codec=codec))

    assert (tmp_path / "pid").read_text() != str(os.getpid())


def test_check_asks_the_canary_through_the_codec(tmp_path, capsys):
    directory = write_custom(tmp_path / "lamp")

    status = cli.main(["bundle", "check", str(directory), "--allow-code"])

    output = capsys.readouterr()
    assert "canary: the predictions of expected.json, wanted the predictions of expected.json" in output.out
    assert (status, "validation: is missing" in output.err) == (1, True)


@pytest.mark.parametrize("predictions", [[{"sum": 21.1}], [{"sum": "21"}], [{"sum": 21, "more": 1}], [{"sum": 21}] * 2])
def test_check_tells_another_answer_from_the_right_one(tmp_path, capsys, predictions):
    expected = base64.b64encode(json.dumps({"predictions": predictions}).encode()).decode()
    directory = write_custom(tmp_path / "lamp", expect_bytes=expected)

    cli.main(["bundle", "check", str(directory), "--allow-code"])

    assert "canary: other predictions, wanted" in capsys.readouterr().out
