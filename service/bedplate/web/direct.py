"""Infer requests answered without Falcon: those that are whole and plain, which nearly all are (docs/adr/0014).

Falcon's objects for one request and its answer cost as much as everything else that the front end does for it. So what
has nothing unusual about it is answered here, by the same calls that the route of /v2 makes. Whatever is odd in any way
(no key or a wrong one, a model that is not known, a body that is compressed, wrong or still arriving) is left to
Falcon, untouched: it does the work again and says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Mapping
from typing import Any

from bedplate.bundle import Bundle
from bedplate.errors import ServiceError, UnknownModel
from bedplate.web import problems
from bedplate.web.auth import ApiKeys, presented
from bedplate.web.body import Limits
from bedplate.web.http.exchange import Asgi, Exchange
from bedplate.web.observer import Observation, Observer
from bedplate.web.oip import encoding
from bedplate.web.oip.request import InferRequest, parse
from bedplate.web.oip.resources import HEADER, inference_of, json_bytes_of
from bedplate.web.oip.response import Reply, encode
from bedplate.web.pool import EnginePool
from bedplate.web.predictor import Predictor
from bedplate.web.request_id import request_id
from bedplate.web.terms import Terms, terms_of
from bedplate.wire import now_ns

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_UNUSUAL = (b"content-encoding", b"expect")


class DirectInfer:
    """Takes an exchange whose request is whole, or leaves it.

    Args:
        app: what an exchange is left to.
        timeout_s: where the client allows no less.
    """

    def __init__(
        self,
        app: Asgi,
        observer: Observer,
        keys: ApiKeys,
        engines: EnginePool,
        predictor: Predictor,
        limits: Limits,
        timeout_s: float,
    ):
        self._app = app
        self._observer = observer
        self._keys = keys
        self._engines = engines
        self._predictor = predictor
        self._limits = limits
        self._timeout_s = timeout_s

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """What answers it; None if it is not plain. Nothing of the exchange has changed then."""
        head = exchange.head
        found = _INFER.fullmatch(head.path)
        if found is None or head.method != "POST":
            return None
        fields = dict(head.fields)
        if len(fields) != len(head.fields) or any(name in fields for name in _UNUSUAL) or not self._is_known(fields):
            return None
        model = self._engines.connected_model(*found.groups())
        if model is None or not 0 < len(exchange.body) <= self._limits.body_bytes:
            return None
        started_ns = now_ns()
        try:
            asked, terms = self._read(fields, bytes(exchange.body), model, started_ns)
        except ServiceError:
            return None
        if asked.items is None:
            return None
        return self._answer(exchange, fields, model, asked, terms, now_ns() - started_ns)

    def _is_known(self, fields: Mapping[bytes, bytes]) -> bool:
        key = presented(_text(fields, b"authorization"), _text(fields, b"x-api-key"))
        return key is not None and self._keys.client_of(key) is not None

    def _read(
        self, fields: Mapping[bytes, bytes], body: bytes, model: Bundle, started_ns: int
    ) -> tuple[InferRequest, Terms]:
        terms = terms_of(lambda name: _text(fields, name.lower().encode()), self._timeout_s)
        asked = parse(body, json_bytes_of(_text(fields, HEADER.lower().encode())), model, self._limits)
        terms = terms.narrowed(started_ns, asked.timeout_us, asked.priority)
        terms.require_time()
        return asked, terms

    async def _answer(
        self,
        exchange: Exchange,
        fields: Mapping[bytes, bytes],
        model: Bundle,
        asked: InferRequest,
        terms: Terms,
        decode_ns: int,
    ) -> None:
        seen = self._observer.begins()
        seen.model, seen.body_bytes = model, len(exchange.body)
        seen.request_id = request_id(_text(fields, b"x-request-id"))
        is_left = False
        try:
            assert asked.items is not None
            frame = await self._predictor.infer(model, asked.items, terms)
            seen.inference = inference_of(frame, len(asked.items), decode_ns)
            reply = encode(frame, model, asked)
            await self._send(exchange, seen, reply, encoding.accepted(_text(fields, b"accept-encoding")))
        except UnknownModel:
            # It was unloaded meanwhile; an alias, or the default, means another version by now.
            is_left = True
        except ServiceError as error:
            self._refuse(exchange, seen, error)
        finally:
            if not is_left:
                self._observer.ends("infer", seen)
        if is_left:
            self._observer.forgets()
            await exchange.run(self._app)

    async def _send(self, exchange: Exchange, seen: Observation, reply: Reply, kind: str | None) -> None:
        smaller = await encoding.deflated(reply.body, kind)
        seen.status = 200
        fields = [
            (b"X-Request-ID", str(seen.request_id).encode()),
            (b"Content-Type", reply.content_type.encode()),
            (b"Vary", b"Accept-Encoding"),
        ]
        if reply.json_bytes is not None:
            fields.append((HEADER.encode(), b"%d" % reply.json_bytes))
        if smaller is not None and kind:
            fields.append((b"Content-Encoding", kind.encode()))
        exchange.reply(200, fields, reply.body if smaller is None else smaller)

    def _refuse(self, exchange: Exchange, seen: Observation, error: ServiceError) -> None:
        seen.problem, seen.status = error.code, problems.STATUS[type(error)]
        content_type, body, headers = problems.rendered(
            exchange.head.path, str(seen.request_id), seen.status, error, error.code
        )
        headers |= {"X-Request-ID": str(seen.request_id), "Content-Type": content_type}
        exchange.reply(seen.status, [(name.encode(), value.encode()) for name, value in headers.items()], body)


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")
