"""A bundle's canary: one request with a known answer, and the comparison of an answer with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.detection import overlap
from bedplate.bundle.manifest import FILE_NAME
from bedplate.bundle.strict_yaml import Section
from bedplate.bundle.tensor import Tensor

MAX_CANARY_BYTES = 4 << 20  # a picture of 3 x 224 x 224 numbers as JSON, with all their digits
_MOST_TOLERATED = 1e9
_CONTENT_TYPE = r"[a-z]{1,32}/[a-z0-9.+-]{1,64}"

_LEAST_OVERLAP = 0.1
# What a model's answer to one item is.
LABEL, ITEM, NUMBERS, BOXES = "label", "item", "numbers", "boxes"
OWN = "own"  # whatever a codec says

LabelledBox = tuple[str, npt.NDArray[np.float64]]
ReadFile = Callable[[str], bytes]


@dataclass(frozen=True)
class Canary:
    """The request and its expected answer.

    `label` is the expected class or the item that is recommended first. `expect` holds the expected answer of the
    other tasks: numbers, the boxes of objects, or what a codec returns.
    """

    file: str
    content: bytes = field(repr=False)
    label: str = ""
    expect: str = ""
    expect_content: bytes = field(default=b"", repr=False)
    tolerance: float = 0  # of each number, up and down
    iou: float = 0  # overlap of each box with the expected one, at least; 0 where there are none
    sent_as: str = ""  # the type of its content, for a codec

    @property
    def content_type(self) -> str:
        """The Content-Type that a client would send."""
        if self.sent_as:
            return self.sent_as
        if self.file.lower().endswith(".json"):
            return "application/json"
        # What a file is, its content says; of a text nothing does.
        return "text/plain" if self.file.lower().endswith(".txt") else "image/*"

    @property
    def wanted(self) -> str:
        """The text that `found_in` returns for the right answer."""
        if not self.expect:
            return self.label
        what = "predictions" if self.sent_as else "boxes" if self.iou else "numbers"
        return f"the {what} of {self.expect}"

    def found_in(self, predictions: Sequence[Mapping[str, Any]]) -> str:
        """Return the answer in a few words: its label, or how far its numbers differ from the expected ones.

        Raises:
            ValueError, KeyError, IndexError, TypeError: this kind of model gives no such answer.
        """
        if not self.expect:
            first = predictions[0]
            return str(first["items"][0]["item"] if "items" in first else first["label"])
        if self.iou:
            return self._boxes_found_in(predictions[0]["boxes"])
        if self.sent_as:
            expected = json.loads(self.expect_content)["predictions"]
            return self.wanted if is_alike(list(predictions), expected, self.tolerance) else "other predictions"
        found = np.asarray([one["output"] for one in predictions])
        expected = read_numbers(self.expect_content)
        if found.shape != expected.shape:
            return f"numbers of shape {list(found.shape)}, not {list(expected.shape)}"
        if found.dtype.kind not in "biuf":
            raise ValueError("the answer holds what are no numbers")
        if np.array_equal(found, expected) or _is_near(found, expected, self.tolerance):
            return self.wanted
        return f"numbers that are off by up to {_largest_difference(found, expected):.6g}, beyond {self.tolerance:g}"

    def _boxes_found_in(self, boxes: Sequence[Mapping[str, Any]]) -> str:
        found, expected = _read_boxes(boxes), read_boxes(self.expect_content)
        if len(found) != len(expected):
            return f"{len(found)} boxes, not {len(expected)}"
        for label, corners in expected:
            shares = [overlap(corners, box[np.newaxis])[0] * (name == label) for name, box in found]
            if max(shares) < self.iou:
                return f"no box of {label} that overlaps with the expected one by {self.iou:g}"
            del found[int(np.argmax(shares))]
        return self.wanted


def read_canary(section: Section, output: Tensor, answer: str, read: ReadFile) -> Canary:
    """Read the canary that bundle.yaml declares.

    Args:
        answer: LABEL, ITEM, NUMBERS, BOXES or OWN.
        read: returns the content of one of the bundle's files.

    Raises:
        BundleError: the message names the key, the value and a remedy.
    """
    name = section.text("file", FILE_NAME.pattern)
    if answer in (LABEL, ITEM):
        canary = Canary(name, _checked(section, "file", name, read), label=section.text(answer))
    else:
        expect = section.text("expect", FILE_NAME.pattern)
        canary = Canary(
            file=name,
            content=_checked(section, "file", name, read),
            expect=expect,
            expect_content=_checked(section, "expect", expect, read),
            tolerance=section.number("tolerance", 0, _MOST_TOLERATED) if answer in (NUMBERS, OWN) else 0,
            iou=section.number("iou", _LEAST_OVERLAP, 1) if answer == BOXES else 0,
            sent_as=section.text("content_type", _CONTENT_TYPE) if answer == OWN else "",
        )
        _check_expected(section, canary, output)
    section.done()
    return canary


def read_numbers(content: bytes) -> npt.NDArray[Any]:
    """Return the array (items, *output shape) of a document {"outputs": [item, ...]}.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: the document has another form.
    """
    numbers = np.asarray(json.loads(content)["outputs"])
    if numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        raise ValueError("no finite numbers")
    return numbers


def read_boxes(content: bytes) -> list[LabelledBox]:
    """Return the label and corners of each box of a document {"boxes": [...]}, in the form that clients get.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: the document has another form.
    """
    boxes = _read_boxes(json.loads(content)["boxes"])
    if not boxes:
        raise ValueError("no boxes")
    return boxes


def _read_boxes(boxes: Sequence[Mapping[str, Any]]) -> list[LabelledBox]:
    read = []
    for box in boxes:
        left, top, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        corners = np.array([left, top, left + width, top + height])
        if not np.isfinite(corners).all() or min(width, height) <= 0:
            raise ValueError("a box without a size")
        read.append((str(box["label"]), corners))
    return read


def _checked(section: Section, key: str, name: str, read: ReadFile) -> bytes:
    content = read(name)
    if not 1 <= len(content) <= MAX_CANARY_BYTES:
        raise section.refuse(key, name, f"a file of 1 to {MAX_CANARY_BYTES} bytes")
    return content


def is_alike(found: object, expected: object, tolerance: float) -> bool:
    """Whether two JSON values are equal but for numbers that differ a little. true and false are not numbers here."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(is_alike(found[key], expected[key], tolerance) for key in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(is_alike, found, expected, [tolerance] * len(found)))
    numbers = [value for value in (found, expected) if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) == 2 and float in map(type, numbers):
        return abs(numbers[0] - numbers[1]) <= tolerance
    return type(found) is type(expected) and found == expected


def _check_expected(section: Section, canary: Canary, output: Tensor) -> None:
    if canary.iou:
        try:
            read_boxes(canary.expect_content)
        except (ValueError, KeyError, TypeError, RecursionError):
            wanted = 'a JSON document {"boxes": [{"label": ..., "x": ..., "y": ..., "width": ..., "height": ...}]}'
            raise section.disagree("expect", canary.expect, wanted) from None
        return
    if canary.sent_as:
        if not _are_predictions(canary.expect_content):
            raise section.disagree("expect", canary.expect, 'a JSON document {"predictions": [...]}')
        return
    try:
        shape = read_numbers(canary.expect_content).shape
    except (ValueError, KeyError, TypeError, RecursionError):
        shape = ()
    if not shape or not output.accepts(shape[1:]):
        wanted = f'a JSON document {{"outputs": [...]}} with finite numbers of shape {output.shown}'
        raise section.disagree("expect", canary.expect, wanted)


def _are_predictions(content: bytes) -> bool:
    try:
        predictions = json.loads(content)["predictions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(predictions, list) and bool(predictions)


def _is_near(found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> bool:
    # Whole numbers are equal or they are not: as floats, large ones that differ would be the same.
    return "f" in (found.dtype.kind, expected.dtype.kind) and _largest_difference(found, expected) <= tolerance


def _largest_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
