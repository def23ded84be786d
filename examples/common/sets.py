"""What is drawn for training, for choosing, and for asking in the end: no two items share their chance."""

from __future__ import annotations

import numpy as np

SETS = ("training", "validation", "held out")
# Drawn when networks, settings and thresholds were settled, and asked about once. Whoever goes on with one of the
# examples looks at the answers, and draws another number in the end.
HELD_OUT_SEED = 20261126


def chance_of(seed: int, part: str, number: int) -> np.random.Generator:
    """Of an example's item, the same each time."""
    drawn_last = [HELD_OUT_SEED] if part == "held out" else []
    return np.random.default_rng([seed, SETS.index(part), number, *drawn_last])
