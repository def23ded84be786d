"""Answers as they are kept: JSON, of which nothing is believed that is no answer of its model."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import numpy as np

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.web import encoding
from bedplate.web.predictor import Prediction

# What JSON makes of each kind of numbers; whole ones of 64 bits without a sign may be beyond the others.
_KINDS = {"b": "b", "i": "i", "u": "iuf", "f": "f"}
# What an answer about a recording or a video has besides.
_OF_FILES = frozenset({"length_s", "windows", "frames"})
_OF_BOX = ("score", "x", "y", "width", "height")


def to_text(prediction: Prediction) -> bytes:
    document = {"model": prediction.model, "version": prediction.version, "predictions": prediction.predictions}
    return encoding.to_json(document)


def from_text(text: bytes, model: Bundle) -> Prediction:
    """A kept answer. Nothing was queued or computed for it.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: no answer of this model.
    """
    document = json.loads(text, parse_constant=_refuse_constant)
    predictions = document["predictions"]
    if (document["model"], document["version"]) != (model.name, model.version) or not predictions:
        raise ValueError("an answer of another model")
    if not isinstance(predictions, list) or not all(_is_prediction(one, model) for one in predictions):
        raise ValueError("no predictions")
    return Prediction(model.name, model.version, model.digest, predictions, queue_ns=0, compute_ns=0)


def _is_prediction(found: Any, model: Bundle) -> bool:
    if model.recommendation:
        return _is_recommended(found)
    if model.detection:
        return _is_boxes(found, model)
    if model.codec:
        return True  # whatever its author says
    return _is_named(found, model) if model.names_classes else _is_output(found, model.output)


def _is_boxes(found: Any, model: Bundle) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == {"boxes", "width", "height"}
        and all(type(found[side]) is int for side in ("width", "height"))
        and isinstance(found["boxes"], list)
        and all(
            isinstance(box, dict)
            and box.keys() == {"label", *_OF_BOX}
            and box["label"] in model.labels
            and all(isinstance(box[key], float) and math.isfinite(box[key]) for key in _OF_BOX)
            for box in found["boxes"]
        )
    )


def _is_output(found: Any, spec: Tensor) -> bool:
    if not isinstance(found, dict) or found.keys() - {"length_s"} != {"output"}:
        return False
    length_s = found.get("length_s", 0.0)
    if not isinstance(length_s, float) or not math.isfinite(length_s):
        return False
    numbers = np.asarray(found["output"])  # fails where lists are of uneven length
    return (
        numbers.shape == spec.shape
        and numbers.dtype.kind in _KINDS[spec.numpy_dtype.kind if not spec.is_floating else "f"]
        and bool(np.isfinite(numbers).all())
    )


def _is_recommended(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == {"user", "items"}
        and isinstance(found["user"], str)
        and isinstance(found["items"], list)
        and all(
            isinstance(one, dict)
            and one.keys() == {"item", "score"}
            and isinstance(one["item"], str)
            and isinstance(one["score"], float)
            and math.isfinite(one["score"])
            for one in found["items"]
        )
    )


def _is_named(found: Any, model: Bundle) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() - _OF_FILES == {"label", "score", "scores"}
        and isinstance(found["scores"], dict)
        and {found["label"], *found["scores"]} <= set(model.labels)
        and all(
            isinstance(score, float) and math.isfinite(score) for score in (found["score"], *found["scores"].values())
        )
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
