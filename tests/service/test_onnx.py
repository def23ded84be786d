"""A network that is ONNX: what the engine computes of it, in how much memory, and what bundle.yaml has to say of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import BundleError, describe, read_bundle, write_manifest
from bedplate.bundle.onnx import read_onnx
from bedplate.commands import cli
from bedplate.engine import onnx as engine
from bedplate.engine.faults import DeviceLost, DeviceOutOfMemory
from bedplate.engine.guard import guarded
from bedplate.engine.model import Model
from bedplate.engine.network import id_limit_of
from onnx import TensorProto, helper

from tests.service.engine_tools import Peer, bright, logits_of, running_engine
from tests.service.lamp import lamp_logits
from tests.service.onnx_tools import LAMP, WEIGHTS, graph_of, lamp_model, stored, write_onnx

CPU = torch.device("cpu")
node = helper.make_node


def load(directory):
    return Model.load(read_bundle(directory), directory, CPU)


def ending_in(*nodes, weights=()):
    """A model that computes the lamp as 'lamp', and what `nodes` make 'logits' of it."""
    gemm = node("Gemm", ["flat", "weight", "bias"], ["lamp"], transB=1)
    return helper.make_model(
        graph_of([LAMP[0], gemm, *nodes], [*WEIGHTS, *weights]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def test_an_onnx_file_computes_what_it_says_in_batches_of_every_size(tmp_path):
    model = load(write_onnx(tmp_path / "lamp"))

    model.warm_up()

    assert (model.form, model.overlaps) == ("float32", False)
    for items in (1, 3, 8):
        assert np.array_equal(model.run(bright(items, 0.5)), lamp_logits(bright(items, 0.5)))
    assert np.array_equal(model.predict(torch.from_numpy(bright(2))), lamp_logits(bright(2)))


def test_its_weights_are_counted(tmp_path):
    assert load(write_onnx(tmp_path / "lamp")).weights_bytes == (8 + 2) * 4


def test_an_engine_answers_by_it(tmp_path):
    with running_engine(tmp_path / "cpu0.sock", load(write_onnx(tmp_path / "lamp"))) as running:
        peer = Peer(running.path)
        peer.predict(1, bright(3))

        assert np.array_equal(logits_of(peer.receive()), lamp_logits(bright(3)))
        peer.leave()


def test_a_web_learns_of_it_without_its_file(tmp_path):
    bundle = read_bundle(write_onnx(tmp_path / "lamp"))

    described = type(bundle).from_description(describe(bundle))

    assert (described.onnx, described.weights, described.graph) == ("lamp.onnx", "", None)


def test_branches_that_shapes_choose_are_computed(tmp_path):
    """As exporters write squeeze: which branch it is depends on a dimension."""
    same, twice = (
        helper.make_graph([one], "g", [], [helper.make_tensor_value_info("out", 1, None)])
        for one in (node("Identity", ["lamp"], ["out"]), node("Add", ["lamp", "lamp"], ["out"]))
    )
    chosen = ending_in(
        node("Shape", ["lamp"], ["shape"]),
        node("Gather", ["shape", "last"], ["size"]),
        node("Equal", ["size", "two"], ["yes"]),
        node("If", ["yes"], ["logits"], then_branch=twice, else_branch=same),
        weights=[stored("last", 1, np.int64), stored("two", 2, np.int64)],
    )

    model = load(write_onnx(tmp_path / "lamp", chosen))

    assert np.array_equal(model.run(bright(3)), 2 * lamp_logits(bright(3)))


def with_zeros(size):
    """Makes `size` squared zeros on its way; the square is computed, so that no constant says it."""
    return ending_in(
        node("Mul", ["size", "size"], ["square"]),
        node("ConstantOfShape", ["square"], ["zeros"]),
        node("ReduceMax", ["zeros"], ["most"], keepdims=0),
        node("Add", ["lamp", "most"], ["logits"]),
        weights=[stored("size", [size], np.int64)],
    )


def test_what_would_take_terabytes_is_refused_while_it_warms_up(tmp_path):
    model = load(write_onnx(tmp_path / "lamp", with_zeros(1 << 20)))

    with pytest.raises(DeviceOutOfMemory, match="Available memory of"):
        model.warm_up()

    assert load(write_onnx(tmp_path / "other")).run(bright()).shape == (1, 2)


def test_loading_computes_nothing_large(tmp_path):
    """onnxruntime computes constants while it loads, and its own bound is larger: here they would be 256 MiB."""
    directory = write_onnx(tmp_path / "lamp", with_zeros(1 << 13))
    program = f"""
import resource, torch
from pathlib import Path
from bedplate.bundle.bundle import read_bundle
from bedplate.engine.model import Model
directory = Path({str(directory)!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Model.load(read_bundle(directory), directory, torch.device("cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)

    assert int(said.stdout) < 192 << 10  # KiB


def test_what_is_computed_while_it_loads_has_a_bound_for_all_of_it(tmp_path):
    many = ending_in(
        *(node("ConstantOfShape", ["size"], [f"zeros{n}"]) for n in range(2000)),
        node("Add", ["lamp", "zeros0"], ["logits"]),
        weights=[stored("size", [1], np.int64)],
    )

    graph = read_bundle(write_onnx(tmp_path / "lamp", many)).graph

    assert graph.constants == 2000
    key = "optimization.constant_folding_max_output_size_in_bytes"
    assert engine._options(graph).get_session_config_entry(key) == str((1 << 30) // 2000)


def test_what_onnxruntime_does_not_take_is_told_in_its_words(tmp_path):
    wrong = lamp_model([node("Gemm", ["logits"], ["more"])])

    with pytest.raises(BundleError, match=r"lamp.onnx: onnxruntime [\d.]+ cannot load it \(.*Gemm"):
        load(write_onnx(tmp_path / "lamp", wrong))


def test_a_batch_that_fails_is_told_as_a_fault_of_the_batch(tmp_path):
    reshaped = ending_in(node("Reshape", ["lamp", "shape"], ["logits"]), weights=[stored("shape", [3, 2], np.int64)])
    model = load(write_onnx(tmp_path / "lamp", reshaped))

    with pytest.raises(RuntimeError, match="Reshape"):
        model.run(bright(2))
    with pytest.raises(BundleError, match=r"lamp 1: lamp.onnx: fails on 1 items of shape \[1, 2, 2\]"):
        model.warm_up()


def test_a_fault_of_cuda_ends_the_engine():
    def call():
        raise Exception("CUDA failure 700: an illegal memory access was encountered")

    with pytest.raises(DeviceLost):
        guarded(lambda: engine._translated(call))


def test_an_output_of_another_shape_is_refused(tmp_path):
    wide = ending_in(node("Concat", ["lamp", "lamp"], ["logits"], axis=1))

    with pytest.raises(BundleError, match=r"lamp.onnx gives float32 \(1, 4\), bundle.yaml says float32 \(1, 2\)"):
        load(write_onnx(tmp_path / "lamp", wide)).warm_up()


FIXED = lamp_model(shape=[1, 1, 2, 2])
DISAGREEING = {
    "another datatype in": (lamp_model(taken=TensorProto.DOUBLE), {}, r"inputs\[0\].dtype: 'float32' does not do"),
    "another datatype out": (
        lamp_model(given=TensorProto.INT64),
        {},
        r"outputs\[0\].dtype: .* file has int64",
    ),
    "another size": (lamp_model(shape=["n", 1, 2, 3]), {}, r"inputs\[0\].shape: \[1, 2, 2\] .* has \[1, 2, 3\]"),
    "another rank": (lamp_model(shape=["n", 4]), {}, r"has \[4\]"),
    "one item": (FIXED, {}, "batch.max_items: 8 does not do, the .onnx file takes 1 at once"),
    "four items": (lamp_model(shape=[4, 1, 2, 2]), {"batch": {"max_items": 1}}, "takes 4 items, wanted 1 or any"),
    "weights beside": (None, {"weights": "weights.safetensors"}, "weights: unknown key"),
}


@pytest.mark.parametrize("name", DISAGREEING)
def test_bundle_yaml_says_what_the_file_does(tmp_path, name):
    model, changes, wanted = DISAGREEING[name]
    directory = write_onnx(tmp_path / "lamp", model, **changes)
    if "weights" in changes:
        with (directory / "bundle.yaml").open("a") as file:
            file.write("weights: weights.safetensors\n")
        write_manifest(directory)

    with pytest.raises(BundleError, match=wanted):
        read_bundle(directory)


def test_a_file_that_takes_one_item_serves_one_at_a_time(tmp_path):
    model = load(write_onnx(tmp_path / "lamp", FIXED, batch={"max_items": 1}))

    model.warm_up()

    assert np.array_equal(model.run(bright()), lamp_logits(bright()))


def test_ids_are_bounded_by_what_the_file_embeds():
    graph = graph_of(
        [
            node("Cast", ["picture"], ["whole"], to=7),
            node("Gather", ["words", "whole"], ["embedded"]),
            node("ReduceMean", ["embedded", "axes"], ["logits"], keepdims=0),
        ],
        [stored("words", np.zeros((30, 2))), stored("axes", [1], np.int64)],
        ["items", 4],
        TensorProto.INT32,
    )

    found = read_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString(), "m")

    assert found.id_limit == 30


def test_an_engine_knows_the_bound_of_ids(tmp_path):
    assert id_limit_of(read_bundle(write_onnx(tmp_path / "lamp"))) is None


def test_onnxruntime_gets_the_threads_of_the_engine_and_none_that_spin(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        options = engine._options(read_bundle(write_onnx(tmp_path / "lamp")).graph)
        started = set(os.listdir("/proc/self/task"))
        model = load(write_onnx(tmp_path / "lamp"))
        threads = set(os.listdir("/proc/self/task")) - started
    finally:
        torch.set_num_threads(before)

    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert len(threads) == 1, model


def test_a_gpu_without_onnxruntimes_build_for_it_leaves_the_model_on_the_processor(caplog):
    assert engine._providers(torch.device("cuda", 0)) == ["CPUExecutionProvider"]
    assert "this model computes on the processor" in caplog.text


def test_memory_is_bounded_by_what_the_unit_may_have(tmp_path):
    (tmp_path / "group").write_text("0::/bedplate.slice/engine\n")
    (tmp_path / "bedplate.slice/engine").mkdir(parents=True)
    limit = tmp_path / "bedplate.slice/engine/memory.max"

    limit.write_text("2147483648\n")
    assert engine._group_bytes(tmp_path, tmp_path / "group") == 2 << 30
    limit.write_text("max\n")
    assert engine._group_bytes(tmp_path, tmp_path / "group") is None
    assert engine._group_bytes(tmp_path, tmp_path / "missing") is None


def test_optimize_says_that_it_has_one_form(tmp_path, capsys):
    directory = write_onnx(tmp_path / "lamp")

    assert cli.main(["bundle", "optimize", str(directory)]) == 0
    assert "lamp 1: is ONNX and has one form" in capsys.readouterr().out


def test_inspect_says_how_large_it_is(tmp_path, capsys):
    assert cli.main(["bundle", "inspect", str(write_onnx(tmp_path / "lamp"))]) == 0

    assert "2 nodes" in capsys.readouterr().out


def test_onnxruntime_keeps_to_itself(tmp_path):
    """Its builds report to their maker. Where they would, they leave an identifier of the machine behind at least."""
    directory = write_onnx(tmp_path / "lamp")
    program = f"""
import torch
from pathlib import Path
from bedplate.bundle.bundle import read_bundle
from bedplate.engine.model import Model
directory = Path({str(directory)!r})
Model.load(read_bundle(directory), directory, torch.device("cpu")).warm_up()
"""
    home = tmp_path / "home"
    home.mkdir()
    # Without what else would keep it quiet.
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")}
    environment = kept | {"HOME": str(home), "TMPDIR": str(home)}

    subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=True)

    assert [str(path) for path in home.rglob("*") if path.is_file()] == []


def test_nobody_loads_onnxruntime_but_by_the_module_that_quiets_it():
    files = Path(engine.__file__).parents[1].rglob("*.py")

    assert [path.name for path in files if re.search(r"^\s*(import|from) onnxruntime", path.read_text(), re.M)] == [
        "runtime.py"
    ]


def test_a_release_brings_the_list_of_operators():
    project = (Path(engine.__file__).parents[2] / "pyproject.toml").read_text()

    assert '"onnx_operators.txt"' in project
