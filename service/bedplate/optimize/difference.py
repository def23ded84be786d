"""How much the outputs of two forms of a model differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def difference_of(found: Numbers, wanted: npt.NDArray[Any]) -> float:
    """Return the largest difference, as a share of the largest number in the expected outputs.

    It is infinite where one output is NaN or infinite and the other is not the same, even if the bundle allows such
    outputs.
    """
    finite = np.isfinite(found) & np.isfinite(wanted)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if not (finite | same).all():
        return math.inf
    if not finite.any():
        return 0.0
    largest = float(np.abs(wanted[finite]).max()) or 1.0
    return float(np.abs(found[finite] - wanted[finite]).max()) / largest
