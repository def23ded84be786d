"""A program of a bundle as a module: operations of an allow-list become a graph of torch.fx, and nothing else runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from bedplate.bundle.operations import operations
from bedplate.bundle.program import INPUT_DEVICE, Program, Reference, Stored
from bedplate.bundle.strict_yaml import BundleError, words_of

# What results of steps may hold at once, in a full batch. Unit: bytes.
_MAX_LIVE_BYTES = 16 << 30
_COMPUTES_IN = "computes_in"
# The largest that bfloat16 has: beyond it a mask's number would be infinite in that form.
_LARGEST = torch.finfo(torch.bfloat16).max
_KINDS = ("ScalarType", "Layout", "MemoryFormat")  # words that name something of torch


class ProgramModule(fx.GraphModule):
    """`Module.to` makes it compute in other numbers: what the program calls float32 is what the weights are in."""

    convolves: bool  # pictures


def build(program: Program) -> ProgramModule:
    """The module, its tensors without memory behind them; `weights_of` says what to load."""
    root = nn.Module()
    for name, tensor in zip(_places(program).values(), weights_of(program).values(), strict=True):
        root.register_buffer(name, tensor)
    root.register_buffer(_COMPUTES_IN, torch.empty(0, device="cpu"), persistent=False)
    graph = fx.Graph()
    values: dict[str, fx.Node] = {program.input: graph.placeholder(program.input)}
    builder = _Builder(graph, values, graph.call_function(getattr, (values[program.input], "device")))
    for name, place in _places(program).items():
        values[name] = graph.get_attr(place)
    for step in program.steps:
        builder.add(step.name, step.operation, step.arguments)
    graph.output(values[program.output])
    graph.eliminate_dead_code()
    module = ProgramModule(root, graph)
    module._non_persistent_buffers_set.add(_COMPUTES_IN)  # which is lost on the way
    module.convolves = program.convolves
    return module


def weights_of(program: Program) -> dict[str, torch.Tensor]:
    """The tensors that its file of weights has to hold, without memory."""
    return {name: _empty(stored) for name, stored in program.tensors.items()}


def load(module: ProgramModule, program: Program, weights: Mapping[str, torch.Tensor]) -> None:
    """Give it the weights, which have been found to be those of `weights_of`."""
    module.load_state_dict({place: weights[name] for name, place in _places(program).items()}, assign=True)


def require_fit(module: ProgramModule, shape: tuple[int, ...], dtype: torch.dtype, source: str) -> None:
    """Follow the shapes of a batch through the program, computing nothing.

    Args:
        module: without memory behind its tensors.
        shape: (items, *shape) of the input.

    Raises:
        BundleError: a step does not take what it is given, or the results of steps would not fit into memory.
    """
    try:
        _Shapes(module, source).run(torch.empty(shape, dtype=dtype, device="meta"))
    except BundleError:
        raise
    # Of what torch's shape functions make of arguments that do not go together there is no list.
    except Exception as error:
        said = words_of(error)
        raise BundleError(f"{source}: fails on a batch of shape {list(shape)} ({said}); import it again") from None


class _Shapes(fx.Interpreter):
    def __init__(self, module: ProgramModule, source: str):
        super().__init__(module)
        # What went wrong is told by the step; the graph as text would be told once more.
        self.extra_traceback = False
        self._source = source

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.env[n] = result
        live = sum({id(one): one.nbytes() for value in self.env.values() for one in _storages(value)}.values())
        if live > _MAX_LIVE_BYTES:
            raise BundleError(
                f"{self._source}: needs {live} bytes at step '{n.name}', {_MAX_LIVE_BYTES} are allowed; lower "
                "batch.max_items, or import a smaller network"
            )
        return result


def _storages(value: object) -> list[torch.UntypedStorage]:
    several = value if isinstance(value, (list, tuple)) else [value]
    return [one.untyped_storage() for one in several if isinstance(one, torch.Tensor)]


class _Builder:
    """Steps to nodes of a graph."""

    def __init__(self, graph: fx.Graph, values: dict[str, fx.Node], device: fx.Node):
        self._graph = graph
        self._values = values
        self._device = device
        like = graph.get_attr(_COMPUTES_IN)
        self._computes_in = graph.call_function(getattr, (like, "dtype"))

    def add(self, name: str, operation: str, arguments: Mapping[str, Any]) -> None:
        known = operations()[operation]
        given = {key: self._argument(value, known.parameters[key].kind) for key, value in arguments.items()}
        # By place as far as they come without a gap: as torch's own exporter writes them, for passes that match those.
        placed = []
        for key in _placed_of(operation):
            if key not in given:
                break
            placed.append(given.pop(key))
        node = self._graph.call_function(function_of(operation), tuple(placed), given)
        self._values[name] = node

    def _argument(self, value: object, kind: str) -> Any:
        if isinstance(value, list):
            return [self._argument(member, kind) for member in value]
        if isinstance(value, Reference):
            return self._values[value.name]
        if value == INPUT_DEVICE and kind == "Device":
            return self._device
        if isinstance(value, str) and kind in _KINDS:
            return self._computes_in if value == "float32" else getattr(torch, value)
        if isinstance(value, float) and _LARGEST < abs(value) < float("inf"):
            return _LARGEST if value > 0 else -_LARGEST
        return value


def function_of(operation: str) -> Callable[..., Any]:
    """Of a name that is on the list."""
    space, packet, *overload = operation.split(".")
    if space == "operator":
        function: Callable[..., Any] = getattr(operator, packet)
        return function
    function = getattr(getattr(torch.ops.aten, packet), overload[0])
    return function


def _placed_of(operation: str) -> list[str]:
    """Names of the parameters that may be given by place."""
    if operation.startswith("operator."):
        return list(operations()[operation].parameters)
    return [one.name for one in function_of(operation)._schema.arguments if not one.kwarg_only]  # type: ignore[attr-defined]


def _places(program: Program) -> dict[str, str]:
    """Where each tensor lies in the module. Not by its own name: that may be one of torch's."""
    return {name: f"tensor_{n}" for n, name in enumerate(program.tensors)}


def _empty(stored: Stored) -> torch.Tensor:
    return torch.empty(stored.shape, dtype=getattr(torch, stored.dtype), device="meta")
