"""Parses rows of a table, as JSON or CSV, to items of a model that has columns.

The front end does this itself, without a decoder: JSON and CSV are texts, their parsers read every request's JSON,
and their length is limited to a table of full size.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.columns import Column
from bedplate.errors import (
    EmptyBody,
    InvalidRequest,
    MalformedCsv,
    OutOfRange,
    UnknownField,
    UnsupportedMediaType,
    WrongShape,
    WrongValue,
)
from bedplate.web.items.limits import Items, Limits, check_items, check_json_length

Table = list[list[Any]]  # values by column, then by row; None is missing
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_SHOWN = 10  # categories in a refusal


def read(body: bytes, parameters: Mapping[str, str], model: Bundle, limits: Limits) -> Items:
    """Of CSV."""
    if not model.input.columns:
        raise UnsupportedMediaType("this model does not take tables", next_step="send a tensor or JSON")
    check_json_length(len(body), model, limits)
    return check_items(items_of_csv(body, model.input.columns), model, limits)


def items_of_json(rows: Any, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
    """Return (rows, width) of the content of `inputs`: objects, each a row by the names of its columns.

    Raises:
        InvalidRequest: with row, column, value and limit; rows are counted from 1.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise WrongShape(
            "'inputs' is no list of rows, each an object",
            limit=_shown([column.name for column in columns]),
            next_step='send {"inputs": [{"column": value, ...}, ...]}',
        )
    known = {column.name for column in columns}
    for number, row in enumerate(rows, 1):
        if row.keys() - known:
            raise _unknown_column(f"row {number} has a column that the model does not know", columns)
    return _items([[row.get(column.name) for row in rows] for column in columns], columns)


def items_of_csv(body: bytes, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
    """Return (rows, width) of comma-separated text. Its first line names the columns in any order; empty means missing.

    Raises:
        InvalidRequest: see `items_of_json`.
    """
    header, *rows = _lines(body)
    places = {name: place for place, name in enumerate(header)}
    if places.keys() - {column.name for column in columns}:
        raise _unknown_column("the first line names a column that the model does not know", columns)
    if len(places) != len(header):
        raise MalformedCsv("the first line names a column twice", next_step="name each column once")
    if not rows:
        raise EmptyBody("the table has no rows", value=0, next_step="send a row after the line of names")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise MalformedCsv(
                f"row {number} has {len(row)} values, the first line names {len(header)} columns",
                value=len(row),
                limit=len(header),
                next_step="send a value for each column, empty where it is missing",
            )
    table: Table = []
    for column in columns:
        place = places.get(column.name)
        texts = [None] * len(rows) if place is None else [row[place] or None for row in rows]
        table.append(texts if column.categories else [_number(text) for text in texts])
    return _items(table, columns)


def _lines(body: bytes) -> list[list[str]]:
    try:
        text = body.decode("utf-8-sig")  # spreadsheets begin with a mark
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except (csv.Error, UnicodeDecodeError):
        raise MalformedCsv("the body is no CSV in UTF-8", next_step="send commas, and quotes around texts") from None
    if not lines:
        raise EmptyBody("the table is empty", value=0, next_step="send a line with the columns' names, then rows")
    return lines


def _number(text: str | None) -> float | str | None:
    """A text that is no number stays one, and is refused as that."""
    return float(text) if text is not None and _NUMBER.fullmatch(text.strip(" ")) else text


def _items(table: Table, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
    parts = [
        column.tensor_of(_places(values, column) if column.categories else _numbers(values, column))
        for values, column in zip(table, columns, strict=True)
    ]
    return np.concatenate(parts, axis=1).astype("<f4")


def _numbers(values: list[Any], column: Column) -> npt.NDArray[np.float64]:
    values = _without_gaps(values, column)
    if not set(map(type, values)) <= {int, float}:
        row = next(row for row, value in enumerate(values) if type(value) not in (int, float))
        raise _wrong(row, column, "is no number", _range(column))
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        numbers = np.array([value if abs(value) < column.high else np.inf for value in values], np.float64)
    inside = (column.low <= numbers) & (numbers <= column.high)
    if not inside.all():
        row = int(np.argmin(inside))
        value = float(numbers[row])
        raise OutOfRange(
            f"row {row + 1}, column '{column.name}': {value:g} is out of range, {_range(column)}",
            value=value if np.isfinite(value) else None,
            limit=_range(column),
            next_step="send a value of the range",
        )
    return numbers


def _places(values: list[Any], column: Column) -> npt.NDArray[np.int64]:
    places = {word: place for place, word in enumerate(column.categories)}
    values = _without_gaps(values, column)
    found = [places.get(value) if type(value) is str else None for value in values]
    if None in found:
        raise _wrong(found.index(None), column, "is none of its categories", _shown(column.categories))
    return np.array(found, np.int64)


def _without_gaps(values: list[Any], column: Column) -> list[Any]:
    if None not in values:
        return values
    if column.missing is None:
        wanted = _shown(column.categories) if column.categories else _range(column)
        raise _wrong(values.index(None), column, "is missing", wanted)
    return [column.missing if value is None else value for value in values]


def _wrong(row: int, column: Column, what: str, wanted: str) -> InvalidRequest:
    return WrongValue(
        f"row {row + 1}, column '{column.name}': the value {what}, wanted {wanted}",
        limit=wanted,
        next_step=f"send {wanted}",
    )


def _unknown_column(what: str, columns: Sequence[Column]) -> InvalidRequest:
    shown = _shown([column.name for column in columns])
    return UnknownField(what, limit=shown, next_step=f"send {shown}")


def _range(column: Column) -> str:
    unit = f" {column.unit}" if column.unit else ""
    return f"{column.low:g} to {column.high:g}{unit}"


def _shown(words: Sequence[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
