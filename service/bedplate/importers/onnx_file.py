"""An .onnx file as bundles have it: in one piece, one tensor in and one out, and nothing that nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import inliner

from bedplate.bundle.strict_yaml import BundleError, words_of


def read(path: Path) -> onnx.ModelProto:
    """
    Raises:
        BundleError: it is no .onnx file, or its weights are not beside it.
    """
    try:
        return onnx.load(str(path))
    # Of protobuf, of the file system, or of what onnx checks of paths.
    except Exception as error:
        said = words_of(error)
        raise BundleError(f"{path}: onnx cannot read it: {type(error).__name__}: {said}") from None


def rewritten(model: onnx.ModelProto, answer: str | None, source: str) -> bytes:
    """Return the file of a bundle.

    Args:
        model: changed on the way.
        answer: the output to keep; None: it has one.

    Raises:
        BundleError: it takes several tensors, or gives several and none was named, or is too large.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    _keep_one(graph, answer, source)
    _prune(graph)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise BundleError(
            f"{source}: takes {len(inputs)} tensors ({names}), wanted one; export it with the others fixed"
        )
    _replace(graph.input, inputs)
    for name in ("training_info", "configuration"):
        model.ClearField(name)
    _forget_notes(model)
    used = {node.domain or "ai.onnx" for node in _nodes(graph)} | {"ai.onnx"}
    # Some exporters name a domain twice.
    opsets = {opset.domain or "ai.onnx": opset for opset in model.opset_import}
    _replace(model.opset_import, [opset for domain, opset in opsets.items() if domain in used])
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        raise BundleError(f"{source}: is larger than 2 GB ({error}); import it as a module of torch") from None


def _keep_one(graph: onnx.GraphProto, answer: str | None, source: str) -> None:
    outputs = [value for value in graph.output if answer in (None, value.name)]
    if len(outputs) != 1:
        names = ", ".join(value.name for value in graph.output)
        raise BundleError(f"{source}: gives {names}; name the one to keep with --answer")
    _replace(graph.output, outputs)


def _prune(graph: onnx.GraphProto) -> None:
    """Leave out what the output does not depend on."""
    needed = {graph.output[0].name}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_taken(node))
    _replace(graph.node, list(reversed(kept)))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _replace(graph.input, [value for value in graph.input if value.name in needed])
    graph.ClearField("value_info")
    graph.ClearField("quantization_annotation")


def _taken(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node takes, and those that graphs inside of it do."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _taken(inner)
            yield from (value.name for value in graph.output)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _forget_notes(message: Any) -> None:
    """Remove what exporters write for people, wherever it stands: paths and lines of programs among it."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                _forget_notes(one)


def _replace(place: Any, values: list[Any]) -> None:
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del place[:]
    place.extend(kept)
