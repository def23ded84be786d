"""A network as a list of operations: JSON beside the weights, checked here before torch sees a name (docs/adr/0026).

    {"format": 1, "input": "picture", "output": "linear",
     "tensors": {"head.weight": {"dtype": "float32", "shape": [2, 8]}},
     "steps": [{"to": "linear", "op": "aten.linear.default", "with": {"input": "picture", "weight": "head.weight"}}]}

Each step names what it makes, and takes what was named before it: nothing goes round in a circle.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bedplate.bundle import dtypes
from bedplate.bundle.operations import FIXED, SIZE, TENSOR, TENSORS, Operation, Parameter, operations
from bedplate.bundle.strict_yaml import BundleError, Section

MAX_BYTES = 8 << 20
MAX_STEPS = 10_000
_MAX_TENSORS = 10_000
_MAX_DIMENSIONS = 16
_MAX_MEMBERS = 1024  # of a list: of sizes, of tensors to join
_MAX_NUMBERS = 1 << 40  # of one tensor of the weights
_SIZE_BITS = 64  # of a tensor's dimension, and of a whole number
_MAX_SIZE_BITS = 1024  # of what is computed of sizes: Python's numbers grow, and squaring doubles them each time
_STEP = r"[A-Za-z_][A-Za-z0-9_]{0,199}"
_STORED = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
_MAX_NAME = 300
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", *dtypes.FLOATING)
INPUT_DEVICE = "input"  # in place of a device: that of the input, wherever the program computes
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has none of them
_WORDS: Mapping[str, tuple[str, ...]] = {
    "ScalarType": _DTYPES,
    "Layout": ("strided",),
    "Device": (INPUT_DEVICE,),
    "MemoryFormat": ("contiguous_format", "preserve_format", "channels_last"),
    "str": (
        "none",
        "tanh",
        "constant",
        "reflect",
        "replicate",
        "circular",
        "same",
        "valid",
        "floor",
        "trunc",
        "ij",
        "xy",
    ),
}
# What leaves ids what they are.
_KEEP_IDS = ("aten.to.dtype", "aten.contiguous.default", "aten.reshape.default")
_EMBEDDING = "aten.embedding.default"
_CONVOLUTIONS = ("aten.conv2d.default", "aten.conv2d.padding", "aten.convolution.default")
_IDS = ("int32", "int64")


@dataclass(frozen=True)
class Reference:
    """What a step before, the input or the weights have under this name."""

    name: str


@dataclass(frozen=True)
class Stored:
    """A tensor of the weights."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    name: str
    operation: str
    # By the names of the operation's parameters: numbers, words, None, a Reference, or a list of such.
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    input: str
    output: str
    tensors: Mapping[str, Stored]
    steps: tuple[Step, ...]

    @property
    def convolves(self) -> bool:
        """Whether it has convolutions of pictures."""
        return any(step.operation in _CONVOLUTIONS for step in self.steps)

    @cached_property
    def id_limit(self) -> int | None:
        """One more than the largest id that the input may hold; None where no embedding takes the input itself."""
        ids, limits = {self.input}, []
        for step in self.steps:
            if step.operation in _KEEP_IDS and _name(step.arguments["self"]) in ids:
                ids.add(step.name)
            elif step.operation == _EMBEDDING and _name(step.arguments["indices"]) in ids:
                table = self.tensors.get(_name(step.arguments["weight"]))
                limits += [table.shape[0]] if table and table.shape else []
        return min(limits, default=None)

    def check_input(self, dtype: str, source: str) -> None:
        """Raises: BundleError: it embeds an input that is not declared as ids."""
        if self.id_limit is not None and dtype not in _IDS:
            raise BundleError(f"{source}: inputs[0].dtype: {dtype!r} does not do, wanted {' or '.join(_IDS)} as ids")


def _name(argument: object) -> str:
    return argument.name if isinstance(argument, Reference) else ""


def read_program(content: bytes, source: str) -> Program:
    """
    Raises:
        BundleError: it is no program, or has an operation or an argument that is not on the list; with the step.
    """
    if len(content) > MAX_BYTES:
        raise BundleError(f"{source}: has {len(content)} bytes, {MAX_BYTES} are allowed; import a smaller network")
    try:
        document = json.loads(content, parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{source}: is no JSON ({error}); write it with 'bedplate bundle import'") from None
    top = Section(source, document)
    top.integer("format", 1, 1)
    taken, given = top.text("input", _STEP), top.text("output", _STEP)
    tensors = _tensors(top)
    kinds: dict[str, str] = {}
    _define(kinds, taken, TENSOR, top)
    for name in tensors:
        _define(kinds, name, TENSOR, top)
    bits: dict[str, int] = {}
    steps = tuple(_step(section, kinds, bits) for section in top.sections("steps", MAX_STEPS))
    top.done()
    if kinds.get(given) != TENSOR or given in tensors or given == taken:
        raise top.refuse("output", given, "the name of a step that gives a tensor")
    return Program(taken, given, tensors, steps)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _define(kinds: dict[str, str], name: str, kind: str, section: Section) -> None:
    if name in kinds:
        raise section.refuse("to", name, "a name that nothing has yet")
    kinds[name] = kind


def _tensors(top: Section) -> dict[str, Stored]:
    section = top.section("tensors")
    if len(section.keys) > _MAX_TENSORS:
        raise top.refuse("tensors", len(section.keys), f"at most {_MAX_TENSORS} of them")
    return {name: _stored(section, name) for name in section.keys}


def _stored(tensors: Section, name: str) -> Stored:
    if len(name) > _MAX_NAME or not re.fullmatch(_STORED, name):
        raise tensors.refuse(name, name, f"a name like {_STORED}")
    section = tensors.section(name)
    dtype = section.choice("dtype", _DTYPES)
    shape = section.take("shape")
    section.done()
    sizes: list[Any] = shape if isinstance(shape, list) else [None]
    if len(sizes) > _MAX_DIMENSIONS or not all(type(size) is int and 0 <= size <= _MAX_NUMBERS for size in sizes):
        raise section.refuse("shape", shape, f"at most {_MAX_DIMENSIONS} whole numbers")
    if math.prod(sizes) > _MAX_NUMBERS:
        raise section.refuse("shape", shape, f"at most {_MAX_NUMBERS} numbers in all")
    return Stored(dtype, tuple(sizes))


def _step(section: Section, kinds: dict[str, str], bits: dict[str, int]) -> Step:
    name, operation = section.text("to", _STEP), section.text("op")
    known = operations().get(operation)
    if known is None:
        wanted = "an operation of bedplate/bundle/operations.txt; leave it out of the network, or bring it as 'code:'"
        raise section.refuse("op", operation, wanted)
    given = section.section("with")
    arguments = dict(_arguments(given, known, kinds))
    given.done()
    section.done()
    _define(kinds, name, known.gives, section)
    if known.gives == SIZE:
        bits[name] = _bits(operation, arguments, bits)
        if bits[name] > _MAX_SIZE_BITS:
            raise section.refuse("with", f"a number of up to {bits[name]} bits", f"at most {_MAX_SIZE_BITS} of them")
    return Step(name, operation, arguments)


def _bits(operation: str, arguments: Mapping[str, Any], bits: Mapping[str, int]) -> int:
    """Return the most bits that a result of sizes can have, whatever the sizes are."""
    given = [
        bits[value.name] if isinstance(value, Reference) and value.name in bits else _SIZE_BITS
        for value in arguments.values()
    ]
    if operation == "operator.mul":
        return sum(given)
    return max(given) + (operation in ("operator.add", "operator.sub"))


def _arguments(given: Section, operation: Operation, kinds: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name, parameter in operation.parameters.items():
        if not given.has(name) and parameter.may_be_left_out:
            continue
        value = given.take(name)
        try:
            read = _read(value, parameter, kinds)
        except ValueError as wanted:
            raise given.refuse(name, value, str(wanted)) from None
        fixed = FIXED.get((operation.name, name), read)
        if read != fixed:
            raise given.refuse(name, value, f"{fixed}: a program neither trains nor keeps anything")
        yield name, read


def _read(value: object, parameter: Parameter, kinds: Mapping[str, str]) -> Any:
    """
    Raises:
        ValueError: says what is wanted.
    """
    if value is None:
        if parameter.may_be_null:
            return None
        raise ValueError(f"a value of the kind {parameter.kind}")
    if not parameter.is_list:
        return _one(value, parameter.kind, kinds)
    if isinstance(value, str) and parameter.kind == TENSOR:
        return _reference(value, TENSORS, kinds)
    if not isinstance(value, list):
        if parameter.one_for_all:
            return _one(value, parameter.kind, kinds)
        raise ValueError(f"a list of {parameter.kind}")
    if len(value) > _MAX_MEMBERS:
        raise ValueError(f"a list of at most {_MAX_MEMBERS}")
    null = parameter.members_may_be_null
    return [None if member is None and null else _one(member, parameter.kind, kinds) for member in value]


def _one(value: object, kind: str, kinds: Mapping[str, str]) -> Any:
    if kind in _WORDS:
        return _word(value, _WORDS[kind])
    return _READERS[kind](value, kinds)


def _word(value: object, words: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in words:
        raise ValueError(" or ".join(words))
    return value


def _reference(value: object, kind: str, kinds: Mapping[str, str]) -> Reference:
    if isinstance(value, str) and kinds.get(value) == kind:
        return Reference(value)
    raise ValueError(f"the name of a {kind} that stands before this step")


def _tensor(value: object, kinds: Mapping[str, str]) -> Reference:
    return _reference(value, TENSOR, kinds)


def _whole(value: object, kinds: Mapping[str, str]) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError("a whole number of 64 bits")
    return value


def _size(value: object, kinds: Mapping[str, str]) -> int | Reference:
    return _reference(value, SIZE, kinds) if isinstance(value, str) else _whole(value, kinds)


def _floating(value: object, kinds: Mapping[str, str]) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, float):
        return value
    if type(value) is int and abs(value) < 1 << 63:
        return float(value)
    raise ValueError("a number, or one of the words inf, -inf, nan")


def _flag(value: object, kinds: Mapping[str, str]) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _scalar(value: object, kinds: Mapping[str, str]) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value not in _NOT_FINITE:
        return _reference(value, SIZE, kinds)
    return _whole(value, kinds) if isinstance(value, int) else _floating(value, kinds)


_READERS: Mapping[str, Callable[[object, Mapping[str, str]], Any]] = {
    "Tensor": _tensor,
    "int": _size,
    "SymInt": _size,
    "float": _floating,
    "bool": _flag,
    "Scalar": _scalar,
}
