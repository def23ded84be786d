"""JSON: {"inputs": ...} with numbers, texts, rows of a table or what a model that recommends is asked."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.errors import InvalidRequest, MalformedJson, NotFinite, UnknownField, WrongSize
from bedplate.web.items import questions, rows
from bedplate.web.items.files import EncodedFiles, checked
from bedplate.web.items.limits import Items, Limits, check_items, check_json_length, check_shape, wrong_shape

_CODES = {"float16": "e", "float32": "f", "float64": "d"}  # of `struct`
# By the kind of the datatype, the kinds of arrays that numpy makes of a JSON document that fits.
_KINDS = {"b": "b", "i": "iuO", "u": "iuO", "f": "iuf"}


def read(body: bytes, parameters: Mapping[str, str], model: Bundle, limits: Limits) -> Items | EncodedFiles:
    check_json_length(len(body), model, limits)
    plain = _plain_document(body) if model.input.is_floating else None
    inputs = _inputs(_document(body) if plain is None else plain)
    if model.input.text and (texts := _texts(inputs)):
        return checked(EncodedFiles(texts), model, limits)
    if model.recommendation:
        return check_items(questions.questions_of_json(inputs, model.recommendation), model, limits)
    if model.input.columns:
        return check_items(rows.items_of_json(inputs, model.input.columns), model, limits)
    items = None if plain is None else _packed(inputs, body, model.input)
    if items is None:
        return check_items(_from_lists(inputs, body, model.input), model, limits)
    # They are finite: a plain document has no other numbers, and `struct` takes none that the float cannot hold.
    check_shape(items.shape, model, limits)
    return items


def _inputs(document: Any) -> Any:
    """What the document has as its inputs."""
    if not isinstance(document, dict) or "inputs" not in document:
        raise UnknownField("the document has no field 'inputs'", limit="inputs", next_step='send {"inputs": [...]}')
    if len(document) > 1:
        raise UnknownField(f"{len(document)} fields, only 'inputs' is known", value=len(document), limit="inputs")
    return document["inputs"]


def _plain_document(body: bytes) -> Any:
    """Twenty times as fast as `_document`; None of what it does not read, as numbers that no float holds.

    Whole numbers of more than 64 bits become floats: the same to a model that takes floats, and to no other.
    """
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _document(body: bytes) -> Any:
    try:
        # Bytes it would also read as UTF-16 and UTF-32.
        return json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MalformedJson("the body is no JSON of a reasonable depth", next_step='send {"inputs": [...]}') from None


def _texts(inputs: Any) -> list[bytes]:
    """Of one text, or of a list of them; of anything else none."""
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return []
    # Half of a pair that JSON allows to stand alone becomes no UTF-8, and is refused as that.
    return [text.encode(errors="surrogatepass") for text in texts]


def _packed(lists: Any, body: bytes, spec: Tensor) -> Items | None:
    """Lists of floats by `struct`, in a third of the time that `_from_lists` takes; None of what is not so plain."""
    code = _CODES.get(spec.dtype)
    if code is None or b"true" in body or b"false" in body:
        return None
    shape, numbers, first = [], lists, lists
    while type(first) is list and first:
        shape.append(len(first))
        first = first[0]
    for size in shape[1:]:
        if len(numbers) == 1:
            numbers = numbers[0]
        elif all(type(part) is list and len(part) == size for part in numbers):
            numbers = list(chain.from_iterable(numbers))
        else:
            return None
    if not shape:
        return None
    try:
        packed = _struct_of(code, len(numbers)).pack(*numbers)
    except (struct.error, OverflowError):
        return None
    if spec.accepts(shape):
        shape.insert(0, 1)
    return np.frombuffer(packed, spec.numpy_dtype).reshape(shape)


@lru_cache(maxsize=256)
def _struct_of(code: str, count: int) -> struct.Struct:
    return struct.Struct(f"<{count}{code}")


def _from_lists(lists: Any, body: bytes, spec: Tensor) -> Items:
    items = _numbers(lists, spec)
    # numpy takes a boolean among numbers for 0 or 1. Looked for only where the text has one.
    if spec.dtype != "bool" and (b"true" in body or b"false" in body) and _has_boolean(lists):
        raise _wrong_kind(spec)
    return items[np.newaxis] if spec.accepts(items.shape) else items


def _has_boolean(lists: Any) -> bool:
    return any(type(value) is bool for value in np.asarray(lists, object).flat)


def _numbers(lists: Any, spec: Tensor) -> Items:
    kind = "f" if spec.is_floating else spec.numpy_dtype.kind
    try:
        values = np.asarray(lists)
        if kind in "iu" and values.dtype.kind in "fO":
            # What numpy makes of whole numbers that are not all of int64: rounded ones, or objects.
            values = np.asarray(lists, object)
    except (ValueError, OverflowError):
        values = np.empty(0, np.str_)
    if kind == "f" and values.dtype.kind == "O":
        return dtypes.from_numbers(spec.dtype, _large_numbers(values, spec))
    if values.dtype.kind == "O" and not all(type(number) is int for number in values.flat):
        raise _wrong_kind(spec)
    if values.dtype.kind not in _KINDS[kind]:
        raise _wrong_kind(spec)
    if kind in "iu" and values.size:
        limits = np.iinfo(spec.numpy_dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise WrongSize(f"a number does not fit {spec.dtype}", limit=spec.dtype)
    return dtypes.from_numbers(spec.dtype, values)


def _large_numbers(values: npt.NDArray[Any], spec: Tensor) -> npt.NDArray[np.float64]:
    """Whole numbers that are none of int64, maybe among others, which numpy leaves as they are."""
    if not all(type(number) in (int, float) for number in values.flat):
        raise _wrong_kind(spec)
    try:
        return values.astype(np.float64)
    except OverflowError:
        raise NotFinite("an input is beyond all numbers that a float holds", next_step="send finite numbers") from None


def _wrong_kind(spec: Tensor) -> InvalidRequest:
    return wrong_shape(f"lists of uneven length, or not numbers that {spec.dtype} takes", spec)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
