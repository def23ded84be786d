"""A network as a .onnx file, checked here before onnxruntime sees it (docs/adr/0027). Needs neither it nor onnx."""

from __future__ import annotations

import importlib.resources
import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from bedplate.bundle import protobuf
from bedplate.bundle.onnx_fields import MAX_NODES, TABLES
from bedplate.bundle.onnx_trees import check_trees
from bedplate.bundle.protobuf import Budget, Malformed, Message, Packed
from bedplate.bundle.strict_yaml import BundleError
from bedplate.bundle.tensor import Range, Tensor

MAX_BYTES = (1 << 31) - 1  # protobuf's own bound
_ORT_FORMAT = b"ORTM"  # at byte 4: onnxruntime would take the file for its own format, whatever else it is
_STANDARD = "ai.onnx"
_MAX_BRANCHES = 4  # of graphs inside of one another
_DEEPEST = 7 + 3 * _MAX_BRANCHES  # messages: a dimension of a value of the innermost graph
_MAX_DIMENSIONS = 16
_MAX_NUMBERS = 1 << 30  # of a tensor whose shape a constant says
_MAX_STEP = 1 << 16  # of a kernel, a stride, a margin
_SMALL = 64  # numbers: constants that say shapes have no more
_SETTINGS = "ort_config"  # by which a file may tell onnxruntime how to run it
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
# Of those, what a bundle takes and gives.
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_VALUE_OF_TYPE = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings"}
# Where numbers of a tensor are that does not keep them as raw bytes, and how many of the list make one.
_LISTS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
# Inputs whose numbers say how large the output is: they may come from shapes and constants, and never from data.
_SIZES: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
_REDUCING = "Reduce"  # by axes, their second input
# What leaves its input as it is large, or makes less of it: any number will do, and the largest means "to the end".
_LESSENING = ("Slice", "Split", "Squeeze", "Unsqueeze", "TopK", "If")
_STEPS = ("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides")
_NOTHING = Message()
_KEEP_IDS = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class OnnxGraph:
    """What a bundle has to know of a checked file."""

    input: str
    output: str
    input_dtype: str
    output_dtype: str
    shape: tuple[int | None, ...] | None  # of the input, items first; None: not said
    nodes: int
    constants: int  # of those nodes: what onnxruntime may compute once and for all
    weights_bytes: int
    id_limit: int | None  # one more than the largest id that the input may hold; None: it holds none

    def check(self, taken: Tensor, given: Tensor, max_items: int, source: str) -> None:
        """
        Raises:
            BundleError: bundle.yaml says something else of the input or the output.
        """
        for key, said, found in (
            ("inputs[0]", taken.dtype, self.input_dtype),
            ("outputs[0]", given.dtype, self.output_dtype),
        ):
            if said != found:
                raise BundleError(f"{source}: {key}.dtype: {said!r} does not do, the .onnx file has {found}")
        if self.shape is None:
            return
        items, *shape = self.shape or (None,)
        if len(shape) != len(taken.shape) or not all(map(_may_be, shape, taken.shape)):
            wanted = [size or "any" for size in shape]
            raise BundleError(f"{source}: inputs[0].shape: {taken.document} does not do, the .onnx file has {wanted}")
        if items is not None and max_items != 1:
            raise BundleError(
                f"{source}: batch.max_items: {max_items} does not do, the .onnx file takes {items} at once; wanted "
                "1, or export it with a first dimension that varies"
            )
        if items not in (None, 1):
            raise BundleError(f"{source}: the .onnx file takes {items} items, wanted 1 or any number; export it so")


def _may_be(found: int | None, said: int | Range) -> bool:
    return found is None or found == said


def read_onnx(content: bytes, source: str) -> OnnxGraph:
    """
    Raises:
        BundleError: it is no ONNX, or has what no bundle may have; with the node.
    """
    if len(content) > MAX_BYTES:
        raise BundleError(f"{source}: has {len(content)} bytes, {MAX_BYTES} are allowed; export a smaller network")
    try:
        if content[4:8] == _ORT_FORMAT:
            raise Malformed("is in onnxruntime's own format; bring the .onnx file that it was made of")
        model = protobuf.parse(TABLES, "Model", memoryview(content), Budget(_DEEPEST))
        return _Checker(model).check()
    except Malformed as error:
        raise BundleError(f"{source}: {error}") from None


@cache
def operators() -> Mapping[str, frozenset[str]]:
    """The operators that there may be, by their domain."""
    found: dict[str, set[str]] = {}
    for line in importlib.resources.files("bedplate.bundle").joinpath("onnx_operators.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            domain, _, names = line.partition(": ")
            found.setdefault(domain, set()).update(names.split())
    return {domain: frozenset(names) for domain, names in found.items()}


@dataclass(frozen=True)
class _Value:
    """What is known of one name before anything is computed."""

    of_data: bool = False  # its numbers depend on the numbers of the input, not on shapes alone
    numbers: tuple[float, ...] | None = None  # of a small constant
    dims: tuple[int, ...] | None = None  # of weights
    is_ids: bool = False  # the input's numbers as they are


@dataclass
class _Checker:
    model: Message
    nodes: int = 0
    constants: int = 0
    weights_bytes: int = 0
    id_limits: list[int] = field(default_factory=list)

    def check(self) -> OnnxGraph:
        self._check_model()
        graph = self.model.get("graph")
        if graph is None:
            raise Malformed("has no graph; is it a .onnx file?")
        initializers = {tensor.get("name", "") for tensor in graph["initializer"]}
        taken = [value for value in graph["input"] if value.get("name") not in initializers]
        if len(taken) != 1 or len(graph["output"]) != 1:
            raise Malformed(
                f"takes {len(taken)} tensors and gives {len(graph['output'])}, wanted one of each; "
                "'bedplate bundle import onnx --answer NAME' keeps one output"
            )
        input_dtype, shape = _typed(taken[0])
        output_dtype, _ = _typed(graph["output"][0])
        name, output = taken[0].get("name", ""), graph["output"][0].get("name", "")
        values = {name: _Value(of_data=True, is_ids=True)}
        made = self._graph(graph, values)
        if output not in made:
            raise Malformed(f"output {output!r} is made by no node")
        limit = min(self.id_limits, default=None)
        sizes = self.nodes, self.constants, self.weights_bytes
        return OnnxGraph(name, output, input_dtype, output_dtype, shape, *sizes, limit)

    def _check_model(self) -> None:
        if any(pair.get("key") == _SETTINGS for pair in self.model["metadata_props"]):
            raise Malformed(f"metadata_props: '{_SETTINGS}' would tell onnxruntime how to run; remove it")
        domains = [_domain(opset.get("domain", "")) for opset in self.model["opset_import"]]
        for domain in domains:
            if domain not in operators():
                raise Malformed(
                    f"opset_import: the domain {domain!r} is none of {', '.join(operators())}; "
                    "'bedplate bundle import onnx' removes what is not used"
                )
        if len(set(domains)) != len(domains) or not domains:
            raise Malformed("opset_import: names a domain twice, or none")
        self._domains = set(domains)

    def _graph(self, graph: Message, values: MutableMapping[str, _Value]) -> set[str]:
        """Check the nodes in their order; each takes what stands before it. Return what nodes of this graph make."""
        for tensor in graph["initializer"]:
            _define(values, tensor.get("name", ""), self._tensor(tensor), "initializer")
        made: set[str] = set()
        for node in graph["node"]:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise Malformed(f"has more than {MAX_NODES} nodes")
            where = f"node {self.nodes - 1} ({node.get('op_type', '')[:80]} {node.get('name', '')[:80]!r})"
            try:
                result = self._node(node, values)
                self.constants += not result.of_data
                for name in filter(None, node["output"]):
                    _define(values, name, result, "output")
                    made.add(name)
            except Malformed as error:
                raise Malformed(str(error) if str(error).startswith("node ") else f"{where}: {error}") from None
        return made

    def _node(self, node: Message, values: MutableMapping[str, _Value]) -> _Value:
        operator, domain = node.get("op_type", ""), _domain(node.get("domain", ""))
        if operator not in operators().get(domain, ()) or domain not in self._domains:
            raise Malformed(
                f"{domain}.{operator} is not on the list of operators (docs/bundles.md); leave it out of the network"
            )
        for name in filter(None, node["input"]):
            if name not in values:
                raise Malformed(f"input {name!r} is made by nothing that stands before it")
        given = [values.get(name, _Value()) for name in node["input"]]
        attributes = _attributes(node)
        _check_attributes(operator, attributes)
        if operator == "Dropout" and len(given) > 2:
            raise Malformed("training_mode: trains; export the model for inference")
        self._check_sizes(operator, given, node["input"])
        self._note_ids(operator, given, attributes)
        return self._result(operator, given, attributes, values)

    def _result(
        self,
        operator: str,
        given: Sequence[_Value],
        attributes: Mapping[str, Message],
        values: MutableMapping[str, _Value],
    ) -> _Value:
        if operator == "Constant":
            return self._constant(attributes)
        graphs = [one["g"] for one in attributes.values() if "g" in one]
        if operator == "If":
            return _Value(of_data=any([self._branch(graph, values) for graph in graphs]))
        if graphs:
            raise Malformed("has a graph inside, which only If may have")
        for one in attributes.values():
            if "t" in one:
                self._tensor(one["t"])
        of_data = operator not in ("Shape", "Size") and any(value.of_data for value in given)
        return _Value(of_data, is_ids=operator in _KEEP_IDS and given[0].is_ids if given else False)

    def _branch(self, graph: Message, values: MutableMapping[str, _Value]) -> bool:
        """Whether what it gives depends on data. It sees what stands around it."""
        if graph["input"]:
            raise Malformed("a branch of If takes inputs")
        inner: ChainMap[str, _Value] = ChainMap({}, values)
        self._graph(graph, inner)
        names = [value.get("name", "") for value in graph["output"]]
        if not all(name in inner for name in names):
            raise Malformed("a branch of If gives what it has not")
        return any(inner[name].of_data for name in names)

    def _constant(self, attributes: Mapping[str, Message]) -> _Value:
        [(name, value)] = attributes.items() if len(attributes) == 1 else [("", Message())]
        if name == "value" and "t" in value:
            return self._tensor(value["t"])
        if name in ("value_int", "value_float"):
            return _Value(numbers=(value.get("i", value.get("f", 0)),))
        if name in ("value_ints", "value_floats"):
            found = value.get("ints", value.get("floats"))
            return _Value(numbers=_small(found) if found is not None else ())
        raise Malformed("is a constant without a value of numbers")

    def _tensor(self, tensor: Message) -> _Value:
        """Check weights: as many numbers as the shape says, and here."""
        name, dtype = tensor.get("name", ""), tensor.get("data_type", 0)
        if dtype not in _BITS:
            raise Malformed(f"tensor {name[:80]!r}: the datatype {dtype} is not served")
        if tensor.get("data_location", 0) != 0:
            raise Malformed(
                f"tensor {name[:80]!r}: lies in another file; 'bedplate bundle import onnx' packs it into this one"
            )
        dims = _dims(tensor, name)
        count = math.prod(dims)
        held = [key for key in ("raw_data", "float_data", "int32_data", *_LISTS.values()) if key in tensor]
        wanted_list = _LISTS.get(dtype, "int32_data")
        size = (count * _BITS[dtype] + 7) // 8
        if held == ["raw_data"]:
            fits = len(tensor["raw_data"]) == size
        elif not held:
            fits = count == 0
        else:
            # Numbers of four bits share one of the list.
            fits = set(held) == {wanted_list} and len(tensor[wanted_list]) == (size if _BITS[dtype] < 8 else count)
        if not fits:
            raise Malformed(f"tensor {name[:80]!r}: does not hold the {count} numbers of the shape {list(dims)}")
        self.weights_bytes += size
        return _Value(numbers=_numbers(tensor, dtype, wanted_list) if count <= _SMALL else None, dims=dims)

    def _check_sizes(self, operator: str, given: Sequence[_Value], names: Sequence[str]) -> None:
        reduces = operator.startswith(_REDUCING)
        for at in (1,) if reduces else _SIZES.get(operator, ()):
            if at >= len(given) or not names[at]:
                continue
            if given[at].of_data:
                raise Malformed(
                    f"input {at} says how large the output is, and depends on the numbers of a request; wanted what "
                    "constants and shapes say"
                )
            numbers = given[at].numbers
            if numbers is None or reduces or operator in _LESSENING:
                continue
            if not all(map(math.isfinite, numbers)) or math.prod(max(1.0, abs(one)) for one in numbers) > _MAX_NUMBERS:
                raise Malformed(f"input {at} makes more than {_MAX_NUMBERS} numbers: {list(numbers)[:8]}")

    def _note_ids(self, operator: str, given: Sequence[_Value], attributes: Mapping[str, Message]) -> None:
        if operator != "Gather" or len(given) != 2 or not given[1].is_ids or not given[0].dims:
            return
        if attributes.get("axis", _NOTHING).get("i", 0) == 0:
            self.id_limits.append(given[0].dims[0])


def _domain(name: str) -> str:
    return name or _STANDARD


def _define(values: MutableMapping[str, _Value], name: str, value: _Value, what: str) -> None:
    if not name or name in values:
        raise Malformed(f"{what} {name[:80]!r}: the name is empty, or taken already")
    values[name] = value


def _typed(value: Message) -> tuple[str, tuple[int | None, ...] | None]:
    """Its dtype, and its dimensions, where it says any."""
    name, kind = value.get("name", ""), value.get("type", _NOTHING).get("tensor_type")
    dtype = _DTYPES.get(kind.get("elem_type", 0)) if kind is not None else None
    if kind is None or dtype is None:
        raise Malformed(f"{name[:80]!r} is no tensor of {', '.join(_DTYPES.values())}")
    shape = kind.get("shape")
    return dtype, None if shape is None else tuple(map(_dimension, shape["dim"]))


def _dimension(said: Message) -> int | None:
    size = said.get("dim_value")
    if size is None:
        return None
    if size < 1 or "dim_param" in said:
        raise Malformed(f"a dimension is {size}, wanted one that is larger than 0, or a name")
    return int(size)


def _dims(tensor: Message, name: str) -> tuple[int, ...]:
    dims = tensor.get("dims")
    found = () if dims is None or len(dims) > _MAX_DIMENSIONS else tuple(dims.wholes())
    if (dims is not None and len(dims) > _MAX_DIMENSIONS) or any(not 0 <= size <= MAX_BYTES for size in found):
        raise Malformed(f"tensor {name[:80]!r}: its shape is none: at most {_MAX_DIMENSIONS} sizes of 0 and more")
    return found


def _attributes(node: Message) -> dict[str, Message]:
    """By name, each with the value that its type says and no other."""
    found: dict[str, Message] = {}
    for one in node["attribute"]:
        name, value = one.get("name", ""), _VALUE_OF_TYPE.get(one.get("type", 0))
        held = {key for key in _VALUE_OF_TYPE.values() if one.get(key) not in (None, [])}
        if name in found or value is None or not held <= {value}:
            raise Malformed(f"attribute {name[:80]!r}: stands twice, or has a value of another type than it says")
        found[name] = one
    return found


def _check_attributes(operator: str, attributes: Mapping[str, Message]) -> None:
    """What an operator on the list may not be told."""
    for name in ("training_mode", "is_training"):
        if attributes.get(name, _NOTHING).get("i", 0):
            raise Malformed(f"{name}: trains; export the model for inference")
    if operator == "Cast" and attributes.get("to", _NOTHING).get("i", 0) not in _BITS:
        raise Malformed("to: the datatype is not served")
    for name in _STEPS:
        ints = attributes.get(name, _NOTHING).get("ints")
        if ints is not None and (len(ints) > _SMALL or any(abs(one) > _MAX_STEP for one in ints.wholes())):
            raise Malformed(f"{name}: wanted at most {_SMALL} numbers of at most {_MAX_STEP}")
    if operator.startswith("TreeEnsemble"):
        ids = {name: list(one["ints"].wholes()) for name, one in attributes.items() if "ints" in one}
        try:
            check_trees(ids, [bytes(one) for one in attributes.get("nodes_modes", _NOTHING).get("strings", ())])
        except ValueError as error:
            raise Malformed(str(error)) from None


def _small(found: Packed) -> tuple[float, ...] | None:
    if len(found) > _SMALL:
        return None
    if found.kind == protobuf.WHOLES:
        return tuple(found.wholes())
    kind = "<f4" if found.kind == protobuf.FLOATS else "<f8"
    return tuple(np.concatenate([np.frombuffer(part, kind) for part in _views(found.parts)]).tolist()) or ()


def _views(parts: Iterable[Any]) -> Iterable[memoryview]:
    return (part for part in parts if isinstance(part, memoryview))


def _numbers(tensor: Message, dtype: int, where: str) -> tuple[float, ...] | None:
    """The numbers of a small tensor of a kind that says shapes; None of any other."""
    if dtype not in (1, 6, 7, 11):
        return None
    if "raw_data" in tensor:
        kind = np.dtype(_DTYPES[dtype]).newbyteorder("<")
        return tuple(np.frombuffer(tensor["raw_data"], kind).tolist())
    return _small(tensor[where]) if where in tensor else ()
