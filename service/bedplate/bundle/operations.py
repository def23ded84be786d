"""The operations that a program may consist of, what each takes and gives: operations.txt, read without torch."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

TENSOR, TENSORS, SIZE = "Tensor", "Tensor[]", "SymInt"  # what an operation may give
_LINE = re.compile(r"(aten|operator)::([\w.]+)\((.*)\) -> (.+)")
_PARAMETER = re.compile(r"([A-Za-z]+)(\??)(?:(\[\d*\])(\??))? (\w+)(=.+)?")


@dataclass(frozen=True)
class Parameter:
    """`kind` and the rest as torch's schemas have them: 'SymInt[2]? stride' is a list, and may be null."""

    name: str
    kind: str  # Tensor, int, SymInt, float, bool, Scalar, str, ScalarType, Layout, Device, MemoryFormat
    is_list: bool
    one_for_all: bool  # a list of a known length, for which one number may stand
    members_may_be_null: bool
    may_be_null: bool
    may_be_left_out: bool


@dataclass(frozen=True)
class Operation:
    name: str  # aten.conv2d.default, operator.mul
    parameters: Mapping[str, Parameter]
    gives: str


# Arguments that would make an operation train, draw random numbers or write: they have this value, or are left out.
FIXED: Mapping[tuple[str, str], Any] = {
    ("aten.batch_norm.default", "training"): False,
    ("aten.instance_norm.default", "running_mean"): None,
    ("aten.instance_norm.default", "running_var"): None,
    ("aten.scaled_dot_product_attention.default", "dropout_p"): 0.0,
    ("aten.lstm.input", "train"): False,
    ("aten.gru.input", "train"): False,
}


@cache
def operations() -> Mapping[str, Operation]:
    """By name. Read when the first program is: front ends read none."""
    text = importlib.resources.files("bedplate.bundle").joinpath("operations.txt").read_text()
    return {one.name: one for one in _operations(text)}


def _operations(text: str) -> Iterator[Operation]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            yield parse(line)


def parse(schema: str) -> Operation:
    """One line of operations.txt."""
    found = _LINE.fullmatch(schema)
    assert found, schema
    space, name, parameters, gives = found.groups()
    overload = "" if space == "operator" or "." in name else ".default"
    return Operation(
        f"{space}.{name}{overload}",
        {one.name: one for one in map(_parameter, _split(parameters)) if one},
        TENSORS if gives.startswith("(") else gives,
    )


def _split(parameters: str) -> list[str]:
    """At the commas that stand between parameters, and not in the brackets of a default."""
    return re.split(r", (?![^\[]*\])", parameters)


def _parameter(text: str) -> Parameter | None:
    if text == "*":
        return None
    found = _PARAMETER.fullmatch(text)
    assert found, text
    kind, first, brackets, second, name, default = found.groups()
    is_list = brackets is not None
    return Parameter(
        name=name,
        kind=kind,
        is_list=is_list,
        one_for_all=is_list and brackets != "[]",
        members_may_be_null=is_list and first == "?",
        may_be_null=(second if is_list else first) == "?",
        may_be_left_out=default is not None,
    )
