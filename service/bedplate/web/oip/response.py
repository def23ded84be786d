"""From an engine's answer to the body of an infer response. Pure and synchronous: no HTTP, no event loop."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.errors import NotFinite
from bedplate.web.call import Reply
from bedplate.web.items.postprocess import file_means
from bedplate.web.oip.datatypes import BYTES, Datatype, datatype_of
from bedplate.web.oip.plan import Wanted
from bedplate.web.oip.request import InferRequest
from bedplate.wire import Frame

HEADER = "Inference-Header-Content-Length"
JSON = "application/json"
BINARY = "application/octet-stream"
_MAX_KEPT = 32
_NO_FIELDS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Texts:
    """What is the same in all answers of a model."""

    model: Bundle  # kept alive, so that no other gets its identity
    given: Datatype
    head: bytes
    output: bytes


def encode(frame: Frame, model: Bundle, asked: InferRequest) -> Reply:
    """The answer to `asked`, from the RESULT frame of an engine.

    Raises:
        NotFinite: the model gave NaN or an infinity, and JSON has neither; classes cannot be in the order of NaN.
    """
    texts = _texts_of(model)
    wanted = asked.outputs[0]
    shape: list[int] = frame.meta["outputs"][0]["shape"]
    head = texts.head if asked.id is None else b'%b"id":%b,' % (texts.head, orjson.dumps(asked.id))
    if wanted.classes:
        return _classified(frame, model, wanted, head)
    opening = b'%b"outputs":[%b%b' % (head, texts.output, orjson.dumps(shape))
    if wanted.binary:
        return _with_data(b'%b,"parameters":{"binary_data_size":%d}}]}', opening, frame.tensors)
    # As shortest texts that are the same number again in this datatype.
    numbers = orjson.dumps(np.frombuffer(frame.tensors, texts.given.numpy), option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in numbers:
        raise NotFinite(
            "an output is NaN or infinite, which JSON cannot say",
            next_step='ask for the output as binary data, "parameters": {"binary_data_output": true}',
        )
    return _of_json(b'%b,"data":%b}]}' % (opening, numbers))


def of_files(frame: Frame, model: Bundle, files: Sequence[dict[str, Any]]) -> Frame:
    """A RESULT frame with a row for each recording or video, as /v1 answers it, in place of one for each part of it."""
    spec = model.output
    outputs = dtypes.to_numbers(spec.dtype, dtypes.from_bytes(spec.dtype, frame.tensors)).reshape(-1, *spec.smallest)
    means = dtypes.from_numbers(spec.dtype, file_means(outputs, model, files))
    meta = {**frame.meta, "outputs": [{**frame.meta["outputs"][0], "shape": list(means.shape)}]}
    return Frame(frame.type, frame.id, meta, means.tobytes())


def _of_json(text: bytes) -> Reply:
    return Reply(text, JSON, _NO_FIELDS, True)


def _with_data(form: bytes, opening: bytes, data: bytes | memoryview) -> Reply:
    text = form % (opening, len(data))
    return Reply(text + data, BINARY, {HEADER: str(len(text))}, True)


def _classified(frame: Frame, model: Bundle, wanted: Wanted, head: bytes) -> Reply:
    items, classes = frame.meta["outputs"][0]["shape"]
    count = min(wanted.classes, classes)
    dtype = model.output.dtype
    values = dtypes.to_numbers(dtype, dtypes.from_bytes(dtype, frame.tensors)).reshape(items, classes)
    if np.isnan(values).any():
        raise NotFinite("an output is NaN, which has no place in an order", next_step="ask without 'classification'")
    named = [text for row in values for text in _best(row, count, model.labels)]
    text = orjson.dumps({"name": wanted.name, "datatype": BYTES, "shape": [items, count]})[:-1]
    opening = b'%b"outputs":[%b' % (head, text)
    if not wanted.binary:
        return _of_json(b'%b,"data":%b}]}' % (opening, orjson.dumps(named)))
    data = b"".join(struct.pack("<I", len(raw)) + raw for raw in map(str.encode, named))
    return _with_data(b'%b,"parameters":{"binary_data_size":%d}}]}', opening, data)


def _best(row: npt.NDArray[Any], count: int, labels: tuple[str, ...]) -> list[str]:
    """row (classes,) → 'score:index:label' of the best `count`; of a model without labels 'score:index'."""
    # Not by negation: what is unsigned has no negative. The first of equals is the better one.
    order = len(row) - 1 - np.argsort(row[::-1], kind="stable")[::-1]
    return [f"{row[i]!s}:{i}:{labels[i]}" if labels else f"{row[i]!s}:{i}" for i in order[:count]]


_kept: dict[int, _Texts] = {}


def _texts_of(model: Bundle) -> _Texts:
    found = _kept.get(id(model))
    if found is not None:
        return found
    given = datatype_of(model.output)
    head = orjson.dumps({"model_name": model.name, "model_version": model.version})[:-1] + b","
    output = orjson.dumps({"name": model.output.name, "datatype": given.name})[:-1] + b',"shape":'
    if len(_kept) >= _MAX_KEPT:
        del _kept[next(iter(_kept))]
    found = _kept[id(model)] = _Texts(model, given, head, output)
    return found
