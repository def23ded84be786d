"""Object detection: from a model's candidates to one box for each object, and the precision of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.strict_yaml import Section

Array = npt.NDArray[Any]
BOX = 4  # numbers of a box, before the scores of its labels
_FORMATS = ("cxcywh", "xyxy")
_MAX_BOXES = 1000  # of one picture
# Candidates of one picture that are looked at, best first: each box that stays is compared with all of them.
_MAX_CANDIDATES = 4096
_MATCHES = 0.5  # overlap from which a box counts as the right one, of map50


@dataclass(frozen=True)
class Detection:
    box_format: str  # cxcywh: centre, width and height; xyxy: left, top, right and bottom; all as shares of the picture
    score_threshold: float
    iou_threshold: float  # of two boxes of a label that overlap more, the better one stays
    max_boxes: int


@dataclass(frozen=True)
class Boxes:
    """The boxes of one picture, best first."""

    corners: Array  # (boxes, 4): left, top, right, bottom as shares of the picture
    labels: Array  # (boxes,), places in the model's labels
    scores: Array  # (boxes,)


def read_detection(section: Section) -> Detection:
    """Read the section `detection`.

    Raises:
        BundleError: the message names the key, the value and a remedy.
    """
    detection = Detection(
        box_format=section.choice("box_format", _FORMATS),
        score_threshold=section.number("score_threshold", 0, 1),
        iou_threshold=section.number("iou_threshold", 0, 1),
        max_boxes=section.integer("max_boxes", 1, _MAX_BOXES),
    )
    section.done()
    return detection


def boxes_of(places: Array, scores: Array, spec: Detection) -> Boxes:
    """Drop the candidates of one picture that score too low or overlap with better ones; return the rest.

    Args:
        places: (candidates, 4), in the format that `spec` names.
        scores: (candidates, labels).
    """
    candidate, label = np.nonzero(scores >= spec.score_threshold)
    score = scores[candidate, label]
    best = np.argsort(-score, kind="stable")[:_MAX_CANDIDATES]
    corners = _corners(places, spec.box_format)[candidate[best]]
    # What has no width or height is nothing; and numbers that are none compare as false.
    real = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    best, corners = best[real], corners[real]
    kept = _apart(corners, label[best], spec)
    return Boxes(corners[kept], label[best][kept], score[best][kept])


def overlap(box: Array, others: Array) -> Array:
    """Return the intersection over union of `box` (4,) with each of `others` (boxes, 4), all given by corners."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    united = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / np.maximum(united, np.finfo(float).tiny))


def mean_average_precision(found: Sequence[Boxes], truth: Sequence[Boxes]) -> float:
    """Return the mean over the labels of the area under the precision-recall curve.

    A box is right if it overlaps by half or more with one that no better box has taken.
    """
    known = np.unique(np.concatenate([one.labels for one in truth]))
    return float(np.mean([_average_precision(found, truth, label) for label in known]))


def _corners(places: Array, box_format: str) -> Array:
    places = places.astype(np.float64)
    if box_format == "cxcywh":
        centres, halves = places[:, :2], places[:, 2:] / 2
        places = np.concatenate([centres - halves, centres + halves], axis=1)
    return places.clip(0, 1)


def _apart(corners: Array, labels: Array, spec: Detection) -> list[int]:
    """The places of the boxes that stay, none of which overlaps with a better one of its label."""
    kept: list[int] = []
    left = np.arange(len(corners))
    while left.size and len(kept) < spec.max_boxes:
        first, left = int(left[0]), left[1:]
        kept.append(first)
        other = labels[left] != labels[first]
        left = left[other | (overlap(corners[first], corners[left]) <= spec.iou_threshold)]
    return kept


def _average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], label: int) -> float:
    objects = [one.corners[one.labels == label] for one in truth]
    taken = [np.zeros(len(one), bool) for one in objects]
    boxes = [
        (score, picture, box)
        for picture, one in enumerate(found)
        for score, box in zip(one.scores[one.labels == label], one.corners[one.labels == label], strict=True)
    ]
    boxes.sort(key=lambda box: -box[0])
    right = np.array([_takes_one(box, objects[picture], taken[picture]) for _, picture, box in boxes], bool)
    hits = right.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    # At each recall the best precision that there still is.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / sum(map(len, objects)))


def _takes_one(box: Array, objects: Array, taken: Array) -> bool:
    overlaps = np.where(taken, 0, overlap(box, objects))
    if not overlaps.size or overlaps.max() < _MATCHES:
        return False
    taken[overlaps.argmax()] = True
    return True
