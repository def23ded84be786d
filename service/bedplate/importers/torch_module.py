"""`bedplate bundle import torch`: any module that takes one tensor and gives one, or a .pt2 that torch.export wrote.

Both run, or unpickle, what their author wrote: on the author's machine, and nowhere else.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from bedplate.bundle import dtypes
from bedplate.bundle.strict_yaml import BundleError
from bedplate.bundle.tensor import Range
from bedplate.importers.answers import tolerance
from bedplate.importers.export import Graph, export
from bedplate.importers.exported import as_program
from bedplate.importers.options import BundleOptions
from bedplate.importers.writing import VALIDATION, Array, Imported, answers_of, numbers_validation, surest

_DRAWN = 32  # questions, at least: those that are given, and drawn ones that are like them
_MAX_VALIDATION_BYTES = 64 << 20


@dataclass(frozen=True)
class Wanted(BundleOptions):
    """Of a module or a .pt2."""

    labels: Sequence[str] = ()
    varying: Mapping[int, Range] = field(default_factory=dict)  # dimensions of the input, from 1


def import_module(place: str, weights: Path | None, example: Path, wanted: Wanted) -> Imported:
    """
    Args:
        place: MODULE:FACTORY, looked for in the working directory too.
        weights: safetensors, or a state_dict as torch.save writes it.

    Raises:
        BundleError: with what to do; errors of the author's own program come with their words.
    """
    module = _made(place)
    if weights:
        _load_weights(module, weights)
    given = read_example(example)
    graph = export(module.eval(), given, wanted.max_items, wanted.varying, place)
    return _imported(module, graph, given, wanted, place)


def import_exported(path: Path, example: Path, wanted: Wanted) -> Imported:
    """Of a .pt2. Raises: as `import_module`; it has dimensions without a bound, or takes a fixed number of items."""
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise BundleError(f"{path}: torch.export.load cannot read it: {type(error).__name__}: {error}") from None
    sizes = _sizes(exported, path)
    items = sizes[0]
    if isinstance(items, int) and items != 1:
        raise BundleError(
            f"{path}: takes {items} items and no other number; export it with "
            "dynamic_shapes=({0: torch.export.Dim('items', min=1, max=64)},)"
        )
    most = min(wanted.max_items, items.high) if isinstance(items, Range) else 1
    varying = {at: size for at, size in enumerate(sizes) if at and isinstance(size, Range)}
    said = replace(wanted, max_items=most, varying=varying)
    return _imported(exported.module(), Graph(exported, most), read_example(example), said, str(path))


def read_example(path: Path) -> torch.Tensor:
    """(items, *shape) of a .npy, of the tensor 'inputs' of a .safetensors, or of {"inputs": [...]} in a .json.

    Raises:
        BundleError: there is no such tensor.
    """
    try:
        if path.suffix == ".npy":
            tensor = torch.from_numpy(np.load(path, allow_pickle=False))
        elif path.suffix == ".json":
            tensor = torch.tensor(json.loads(path.read_bytes())["inputs"])
        else:
            tensor = load_file(path)["inputs"]
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        wanted = "wanted .npy, .json with 'inputs', or .safetensors with a tensor 'inputs'"
        raise BundleError(f"{path}: is no example ({type(error).__name__}: {error}); {wanted}") from None
    if tensor.dim() < 2 or not len(tensor):
        raise BundleError(f"{path}: has the shape {list(tensor.shape)}, wanted (items, ...): one item and more")
    return tensor


def _made(place: str) -> nn.Module:
    name, _, factory = place.partition(":")
    if not factory:
        raise BundleError(f"{place}: wanted MODULE:FACTORY, such as model:Net, or a file that ends in .pt2")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(name), factory)()
    except Exception as error:
        raise BundleError(f"{place}: fails with {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise BundleError(f"{place}: gives {type(made).__name__}, wanted a torch.nn.Module")
    return made


def _load_weights(module: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(found)
    except Exception as error:
        raise BundleError(
            f"{path}: does not load into the module: {type(error).__name__}: {error}; wanted its state_dict(), as "
            "safetensors.torch.save_file or torch.save write it"
        ) from None


def _sizes(exported: Any, path: Path) -> list[int | Range]:
    [name] = exported.graph_signature.user_inputs or [""]
    [node] = [one for one in exported.graph.nodes if one.name == name]
    return [_size(exported, size, path) for size in node.meta["val"].shape]


def _size(exported: Any, size: Any, path: Path) -> int | Range:
    if isinstance(size, int):
        return size
    bounds = exported.range_constraints.get(size.node.expr)
    try:
        return Range(max(1, int(bounds.lower)), int(bounds.upper))
    except (AttributeError, TypeError, OverflowError, ValueError):
        raise BundleError(
            f"{path}: a dimension of its input has no largest size; export it with Dim(..., max=...)"
        ) from None


def _imported(module: nn.Module, graph: Graph, given: torch.Tensor, wanted: Wanted, source: str) -> Imported:
    program = as_program(graph.exported, source)
    questions = _questions(given)
    answers = answers_of(module, questions, graph.max_items)
    if wanted.labels and answers.shape[1:] != (len(wanted.labels),):
        raise BundleError(
            f"{source}: gives {list(answers.shape[1:])} numbers, but there are {len(wanted.labels)} labels"
        )
    shape: list[Any] = list(given.shape[1:])
    for at, size in wanted.varying.items():
        shape[at - 1] = [size.low, size.high]
    first = surest(answers) if wanted.labels else 0
    canary = json.dumps({"inputs": questions[first : first + 1].tolist()}).encode()
    document: dict[str, Any] = {
        "name": wanted.name,
        "version": wanted.version,
        "task": "classification" if wanted.labels else "tensors",
        "description": wanted.description or f"Imported from {Path(source).name}",
        "inputs": [{"name": "input", "dtype": str(given.dtype).removeprefix("torch."), "shape": shape}],
        "outputs": [{"name": "output", "dtype": str(answers.dtype), "shape": list(answers.shape[1:])}],
        "batch": {"max_items": graph.max_items},
    }
    files = {"canary.json": canary}
    if wanted.labels:
        label = wanted.labels[int(answers[first].argmax())]
        document |= {"labels": list(wanted.labels), "activation": "softmax"}
        document["validation"] = {"file": VALIDATION, "metric": "accuracy", "threshold": 0.99}
        document["canary"] = {"file": "canary.json", "label": label}
    else:
        files["expected.json"] = json.dumps({"outputs": answers[:1].tolist()}).encode()
        document["validation"] = {"file": VALIDATION, "metric": "agreement", "threshold": 0.99}
        document["canary"] = {"file": "canary.json", "expect": "expected.json", "tolerance": tolerance(answers)}
    validation = numbers_validation(questions, answers, bool(wanted.labels), _MAX_VALIDATION_BYTES)
    return Imported(document, program, files, validation, [questions], [answers.astype(np.float64)])


def _questions(given: torch.Tensor) -> Array:
    """What was given, and drawn ones that are like it: (items, *shape)."""
    missing = max(0, _DRAWN - len(given))
    random = torch.Generator().manual_seed(0)
    shape = (missing, *given.shape[1:])
    if given.is_floating_point():
        like = given.float()
        drawn = torch.randn(shape, generator=random) * like.std(correction=0) + like.mean()
    else:
        low, high = int(given.min()), int(given.max())
        drawn = torch.randint(low, high + 1, shape, generator=random)
    joined = torch.cat([given, drawn.to(given.dtype)])
    if given.dtype is torch.bfloat16:
        raise BundleError("--example: is bfloat16, which JSON and numpy do not have; give it as float32")
    return np.asarray(joined.numpy(), dtypes.HOLDERS[str(given.dtype).removeprefix("torch.")])
