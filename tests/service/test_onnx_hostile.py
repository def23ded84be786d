"""Files that are no network, or one that nobody should compute: all are refused before onnxruntime sees a byte."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from bedplate.bundle.bundle import BundleError
from bedplate.bundle.onnx import operators, read_onnx
from onnx import AttributeProto, TensorProto, helper

from tests.service.onnx_tools import LAMP, OPSETS, WEIGHTS, graph_of, lamp_model, stored

node = helper.make_node
INT64 = np.int64


def changed(change: Callable[[Any], Any], *more: Any, **graph: Any) -> onnx.ModelProto:
    """The lamp after something was done to it."""
    model = lamp_model(*more, **graph)
    change(model)
    return model


def one_more(operator: str, *taken: str, weights: Any = (), **attributes: Any) -> onnx.ModelProto:
    """The lamp, and one node that nobody needs."""
    return lamp_model([node(operator, list(taken), ["more"], **attributes)], weights)


def field(number: int, wire: int, content: bytes = b"") -> bytes:
    return varint(number << 3 | wire) + content


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def text(number: int, content: bytes) -> bytes:
    return field(number, 2, varint(len(content)) + content)


GOOD = lamp_model().SerializeToString()


def in_graph(more: bytes) -> bytes:
    """The lamp with more fields of its graph."""
    model = lamp_model()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    return bytes(model.SerializeToString() + text(7, graph + more))


def nested(depth: int, inner: onnx.GraphProto) -> onnx.ModelProto:
    graph = inner
    for level in range(depth):
        outer = [node("If", ["yes"], [f"out{level}"], then_branch=graph, else_branch=graph)]
        graph = helper.make_graph(outer, "g", [], [helper.make_tensor_value_info(f"out{level}", 1, None)])
    return lamp_model(list(graph.node), [stored("yes", True, bool)])


BRANCH = helper.make_graph(
    [node("Identity", ["logits"], ["same"])], "branch", [], [helper.make_tensor_value_info("same", 1, None)]
)


def weight(change: Callable[[onnx.TensorProto], Any]) -> onnx.ModelProto:
    return changed(lambda model: change(model.graph.initializer[0]))


def outside(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def attribute(**fields: Any) -> onnx.ModelProto:
    """A node with an attribute that is made by hand."""
    made = node("Relu", ["logits"], ["more"])
    made.attribute.append(AttributeProto(name="alpha", **fields))
    return lamp_model([made])


def function(name: str, calls: str) -> onnx.FunctionProto:
    return helper.make_function("own", name, ["x"], ["y"], [node(calls, ["x"], ["y"], domain="own")], OPSETS)


def trees(**changes: Any) -> onnx.ModelProto:
    """A tree of a node and two leaves."""
    attributes = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
        "n_targets": 1,
    }
    return one_more("TreeEnsembleRegressor", "flat", domain="ai.onnx.ml", **{**attributes, **changes})


def deep_tree(depth: int) -> onnx.ModelProto:
    """Each node has a leaf and the next node: onnxruntime follows them by recursion."""
    return trees(
        nodes_treeids=[0] * (2 * depth + 1),
        nodes_nodeids=list(range(2 * depth + 1)),
        nodes_truenodeids=[*range(1, depth + 1), *[0] * (depth + 1)],
        nodes_falsenodeids=[*range(depth + 1, 2 * depth + 1), *[0] * (depth + 1)],
        nodes_modes=["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
    )


def sized(operator: str, *sizes: Any, at: int = 1, **attributes: Any) -> onnx.ModelProto:
    """A node whose input `at` is a constant that says how much it makes."""
    taken = ["logits"] * at + ["size"]
    return one_more(operator, *taken, weights=[stored("size", list(sizes), INT64)], **attributes)


def value(change: Callable[[onnx.TypeProto], Any]) -> onnx.ModelProto:
    return changed(lambda model: change(model.graph.input[0].type))


LARGE = 1 << 40
HOSTILE: dict[str, tuple[onnx.ModelProto | bytes, str]] = {
    # files
    "nothing": (b"", "has no domain|opset_import"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", "Model"),
    "a zip file": (b"PK\x03\x04" + bytes(40), "Model"),
    "random bytes": (bytes(range(256)), "Model"),
    "a file that is cut off": (GOOD[:-3], "ends beyond"),
    "bytes behind the file": (GOOD + b"\x00", "field of the number 0"),
    "onnxruntime's own format": (b"\x20\0\0\0ORTM" + bytes(64), "onnxruntime's own format"),
    "a file that is both formats": (text(2, b"abORTMxx") + GOOD, "onnxruntime's own format"),
    # bytes that libraries may read in different ways
    "a group": (GOOD + field(3, 3), "wire type 3"),
    "a field that nobody knows": (GOOD + text(99, b"x"), "field 99"),
    "a field of another kind": (GOOD + text(1, b"x"), "wire type 2, wanted 0"),
    "two graphs that would be merged": (GOOD + text(7, b""), "Model.graph: stands twice"),
    "two versions": (GOOD + field(1, 0, varint(9)), "Model.ir_version: stands twice"),
    "a number without an end": (GOOD + b"\xff" * 20, "does not end"),
    "a number of 70 bits": (GOOD + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
    "a name that is no text": (GOOD.replace(b"Flatten", b"Fla\xff\xfeen"), "is no text"),
    "a length beyond the file": (GOOD + field(6, 2, varint(1 << 40)), "ends beyond"),
    # functions, domains, settings
    "a function": (changed(lambda m: m.functions.append(function("One", "Two"))), "functions of its own"),
    "functions that call each other": (
        changed(lambda m: m.functions.extend([function("One", "Two"), function("Two", "One")])),
        "functions of its own",
    ),
    "a domain of its own": (
        changed(lambda m: m.opset_import.append(helper.make_opsetid("com.example", 1))),
        "the domain 'com.example'",
    ),
    "an operator of another domain": (one_more("Relu", "logits", domain="com.example"), "com.example.Relu"),
    "a domain twice": (changed(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 17))), "a domain twice"),
    "no domain": (changed(lambda m: m.ClearField("opset_import")), "or none"),
    "an operator of a domain that is not named": (
        changed(lambda m: m.opset_import.pop(), [node("QGemm", ["logits"], ["more"], domain="com.microsoft")]),
        "com.microsoft.QGemm is not on the list",
    ),
    "an overload": (changed(lambda m: setattr(m.graph.node[0], "overload", "own")), "Node.overload"),
    "settings for onnxruntime": (
        changed(lambda m: m.metadata_props.add(key="ort_config", value="{}")),
        "would tell onnxruntime how to run",
    ),
    "a model that trains": (changed(lambda m: m.training_info.add()), "a model that trains"),
    "devices": (changed(lambda m: m.configuration.add(name="x", num_devices=2)), "spreads the model"),
    "EPContext": (
        one_more("EPContext", "logits", domain="com.microsoft", ep_cache_context="../engine.so", embed_mode=0),
        "com.microsoft.EPContext is not on the list",
    ),
    # operators
    "an operator that is none": (one_more("Exec", "logits"), "ai.onnx.Exec is not on the list"),
    "a program of Python": (one_more("PythonOp", "logits", domain="com.microsoft"), "PythonOp is not on the list"),
    "random numbers": (one_more("RandomNormal", shape=[2]), "RandomNormal is not on the list"),
    "random numbers like others": (one_more("RandomUniformLike", "logits"), "not on the list"),
    "chance": (one_more("Bernoulli", "logits"), "not on the list"),
    "a draw": (one_more("Multinomial", "logits"), "not on the list"),
    "dropout that trains": (
        lamp_model([node("Dropout", ["logits", "", "yes"], ["more"])], [stored("yes", True, bool)]),
        "training_mode: trains",
    ),
    "a norm that trains": (
        lamp_model([node("BatchNormalization", ["logits"] + ["bias"] * 4, ["more"], training_mode=1)]),
        "training_mode: trains",
    ),
    "a loop without an end": (one_more("Loop", "", "", "logits", body=BRANCH), "Loop is not on the list"),
    "a scan": (one_more("Scan", "logits", body=BRANCH, num_scan_inputs=1), "Scan is not on the list"),
    "pictures as files": (one_more("ImageDecoder", "logits"), "not on the list"),
    "texts by a pattern": (one_more("RegexFullMatch", "logits", pattern="(a+)+$"), "not on the list"),
    "texts that are cut": (one_more("StringSplit", "logits"), "not on the list"),
    "sequences": (one_more("SequenceConstruct", "logits"), "not on the list"),
    "maps": (one_more("ZipMap", "logits", domain="ai.onnx.ml"), "ai.onnx.ml.ZipMap is not on the list"),
    "a shape that depends on numbers": (one_more("NonZero", "logits"), "NonZero is not on the list"),
    "what is left of many": (one_more("Unique", "logits"), "not on the list"),
    "boxes that are left": (one_more("NonMaxSuppression", "logits", "logits"), "not on the list"),
    "numbers as texts": (one_more("Cast", "logits", to=TensorProto.STRING), "to: the datatype is not served"),
    # names and circles
    "a node that takes its own": (one_more("Relu", "more"), "'more' is made by nothing that stands before it"),
    "nodes in a circle": (
        lamp_model([node("Add", ["logits", "b"], ["a"]), node("Relu", ["a"], ["b"])]),
        "'b' is made by nothing",
    ),
    "a name that nothing has": (one_more("Relu", "other"), "'other' is made by nothing"),
    "a name that is made twice": (lamp_model([node("Relu", ["logits"], ["flat"])]), "'flat': the name is"),
    "a name that weights have": (lamp_model([node("Relu", ["logits"], ["bias"])]), "'bias': the name is"),
    "weights twice": (lamp_model(weights=[stored("bias", [1, 1])]), "'bias': the name is"),
    "an output that nothing makes": (
        changed(lambda m: setattr(m.graph.output[0], "name", "other")),
        "'other' is made by no node",
    ),
    "an output that is the input": (
        changed(lambda m: setattr(m.graph.output[0], "name", "picture")),
        "'picture' is made by no node",
    ),
    "two outputs": (changed(lambda m: m.graph.output.append(m.graph.output[0])), "takes 1 tensors and gives 2"),
    "two inputs": (
        changed(lambda m: m.graph.input.append(helper.make_tensor_value_info("mask", 1, [1]))),
        "takes 2 tensors and gives 1",
    ),
    "no graph": (changed(lambda m: m.ClearField("graph")), "has no graph"),
    # types
    "an input of texts": (value(lambda t: setattr(t.tensor_type, "elem_type", TensorProto.STRING)), "is no tensor of"),
    "an input of complex numbers": (
        value(lambda t: setattr(t.tensor_type, "elem_type", TensorProto.COMPLEX64)),
        "is no tensor of",
    ),
    "a sequence": (value(lambda t: t.sequence_type.elem_type.tensor_type.SetInParent()), "sequence_type: is no tensor"),
    "a map": (value(lambda t: setattr(t.map_type, "key_type", 7)), "map_type: is no tensor"),
    "a sparse tensor": (value(lambda t: setattr(t.sparse_tensor_type, "elem_type", 1)), "sparse_tensor_type: is no"),
    "what may be missing": (value(lambda t: t.optional_type.SetInParent()), "optional_type: is no tensor"),
    "a dimension below nothing": (lamp_model(shape=["items", -1]), "a dimension is -1"),
    # attributes
    "an attribute that refers to a function's": (attribute(ref_attr_name="x", type=1), "ref_attr_name"),
    "an attribute of two types": (attribute(type=AttributeProto.FLOAT, f=1.0, i=2), "of another type than it says"),
    "an attribute without a type": (attribute(i=2), "of another type than it says"),
    "sparse weights in an attribute": (
        attribute(type=AttributeProto.SPARSE_TENSOR, sparse_tensor=onnx.SparseTensorProto()),
        "sparse_tensor",
    ),
    "a list of graphs": (attribute(type=AttributeProto.GRAPHS, graphs=[BRANCH]), "Attribute.graphs"),
    "a graph where none goes": (attribute(type=AttributeProto.GRAPH, g=BRANCH), "which only If may have"),
    "a constant of texts": (one_more("Constant", value_strings=["a"]), "without a value of numbers"),
    "a constant that is sparse": (
        lamp_model([node("Constant", [], ["more"], sparse_value=onnx.SparseTensorProto())]),
        "sparse_tensor",
    ),
    "a branch that takes inputs": (
        lamp_model(
            [node("If", ["yes"], ["more"], then_branch=graph_of(LAMP, WEIGHTS), else_branch=BRANCH)],
            [stored("yes", True, bool)],
        ),
        "a branch of If takes inputs",
    ),
    # weights
    "weights in another file": (weight(lambda t: outside(t, "weights.bin")), "lies in another file"),
    "weights by a path": (weight(lambda t: outside(t, "../../../etc/shadow")), "lies in another file"),
    "weights elsewhere, by a number that is cut to 32 bits": (
        in_graph(text(5, stored("far", [1]).SerializeToString() + field(14, 0, varint((1 << 32) + 1)))),
        "lies in another file",
    ),
    "a datatype by a number that is cut to 32 bits": (
        in_graph(text(5, field(2, 0, varint((1 << 32) + 1)) + text(8, b"far"))),
        "the datatype 4294967297 is not served",
    ),
    "weights of texts": (lamp_model(weights=[helper.make_tensor("t", 8, [1], [b"x"])]), "string_data: holds texts"),
    "weights in parts": (weight(lambda t: setattr(t.segment, "begin", 1)), "segment: is a part"),
    "sparse weights": (changed(lambda m: m.graph.sparse_initializer.add()), "sparse weights are not served"),
    "fewer numbers than the shape says": (
        weight(lambda t: t.dims.extend([1 << 20])),
        "does not hold the 8388608 numbers",
    ),
    "more numbers than the shape says": (weight(lambda t: t.dims.pop()), "does not hold the 2 numbers"),
    "numbers of another type": (weight(lambda t: setattr(t, "data_type", TensorProto.INT8)), "does not hold"),
    "numbers twice": (weight(lambda t: t.float_data.extend([1.0] * 8)), "does not hold"),
    "a size below nothing": (weight(lambda t: t.dims.extend([-1, -1])), "its shape is none"),
    "a shape without an end": (weight(lambda t: t.dims.extend([1] * 20)), "its shape is none"),
    "complex weights": (
        weight(lambda t: setattr(t, "data_type", TensorProto.COMPLEX64)),
        "the datatype 14 is not served",
    ),
    # bombs
    "terabytes of zeros": (sized("ConstantOfShape", LARGE, at=0), "makes more than 1073741824 numbers"),
    "zeros by many small sizes": (sized("ConstantOfShape", *[64] * 8, at=0), "makes more than"),
    "a tensor spread out": (sized("Expand", 1 << 20, 1 << 20, 2), "makes more than"),
    "a tensor again and again": (sized("Tile", 1 << 20, 1 << 20), "makes more than"),
    "a reshape without an end": (sized("Reshape", LARGE, -1), "makes more than"),
    "numbers up to a trillion": (
        lamp_model(
            [node("Range", ["zero", "end", "one"], ["more"])],
            [stored("zero", 0, INT64), stored("end", LARGE, INT64), stored("one", 1, INT64)],
        ),
        "input 1 makes more than",
    ),
    "a margin as wide as the sea": (sized("Pad", 0, 0, 0, LARGE), "makes more than"),
    "a margin by an attribute": (one_more("MaxPool", "picture", kernel_shape=[1, 1], pads=[1 << 30] * 4), "pads:"),
    "a kernel as wide as the sea": (one_more("MaxPool", "picture", kernel_shape=[1 << 40, 1]), "kernel_shape:"),
    "a picture enlarged": (
        lamp_model([node("Resize", ["picture", "", "scales"], ["more"])], [stored("scales", [1, 1, 1e6, 1e6])]),
        "makes more than",
    ),
    "a scale that is infinite": (
        lamp_model([node("Resize", ["picture", "", "scales"], ["more"])], [stored("scales", [1, 1, np.inf, 1])]),
        "makes more than",
    ),
    "one of a trillion": (
        lamp_model(
            [node("Cast", ["logits"], ["whole"], to=7), node("OneHot", ["whole", "depth", "bias"], ["more"])],
            [stored("depth", LARGE, INT64)],
        ),
        "makes more than",
    ),
    "a window of a trillion": (sized("HannWindow", LARGE, at=0), "makes more than"),
    "a constant in a node": (
        lamp_model([node("Constant", [], ["size"], value_ints=[LARGE]), node("ConstantOfShape", ["size"], ["more"])]),
        "makes more than",
    ),
    "a request that says how much is made": (
        lamp_model([node("Cast", ["picture"], ["size"], to=7), node("ConstantOfShape", ["size"], ["more"])]),
        "depends on the numbers of a request",
    ),
    "a request that says how often": (
        lamp_model(
            [
                node("Cast", ["flat"], ["whole"], to=7),
                node("ReduceMax", ["whole", "axes"], ["most"], keepdims=0),
                node("Tile", ["flat", "most"], ["more"]),
            ],
            [stored("axes", [0], INT64)],
        ),
        "depends on the numbers of a request",
    ),
    "a request that chooses a branch": (
        lamp_model(
            [
                node("Cast", ["logits"], ["yes"], to=9),
                node("If", ["yes"], ["more"], then_branch=BRANCH, else_branch=BRANCH),
            ]
        ),
        "depends on the numbers of a request",
    ),
    "graphs inside of graphs": (nested(6, BRANCH), "lies too deep"),
    "too many nodes": (
        lamp_model([node("Relu", ["logits"], [f"more{n}"]) for n in range(20_001)]),
        "more than 20000",
    ),
    "too many nodes in graphs inside": (
        nested(
            1,
            helper.make_graph(
                [node("Relu", ["logits"], [f"x{n}"]) for n in range(12_000)],
                "g",
                [],
                [helper.make_tensor_value_info("x0", 1, None)],
            ),
        ),
        "more than 20000",
    ),
    "a file of nothing but notes": (GOOD + text(14, b"") * 10_001, "more than 10000"),
    # trees
    "a tree with a circle": (trees(nodes_truenodeids=[0, 0, 0]), "two parents, or goes round in a circle"),
    "a node with two parents": (trees(nodes_falsenodeids=[1, 0, 0]), "two parents, or goes round"),
    "a child that is none": (trees(nodes_truenodeids=[7, 0, 0]), "a child that is none"),
    "trees of different lengths": (trees(nodes_modes=["LEAF"]), "different lengths"),
    "a node twice": (trees(nodes_nodeids=[0, 1, 1]), "the same number"),
    "nodes beside the tree": (trees(nodes_modes=["LEAF"] * 3), "no node leads to one of them"),
    "a tree as deep as the sea": (deep_tree(2000), "deeper than 1000"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name):
    content, wanted = HOSTILE[name]
    content = content if isinstance(content, bytes) else content.SerializeToString()

    with pytest.raises(BundleError, match=r"^lamp\.onnx: ") as refused:
        read_onnx(content, "lamp.onnx")

    assert any(one in str(refused.value) for one in wanted.split("|"))


def test_a_small_file_cannot_become_many_objects():
    nodes = text(1, text(5, b"") * 256)  # 20,000 nodes of 256 attributes each would be 5 million of them

    with pytest.raises(BundleError, match="has too many fields"):
        read_onnx(GOOD + text(7, nodes * 4000), "lamp.onnx")


def test_every_change_of_a_byte_is_read_or_refused():
    """What the reader does not expect is a refusal, and nothing else."""
    for at in range(len(GOOD)):
        for byte in (0, 0x7F, 0x80, 0xFF, GOOD[at] ^ 1):
            with contextlib.suppress(BundleError):
                read_onnx(GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], "lamp.onnx")


FORBIDDEN = ("Random", "Bernoulli", "Multinomial", "Loop", "Scan", "Sequence", "String", "ZipMap", "NonZero", "EP")


def test_no_operator_on_the_list_draws_repeats_or_gives_a_shape_of_numbers():
    listed = [name for names in operators().values() for name in names]

    assert [name for name in listed if name.startswith(FORBIDDEN)] == []


def test_every_operator_on_the_list_is_onnxs():
    known = {(one.domain or "ai.onnx", one.name) for one in onnx.defs.get_all_schemas_with_history()}
    listed = {(domain, name) for domain, names in operators().items() for name in names if domain != "com.microsoft"}

    assert listed - known == set()


def test_what_checks_a_file_loads_neither_onnx_nor_onnxruntime():
    program = (
        "import sys; from bedplate.bundle import onnx; onnx.operators(); "
        "print({'onnx', 'onnxruntime', 'torch', 'google.protobuf'} & set(sys.modules))"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.strip() == "set()"
