"""JSON: {"inputs": ...} with numbers, texts, rows of a table or what a model that recommends is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.errors import InvalidRequest, MalformedJson, NotFinite, UnknownField, WrongSize
from bedplate.web.items import questions, rows
from bedplate.web.items.files import EncodedFiles, checked
from bedplate.web.items.limits import Items, Limits, check_json_length, wrong_shape

# By the kind of the datatype, the kinds of arrays that numpy makes of a JSON document that fits.
_KINDS = {"b": "b", "i": "iuO", "u": "iuO", "f": "iuf"}


def read(body: bytes, parameters: Mapping[str, str], model: Bundle, limits: Limits) -> Items | EncodedFiles:
    check_json_length(len(body), model, limits)
    inputs = _inputs(body)
    if model.input.text and (texts := _texts(inputs)):
        return checked(EncodedFiles(texts), model, limits)
    return _from_json(inputs, body, model)


def _inputs(body: bytes) -> Any:
    """What the document has as its inputs."""
    try:
        # Bytes it would also read as UTF-16 and UTF-32.
        document = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MalformedJson("the body is no JSON of a reasonable depth", next_step='send {"inputs": [...]}') from None
    if not isinstance(document, dict) or "inputs" not in document:
        raise UnknownField("the document has no field 'inputs'", limit="inputs", next_step='send {"inputs": [...]}')
    if len(document) > 1:
        raise UnknownField(f"{len(document)} fields, only 'inputs' is known", value=len(document), limit="inputs")
    return document["inputs"]


def _texts(inputs: Any) -> list[bytes]:
    """Of one text, or of a list of them; of anything else none."""
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return []
    # Half of a pair that JSON allows to stand alone becomes no UTF-8, and is refused as that.
    return [text.encode(errors="surrogatepass") for text in texts]


def _from_json(inputs: Any, body: bytes, model: Bundle) -> Items:
    spec = model.input
    if model.recommendation:
        return questions.questions_of_json(inputs, model.recommendation)
    if spec.columns:
        return rows.items_of_json(inputs, spec.columns)
    items = _from_lists(inputs, spec)
    # numpy takes a boolean among numbers for 0 or 1. Looked for only where the text has one.
    if spec.dtype != "bool" and (b"true" in body or b"false" in body) and _has_boolean(inputs):
        raise _wrong_kind(spec)
    return items[np.newaxis] if spec.accepts(items.shape) else items


def _has_boolean(lists: Any) -> bool:
    return any(type(value) is bool for value in np.asarray(lists, object).flat)


def _from_lists(lists: Any, spec: Tensor) -> Items:
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
