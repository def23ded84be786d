"""From the body of an infer request to a model's items. Pure and synchronous: no HTTP, no event loop."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import orjson

from bedplate import wire
from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.errors import (
    InvalidParameter,
    InvalidPriority,
    InvalidRequest,
    InvalidTimeout,
    MalformedJson,
    UnknownField,
    WrongShape,
    WrongSize,
)
from bedplate.web.items.limits import Items, Limits, check_count, check_finite, check_json_length
from bedplate.web.items.raw import from_raw
from bedplate.web.oip.datatypes import BYTES
from bedplate.web.oip.plan import Plan, Shape, Wanted, plan_of

_MAX_TIMEOUT_US = 3_600_000_000  # an hour; the operator's limit is lower
_EXAMPLE = 'send {"inputs": [{"name": …, "shape": [items, …], "datatype": …, "data": […]}]}'


@dataclass(slots=True)
class InferRequest:
    """What a client asks for, checked against the model.

    Exactly one of `items` and `files` is there: encoded files and texts take time, and are left to the caller.
    """

    items: Items | None  # (items, *shape) in the input's dtype, C-contiguous, read-only
    files: list[bytes] | None
    outputs: tuple[Wanted, ...]
    id: str | None = None
    timeout_us: int | None = None
    priority: int | None = None  # as frames have it; None: the client does not say


def parse(body: bytes, json_bytes: int | None, model: Bundle, limits: Limits) -> InferRequest:
    """Decode `body`, JSON and then binary data.

    Args:
        json_bytes: of the JSON at its beginning, as Inference-Header-Content-Length says; None: all of it is JSON. With
            0 there is no JSON: the body is the tensor of the only input.

    Raises:
        InvalidRequest: with value, limit and next step.
    """
    plan = plan_of(model, limits)
    if json_bytes is None:
        document = _document(body, plan)
        text, data = body, None
    elif json_bytes == 0:
        items = from_raw(body, model.input, None)
        plan.shape(items.shape)
        return InferRequest(check_finite(items, model.input), None, plan.all_as_binary)
    elif json_bytes > len(body):
        raise WrongSize(
            f"Inference-Header-Content-Length says {json_bytes} bytes, the body has {len(body)}",
            value=json_bytes,
            limit=len(body),
            next_step="send the length of the JSON alone",
        )
    else:
        text = body[:json_bytes]
        document = _document(text, plan)
        data = memoryview(body)[json_bytes:]
    asked = InferRequest(None, None, plan.all_as_json)
    if len(document) > 1 or plan.given.code is None:
        _read_beside_inputs(asked, document, plan)
    tensor = _only_input(document, plan)
    if tensor.get("datatype") == BYTES:
        asked.files = _files(tensor, data, plan)
    else:
        asked.items = _items(tensor, text, data, plan)
    return asked


def _document(text: bytes, plan: Plan) -> dict[str, Any]:
    if len(text) > plan.json_bytes:
        check_json_length(len(text), plan.model, plan.limits)
    try:
        document = orjson.loads(text)
    except ValueError:
        raise MalformedJson("the body is no JSON of a reasonable depth", next_step=_EXAMPLE) from None
    if type(document) is not dict:
        raise MalformedJson("the JSON is no object", next_step=_EXAMPLE)
    return document


def _only_input(document: dict[str, Any], plan: Plan) -> dict[str, Any]:
    inputs = document.get("inputs")
    if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
        found = len(inputs) if type(inputs) is list else None
        raise WrongShape("'inputs' is no list of one input", value=found, limit=1, next_step=_EXAMPLE)
    tensor: dict[str, Any] = inputs[0]
    name = plan.model.input.name
    if tensor.get("name") != name:
        raise UnknownField(f"the model has no such input, only '{name}'", limit=name, next_step="rename the input")
    return tensor


def _items(tensor: dict[str, Any], text: bytes, data: memoryview | None, plan: Plan) -> Items:
    taken = plan.taken
    if tensor.get("datatype") != taken.name:
        raise WrongShape(
            f"the datatype is not the input's, {taken.name}", limit=taken.name, next_step=f"send {taken.name}"
        )
    shape = plan.shape(_sizes(tensor.get("shape"), plan))
    parameters = tensor.get("parameters")
    if parameters is not None and (size := _binary_size(parameters)) is not None:
        return _from_binary(size, data, shape, plan)
    _refuse_rest(data)
    return _from_json(tensor.get("data"), text, shape, plan)


def _sizes(shape: Any, plan: Plan) -> tuple[int, ...]:
    # Types are looked at one by one: 1.0 and true are equal to 1.
    if type(shape) is list and not [size for size in shape if type(size) is not int]:
        return tuple(shape)
    shown = plan.model.input.shown
    raise WrongShape(
        f"'shape' is no list of whole numbers like {shown}", limit=shown, next_step="send the items as the first number"
    )


def _from_json(numbers: Any, text: bytes, shape: Shape, plan: Plan) -> Items:
    if type(numbers) is not list:
        raise WrongShape("'data' is no list", next_step="send 'data', or 'binary_data_size' with binary data")
    if shape.packer is None:
        raise WrongShape(f"{plan.taken.name} has no form as JSON", next_step="send it as binary data")
    if numbers and type(numbers[0]) is list:
        numbers = _flat(numbers, shape.sizes)
    if len(numbers) != shape.numbers:
        raise WrongSize(
            f"'data' has {len(numbers)} numbers, its shape needs {shape.numbers}",
            value=len(numbers),
            limit=shape.numbers,
            next_step="send the numbers flat, or nested as the shape says",
        )
    # Booleans are looked for only where the text has one: `struct` takes them for 1 and 0, and anything for a BOOL.
    if plan.taken.code == "?" or b"true" in text or b"false" in text:
        _check_booleans(numbers, plan)
    try:
        packed = shape.packer.pack(*numbers)
    except (struct.error, OverflowError):
        raise _no_number(plan) from None
    # JSON has no NaN, no infinity, and what a float cannot hold was refused: nothing is left to check.
    return np.frombuffer(packed, plan.taken.numpy).reshape(shape.sizes)


def _flat(nested: list[Any], sizes: tuple[int, ...]) -> list[Any]:
    level = [nested]
    for size in sizes:
        if not all(type(part) is list and len(part) == size for part in level):
            raise WrongShape(
                "'data' is nested in another way than its shape says",
                limit=str(list(sizes)),
                next_step="send the numbers flat, or nested as the shape says",
            )
        level = list(chain.from_iterable(level))
    return level


def _check_booleans(numbers: Iterable[Any], plan: Plan) -> None:
    kinds = set(map(type, numbers))
    wrong = kinds - {bool} if plan.taken.code == "?" else kinds & {bool}
    if wrong:
        raise _no_number(plan)


def _no_number(plan: Plan) -> InvalidRequest:
    name = plan.taken.name
    return WrongSize(f"a value of 'data' is no {name}, or does not fit it", limit=name, next_step=f"send {name} values")


def _from_binary(size: int, data: memoryview | None, shape: Shape, plan: Plan) -> Items:
    wanted = shape.numbers * plan.taken.numpy.itemsize
    data = _all_of(size, data)
    if size != wanted:
        raise WrongSize(
            f"binary_data_size is {size}, the shape needs {wanted}",
            value=size,
            limit=wanted,
            next_step=f"send {plan.taken.name} little-endian, items one after another",
        )
    spec = plan.model.input
    return check_finite(dtypes.from_bytes(spec.dtype, data).reshape(shape.sizes), spec)


def _binary_size(parameters: Any) -> int | None:
    """What an input's parameters say of its binary data, if anything."""
    if type(parameters) is not dict:
        raise InvalidParameter("'parameters' is no object", next_step="send an object, or leave it out")
    if "shared_memory_region" in parameters:
        raise InvalidParameter("there is no shared memory here", next_step="send the tensor in the request")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidParameter("binary_data_size is no number of bytes", limit=0, next_step="send a whole number")
    return size


def _all_of(size: int, data: memoryview | None) -> memoryview:
    """The only tensor's binary data, which is all that follows the JSON."""
    found = 0 if data is None else len(data)
    if size != found:
        raise WrongSize(
            f"binary_data_size is {size}, {found} bytes follow the JSON",
            value=size,
            limit=found,
            next_step="send the length of the JSON as Inference-Header-Content-Length, and the tensor after it",
        )
    return data if data is not None else memoryview(b"")


def _refuse_rest(data: memoryview | None) -> None:
    if data:
        raise WrongSize(
            f"{len(data)} bytes follow the JSON, and no input claims them",
            value=len(data),
            limit=0,
            next_step="say binary_data_size in the input's parameters",
        )


def _files(tensor: dict[str, Any], data: memoryview | None, plan: Plan) -> list[bytes]:
    """Encoded pictures, recordings, videos or texts; shape [files] or [files, 1]."""
    spec = plan.model.input
    if not (plan.takes_media or spec.text):
        raise WrongShape(
            f"this model does not take files or texts here, only {plan.taken.name}",
            limit=plan.taken.name,
            next_step=f"send {plan.taken.name}",
        )
    sizes = _sizes(tensor.get("shape"), plan)
    if not sizes or sizes[0] < 1 or sizes[1:] not in ((), (1,)):
        raise WrongShape("the shape of files is not [files]", limit="[files]", next_step="say how many there are")
    check_count(sizes[0], plan.limits.items)
    parameters = tensor.get("parameters")
    if parameters is not None and (size := _binary_size(parameters)) is not None:
        elements = _elements(_all_of(size, data), sizes[0])
    elif spec.text:
        _refuse_rest(data)
        elements = _texts(tensor.get("data"), sizes)
    else:
        raise WrongShape("a file is no text, so JSON cannot hold it", next_step="send the tensor as binary data")
    if not all(elements):
        raise WrongSize("an element has no bytes", value=0, next_step="send the whole file or text")
    return elements


def _texts(texts: Any, sizes: tuple[int, ...]) -> list[bytes]:
    """As JSON holds them, flat or nested as `sizes` says."""
    if type(texts) is list and texts and type(texts[0]) is list:
        texts = _flat(texts, sizes)
    if type(texts) is not list or not all(type(text) is str for text in texts):
        raise WrongShape("'data' is no list of texts", next_step="send one text per item")
    if len(texts) != sizes[0]:
        raise WrongSize(
            f"'data' has {len(texts)} texts, its shape needs {sizes[0]}",
            value=len(texts),
            limit=sizes[0],
            next_step="send one text per item",
        )
    return [text.encode() for text in texts]


def _elements(data: memoryview, count: int) -> list[bytes]:
    """Of a BYTES tensor, each with its length before it."""
    elements = []
    position = 0
    for _ in range(count):
        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
        if end > len(data):
            _refuse_elements(len(data), count)
        elements.append(bytes(data[position + 4 : end]))
        position = end
    if position != len(data):
        _refuse_elements(len(data), count)
    return elements


def _refuse_elements(found: int, count: int) -> NoReturn:
    raise WrongSize(
        f"{found} bytes are not {count} elements of a BYTES tensor",
        value=found,
        next_step="send for each element its length, 4 bytes little-endian, and then its bytes",
    )


def _read_beside_inputs(asked: InferRequest, document: dict[str, Any], plan: Plan) -> None:
    given_id = document.get("id")
    if given_id is not None and type(given_id) is not str:
        raise InvalidParameter("'id' is no text", next_step="send a text, or leave it out")
    # None and an empty one are none: clients fill the field in always.
    asked.id = given_id or None
    binary = _read_parameters(asked, document.get("parameters"))
    asked.outputs = _outputs(document.get("outputs"), binary, plan)
    if plan.given.code is None and not all(wanted.binary or wanted.classes for wanted in asked.outputs):
        raise InvalidParameter(f"{plan.given.name} has no form as JSON", next_step="ask for binary_data")


def _read_parameters(asked: InferRequest, parameters: Any) -> bool:
    """Returns: whether outputs are binary unless they say otherwise. Parameters that are not known are ignored."""
    if parameters is None:
        return False
    if type(parameters) is not dict:
        raise InvalidParameter("'parameters' is no object", next_step="send an object, or leave it out")
    if any(parameters.get(name) for name in ("sequence_id", "sequence_start", "sequence_end")):
        raise InvalidParameter("no model here keeps a sequence", next_step="leave sequence_id, _start and _end out")
    timeout_us = parameters.get("timeout", 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise InvalidTimeout(
            "the parameter 'timeout' is no number of microseconds",
            limit=_MAX_TIMEOUT_US,
            next_step="send a whole number above 0, or leave it out",
        )
    asked.timeout_us = min(timeout_us, _MAX_TIMEOUT_US) or None
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise InvalidPriority(
            "the parameter 'priority' is no whole number", limit=1, next_step="send 1, or 2 for later"
        )
    if priority:
        asked.priority = wire.INTERACTIVE if priority == 1 else wire.BATCH
    return _flag(parameters, "binary_data_output", False)


def _outputs(given: Any, binary: bool, plan: Plan) -> tuple[Wanted, ...]:
    """What is to be answered: all outputs where none is named."""
    if given is None or given == []:
        return plan.all_as_binary if binary else plan.all_as_json
    if type(given) is not list:
        raise InvalidParameter("'outputs' is no list", next_step="send a list of {'name': …}, or leave it out")
    known = plan.model.output.name
    if len(given) > 1 or type(given[0]) is not dict or given[0].get("name") != known:
        raise InvalidParameter(
            f"an output is not known, or named twice; there is '{known}'",
            limit=known,
            next_step="name it once, or leave 'outputs' out",
        )
    return (_wanted(known, given[0].get("parameters"), binary, plan),)


def _wanted(name: str, parameters: Any, binary: bool, plan: Plan) -> Wanted:
    if parameters is None:
        return Wanted(name, binary)
    if type(parameters) is not dict:
        raise InvalidParameter("an output's 'parameters' is no object", next_step="send an object, or leave it out")
    if "shared_memory_region" in parameters:
        raise InvalidParameter("there is no shared memory here", next_step="take the tensor from the answer")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidParameter("'classification' is no number of classes", limit=1, next_step="send how many classes")
    if classes and len(plan.model.output.shape) != 1:
        raise InvalidParameter(f"'{name}' has no classes", next_step="leave 'classification' out")
    return Wanted(name, _flag(parameters, "binary_data", binary), classes)


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise InvalidParameter(f"'{name}' is neither true nor false", next_step="send true or false")
    return value
