"""Predictions answered without Falcon: those that are whole and plain, which nearly all are (docs/adr/0014).

Falcon's objects for one request and its answer cost as much as everything else that the front end does for it. So what
has nothing unusual about it is answered here, by the same handlers that Falcon's routes call. Whatever is odd in any
way (no key or a wrong one, a model that is not known, a body that is compressed, wrong, still arriving or a picture) is
left to Falcon, untouched: it does the work again and says what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from bedplate.bundle.bundle import Bundle
from bedplate.errors import ServiceError
from bedplate.web import current, encoding, problems
from bedplate.web.call import Asked, Call, Handler, Reply, Target, target_of
from bedplate.web.checks import Check, IncomingRequest, outcome_of
from bedplate.web.engines.pool import EnginePool
from bedplate.web.http.exchange import Exchange
from bedplate.web.http.reply import render_fields
from bedplate.web.items.charset import is_read_as_text
from bedplate.web.items.limits import Limits, limits_of
from bedplate.web.observer import Observer
from bedplate.web.options import Header, options_of
from bedplate.web.request_id import RequestIds
from bedplate.wire import Frame, Type, now_ns

_log = logging.getLogger("bedplate.web")
_UNUSUAL = frozenset({b"content-encoding", b"content-range", b"expect"})


class Direct:
    """Takes an exchange whose request is whole, or leaves it.

    Args:
        checks: what every request has to pass.
        handlers: by route, predict and infer.
        timeout_s: where the client allows no less.
    """

    def __init__(
        self,
        observer: Observer,
        ids: RequestIds,
        checks: Sequence[Check],
        engines: EnginePool,
        handlers: Mapping[str, Handler],
        limits: Limits,
        timeout_s: float,
    ):
        self._observer = observer
        self._ids = ids
        self._checks = checks
        self._engines = engines
        self._handlers = handlers
        self._limits = limits
        self._timeout_s = timeout_s

    def __call__(self, exchange: Exchange) -> bool:
        """True if it sees to the answer; else the exchange keeps what came of the checks, and nothing else."""
        head = exchange.head
        target = target_of(head.path)
        if target is None or head.method != "POST" or head.has_twins:
            return False
        header = _by_name(head.by_name)
        if not _is_plain(head.by_name, header):
            return False
        # What comes of the checks stays with the exchange: they are not made again where Falcon answers.
        exchange.checked = outcome_of(self._checks, IncomingRequest(head.method, head.path, header))
        if isinstance(exchange.checked, ServiceError):
            return False
        model = self._engines.connected_model(target.name, target.version)
        size = len(exchange.body)
        if model is None or not 0 < size <= limits_of(model, self._limits).body_bytes:
            return False
        return self._observer.bodies.has_room(size) and self._begin(exchange, target, header, model)

    def _begin(self, exchange: Exchange, target: Target, header: Header, model: Bundle) -> bool:
        started_ns = now_ns()
        seen = self._observer.begins()
        seen.model, seen.body_bytes = model, len(exchange.body)
        seen.request_id = self._ids.of(header("X-Request-ID"))
        handler = self._handlers[target.route]
        try:
            options = options_of(header, self._timeout_s)
            asked = Asked(target, header, bytes(exchange.body), options, started_ns, seen)
            call = handler.prepare(asked, model)
            if _Answer(self._observer, exchange, handler, asked, call).begin():
                return True
        except ServiceError:
            pass  # Falcon says it
        self._observer.leaves(seen)
        return False


class _Answer:
    """One request on its way. What an engine says of it goes out in the same turn of the loop, without a task."""

    __slots__ = ("_asked", "_call", "_exchange", "_handler", "_has_ended", "_is_done", "_observer", "_seen")

    def __init__(self, observer: Observer, exchange: Exchange, handler: Handler, asked: Asked, call: Call):
        self._observer = observer
        self._exchange = exchange
        self._handler = handler
        self._asked = asked
        self._call = call
        self._seen = asked.seen
        self._is_done = False  # nothing more is wanted of the link
        self._has_ended = False  # told to the observer

    def begin(self) -> bool:
        """False if somebody else has to answer."""
        reply = self._call.known()
        if reply is None and not self._call.begin(self):
            return False
        assert self._seen.body_bytes is not None
        self._seen.hold(self._seen.body_bytes)
        if reply is None:
            self._exchange.on_gone = self._leave
        else:
            # In a turn of its own: whoever gave the exchange is not done with it.
            self._exchange.on_gone = self._end
            self._exchange.channel.loop.call_soon(self._deliver, reply)
        return True

    def done(self) -> bool:
        return self._is_done

    def set_result(self, answer: Frame, /) -> None:
        self._is_done = True
        if answer.type is not Type.RESULT:
            self._go_on(self._try_again(answer))
            return
        try:
            self._deliver(self._call.render(answer))
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
        self._call.leave()
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
        current.REQUEST_ID.set(str(self._seen.request_id))
        try:
            reply = await self._handler.answer(self._asked, self._call, came)
            await self._send_smaller(reply, self._encoding_of(reply))
        except ServiceError as error:
            self._refuse(error)

    def _deliver(self, reply: Reply) -> None:
        if self._has_ended:
            return  # the client has left
        kind = self._encoding_of(reply)
        if kind is None:
            self._send(reply, reply.body)
        else:
            self._go_on(self._send_smaller(reply, kind))

    def _encoding_of(self, reply: Reply) -> str | None:
        if not reply.may_be_compressed or not encoding.is_worth_it(reply.body):
            return None
        return encoding.accepted(self._asked.header("Accept-Encoding"))

    async def _send_smaller(self, reply: Reply, kind: str | None) -> None:
        self._send(reply, await encoding.deflated(reply.body, kind) or reply.body, kind)

    def _send(self, reply: Reply, body: bytes, kind: str | None = None) -> None:
        fields = f"X-Request-ID: {self._seen.request_id}\r\nContent-Type: {reply.content_type}\r\n"
        if reply.may_be_compressed:
            fields += "Vary: Accept-Encoding\r\n"
        for name, value in reply.fields.items():
            fields += f"{name}: {value}\r\n"
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
            del self._call  # it holds this answer: a cycle would wait for the collector
            self._observer.ends(self._asked.target.route, self._seen)


def _is_plain(fields: Mapping[bytes, bytes], header: Header) -> bool:
    """Nothing in the head changes what the body means."""
    return _UNUSUAL.isdisjoint(fields) and is_read_as_text(header("Content-Type"))


class _Keys(dict[str, bytes]):
    """Fields as a head has them, by the names that this program asks for. Only it asks by names, so they are few."""

    def __missing__(self, name: str) -> bytes:
        key = self[name] = name.lower().encode()
        return key


_KEYS = _Keys()


def _by_name(fields: Mapping[bytes, bytes]) -> Header:
    def header(name: str) -> str | None:
        value = fields.get(_KEYS[name])
        return None if value is None else value.decode("latin-1")

    return header
