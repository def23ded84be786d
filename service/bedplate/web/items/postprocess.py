"""Turns a model's outputs into what a client reads: labels and scores of an item or a file, boxes, suggestions."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from itertools import accumulate
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.detection import BOX, Boxes, Detection, boxes_of
from bedplate.bundle.recommendation import questions_in, suggestions_in
from bedplate.errors import NotFinite
from bedplate.web.items.decoders import Media

Array = npt.NDArray[Any]

# Scores in an answer, best first; a classifier of a thousand labels need not send them all.
_MAX_SCORES = 10
_DIGITS = 6
_SCALE = 10**_DIGITS
_SCALABLE = 1e9  # below it a scaled score has room in a float, and is rounded in a quarter of the time
_SCORE = itemgetter(0)
_PIXEL_DIGITS = 3


def predictions_of(outputs: Array, model: Bundle, media: Media) -> list[dict[str, Any]]:
    """Return one prediction for each item, or for each file if a file becomes several items.

    Args:
        outputs: (items, *output shape).
        media: the items of the request and where they came from.

    Raises:
        NotFinite: an output is NaN or infinite, which the bundle allows and JSON cannot hold.
    """
    files = media.files
    if model.recommendation:
        return _recommended(outputs, media.items)
    if model.detection:
        return _objects(outputs, model, model.detection, files)
    if not model.names_classes:
        if model.output.allows_non_finite:
            _require_finite(outputs, model.name)
        if model.input.sound and files:
            return _of_recordings(outputs, model, files)
        return [{"output": one} for one in outputs.tolist()]
    scores = scores_of(outputs.astype(np.float64), model)  # (items, classes)
    if not model.input.cuts_files or not files:
        return _named(scores, model)
    return [_of_file(some, model, file) for some, file in zip(_by_file(scores, files), files, strict=True)]


def _require_finite(outputs: Array, name: str) -> None:
    finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    if not finite.all():
        raise NotFinite(
            f"the answer to item {int(finite.argmin())} of the request (counted from 0) holds NaN or infinity, "
            "which JSON cannot say",
            next_step=f"ask /v2/models/{name}/infer for binary data, with the parameter binary_data_output",
        )


def _of_recordings(outputs: Array, model: Bundle, files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    means = file_means(outputs, model, files).astype(outputs.dtype)
    return [{"output": mean, "length_s": file["length_s"]} for mean, file in zip(means.tolist(), files, strict=True)]


def file_means(outputs: Array, model: Bundle, files: Sequence[dict[str, Any]]) -> Array:
    """Return (files, *output shape): for each file the mean of its items' scores, or of their numbers without classes.

    Args:
        outputs: (items, *output shape).
    """
    scores = scores_of(outputs.astype(np.float64), model)
    return np.stack([some.mean(axis=0) for some in _by_file(scores, files)])


def _by_file(scores: Array, files: Sequence[dict[str, Any]]) -> list[Array]:
    return np.split(scores, list(accumulate(file["items"] for file in files))[:-1])


def _recommended(outputs: Array, items: Array) -> list[dict[str, Any]]:
    """Each user with the items that are suggested to it; where an item has no name there are no more."""
    predictions = []
    for asked, suggestions in zip(questions_in(items), suggestions_in(outputs), strict=True):
        found = [
            {"item": name.decode(), "score": round(float(score), _DIGITS)}
            for name, score in suggestions[suggestions["item"] != b""].tolist()
        ]
        predictions.append({"user": asked["user"].decode(), "items": found})
    return predictions


def scores_of(logits: Array, model: Bundle) -> Array:
    """Return (items or candidates, labels) with the model's activation applied."""
    return _ACTIVATIONS[model.activation](logits)


def _objects(
    outputs: Array, model: Bundle, detection: Detection, files: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Boxes in pixels of the picture as it was sent; of a tensor, which has no picture, as the model takes one."""
    picture = model.input.image
    assert picture
    taken = {"width": picture.width, "height": picture.height}
    predictions = []
    for candidates, file in zip(outputs, files or [taken] * len(outputs), strict=True):
        found = boxes_of(candidates[:, :BOX], scores_of(candidates[:, BOX:], model), detection)
        predictions.append(_in_pixels(found, model.labels, file["width"], file["height"]))
    return predictions


def _in_pixels(found: Boxes, labels: Sequence[str], width: int, height: int) -> dict[str, Any]:
    corners = found.corners * [width, height, width, height]
    boxes = []
    for (left, top, right, bottom), label, score in zip(corners.tolist(), found.labels, found.scores, strict=True):
        place = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        named = {key: round(value, _PIXEL_DIGITS) for key, value in place.items()}
        boxes.append({"label": labels[label], "score": round(float(score), _DIGITS), **named})
    return {"boxes": boxes, "width": width, "height": height}


def _of_file(scores: Array, model: Bundle, file: dict[str, Any]) -> dict[str, Any]:
    """The whole file by the mean of its parts, and each part with the moment at which it begins."""
    [whole] = _named(scores.mean(axis=0, keepdims=True), model)
    best = scores.argmax(axis=1)
    parts = [
        {"at_s": at_s, "label": model.labels[label], "score": round(float(row[label]), _DIGITS)}
        for at_s, label, row in zip(file["at_s"], best, scores, strict=True)
    ]
    if model.input.sound:
        return {**whole, "length_s": file["length_s"], "windows": parts}
    return {**whole, "frames": parts}


def _named(scores: Array, model: Bundle) -> list[dict[str, Any]]:
    """scores (items, classes) → per item the best label, its score, and the best scores by label."""
    named = []
    # In Python's numbers: an array of a few is slower, and so is to take them from one.
    for row in scores.tolist():
        # Of equals the first is the better one.
        ranked = nlargest(_MAX_SCORES, list(zip(row, model.labels, strict=True)), key=_SCORE)
        if ranked[0][0] < _SCALABLE and ranked[-1][0] > -_SCALABLE:
            by_label = {label: round(score * _SCALE) / _SCALE for score, label in ranked}
        else:
            by_label = {label: round(score, _DIGITS) for score, label in ranked}
        best = ranked[0][1]
        named.append({"label": best, "score": by_label[best], "scores": by_label})
    return named


def _softmax(logits: Array) -> Array:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _sigmoid(logits: Array) -> Array:
    # Beyond it nothing changes but that the exponential overflows.
    return np.asarray(1 / (1 + np.exp(-logits.clip(-60, 60))))


def _none(logits: Array) -> Array:
    return logits


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid, "none": _none}
