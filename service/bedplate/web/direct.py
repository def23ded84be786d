"""Infer requests answered without Falcon: those that are whole and plain, which nearly all are (docs/adr/0014).

Falcon's objects for one request and its answer cost as much as everything else that the front end does for it. So what
has nothing unusual about it is answered here, by the same calls that the route of /v2 makes. Whatever is odd in any way
(no key or a wrong one, a model that is not known, a body that is compressed, wrong or still arriving) is left to
Falcon, untouched: it does the work again and says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any

from bedplate.bundle.bundle import Bundle
from bedplate.errors import ServiceError
from bedplate.web import encoding, problems
from bedplate.web.checks import Check, IncomingRequest, outcome_of
from bedplate.web.engines.pool import EnginePool
from bedplate.web.http.exchange import Exchange
from bedplate.web.http.reply import render_fields
from bedplate.web.items.charset import is_read_as_text
from bedplate.web.items.limits import Limits, limits_of
from bedplate.web.observer import Observer
from bedplate.web.oip.handler import HEADER, InferHandler, inference_of, json_bytes_of
from bedplate.web.oip.request import InferRequest, parse
from bedplate.web.oip.response import Reply, encode
from bedplate.web.options import Header, RequestOptions, options_of, within
from bedplate.web.predictor import Predictor, checked, question
from bedplate.web.request_id import RequestIds
from bedplate.web.versions import at_its_version
from bedplate.wire import Frame, Type, now_ns

_log = logging.getLogger("bedplate.web")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_JSON_BYTES = HEADER.lower().encode()
_OF_OPTIONS = frozenset({b"x-request-timeout-ms", b"x-request-priority"})
_UNUSUAL = frozenset({b"content-encoding", b"content-range", b"expect"})


class DirectInfer:
    """Takes an exchange whose request is whole, or leaves it.

    Args:
        checks: what every request has to pass.
        handler: answers where a model's version is gone by the time its engine is asked.
        timeout_s: where the client allows no less.
    """

    def __init__(
        self,
        observer: Observer,
        ids: RequestIds,
        checks: Sequence[Check],
        engines: EnginePool,
        predictor: Predictor,
        handler: InferHandler,
        limits: Limits,
        timeout_s: float,
    ):
        self.observer = observer
        self.ids = ids
        self._checks = checks
        self.engines = engines
        self.predictor = predictor
        self.handler = handler
        self._limits = limits
        self._timeout_s = timeout_s

    def __call__(self, exchange: Exchange) -> bool:
        """True if it sees to the answer; else the exchange keeps what came of the checks, and nothing else."""
        head = exchange.head
        asked_for = _infer_of(head.path)
        if asked_for is None or head.method != "POST":
            return False
        fields = head.by_name
        if head.has_twins or not _is_plain(fields) or not self._passes(exchange):
            return False
        model = self.engines.connected_model(*asked_for)
        if model is None or not 0 < len(exchange.body) <= limits_of(model, self._limits).body_bytes:
            return False
        if not self.observer.bodies.has_room(len(exchange.body)):
            return False
        started_ns = now_ns()
        try:
            asked, options = self._read(fields, bytes(exchange.body), model, started_ns)
        except ServiceError:
            return False
        return asked.items is not None and _Answer(self, exchange, model, asked, options, started_ns).begin()

    def _passes(self, exchange: Exchange) -> bool:
        """What comes of the checks stays with the exchange: they are not made again where Falcon answers."""
        head = exchange.head
        exchange.checked = outcome_of(self._checks, IncomingRequest(head.method, head.path, _by_name(head.by_name)))
        return not isinstance(exchange.checked, ServiceError)

    def _read(
        self, fields: Mapping[bytes, bytes], body: bytes, model: Bundle, started_ns: int
    ) -> tuple[InferRequest, RequestOptions]:
        asked = parse(body, json_bytes_of(_text(fields, _JSON_BYTES)), model, self._limits)
        if _OF_OPTIONS.isdisjoint(fields) and asked.timeout_us is None and asked.priority is None:
            return asked, within(self._timeout_s)
        options = options_of(_by_name(fields), self._timeout_s).narrowed(started_ns, asked.timeout_us, asked.priority)
        options.require_time()
        return asked, options


class _Answer:
    """One request on its way. What an engine says of it goes out in the same turn of the loop, without a task."""

    __slots__ = (
        "_asked",
        "_begun",
        "_decode_ns",
        "_direct",
        "_exchange",
        "_fields",
        "_has_ended",
        "_is_done",
        "_items",
        "_model",
        "_options",
        "_question",
        "_seen",
        "_started_ns",
    )

    def __init__(
        self,
        direct: DirectInfer,
        exchange: Exchange,
        model: Bundle,
        asked: InferRequest,
        options: RequestOptions,
        started_ns: int,
    ):
        assert asked.items is not None
        self._direct = direct
        self._exchange = exchange
        self._fields = exchange.head.by_name
        self._model = model
        self._asked = asked
        self._options = options
        self._started_ns = started_ns
        self._items = len(asked.items)
        self._question = question(model, asked.items)
        self._is_done = False  # nothing more is wanted of the link
        self._has_ended = False  # told to the observer

    def begin(self) -> bool:
        """Ask an engine. False if none can be asked right now."""
        begun = self._direct.engines.begin(*self._question, self._options, self)
        if begun is None:
            return False
        self._begun = begun
        self._decode_ns = now_ns() - self._started_ns
        self._seen = self._direct.observer.begins()
        self._seen.model, self._seen.body_bytes = self._model, len(self._exchange.body)
        self._seen.hold(self._seen.body_bytes)
        self._seen.request_id = self._direct.ids.of(_text(self._fields, b"x-request-id"))
        self._exchange.on_gone = self._leave
        return True

    def done(self) -> bool:
        return self._is_done

    def set_result(self, answer: Frame, /) -> None:
        self._is_done = True
        if answer.type is not Type.RESULT:
            self._go_on(self._try_again(answer))
            return
        try:
            self._deliver(self._rendered(checked(self._model, answer)))
        except ServiceError as error:
            self._refuse(error)
        except Exception:
            # Not even this may end the connection to the engine, on which others wait.
            _log.exception("fault while answering", extra={"request_id": self._seen.request_id})
            self._exchange.abort()
            self._end()

    def set_exception(self, error: Exception, /) -> None:
        self._is_done = True
        self._go_on(self._try_again(error))

    def _leave(self) -> None:
        """The client is gone."""
        self._is_done = True
        _, member = self._begun
        member.give_up()
        self._direct.predictor.cancelled("engine", self._options)
        self._end()

    def _go_on(self, answering: Coroutine[Any, Any, None]) -> None:
        self._exchange.answer_with(self._observed(answering))

    async def _observed(self, answering: Coroutine[Any, Any, None]) -> None:
        try:
            await answering
        finally:
            self._end()

    async def _try_again(self, came: Frame | Exception) -> None:
        """The first attempt brought no answer: whatever can be made of that."""
        engines, seen = self._direct.engines, self._seen
        asked_for = _infer_of(self._exchange.head.path)
        assert asked_for is not None
        first = self._reply_of(engines.predict(*self._question, self._options, (self._begun[0], came)))
        on_stale = self._direct.observer.metrics.stale
        try:
            self._deliver(await at_its_version(engines, seen, *asked_for, first, self._ask_anew, on_stale))
        except ServiceError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            if not self._has_ended:
                self._direct.predictor.cancelled("engine", self._options)
            raise

    async def _reply_of(self, asking: Coroutine[Any, Any, Frame]) -> Reply:
        return self._rendered(checked(self._model, await asking))

    def _ask_anew(self, model: Bundle) -> Coroutine[Any, Any, Reply]:
        """Of `model`, with what is left of the client's time."""
        body = bytes(self._exchange.body)
        header = _by_name(self._fields)
        return self._direct.handler.answer(header, body, model, self._options, self._started_ns, self._seen)

    def _rendered(self, frame: Frame) -> Reply:
        self._seen.inference = inference_of(frame, self._items, self._decode_ns)
        return encode(frame, self._model, self._asked)

    def _deliver(self, reply: Reply) -> None:
        kind = encoding.accepted(_text(self._fields, b"accept-encoding"))
        if kind is None or not encoding.is_worth_it(reply.body):
            self._send(reply, reply.body)
        else:
            self._go_on(self._send_smaller(reply, kind))

    async def _send_smaller(self, reply: Reply, kind: str) -> None:
        self._send(reply, await encoding.deflated(reply.body, kind) or reply.body, kind)

    def _send(self, reply: Reply, body: bytes, kind: str | None = None) -> None:
        fields = (
            f"X-Request-ID: {self._seen.request_id}\r\nContent-Type: {reply.content_type}\r\nVary: Accept-Encoding\r\n"
        )
        if reply.json_bytes is not None:
            fields += f"{HEADER}: {reply.json_bytes}\r\n"
        if kind:
            fields += f"Content-Encoding: {kind}\r\n"
        self._seen.status = 200
        self._exchange.reply(200, fields.encode(), body)
        self._end()

    def _refuse(self, error: ServiceError) -> None:
        seen = self._seen
        seen.problem, seen.status = error.code, problems.STATUS[type(error)]
        content_type, body, headers = problems.rendered(
            self._exchange.head.path, str(seen.request_id), seen.status, error, error.code
        )
        headers |= {"X-Request-ID": str(seen.request_id), "Content-Type": content_type}
        fields = render_fields((name.encode(), value.encode()) for name, value in headers.items())
        self._exchange.reply(seen.status, fields, body)
        self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            del self._begun  # it holds this answer: a cycle would wait for the collector
            self._direct.observer.ends("infer", self._seen)


def _is_plain(fields: Mapping[bytes, bytes]) -> bool:
    """Nothing in the head changes what the body means."""
    return _UNUSUAL.isdisjoint(fields) and is_read_as_text(_text(fields, b"content-type"))


@lru_cache(maxsize=256)
def _infer_of(path: str) -> tuple[str, str | None] | None:
    """Model and version of an infer request; None of any other."""
    found = _INFER.fullmatch(path)
    return found and (found[1], found[2])


def _by_name(fields: Mapping[bytes, bytes]) -> Header:
    return lambda name: _text(fields, name.lower().encode())


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")
