"""A bundle's canary: one request whose answer is known, and whether an answer is that one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.document import Section
from bedplate.manifest import FILE_NAME
from bedplate.tensor import Tensor

MAX_CANARY_BYTES = 256 << 10
_MOST_TOLERATED = 1e9

ReadFile = Callable[[str], bytes]


@dataclass(frozen=True)
class Canary:
    """`label` is the answer: of a class, or of the item that is recommended first; or the numbers of `expect` are."""

    file: str
    content: bytes = field(repr=False)
    label: str = ""
    expect: str = ""
    expect_content: bytes = field(default=b"", repr=False)
    tolerance: float = 0  # of each number, up and down

    @property
    def content_type(self) -> str:
        """As a client would send it."""
        if self.file.endswith(".json"):
            return "application/json"
        # What a file is, its content says; of a text nothing does.
        return "text/plain" if self.file.endswith(".txt") else "image/*"

    @property
    def wanted(self) -> str:
        """What `found_in` says of the right answer."""
        return f"the numbers of {self.expect}" if self.expect else self.label

    def found_in(self, predictions: Sequence[Mapping[str, Any]]) -> str:
        """The answer in a few words: its label, or how far its numbers are off.

        Raises:
            ValueError, KeyError, IndexError, TypeError: no answer of this kind of model.
        """
        if not self.expect:
            first = predictions[0]
            return str(first["items"][0]["item"] if "items" in first else first["label"])
        found = np.asarray([one["output"] for one in predictions])
        expected = read_numbers(self.expect_content)
        if found.shape != expected.shape:
            return f"numbers of shape {list(found.shape)}, not {list(expected.shape)}"
        if found.dtype.kind not in "biuf":
            raise ValueError("the answer holds what are no numbers")
        if np.array_equal(found, expected) or _is_near(found, expected, self.tolerance):
            return self.wanted
        return f"numbers that are off by up to {_largest_difference(found, expected):.6g}, beyond {self.tolerance:g}"


def read_canary(section: Section, output: Tensor, answer: str, read: ReadFile) -> Canary:
    """The canary that bundle.yaml declares; `read` gives the files of the bundle.

    Args:
        answer: the key that says what is right: label, item or expect.

    Raises:
        BundleError: with the key, the value and what would do.
    """
    name = section.text("file", FILE_NAME.pattern)
    if answer != "expect":
        canary = Canary(name, _checked(section, "file", name, read), label=section.text(answer))
    else:
        expect = section.text("expect", FILE_NAME.pattern)
        canary = Canary(
            file=name,
            content=_checked(section, "file", name, read),
            expect=expect,
            expect_content=_checked(section, "expect", expect, read),
            tolerance=section.number("tolerance", 0, _MOST_TOLERATED),
        )
        _check_expected(section, canary, output)
    section.done()
    return canary


def read_numbers(content: bytes) -> npt.NDArray[Any]:
    """(items, *output shape) of a document {"outputs": [item, ...]}.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: it is none.
    """
    numbers = np.asarray(json.loads(content)["outputs"])
    if numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        raise ValueError("no finite numbers")
    return numbers


def _checked(section: Section, key: str, name: str, read: ReadFile) -> bytes:
    content = read(name)
    if not 1 <= len(content) <= MAX_CANARY_BYTES:
        raise section.refuse(key, name, f"a file of 1 to {MAX_CANARY_BYTES} bytes")
    return content


def _check_expected(section: Section, canary: Canary, output: Tensor) -> None:
    try:
        shape = read_numbers(canary.expect_content).shape
    except (ValueError, KeyError, TypeError, RecursionError):
        shape = ()
    if not shape or not output.accepts(shape[1:]):
        wanted = f'a JSON document {{"outputs": [...]}} with finite numbers of shape {output.shown}'
        raise section.disagree("expect", canary.expect, wanted)


def _is_near(found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> bool:
    # Whole numbers are equal or they are not: as floats, large ones that differ would be the same.
    return "f" in (found.dtype.kind, expected.dtype.kind) and _largest_difference(found, expected) <= tolerance


def _largest_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
