"""A network as a list of operations: what it computes, in which forms, and what is refused before torch sees a name."""

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import BundleError, read_bundle
from bedplate.bundle.operations import FIXED, operations, parse
from bedplate.bundle.program import read_program
from bedplate.engine.model import Model, read_network
from bedplate.engine.program import function_of
from bedplate.engine.variant import ModelVariant
from bedplate.optimize.build import export
from bedplate.optimize.candidates import candidates_for

from tests.service.engine_tools import bright
from tests.service.lamp import lamp_logits
from tests.service.program_tools import PROGRAM, WEIGHTS, changed, with_step, write_program

CPU = torch.device("cpu")


def load(directory, precision="float32", **form):
    return Model.load(read_bundle(directory), directory, CPU, ModelVariant(precision, **form))


def read(document):
    return read_program(json.dumps(document).encode(), "network.json")


def test_a_program_computes_what_its_operations_say(tmp_path):
    model = load(write_program(tmp_path / "lamp"))

    model.warm_up()

    assert np.array_equal(model.run(bright(3, 0.5)), lamp_logits(bright(3, 0.5)))


def test_a_program_computes_in_bfloat16_where_it_says_float32(tmp_path):
    model = load(write_program(tmp_path / "lamp"), "bfloat16")

    result = model.run(bright(3, 0.5))

    assert np.allclose(result, lamp_logits(bright(3, 0.5)), atol=0.01)
    assert model._module(torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)).dtype is torch.bfloat16


def test_a_number_beyond_bfloat16_is_its_largest(tmp_path):
    """As masks have it: infinite, a row that is all masked would be no number."""
    filled = {"self": "linear", "mask": "low", "value": -3.4028234663852886e38}
    low = {"to": "low", "op": "aten.lt.Scalar", "with": {"self": "linear", "other": 0}}
    masked = {"to": "sum", "op": "aten.masked_fill.Scalar", "with": filled}
    program = {**PROGRAM, "steps": [*PROGRAM["steps"][:3], low, masked]}
    model = load(write_program(tmp_path / "lamp", program), "bfloat16")

    assert np.isfinite(model.run(bright())).all()


CONVOLVING = {
    "format": 1,
    "input": "picture",
    "output": "flat",
    "tensors": {"stem.weight": {"dtype": "float32", "shape": [2, 1, 2, 2]}},
    "steps": [
        {"to": "conv", "op": "aten.conv2d.default", "with": {"input": "picture", "weight": "stem.weight"}},
        {"to": "flat", "op": "aten.reshape.default", "with": {"self": "conv", "shape": [-1, 2]}},
    ],
}


def test_a_program_that_convolves_is_computed_channels_last(tmp_path):
    weights = {"stem.weight": torch.arange(8.0).reshape(2, 1, 2, 2)}
    directory = write_program(tmp_path / "lamp", CONVOLVING, weights)

    model = load(directory)

    assert model.form == "float32-channels-last"
    assert np.array_equal(model.run(bright(2)), [[6, 22], [6, 22]])
    assert any(one.channels_last for one in candidates_for(read_bundle(directory)))
    assert not any(one.channels_last for one in candidates_for(read_bundle(write_program(tmp_path / "plain"))))


def test_a_program_is_exported_for_native_code(tmp_path):
    directory = write_program(tmp_path / "lamp")
    bundle = read_bundle(directory)

    exported = export(read_network(bundle, directory), bundle).module()

    assert np.array_equal(exported(torch.from_numpy(bright(5, 0.5))), lamp_logits(bright(5, 0.5)))


def test_ids_that_a_program_embeds_are_bounded_before_it_is_asked():
    steps = [
        {"to": "whole", "op": "aten.to.dtype", "with": {"self": "ids", "dtype": "int64"}},
        {"to": "words", "op": "aten.embedding.default", "with": {"weight": "words.weight", "indices": "whole"}},
    ]
    tensors = {"words.weight": {"dtype": "float32", "shape": [30, 4]}}

    program = read({"format": 1, "input": "ids", "output": "words", "tensors": tensors, "steps": steps})

    assert program.id_limit == 30
    with pytest.raises(BundleError, match=r"inputs\[0\].dtype: 'float32' does not do, wanted int32 or int64 as ids"):
        program.check_input("float32", "bundle.yaml")


def test_each_operation_on_the_list_is_torchs_and_changes_nothing_that_it_is_given():
    different = []
    for name, operation in operations().items():
        if name.startswith("operator."):
            continue
        schema = function_of(name)._schema
        if schema.is_mutable or [one.name for one in schema.arguments] != list(operation.parameters):
            different.append(name)
        torchs = parse(_without_aliases(str(schema)))
        if {**torchs.parameters} != {**operation.parameters} or torchs.gives != operation.gives:
            different.append(name)

    assert different == []
    assert {name for name, _ in FIXED} <= operations().keys()


def _without_aliases(schema):
    inputs, _, gives = re.sub(r"\(a( -> \*)?\)", "", schema).rpartition(" -> ")
    unnamed = re.sub(r"(Tensor) [a-z]+", r"\1", gives) if gives.startswith("(") else gives
    return f"{inputs} -> {unnamed}"


FORBIDDEN = ("rand", "bernoulli", "multinomial", "dropout", "empty", "as_strided", "nonzero", "unique", "file", "set_")


def test_no_operation_on_the_list_draws_writes_or_gives_what_nobody_wrote():
    assert [name for name in operations() if any(word in name for word in FORBIDDEN)] == []


def test_what_reads_programs_loads_no_torch():
    program = "import sys; from bedplate.bundle import program; program.operations(); print('torch' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.strip() == "False"


def squares(count: int) -> list[dict[str, Any]]:
    """Each step squares what the one before it gave, and begins with one less than the items: none in most batches."""
    first = {"to": "s0", "op": "operator.sub", "with": {"a": "items", "b": 1}}
    more = [
        {"to": f"s{n}", "op": "operator.mul", "with": {"a": f"s{n - 1}", "b": f"s{n - 1}"}} for n in range(1, count)
    ]
    return [first, *more]


STEP = {"to": "more", "op": "aten.relu.default", "with": {"self": "sum"}}
REFUSED = {
    # operations that are not on the list
    "an operation of another library": (with_step("torchvision.nms.default", boxes="sum"), "steps[5].op"),
    "an operation of quantized": (with_step("quantized.linear.default", X="sum"), "steps[5].op"),
    "an operation of prims": (with_step("prims.device_put.default", a="sum"), "steps[5].op"),
    "an operation that writes": (with_step("aten.add_.Tensor", self="sum", other="sum"), "steps[5].op"),
    "an operation that writes into its output": (with_step("aten.add.out", self="sum"), "steps[5].op"),
    "random numbers": (with_step("aten.rand.default", size=[2]), "steps[5].op"),
    "dropout": (with_step("aten.dropout.default", input="sum", p=0.5, train=True), "steps[5].op"),
    "memory that nobody wrote to": (with_step("aten.empty.memory_format", size=[2]), "steps[5].op"),
    "a view of anything": (with_step("aten.as_strided.default", self="sum", size=[9], stride=[1]), "steps[5].op"),
    "a file": (with_step("aten.from_file.default", filename="/etc/passwd"), "steps[5].op"),
    "a shape that depends on numbers": (with_step("aten.nonzero.default", self="sum"), "steps[5].op"),
    "Python's own": (with_step("builtins.eval", a="1"), "steps[5].op"),
    "an attribute of operator": (with_step("operator.attrgetter", a="__class__"), "steps[5].op"),
    "an attribute of an operation": (with_step("aten.add.Tensor.__class__", self="sum"), "steps[5].op"),
    "an overload that is none": (with_step("aten.add.__init__", self="sum"), "steps[5].op"),
    "a name with dots before it": (with_step("..aten.add.Tensor", self="sum"), "steps[5].op"),
    "an operation that is a number": (with_step(7, self="sum"), "steps[5].op"),  # type: ignore[arg-type]
    # arguments
    "an argument that is missing": (with_step("aten.add.Tensor", self="sum"), "steps[5].with.other: is missing"),
    "an argument that it has not": (
        with_step("aten.relu.default", self="sum", out="sum"),
        "steps[5].with.out: unknown",
    ),
    "a number where a tensor goes": (with_step("aten.relu.default", self=1), "steps[5].with.self: 1 does not do"),
    "a name that nothing has": (with_step("aten.relu.default", self="other"), "steps[5].with.self"),
    "a name of Python's": (with_step("aten.relu.default", self="__import__('os')"), "steps[5].with.self"),
    "itself": (with_step("aten.relu.default", self="more"), "steps[5].with.self"),
    "a size where a tensor goes": (with_step("aten.relu.default", self="items"), "steps[5].with.self"),
    "a tensor where a size goes": (with_step("aten.reshape.default", self="sum", shape=["sum"]), "steps[5].with.shape"),
    "a mapping": (with_step("aten.relu.default", self={"$": "sum"}), "steps[5].with.self"),
    "a list of lists": (with_step("aten.cat.default", tensors=[["sum"]]), "steps[5].with.tensors"),
    "more members than a list may have": (
        with_step("aten.cat.default", tensors=["sum"] * 1025),
        "steps[5].with.tensors",
    ),
    "a dtype that is none": (with_step("aten.to.dtype", self="sum", dtype="storage"), "steps[5].with.dtype"),
    "a dtype of complex numbers": (with_step("aten.to.dtype", self="sum", dtype="complex64"), "steps[5].with.dtype"),
    "a device of its own": (
        with_step("aten.zeros.default", size=[2], device="cuda:0"),
        "steps[5].with.device: 'cuda:0' does not do, wanted input",
    ),
    "a layout of its own": (with_step("aten.zeros.default", size=[2], layout="sparse_coo"), "steps[5].with.layout"),
    "a word that is not known": (
        with_step("aten.gelu.default", self="sum", approximate="x"),
        "steps[5].with.approximate",
    ),
    "a number that is too long": (with_step("aten.add.Scalar", self="sum", other=1 << 64), "steps[5].with.other"),
    "a true dimension": (with_step("aten.softmax.int", self="sum", dim=True), "steps[5].with.dim"),
    "training": (
        with_step(
            "aten.batch_norm.default",
            input="sum",
            weight=None,
            bias=None,
            running_mean=None,
            running_var=None,
            training=True,
            momentum=0.1,
            eps=1e-5,
            cudnn_enabled=False,
        ),
        "steps[5].with.training: True does not do, wanted False",
    ),
    "chance in attention": (
        with_step("aten.scaled_dot_product_attention.default", query="sum", key="sum", value="sum", dropout_p=0.5),
        "steps[5].with.dropout_p",
    ),
    # circles, names
    "a step of a later one": (changed("steps", 0, "with", "self", "linear"), "steps[0].with.self"),
    "a name that is taken": (changed("steps", 5, {**STEP, "to": "linear"}), "steps[5].to: 'linear'"),
    "a name that the input has": (changed("steps", 5, {**STEP, "to": "picture"}), "steps[5].to: 'picture'"),
    "a name with a line's end": (changed("steps", 5, {**STEP, "to": "a\nimport os"}), "steps[5].to"),
    "a name that is too long": (changed("steps", 5, {**STEP, "to": "a" * 201}), "steps[5].to"),
    "a tensor with a path": (changed("tensors", "../x", {"dtype": "float32", "shape": [1]}), "tensors.../x"),
    "a tensor called as a step": (changed("tensors", "linear", {"dtype": "float32", "shape": [1]}), "to: 'linear'"),
    "an output that nothing has": (changed("output", "nothing"), "output: 'nothing'"),
    "an output that is the input": (changed("output", "picture"), "output: 'picture'"),
    "an output that is a size": (changed("output", "items"), "output: 'items'"),
    # bombs
    "a size that is squared again and again": (
        {**PROGRAM, "steps": [*PROGRAM["steps"], *squares(64)]},
        "steps[9].with: 'a number of up to 1040 bits' does not do, wanted at most 1024",
    ),
    "no steps": (changed("steps", []), "steps: [] does not do"),
    "too many steps": (changed("steps", [STEP] * 10_001), "wanted a list of 1 to 10000"),
    "a tensor without an end": (
        changed("tensors", "head.bias", "shape", [1 << 40, 1 << 40]),
        "tensors.head.bias.shape",
    ),
    "a tensor of many dimensions": (changed("tensors", "head.bias", "shape", [1] * 17), "tensors.head.bias.shape"),
    "a tensor of a symbol": (changed("tensors", "head.bias", "shape", ["s0"]), "tensors.head.bias.shape"),
    "a tensor of a negative size": (changed("tensors", "head.bias", "shape", [-1]), "tensors.head.bias.shape"),
    "a tensor of pickles": (changed("tensors", "head.bias", "dtype", "object"), "tensors.head.bias.dtype"),
    # the document
    "a later format": (changed("format", 2), "format: 2 does not do"),
    "a key that is not known": (changed("code", "import os"), "code: unknown key"),
    "a step with more": (changed("steps", 0, "module", "os"), "steps[0].module: unknown key"),
    "a list": ([PROGRAM], "wanted 'key: value' lines"),
    "no JSON": ("{", "is no JSON"),
    "a key twice": ('{"format": 1, "format": 1}', "a key stands twice"),
    "NaN": ('{"format": NaN}', "NaN is no number of JSON"),
    "a deep document": ("[" * 100_000, "is no JSON"),
    "a number of a million digits": ('{"format": ' + "1" * 1_000_000 + "}", "is no JSON"),
    "bytes that are no text": (b"\xff\xfe\x00", "is no JSON"),
    "a file that is too large": (" " * ((8 << 20) + 1), "network.json: is larger than 8388608 bytes"),
    "a pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", "is a pickle"),
    "an archive": (b"PK\x03\x04" + bytes(60), "is an archive as torch.save and TorchScript write them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_program_is_refused_before_anything_runs(tmp_path, case):
    program, told = REFUSED[case]
    directory = write_program(tmp_path / "lamp", program)

    with pytest.raises(BundleError) as refusal:
        read_bundle(directory)

    assert told in str(refusal.value)
    assert "network.json" in str(refusal.value)


BOMBS = {
    "a tensor of a petabyte": with_step("aten.full.default", size=[1 << 25, 1 << 25], fill_value=1.0, dtype="float32"),
    "a range without an end": with_step("aten.arange.default", end=1 << 45, dtype="int64"),
    "a copy of what was stretched": {
        **PROGRAM,
        "steps": [
            *PROGRAM["steps"],
            {"to": "one", "op": "aten.unsqueeze.default", "with": {"self": "sum", "dim": 0}},
            {"to": "wide", "op": "aten.expand.default", "with": {"self": "one", "size": [1 << 40, -1, -1]}},
            {"to": "more", "op": "aten.contiguous.default", "with": {"self": "wide"}},
        ],
    },
    "a repetition": with_step("aten.repeat.default", self="sum", repeats=[1 << 20, 1 << 20]),
    "padding": with_step("aten.constant_pad_nd.default", self="sum", pad=[0, 1 << 44]),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_would_not_fit_into_memory_is_refused_before_anything_is_computed(tmp_path, case):
    # Of use, or it would be left out.
    bomb = dict(BOMBS[case])
    bomb["steps"] = [
        *bomb["steps"],
        {"to": "least", "op": "aten.amin.default", "with": {"self": "more"}},
        {"to": "result", "op": "aten.add.Tensor", "with": {"self": "sum", "other": "least"}},
    ]
    directory = write_program(tmp_path / "lamp", {**bomb, "output": "result"})

    with pytest.raises(BundleError, match=r"network.json: (needs \d+ bytes at step|fails on a batch of shape)"):
        load(directory)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"head.weight": WEIGHTS["head.weight"]}, "tensor 'head.bias' is missing"),
        (WEIGHTS | {"more": torch.zeros(1)}, "tensor 'more' is not in the network"),
        (WEIGHTS | {"head.bias": torch.zeros(3)}, r"tensor 'head.bias' is float32 \[3\], wanted float32 \[2\]"),
        (WEIGHTS | {"head.bias": torch.full((2,), torch.nan)}, "tensor 'head.bias' holds values that are not finite"),
    ],
)
def test_weights_have_to_be_those_of_the_program(tmp_path, weights, told):
    directory = write_program(tmp_path / "lamp", weights=weights)

    with pytest.raises(BundleError, match=told):
        load(directory)


def test_steps_that_do_not_go_together_are_told_before_anything_is_computed(tmp_path):
    directory = write_program(tmp_path / "lamp", changed("steps", 1, "with", "shape", ["items", 3]))

    with pytest.raises(
        BundleError, match=r"network.json: fails on a batch of shape \[8, 1, 2, 2\] .*invalid for input"
    ):
        load(directory)


def test_a_program_may_call_its_tensors_what_torch_calls_its_own(tmp_path):
    """Names of a file never become attributes."""
    names = {"head.weight": "forward", "head.bias": "_parameters.__class__"}
    text = json.dumps(PROGRAM)
    for old, new in names.items():
        text = text.replace(old, new)
    weights = {names[name]: tensor for name, tensor in WEIGHTS.items()}

    model = load(write_program(tmp_path / "lamp", text, weights))

    assert np.array_equal(model.run(bright()), lamp_logits(bright()))
