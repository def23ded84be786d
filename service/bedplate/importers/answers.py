"""What an imported model answers: scores of labels, or numbers that are an answer by themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bedplate.bundle.strict_yaml import BundleError
from bedplate.importers.writing import VALIDATION, Array, surest

_CANARY_DIGITS = 1e-3  # of the largest number: what engines of other processors may differ by
_THRESHOLD = 0.99
_EXPECTED = "expected.json"


@dataclass(frozen=True)
class Answers:
    """
    Args:
        name: of the output.
        labels: one for each number; none where the numbers are the answer.
        activation: that makes scores of the numbers of labels.
        dtype: of the numbers.
    """

    name: str
    labels: Sequence[str] = ()
    activation: str = "softmax"
    dtype: str = "float32"

    def require(self, answers: Array, source: str) -> None:
        """Raises: BundleError: there are more labels than numbers in (items, numbers), or fewer."""
        if self.labels and answers.shape[1:] != (len(self.labels),):
            raise BundleError(
                f"{source}: gives {list(answers.shape[1:])} numbers, but there are {len(self.labels)} labels"
            )

    def task(self, of_labels: str) -> str:
        return of_labels if self.labels else "tensors"

    def canary(self, answers: Array) -> int:
        """Of (items, numbers) the item to ask for ever."""
        return surest(answers) if self.labels else 0

    def expected(self, answers: Array) -> Array:
        """As validation sets have them: places of labels, or the numbers."""
        return answers.argmax(axis=1) if self.labels else answers.astype(self.dtype)

    def document(self, canary: str, answers: Array) -> dict[str, Any]:
        """The keys of bundle.yaml on what is answered.

        Args:
            canary: the file of the item that `canary` chose.
            answers: (items, numbers).
        """
        outputs = [{"name": self.name, "dtype": self.dtype, "shape": list(answers.shape[1:])}]
        validation = {"file": VALIDATION, "threshold": _THRESHOLD}
        if self.labels:
            label = self.labels[int(answers[self.canary(answers)].argmax())]
            return {
                "outputs": outputs,
                "labels": list(self.labels),
                "activation": self.activation,
                "validation": validation | {"metric": "accuracy"},
                "canary": {"file": canary, "label": label},
            }
        return {
            "outputs": outputs,
            "validation": validation | {"metric": "agreement"},
            "canary": {"file": canary, "expect": _EXPECTED, "tolerance": tolerance(answers)},
        }

    def files(self, answers: Array) -> dict[str, bytes]:
        """What is expected of the canary, where that is a file."""
        if self.labels:
            return {}
        at = self.canary(answers)
        return {_EXPECTED: json.dumps({"outputs": answers[at : at + 1].astype(self.dtype).tolist()}).encode()}


def tolerance(answers: Array) -> float:
    """Of each number, up and down."""
    return float(f"{(float(np.abs(answers).max()) or 1.0) * _CANARY_DIGITS:.1g}")
