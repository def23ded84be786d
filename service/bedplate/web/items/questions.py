"""Parses the JSON of a client to queries for a model that recommends: which user, how many items."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.recommendation import MAX_NAME_BYTES, Recommendation, is_name, k_out_of_range, questions
from bedplate.errors import UnknownField, WrongShape, WrongValue

_DEFAULT_K = 10
_FIELDS = ("user", "k", "include_seen")
_EXAMPLE = 'send {"inputs": [{"user": "u17", "k": 10}]}'
# Each character of a name as six, and what stands around it.
JSON_BYTES = MAX_NAME_BYTES * 6 + 128


def questions_of_json(inputs: Any, spec: Recommendation) -> npt.NDArray[np.uint8]:
    """Return (items, 72) of the content of `inputs`. The engine checks whether it knows the users.

    Raises:
        InvalidRequest: with the place of the wrong value, its limit and the next step.
    """
    if not isinstance(inputs, list) or not inputs or not all(isinstance(one, dict) for one in inputs):
        raise WrongShape(
            "'inputs' is no list of objects, one for each user", limit=", ".join(_FIELDS), next_step=_EXAMPLE
        )
    return questions(_question(place, one, spec.max_k) for place, one in enumerate(inputs))


def _question(place: int, asked: dict[str, Any], max_k: int) -> tuple[str, int, bool]:
    if asked.keys() - set(_FIELDS):
        raise UnknownField(
            f"inputs[{place}] has a field that is not known", limit=", ".join(_FIELDS), next_step=_EXAMPLE
        )
    user, k, include = asked.get("user"), asked.get("k", min(_DEFAULT_K, max_k)), asked.get("include_seen", False)
    if not isinstance(user, str) or not is_name(user):
        wanted = f"a text of 1 to {MAX_NAME_BYTES} bytes"
        raise WrongValue(f"inputs[{place}].user does not do, wanted {wanted}", limit=wanted, next_step=_EXAMPLE)
    if type(k) is not int or type(include) is not bool:
        raise WrongValue(
            f"inputs[{place}]: k is no whole number, or include_seen neither true nor false",
            limit=f"1 to {max_k}",
            next_step=_EXAMPLE,
        )
    if not 1 <= k <= max_k:
        raise k_out_of_range(place, k, max_k)
    return user, k, include
