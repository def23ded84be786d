"""What an importer found becomes a bundle: written, compared with the original, signed; or nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import BUNDLE_FILE, Bundle
from bedplate.bundle.manifest import write_manifest, write_signature
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.model import Model
from bedplate.importers.exported import Exported
from bedplate.optimize import check
from bedplate.optimize.difference import difference_of

PROGRAM, WEIGHTS, ONNX, VALIDATION = "network.json", "weights.safetensors", "network.onnx", "validation.safetensors"
# Of the largest number. Kernels may add in another order; what differs by more is another model.
TOLERANCE = 1e-3
_AT_ONCE = 8

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Imported:
    """
    Args:
        document: bundle.yaml but for what is the same for all that is imported.
        network: a program, or an .onnx file.
        files: of the bundle beside those that are written here: canary, tokenizer.
        validation: 'inputs' and 'expected', as bundles have them.
        questions: batches as the network takes them, (items, *shape) each.
        answers: what the original said to each of them, (items, *output shape).
        chosen: what the importer decided, a line each.
    """

    document: Mapping[str, Any]
    network: Exported | bytes
    files: Mapping[str, bytes]
    validation: Mapping[str, torch.Tensor]
    questions: Sequence[Array]
    answers: Sequence[Array]
    chosen: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """How far the answers of a bundle are from the original's."""

    items: int
    largest: float  # difference of two numbers
    share: float  # of the largest number
    same_first: int | None  # items whose largest number is at the same place; None where that means nothing

    def __str__(self) -> str:
        first = "" if self.same_first is None else f", the same top-1 for {self.same_first} of {self.items}"
        return f"{self.items} inputs, largest difference {self.largest:.2g} ({self.share:.1g} of the largest){first}"


def write(directory: Path, imported: Imported, key: Path | None) -> tuple[Bundle, Comparison]:
    """Write the bundle, and prove it: canary, validation set and every question, computed as an engine does.

    Returns: the bundle as it was read to be proved, and how far it is from the original.

    Args:
        directory: that is not there yet.
        key: that signs; None leaves the bundle unsigned.

    Raises:
        BundleError: it is there already, or computes something else than the original.
    """
    if directory.exists():
        raise BundleError(f"{directory}: is there already; name another with --output, or remove it")
    directory.mkdir(parents=True)
    try:
        _write_files(directory, imported)
        write_manifest(directory)
        bundle, model = check.load(directory, "float32")
        found = _compared(bundle, model, imported)
        _require_alike(directory, bundle, model, found)
        if key:
            write_signature(directory, key)
    except BaseException:
        shutil.rmtree(directory)
        raise
    return bundle, found


def _write_files(directory: Path, imported: Imported) -> None:
    document = {"format": 1, **imported.document, **_write_network(directory, imported.network)}
    (directory / BUNDLE_FILE).write_text(
        yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    )
    save_file(dict(imported.validation), directory / VALIDATION)
    for name, content in imported.files.items():
        (directory / name).write_bytes(content)


def _write_network(directory: Path, network: Exported | bytes) -> dict[str, str]:
    """Return what bundle.yaml says of it."""
    if isinstance(network, bytes):
        (directory / ONNX).write_bytes(network)
        return {"onnx": ONNX}
    (directory / PROGRAM).write_text(_shown(network.document))
    save_file(dict(network.tensors), directory / WEIGHTS)
    return {"weights": WEIGHTS, "program": PROGRAM}


def _shown(program: Mapping[str, Any]) -> str:
    """A line for each tensor and each step: for people, and for diffs of two versions."""
    head = {name: value for name, value in program.items() if name not in ("tensors", "steps")}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    tensors = ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in program["tensors"].items())
    steps = ",\n".join(f"  {json.dumps(step)}" for step in program["steps"])
    return "\n".join(["{", *lines, f' "tensors": {{\n{tensors}\n }},\n "steps": [\n{steps}\n ]', "}", ""])


def _compared(bundle: Bundle, model: Model, imported: Imported) -> Comparison:
    items, largest, share, same = 0, 0.0, 0.0, 0
    classes = len(bundle.labels) > 1
    for batch, wanted in zip(imported.questions, imported.answers, strict=True):
        most = bundle.input.most_items(batch.shape[1:], bundle.max_items, bundle.max_cost)
        for size in sorted({1, most}):
            parts = [np.array(batch[at : at + size]) for at in range(0, len(batch), size)]
            outputs = np.concatenate([model.run(part) for part in parts])
            found = dtypes.to_numbers(bundle.output.dtype, outputs).astype(np.float64)
            share = max(share, difference_of(found, wanted))
            largest = max(largest, float(np.abs(found - wanted).max()))
        items += len(batch)
        same += int((found.argmax(axis=-1) == wanted.argmax(axis=-1)).sum()) if classes else 0
    return Comparison(items, largest, share, same if classes else None)


def _require_alike(directory: Path, bundle: Bundle, model: Model, found: Comparison) -> None:
    if not found.share <= TOLERANCE:
        raise BundleError(
            f"{directory}: computes something else than the original: {found}; {TOLERANCE:g} is allowed. Is it random, "
            "or does it keep something from one call to the next?"
        )
    if (said := check.canary_answer(bundle, model)) != bundle.canary.wanted:
        raise BundleError(f"{directory}: the canary gets {said}, the original says {bundle.canary.wanted}")
    measured = check.measure(bundle, directory, model)
    if not measured.suffices:
        raise BundleError(f"{directory}: {measured.share:.4f} of the validation set get the original's answer")


def answers_of(module: nn.Module, questions: Array, max_items: int = _AT_ONCE) -> Array:
    """What the original says to `questions`, (items, *shape), a few at once: (items, *output shape)."""
    size = min(max_items, _AT_ONCE)
    with torch.inference_mode():
        parts = [module(torch.from_numpy(questions[at : at + size])) for at in range(0, len(questions), size)]
    return np.asarray(torch.cat(parts).numpy())


def surest(answers: Array) -> int:
    """Of (items, labels) the item whose first label is furthest ahead of its second: a canary that rounding leaves."""
    if answers.shape[1] < 2:
        return 0
    best = np.sort(answers, axis=1)[:, -2:]
    return int((best[:, 1] - best[:, 0]).argmax())


def numbers_validation(questions: Array, answers: Array, labels: bool, limit_bytes: int) -> dict[str, torch.Tensor]:
    """As many of the questions as fit, with the original's answers; of classes their places."""
    items = max(1, min(len(questions), limit_bytes // max(1, questions[0].nbytes + answers[0].nbytes)))
    given = torch.from_numpy(np.ascontiguousarray(questions[:items]))
    expected = answers[:items].argmax(axis=1) if labels else answers[:items]
    return {"inputs": given, "expected": torch.from_numpy(np.ascontiguousarray(expected))}
