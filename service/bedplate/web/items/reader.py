"""Bodies as they arrive: judged by their heads, counted while they are read, and decompressed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from falcon.asgi import Request

from bedplate.bundle.bundle import Bundle
from bedplate.errors import BodyTooLarge, EmptyBody, InvalidParameter
from bedplate.web import encoding
from bedplate.web.items.charset import check_text_type
from bedplate.web.items.formats import TYPES
from bedplate.web.items.limits import Limits, json_limit, limits_of
from bedplate.web.options import RequestOptions, too_late

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


class BodyReader:
    """Bodies of both APIs, as they were before their Content-Encoding."""

    def __init__(self, limits: Limits):
        self._limits = limits
        # A small body may inflate to the largest one: one at a time, or memory has no bound.
        self._turn = asyncio.Semaphore(1)

    async def read(
        self, req: Request, model: Bundle, hold: Callable[[int], None], options: RequestOptions, types: str = TYPES
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


def _refuse_length(found: int, allowed: int) -> NoReturn:
    raise BodyTooLarge(
        f"the body has {found} bytes or more, {allowed} bytes are allowed",
        value=found,
        limit=allowed,
        next_step="send fewer items; more than the model's input needs is not taken, nor than bedplate_max_body_bytes",
    )
