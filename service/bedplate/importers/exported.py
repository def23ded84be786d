"""A graph of torch.export as a program of a bundle: operations in JSON, tensors beside it."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from bedplate.bundle.operations import FIXED, operations
from bedplate.bundle.program import INPUT_DEVICE
from bedplate.bundle.strict_yaml import BundleError

# What gives its first argument as it is, where nobody writes into it and nobody trains.
_SAME = {
    "aten.alias.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.dropout.default",
    "aten.dropout_.default",
    "aten.feature_dropout.default",
    "aten.lift_fresh_copy.default",
}
# What computes nothing.
_CHECKS = {
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten.sym_constrain_range_for_size.default",
}
# What is written by another name: (operation, parameters that are called otherwise, or not at all).
_INSTEAD: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "aten.view.default": ("aten.reshape.default", {"size": "shape"}),
    "aten._unsafe_view.default": ("aten.reshape.default", {"size": "shape"}),
    # To where the program computes, which is where everything is; its datatype stays to be done.
    "aten.to.device": ("aten.to.dtype", {"device": ""}),
}
# Of operator: Python's name for what torch's sizes are computed with.
_OF_SIZES = {
    operator.add: "operator.add",
    operator.sub: "operator.sub",
    operator.mul: "operator.mul",
    operator.floordiv: "operator.floordiv",
    operator.mod: "operator.mod",
    operator.neg: "operator.neg",
    operator.getitem: "operator.getitem",
}
_WORDS = (torch.dtype, torch.layout, torch.memory_format)


@dataclass
class Exported:
    """A program's document, and the tensors that its weights hold."""

    document: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def as_program(exported: ExportedProgram, source: str) -> Exported:
    """
    Args:
        source: what is told of in refusals.

    Raises:
        BundleError: it has several inputs or outputs, or an operation that no program may have.
    """
    if any((_mutates(node) and not _is_alone(node)) or not _is_known(node) for node in _calls(exported)):
        # Torch writes it with simpler operations, and what is written into as something new; that takes seconds.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = exported.run_decompositions({})
    return _Writer(exported, source).write()


def _calls(exported: ExportedProgram) -> Iterator[fx.Node]:
    return (node for node in exported.graph.nodes if node.op == "call_function")


def _is_known(node: fx.Node) -> bool:
    name = _name_of(node)
    return name in _SAME or name in _INSTEAD or name in _CHECKS or _functional(name) in operations()


def _functional(name: str) -> str:
    """Of an operation that writes into its first argument, the one that gives something new instead."""
    return re.sub(r"(?<=[a-z0-9])_(?=\.)", "", name, count=1)


def _mutates(node: fx.Node) -> bool:
    schema = _schema_of(node)
    return schema is not None and bool(schema.is_mutable) and _name_of(node) not in _SAME


def _is_alone(node: fx.Node) -> bool:
    """Whether it writes into its first argument alone, which nobody else looks at through a view."""
    written = [one for one in _schema_of(node).arguments if one.is_write]
    first = node.args[0] if node.args else None
    if len(written) != 1 or not isinstance(first, fx.Node) or first.op != "call_function":
        return False
    others = [user for user in first.users if user is not node]
    return not _is_view(first) and not any(map(_is_view, others))


def _is_view(node: fx.Node) -> bool:
    """Whether what it gives may lie where what it is given lies."""
    schema = _schema_of(node)
    if schema is None or _name_of(node) in _SAME:
        return True
    return not _mutates(node) and any(one.alias_info is not None for one in schema.returns)


def _writes_into(node: fx.Node, first: fx.Node) -> bool:
    return node.op == "call_function" and _mutates(node) and node.args[0] is first


def _schema_of(node: fx.Node) -> Any:
    """Of an operation of torch; None of anything else."""
    return node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None


def _name_of(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return next((name for one, name in _OF_SIZES.items() if one is node.target), f"{node.target}")


@dataclass
class _Writer:
    exported: ExportedProgram
    source: str
    names: dict[str, str] = field(default_factory=dict)  # of a node: what the program calls it
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    places: dict[Any, str] = field(default_factory=dict)  # of a tensor by where it lies, for those that are shared

    def write(self) -> Exported:
        [given] = self._only(InputKind.USER_INPUT, OutputKind.USER_OUTPUT)
        steps = []
        for node in self._needed(given):
            if node.op == "call_function":
                step = self._step(node)
                steps += [step] if step else []
        document = {
            "format": 1,
            "input": self.names[self._inputs[0]],
            "output": self.names[given],
            "tensors": {
                name: {"dtype": str(one.dtype).removeprefix("torch."), "shape": list(one.shape)}
                for name, one in self.tensors.items()
            },
            "steps": steps,
        }
        return Exported(document, self.tensors)

    def _only(self, taken: InputKind, given: OutputKind) -> list[str]:
        signature = self.exported.graph_signature
        self._inputs = [one.arg.name for one in signature.input_specs if one.kind is taken]
        outputs = [one.arg.name for one in signature.output_specs if one.kind is given]
        others = [one for one in signature.output_specs if one.kind is not given]
        if others:
            raise BundleError(f"{self.source}: keeps something from one call to the next; a program cannot")
        if len(self._inputs) != 1 or len(outputs) != 1:
            raise BundleError(
                f"{self.source}: takes {len(self._inputs)} tensors and gives {len(outputs)}; wanted one of each: write "
                "a module around it that takes one and gives one"
            )
        self.names[self._inputs[0]] = "input"
        return outputs

    def _needed(self, output: str) -> list[fx.Node]:
        """The nodes that the output depends on, in their order: what only checks shapes is left out."""
        needed: set[fx.Node] = set()
        asked = [node for node in self.exported.graph.nodes if node.name == output]
        while asked:
            node = asked.pop()
            if node not in needed:
                needed.add(node)
                # Who reads a tensor needs what was written into it, too.
                asked += [*node.all_input_nodes, *(user for user in node.users if _writes_into(user, node))]
        return [node for node in self.exported.graph.nodes if node in needed]

    def _step(self, node: fx.Node) -> dict[str, Any] | None:
        name = _name_of(node)
        if name in _SAME:
            if "dropout" in name and node.args[-1] is True:
                raise BundleError(f"{self.source}: trains ({name}); call eval() on it before it is exported")
            self.names[node.name] = self._of(node.args[0])
            return None
        if _mutates(node):
            # As nobody looks at it by another name, something new does.
            name = _functional(name)
        renamed: Mapping[str, str] = {}
        if name in _INSTEAD:
            name, renamed = _INSTEAD[name]
        given = {renamed.get(key, key): value for key, value in _given(node).items() if renamed.get(key, key)}
        if isinstance(given.get("other"), (bool, int, float)):
            # Torch takes a number where its schema has a tensor; there is an operation for that.
            name = name.replace(".Tensor", ".Scalar").replace("floor_divide.default", "floor_divide.Scalar")
        known = operations().get(name)
        if known is None:
            raise BundleError(
                f"{self.source}: computes {name}, which a program cannot (service/bedplate/bundle/operations.txt lists "
                "what it can); write it with other operations, or bring the model as 'code:' (docs/bundles.md)"
            )
        told = {key: self._argument(value, known.parameters[key].kind) for key, value in given.items()}
        told = {key: value for key, value in told.items() if not _is_left_out(name, key, value)}
        step = _plain(node.name)
        self.names[node.name] = step
        if _mutates(node):
            self.names[node.args[0].name] = step  # type: ignore[union-attr,index]
        return {"to": step, "op": name, "with": told}

    def _argument(self, value: Any, kind: str) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._argument(member, kind) for member in value]
        if isinstance(value, fx.Node):
            return self._of(value)
        if isinstance(value, torch.device):
            return INPUT_DEVICE
        if isinstance(value, _WORDS):
            return str(value).removeprefix("torch.")
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value

    def _of(self, node: Any) -> str:
        """What the program calls a node; a tensor of the weights is kept when it is first asked for."""
        if node.name not in self.names:
            self.names[node.name] = self._stored(node)
        return self.names[node.name]

    def _stored(self, node: fx.Node) -> str:
        [spec] = [one for one in self.exported.graph_signature.input_specs if one.arg.name == node.name]
        target: str = spec.target or node.name
        state = self.exported.state_dict
        tensor: torch.Tensor = (state[target] if target in state else self.exported.constants[target]).detach()
        # What is tied together is kept once.
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in self.places:
            return self.places[place]
        # With a dot, unlike the names of steps.
        name = re.sub(r"[^A-Za-z0-9_.]", "_", target)
        name = name if "." in name else f"weights.{name}"
        self.tensors[name] = _full(tensor)
        self.places[place] = name
        return name


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """As bundles have their numbers: float32, in a row."""
    halved = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if halved else tensor).contiguous().clone()


def _given(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by the names of parameters."""
    schema = _schema_of(node)
    names = [one.name for one in schema.arguments] if schema else ["a", "b"]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _is_left_out(name: str, key: str, value: Any) -> bool:
    """Of an optional argument null says what leaving it out does; where it is fixed it stays to be seen."""
    parameter = operations()[name].parameters[key]
    return value is None and parameter.may_be_left_out and (name, key) not in FIXED


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
