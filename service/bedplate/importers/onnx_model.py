"""`bedplate bundle import onnx`: what any exporter wrote, compared with what onnxruntime makes of the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bedplate.bundle.onnx import OnnxGraph, read_onnx
from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.bundle.tensor import Range
from bedplate.decode.image import open_image, to_tensor, upright
from bedplate.engine.runtime import onnxruntime
from bedplate.importers import numbers, onnx_file, pictures
from bedplate.importers.answers import Answers
from bedplate.importers.numbers import NumbersOptions, questions_like
from bedplate.importers.torch_module import read_example
from bedplate.importers.writing import Array, Imported

_AT_ONCE = 8
_DRAWN = 32
_SUM = 1e-3  # how far from 1 numbers may add up to that are shares already


@dataclass(frozen=True)
class OnnxOptions(NumbersOptions):
    activation: str = ""  # empty: by the answers
    example: Path | None = None  # a file of numbers; None: they are drawn
    examples: Path | None = None  # a folder of pictures; None: they are drawn
    answer: str | None = None  # the output to keep
    varying: Mapping[int, Range] = field(default_factory=dict)  # dimensions of the input, from 1
    picture: Mapping[str, Any] | None = None  # keys of `image:`, of a model that takes pictures


def import_onnx(path: Path, options: OnnxOptions) -> Imported:
    """
    Raises:
        BundleError: with what to do.
    """
    source = str(path)
    content = onnx_file.rewritten(onnx_file.read(path), options.answer, source)
    graph = read_onnx(content, source)
    original = _Original(path, graph)
    example = read_example(options.example) if options.example and options.picture is None else None
    shape = _shape(graph, options.varying, example, source)
    options = replace(options, max_items=_max_items(graph, options.max_items, source))
    if options.picture is not None:
        return _of_pictures(content, original, shape, options, source)
    if example is None:
        questions, told = _drawn(graph, shape), "questions drawn by chance: --example takes real ones"
    else:
        questions, told = (
            questions_like(_as(graph, example, shape, source)),
            f"questions like those of {options.example}",
        )
    answers = original.answers(questions, options.max_items)
    activation = options.activation or _activation(answers)
    chosen = [told, *([f"activation {activation}"] if options.labels else [])]
    spec = {"name": "input", "dtype": graph.input_dtype, "shape": shape}
    return numbers.imported(
        content, spec, questions, answers, replace(options, activation=activation), source, [*chosen, *_items(graph)]
    )


class _Original:
    """The file as it came, in onnxruntime with its own settings. It runs where its author works, and nowhere else."""

    def __init__(self, path: Path, graph: OnnxGraph):
        self._names = [graph.output], graph.input
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            said = words_of(error)
            raise BundleError(f"{path}: onnxruntime cannot load it: {said}") from None

    def answers(self, questions: Array, max_items: int) -> Array:
        """(items, *shape) → (items, *output shape)."""
        outputs, name = self._names
        size = min(max_items, _AT_ONCE)
        try:
            parts = [
                self._session.run(outputs, {name: questions[at : at + size]})[0]
                for at in range(0, len(questions), size)
            ]
        except Exception as error:
            said = words_of(error)
            raise BundleError(f"the original fails on {size} items: {said}; try --max-items 1, or --example") from None
        found = np.concatenate(parts)
        if found.ndim < 2 or len(found) != len(questions):
            raise BundleError(
                f"the original gives the shape {list(found.shape)} for {len(questions)} items, wanted items first, and "
                "numbers for each; export it so"
            )
        return np.asarray(found)


def _max_items(graph: OnnxGraph, wanted: int, source: str) -> int:
    items = graph.shape[0] if graph.shape else None
    if items not in (None, 1):
        raise BundleError(
            f"{source}: takes {items} items and no other number; export it with a first dimension that varies"
        )
    return 1 if items == 1 else wanted


def _items(graph: OnnxGraph) -> list[str]:
    return ["takes one item at a time: its first dimension is fixed"] if graph.shape and graph.shape[0] == 1 else []


def _shape(graph: OnnxGraph, varying: Mapping[int, Range], example: torch.Tensor | None, source: str) -> list[Any]:
    """Of one item, as bundle.yaml has it."""
    if graph.shape is None and example is None:
        raise BundleError(f"{source}: does not say the shape of its input; give an --example")
    said = list(graph.shape or [None] * (example.dim() if example is not None else 0))[1:]
    if not said:
        raise BundleError(
            f"{source}: takes no items of numbers: its input has one dimension; export it with two and more"
        )
    shape: list[Any] = []
    for at, size in enumerate(said, 1):
        if at in varying:
            shape.append([varying[at].low, varying[at].high])
        elif size is None and example is not None and example.dim() > at:
            shape.append(example.shape[at])
        elif size is None:
            raise BundleError(
                f"{source}: dimension {at} of its input varies; say --vary {at}=LOW..HIGH, or give an --example"
            )
        else:
            shape.append(size)
    return shape


def _as(graph: OnnxGraph, example: torch.Tensor, shape: Sequence[Any], source: str) -> torch.Tensor:
    wanted = [size if isinstance(size, int) else None for size in shape]
    found = list(example.shape[1:])
    if len(found) != len(wanted) or any(size not in (None, got) for size, got in zip(wanted, found, strict=True)):
        raise BundleError(f"{source}: takes items of the shape {shape}, the example has {found}")
    return example.to(getattr(torch, graph.input_dtype))


def _drawn(graph: OnnxGraph, shape: Sequence[Any]) -> Array:
    random = np.random.default_rng(0)
    sizes = (_DRAWN, *(size[1] if isinstance(size, list) else size for size in shape))
    if graph.input_dtype.startswith("float"):
        return random.normal(size=sizes).astype(graph.input_dtype)
    most = graph.id_limit or 2
    return random.integers(0, most, sizes).astype(graph.input_dtype)


def _activation(answers: Array) -> str:
    """Whether its answers are shares already, or have to become such."""
    shares = answers.min() >= 0 and np.abs(answers.sum(axis=-1) - 1).max() < _SUM
    return "none" if shares else "softmax"


def _of_pictures(
    content: bytes, original: _Original, shape: Sequence[Any], options: OnnxOptions, source: str
) -> Imported:
    assert options.picture is not None
    if len(shape) != 3 or shape[0] not in (1, 3) or not all(isinstance(size, int) for size in shape):
        raise BundleError(
            f"{source}: takes items of the shape {shape}, wanted [1 or 3 channels, height, width] of a picture"
        )
    channels, height, width = shape
    image = {
        "mode": "RGB" if channels == 3 else "L",
        "height": height,
        "width": width,
        "scale": 1 / 255,
        "mean": [0.0] * channels,
        "std": [1.0] * channels,
        **options.picture,
    }
    spec = {"name": "picture", "dtype": "float32", "shape": list(shape), "image": image}
    picture = pictures.read_picture(spec, source)
    contents = pictures.contents_of(options.examples)
    questions = np.stack([to_tensor(upright(open_image(one, pictures.MAX_PIXELS)), picture) for one in contents])
    answers = original.answers(questions, options.max_items)
    if not options.labels:
        raise BundleError(
            f"{source}: gives {list(answers.shape[1:])} numbers, but there are 0 labels; name them by --labels"
        )
    activation = options.activation or _activation(answers)
    told = pictures.described(picture, options.examples, len(contents))
    return pictures.bundled(
        content,
        spec,
        contents,
        questions,
        answers,
        Answers("logits", options.labels, activation, str(answers.dtype)),
        options,
        source,
        [told, f"activation {activation}"],
    )
