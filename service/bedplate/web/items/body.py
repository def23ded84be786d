"""From a request's body to items for a model: counted while it is read, then parsed by its type."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NoReturn

import falcon
import numpy as np
import numpy.typing as npt
from falcon.asgi import Request
from falcon.media.multipart import MultipartForm, MultipartParseError, MultipartParseOptions

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.errors import (
    BodyTooLarge,
    EmptyBody,
    InvalidParameter,
    InvalidRequest,
    MalformedJson,
    MalformedMultipart,
    NotFinite,
    TooManyItems,
    UnknownField,
    UnsupportedMediaType,
    WrongShape,
    WrongSize,
)
from bedplate.web import encoding
from bedplate.web.items import questions, rows
from bedplate.web.items.decoders import Decoders, Media
from bedplate.web.options import RequestOptions, too_late

Items = npt.NDArray[Any]

# Digits, sign, point, exponent, brackets and blanks of a number as JSON: what a request of full size can need.
_JSON_BYTES_PER_NUMBER = 40
# By the kind of the datatype, the kinds of arrays that numpy makes of a JSON document that fits.
_KINDS = {"b": "b", "i": "iuO", "u": "iuO", "f": "iuf"}
_JSON_BYTES_PER_CHARACTER = 12  # two escapes
_ITEM_SHAPE = re.compile(r"[0-9]{1,5}(,[0-9]{1,5})*")
# What a file is, its content says; the type says only that it is one.
MEDIA_TYPES = ("image/", "audio/", "video/", "text/plain")
_UTF8 = ("", "utf-8", "utf8", "us-ascii")
_CODED_PART = re.compile(
    rb"^content-(?:transfer-)?encoding[ \t]*:[ \t]*(?!(?:identity|binary)?[ \t]*\r\n)", re.IGNORECASE | re.MULTILINE
)
_MAX_FILE_RATIO = 4  # files are compressed already, so what gets much smaller is none
# Fields that say what a body or a request is. With two of one there are two readings.
_SINGULAR = frozenset(
    {
        b"content-type",
        b"content-range",
        b"inference-header-content-length",
        b"x-request-timeout-ms",
        b"x-request-priority",
    }
)
_TYPES = (
    "image/*, audio/*, video/*, text/plain, multipart/form-data, application/octet-stream, application/json, text/csv"
)


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    items: int


class BodyReader:
    """Bodies of both APIs, as they were before their Content-Encoding."""

    def __init__(self, limits: Limits):
        self._limits = limits
        # A small body may inflate to the largest one: one at a time, or memory has no bound.
        self._turn = asyncio.Semaphore(1)

    async def read(
        self, req: Request, model: Bundle, hold: Callable[[int], None], options: RequestOptions, types: str = _TYPES
    ) -> tuple[bytes, int]:
        """The whole body, judged by its head where that says how long it is, and how many bytes came.

        Args:
            hold: takes room for so many bytes, or raises.
            types: what the route takes, for who sent nothing.

        Raises:
            InvalidParameter: a field says that the body is a part of one, or stands twice.
            UnsupportedMediaType: its charset or its encoding is none that is read.
            BodyTooLarge: announced or, without an announcement, received more than allowed; or decompressed.
            ServerBusy: other requests leave no room for it.
            DeadlineExceeded: it takes longer to arrive than its client waits.
            EmptyBody: nothing came.
            MalformedEncoding: it is not what its Content-Encoding says.
        """
        _check_fields(req)
        check_text_type(req.content_type)
        limits = limits_of(model, self._limits)
        sent = await _in_time(req, limits, hold, options)
        if not sent:
            raise _empty(types)
        coding = req.get_header("Content-Encoding")
        if not coding:
            return sent, len(sent)
        body = await encoding.inflated(sent, coding, _inflated_bytes(model, limits, len(sent)), self._turn)
        if not body:
            raise _empty(types)
        hold(max(0, len(body) - len(sent)))
        return body, len(sent)


def _check_fields(req: Request) -> None:
    found: set[bytes] = set()
    for name, _ in req.scope["headers"]:
        if name in _SINGULAR and name in found:
            raise InvalidParameter(f"{name.decode()} stands twice", value=2, limit=1, next_step="send it once")
        found.add(name)
    if req.get_header("Content-Range") is not None:
        raise InvalidParameter("Content-Range says that this is a part of a body", next_step="send the whole body")


def _inflated_bytes(model: Bundle, limits: Limits, sent_bytes: int) -> int:
    """What a compressed body of `sent_bytes` may hold: as much as a request of full size can need."""
    if model.codec:
        return limits.body_bytes
    limits = replace(limits, items=min(limits.items, model.max_items))
    tensor_bytes = json_limit(model, limits) + model.input.batch_bytes_of(model.max_cost)
    file_bytes = sent_bytes * _MAX_FILE_RATIO if model.input.takes_files else 0
    return min(limits.body_bytes, max(tensor_bytes, file_bytes))


async def _in_time(req: Request, limits: Limits, hold: Callable[[int], None], options: RequestOptions) -> bytes:
    announced = req.content_length
    if announced is not None:
        if announced > limits.body_bytes:
            _refuse_length(announced, limits.body_bytes)
        hold(announced)
        hold = _held_already
    try:
        return await asyncio.wait_for(_received(req, limits, hold), options.left_s)
    except asyncio.TimeoutError:
        raise too_late() from None


async def _received(req: Request, limits: Limits, hold: Callable[[int], None]) -> bytes:
    chunks = []
    received = 0
    async for chunk in req.stream:
        received += len(chunk)
        if received > limits.body_bytes:
            _refuse_length(received, limits.body_bytes)
        hold(len(chunk))
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _held_already(count: int) -> None:
    pass


def _empty(types: str) -> EmptyBody:
    return EmptyBody("the body is empty", value=0, next_step=f"send {types}")


async def parse_items(
    content_type: str,
    body: bytes,
    model: Bundle,
    limits: Limits,
    decoders: Decoders,
    options: RequestOptions,
) -> Media:
    """Turn `body` into items of the model's input, by its declared type; files are known by content.

    Returns: items that all have one shape; of tensors nothing is said about files.

    Raises:
        InvalidRequest: with value, limit and next step.
        DecoderBusy, DecoderUnavailable, DeadlineExceeded: of files.
    """
    kind, parameters = falcon.parse_header(content_type)
    kind = kind.lower()
    spec = model.input
    limits = replace(limits, items=min(limits.items, model.max_items))
    is_form = kind == "multipart/form-data"
    parts = _parts(body, parameters.get("boundary", ""), limits) if is_form else [(body, content_type)]
    if model.codec:
        return await _by_codec(parts, model, limits, decoders, options)
    if is_form or kind.startswith(MEDIA_TYPES):
        return await decode_files([file for file, _ in parts], model, limits, decoders, options)
    if kind == "application/octet-stream":
        return Media([check_items(from_raw(body, spec, parameters.get("shape")), model, limits)])
    if kind == "application/json":
        check_json_length(len(body), model, limits)
        inputs = _inputs(body)
        if spec.text and (texts := _texts(inputs)):
            return await decode_files(texts, model, limits, decoders, options)
        return Media([check_items(_from_json(inputs, body, model), model, limits)])
    if kind == "text/csv":
        if not spec.columns:
            raise UnsupportedMediaType("this model does not take tables", next_step="send a tensor or JSON")
        check_json_length(len(body), model, limits)
        return Media([check_items(rows.items_of_csv(body, spec.columns), model, limits)])
    raise UnsupportedMediaType(f"the Content-Type is not one this route takes: {_TYPES}", limit=_TYPES)


@lru_cache(maxsize=256)
def is_read_as_text(content_type: str | None) -> bool:
    """Whether a body of this type is no text, or one in UTF-8. A charset of anything but a text says nothing."""
    if not content_type:
        return True
    kind, parameters = falcon.parse_header(content_type)
    is_text = kind.lower().startswith(("text/", "application/json"))
    return not is_text or parameters.get("charset", "").lower() in _UTF8


def check_text_type(content_type: str | None) -> None:
    """Raises: UnsupportedMediaType: a text in another charset than UTF-8."""
    if not is_read_as_text(content_type):
        raise UnsupportedMediaType(
            "the charset is not one that is read", limit="utf-8", next_step="send UTF-8, and say charset=utf-8"
        )


async def decode_files(
    files: list[bytes], model: Bundle, limits: Limits, decoders: Decoders, options: RequestOptions
) -> Media:
    """Encoded files as items; see `parse_items`.

    Args:
        limits: the model's own among them.
    """
    if not model.input.takes_files:
        raise UnsupportedMediaType("this model does not take files", next_step="send a tensor or JSON")
    check_count(len(files), limits)
    return await decoders.decode(files, model, options)


async def _by_codec(
    parts: list[tuple[bytes, str]], model: Bundle, limits: Limits, decoders: Decoders, options: RequestOptions
) -> Media:
    """Whatever comes: what it is, the model's own `decode` says."""
    check_count(len(parts), limits)
    files, types = zip(*parts, strict=True)
    media = await decoders.decode(files, model, options, types)
    check_count(sum(map(len, media.parts)), limits)
    for part in media.parts:
        check_items(part, model, limits)
    return media


def _parts(body: bytes, boundary: str, limits: Limits) -> list[tuple[bytes, str]]:
    """Each file of a form, with its Content-Type."""
    parameters = MultipartParseOptions()
    parameters.max_body_part_buffer_size = limits.body_bytes
    # One more than allowed, so that the refusal can be ours, with value and limit.
    parameters.max_body_part_count = limits.items + 1
    files = []
    _check_parts_codings(body, boundary.encode())
    try:
        for part in MultipartForm(io.BytesIO(body), boundary.encode(), len(body), parameters):
            if part.name != "file":
                raise UnknownField("a part of the form is not called 'file'", limit="file", next_step="rename the part")
            check_text_type(part.content_type)
            files.append((part.get_data(), part.content_type or ""))
    except MultipartParseError as error:
        if len(files) > limits.items:
            check_count(len(files), limits)
        raise MalformedMultipart(f"the form cannot be parsed: {error.description}") from None
    except UnicodeDecodeError:
        raise MalformedMultipart("the form's headers are not UTF-8") from None
    if not files or not all(file for file, _ in files):
        raise EmptyBody("the form has no file, or an empty one", value=0, next_step="add parts called 'file'")
    return files


def _check_parts_codings(body: bytes, boundary: bytes) -> None:
    """Falcon drops what it does not know of a part's fields, and these would change what the part is.

    Raises:
        UnsupportedMediaType: a part is encoded by itself. The whole body may be.
    """
    for head in re.finditer(re.escape(b"--" + boundary) + rb"[ \t]*\r\n(.{0,8192}?\r\n)\r\n", body, re.DOTALL):
        if _CODED_PART.search(head[1]):
            raise UnsupportedMediaType(
                "a part of the form is encoded by itself",
                limit="identity, binary",
                next_step="send the part as it is, without Content-Encoding; the whole body may be compressed",
            )


def from_raw(body: bytes, spec: Tensor, declared: str | None) -> Items:
    """Items from their bytes, one after another; they are not checked yet."""
    shape = _item_shape(spec, declared)
    item_bytes = spec.item_bytes_of(shape)
    if len(body) % item_bytes:
        raise WrongSize(
            f"{len(body)} bytes are no whole number of items of {item_bytes} bytes",
            value=len(body),
            limit=item_bytes,
            next_step=f"send {spec.dtype} little-endian, shape {list(shape)} per item, items one after another",
        )
    return dtypes.from_bytes(spec.dtype, body).reshape(-1, *shape)


def _item_shape(spec: Tensor, declared: str | None) -> tuple[int, ...]:
    """Bytes have no shape of their own: it is the model's, or where that varies the one that the type declares."""
    if declared is None and not spec.varies:
        return spec.smallest
    shape = tuple(map(int, declared.split(","))) if declared and _ITEM_SHAPE.fullmatch(declared) else ()
    if not spec.accepts(shape):
        example = ",".join(map(str, spec.smallest))
        raise WrongShape(
            f"the Content-Type says no shape of an item that this model takes, wanted {spec.shown} without the items",
            value=declared if shape else None,
            limit=spec.shown,
            next_step=f"send Content-Type: application/octet-stream; shape={example}",
        )
    return shape


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
    return _wrong_shape(f"lists of uneven length, or not numbers that {spec.dtype} takes", spec)


def json_limit(model: Bundle, limits: Limits) -> int:
    """Bytes of JSON that a request of full size can need."""
    spec = model.input
    if spec.text:
        return min(limits.items, model.max_items) * spec.text.max_characters * _JSON_BYTES_PER_CHARACTER + 4096
    cost = min(limits.items * spec.cost_of(spec.largest), model.max_cost)
    row_bytes = questions.JSON_BYTES if model.recommendation else sum(column.json_bytes for column in spec.columns)
    return max(cost * spec.numbers_per_cost * _JSON_BYTES_PER_NUMBER, limits.items * row_bytes) + 4096


def check_json_length(body_bytes: int, model: Bundle, limits: Limits) -> None:
    """Parsing holds up every other request, so no more is parsed than the model can take."""
    allowed = json_limit(model, limits)
    if body_bytes > allowed:
        raise BodyTooLarge(
            f"the text has {body_bytes} bytes, {allowed} are allowed for this model",
            value=body_bytes,
            limit=allowed,
            next_step="send fewer items, or a raw tensor",
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def check_items(items: Items, model: Bundle, limits: Limits) -> Items:
    """`items`, if the model takes them.

    Raises:
        WrongShape, TooManyItems, NotFinite.
    """
    check_shape(items.shape, model, limits)
    return check_finite(items, model.input)


def check_shape(shape: tuple[int, ...], model: Bundle, limits: Limits) -> None:
    """Raises: WrongShape, TooManyItems: the model does not take items of this shape, or not so many."""
    if not model.input.accepts(shape[1:]) or shape[0] < 1:
        raise _wrong_shape(str(list(shape)), model.input)
    check_count(shape[0], replace(limits, items=model.input.most_items(shape[1:], limits.items, model.max_cost)))


def check_finite(items: Items, spec: Tensor) -> Items:
    """Raises: NotFinite: a number among `items` is NaN or infinite."""
    if spec.is_floating and not spec.finite(items).all():
        raise NotFinite("an input is NaN or infinite", next_step="send finite numbers")
    return items


def check_count(count: int, limits: Limits) -> None:
    if count > limits.items:
        raise TooManyItems(
            f"{count} items, {limits.items} are allowed in a request",
            value=count,
            limit=limits.items,
            next_step="split them over several requests",
        )


def _wrong_shape(found: str, spec: Tensor) -> InvalidRequest:
    return WrongShape(f"inputs have shape {found}, wanted {spec.shown}", value=found, limit=spec.shown)


_MAX_KEPT = 32  # each keeps a bundle alive
_kept: dict[int, tuple[Bundle, Limits, Limits]] = {}


def limits_of(model: Bundle, limits: Limits) -> Limits:
    """The operator's, or the bundle's where they are lower, or what a request of full size can need.

    Worked out once for each model: it is asked for with every request.
    """
    found = _kept.get(id(model))
    if found is not None and found[1] is limits:
        return found[2]
    if len(_kept) >= _MAX_KEPT:
        del _kept[next(iter(_kept))]
    most = min(limits.body_bytes, model.max_body_bytes or limits.body_bytes, _full_size(model, limits))
    _, _, found_limits = _kept[id(model)] = model, limits, replace(limits, body_bytes=most)
    return found_limits


def _full_size(model: Bundle, limits: Limits) -> int:
    """Bytes of the longest body that can be right, as JSON or as a raw tensor with a head; of files nobody knows."""
    if model.codec or model.input.takes_files:
        return limits.body_bytes
    its = replace(limits, items=min(limits.items, model.max_items))
    return json_limit(model, its) + model.input.batch_bytes_of(model.max_cost)


def _refuse_length(found: int, allowed: int) -> NoReturn:
    raise BodyTooLarge(
        f"the body has {found} bytes or more, {allowed} bytes are allowed",
        value=found,
        limit=allowed,
        next_step="send fewer items; more than the model's input needs is not taken, nor than bedplate_max_body_bytes",
    )
