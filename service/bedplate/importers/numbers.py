"""A model that takes numbers as they are, as a bundle: its canary and validation set are the original's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bedplate.bundle import dtypes
from bedplate.bundle.strict_yaml import BundleError
from bedplate.importers.answers import Answers
from bedplate.importers.exported import Exported
from bedplate.importers.options import BundleOptions
from bedplate.importers.writing import Array, Imported, numbers_validation

_DRAWN = 32  # questions, at least: those that are given, and drawn ones that are like them
_MAX_VALIDATION_BYTES = 64 << 20


@dataclass(frozen=True)
class NumbersOptions(BundleOptions):
    labels: Sequence[str] = ()  # of a classifier
    activation: str = "softmax"  # of a classifier


def imported(
    network: Exported | bytes,
    spec: Mapping[str, Any],
    questions: Array,
    answers: Array,
    options: NumbersOptions,
    source: str,
    chosen: Sequence[str] = (),
) -> Imported:
    """
    Args:
        spec: the input, as bundle.yaml has it.
        questions: (items, *shape).
        answers: what the original said to each, (items, *output shape).

    Raises:
        BundleError: there are more labels than numbers, or fewer.
    """
    told = Answers("output", options.labels, options.activation, str(answers.dtype))
    told.require(answers, source)
    first = told.canary(answers)
    document: dict[str, Any] = {
        **options.document(told.task("classification"), f"Imported from {Path(source).name}"),
        "inputs": [dict(spec)],
        "batch": {"max_items": options.max_items},
        **told.document("canary.json", answers),
    }
    canary = json.dumps({"inputs": questions[first : first + 1].tolist()}).encode()
    files = {"canary.json": canary, **told.files(answers)}
    validation = numbers_validation(questions, answers, bool(options.labels), _MAX_VALIDATION_BYTES)
    return Imported(document, network, files, validation, [questions], [answers.astype(np.float64)], chosen)


def questions_like(given: torch.Tensor) -> Array:
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
