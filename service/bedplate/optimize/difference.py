"""How far the answers of one form of a model are from those of another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def difference_of(found: Numbers, wanted: npt.NDArray[Any]) -> float:
    """The largest one, as a share of the largest number that is wanted.

    Without end where one of two is NaN or infinite and the other is not the same: that a bundle allows such answers
    does not make them any better in another place.
    """
    finite = np.isfinite(found) & np.isfinite(wanted)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if not (finite | same).all():
        return math.inf
    if not finite.any():
        return 0.0
    largest = float(np.abs(wanted[finite]).max()) or 1.0
    return float(np.abs(found[finite] - wanted[finite]).max()) / largest
