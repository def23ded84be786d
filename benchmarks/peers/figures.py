"""Medians, spreads and percentiles."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Classes of a kept histogram grow by this: a percentile is within 1 %, and a few hundred numbers tell it all.
_RATIO = 1.01


@dataclass(frozen=True)
class Spread:
    """Of the same figure in several rounds."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    kept = sorted(values)
    return Spread(statistics.median(kept), kept[0], kept[-1])


def in_classes(latencies_us: Mapping[int, int]) -> dict[int, int]:
    """A histogram of exact microseconds in classes, each named by its upper end."""
    classes: Counter[int] = Counter()
    for value, count in latencies_us.items():
        classes[round(_RATIO ** math.ceil(math.log(max(value, 1), _RATIO)))] += count
    return dict(sorted(classes.items()))


def merged(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return dict(sorted(total.items()))


def percentile(histogram: Mapping[int, int], share: float) -> float:
    """The smallest value that `share` of all do not exceed; nan of none."""
    wanted = share * sum(histogram.values())
    seen = 0
    for value, count in sorted(histogram.items()):
        seen += count
        if seen >= wanted:
            return float(value)
    return math.nan
