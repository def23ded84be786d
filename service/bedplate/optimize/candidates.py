"""The forms of a model that are tried, and the choice of the best."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bedplate.bundle.bundle import Bundle
from bedplate.engine.variant import ModelVariant

PLAIN = "float32"
# Rates of one run differ by as much from the next: what gains less is not worth other numbers.
_WORTH = 1.1
# What is as fast to within this is compared by how soon it answers one item.
_ALIKE = 0.97
# Later by less than this nobody notices: a request costs the service as much.
_HARDLY_MS = 1.0
# Of the largest number: what the order of additions changes.
_EQUAL = 1e-4
# As a share of the largest number: right classes are not enough, for clients read the scores. On some processors torch
# 2.13 computes int8 networks 127 times too small, which no accuracy shows.
MOST_DIFFERENCE = 0.25


@dataclass(frozen=True)
class Candidate:
    precision: str
    channels_last: bool = False
    compiled: bool = False

    def form(self, package: Path) -> ModelVariant:
        """Return the form that an engine would serve.

        Args:
            package: its native code, if it has any.
        """
        return ModelVariant(self.precision, self.channels_last, package if self.compiled else None)

    @property
    def name(self) -> str:
        return self.form(Path()).name


CANDIDATES = (
    Candidate("float32"),
    Candidate("float32", channels_last=True),
    Candidate("bfloat16"),
    Candidate("bfloat16", channels_last=True),
    Candidate("float32", compiled=True),
    Candidate("bfloat16", compiled=True),
    Candidate("int8", compiled=True),
)


FORMS = tuple(one.name for one in CANDIDATES)


def candidates_for(bundle: Bundle, forms: Collection[str] = FORMS) -> list[Candidate]:
    """Return the candidates of these names, and float32, beside which each is judged.

    Other memory layouts are candidates only for networks with convolutions.
    """
    program = bundle.operations
    convolves = program.convolves if program else any(layer.kind == "conv2d" for layer in bundle.network)
    wanted = [one for one in CANDIDATES if one.name == PLAIN or one.name in forms]
    return [one for one in wanted if convolves or not one.channels_last]


@dataclass(frozen=True)
class Figures:
    """The measurements of one candidate.

    Args:
        accuracy: share of the validation set; None if the bundle has none.
        items_per_s: in full batches.
        p50_ms: of one item.
        memory_mb: of the whole process, torch included.
        start_s: beyond `import torch`, until every batch size was computed once.
        build_s: to make its native code.
        difference: the largest difference of its outputs from float32's, as a share of the largest number.
        refused: why it may not serve; empty if it may.
    """

    name: str
    accuracy: float | None = None
    items_per_s: float = 0.0
    p50_ms: float = 0.0
    memory_mb: float = 0.0
    start_s: float = 0.0
    build_s: float = 0.0
    difference: float = 0.0
    refused: str = ""


def verdict(one: Figures, plain: Figures, threshold: float, loss_points: float) -> str:
    """Return why a candidate that ran may not serve instead of float32; empty if it may.

    Args:
        threshold: of the bundle's validation set.
        loss_points: percentage points of accuracy that may be lost.
    """
    if one.accuracy is None or plain.accuracy is None:
        # Nothing says what other numbers are worth.
        return f"no validation set, and differs by {one.difference:.1g}" if one.difference > _EQUAL else ""
    if one.difference > MOST_DIFFERENCE:
        return f"its numbers differ from float32's by {one.difference:.0%}, {MOST_DIFFERENCE:.0%} are allowed"
    # Two of 400 items are half a point, and not a trillionth more.
    lost = round((plain.accuracy - one.accuracy) * 100, 6)
    if lost > loss_points:
        return f"loses {lost:.2f} points of accuracy"
    if one.accuracy < threshold <= plain.accuracy:
        return f"is below the threshold, {threshold:g}"
    if one.p50_ms > max(plain.p50_ms * _WORTH, plain.p50_ms + _HARDLY_MS):
        return "answers one item later than float32"
    return ""


def best_of(figures: Sequence[Figures]) -> Figures:
    """Return the candidate with the most items per second; of those that are close, the one with the lowest latency.

    float32, if none is clearly faster.
    """
    plain = next(one for one in figures if one.name == PLAIN)
    able = [one for one in figures if not one.refused]
    most = max(one.items_per_s for one in able)
    if most < plain.items_per_s * _WORTH:
        return plain
    return min((one for one in able if one.items_per_s >= most * _ALIKE), key=lambda one: one.p50_ms)
