"""The columns of a table: they turn a row of numbers and words into the numbers that a network takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.strict_yaml import Section

_MAX_COLUMNS = 1000
_MAX_CATEGORIES = 1000
_MOST = 1e30
_LEAST_STD = 1e-30
_NAME = r"[^\x00-\x1f\x7f]{1,64}"
_UNIT = r"[^\x00-\x1f\x7f]{1,32}"
# A number as JSON, and what stands around a value there.
_NUMBER_BYTES, _AROUND_BYTES = 40, 8


@dataclass(frozen=True)
class Column:
    """One column.

    A number becomes (value - mean) / std. A category becomes one number for each category: 1 for its own, else 0.
    """

    name: str
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()  # none of a number
    missing: float | str | None = None  # what a value that is missing counts as; without it none may be

    @property
    def width(self) -> int:
        """How many numbers of the tensor the column takes."""
        return len(self.categories) or 1

    @property
    def json_bytes(self) -> int:
        """The most bytes that the column's name and a value can take in a row of JSON."""
        longest = max((len(json.dumps(word)) for word in self.categories), default=_NUMBER_BYTES)
        return len(json.dumps(self.name)) + longest + _AROUND_BYTES

    def tensor_of(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Convert (rows,) numbers, or indices into `categories`, to (rows, width)."""
        if self.categories:
            chosen = np.zeros((len(values), len(self.categories)))
            chosen[np.arange(len(values)), values] = 1
            return chosen
        return ((values - self.mean) / self.std)[:, np.newaxis]

    @property
    def document(self) -> dict[str, Any]:
        """The description of the column for clients."""
        what = {"categories": list(self.categories)} if self.categories else {"range": [self.low, self.high]}
        unit = {"unit": self.unit} if self.unit else {}
        return {"name": self.name, **what, **unit, "required": self.missing is None}


def read_columns(section: Section) -> tuple[Column, ...]:
    """Read the columns that an input declares.

    Raises:
        BundleError: the message names the key, the value and a remedy.
    """
    columns = tuple(_read(entry) for entry in section.sections("columns", _MAX_COLUMNS))
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise section.disagree("columns", names, "names that differ")
    return columns


def width_of(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns)


def _read(section: Section) -> Column:
    name = section.text("name", _NAME)
    column = _categories(section, name) if section.has("categories") else _number(section, name)
    section.done()
    return column


def _categories(section: Section, name: str) -> Column:
    categories = section.texts("categories", _MAX_CATEGORIES)
    missing = section.text("missing") if section.has("missing") else None
    if missing is not None and missing not in categories:
        raise section.disagree("missing", missing, "one of 'categories'")
    return Column(name, categories=categories, missing=missing)


def _number(section: Section, name: str) -> Column:
    low, high = section.numbers("range", 2, -_MOST, _MOST)
    column = Column(
        name,
        unit=section.text("unit", _UNIT) if section.has("unit") else "",
        low=low,
        high=high,
        mean=section.number("mean", -_MOST, _MOST),
        std=section.number("std", _LEAST_STD, _MOST),
        missing=section.number("missing", -_MOST, _MOST) if section.has("missing") else None,
    )
    if not low < high:
        raise section.disagree("range", [low, high], "[lowest, highest]")
    if isinstance(column.missing, float) and not low <= column.missing <= high:
        raise section.disagree("missing", column.missing, f"a number of the range, {low:g} to {high:g}")
    return column
