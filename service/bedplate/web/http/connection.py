"""One client's connection: requests are parsed by llhttp, answered one after the other in their order.

A connection ends after an answer that says so, after a request that cannot be read in one way only, after a request
that takes too long to arrive, and when nothing comes for a while.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

from bedplate.web.http.exchange import Asgi, Exchange
from bedplate.web.http.head import MAX_HEAD_BYTES, BadRequest, Fields, checked_head
from bedplate.web.http.reply import render_fields, render_head

# How long and how much is still read of a client that was refused, so that it can read why.
_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20
_SWEEP_S = 1.0

Direct = Callable[[Exchange], bool]


@dataclass(eq=False)
class Listener:
    """What the connections of one process have in common.

    Args:
        app: answers what `direct` does not take.
        direct: sees to the answer of a request that has arrived whole, or says False and has done nothing.
        idle_s: how long a connection may rest between two requests.
        receive_s: how long a request may take to arrive.
        max_connections: more are refused with 503.
    """

    app: Asgi
    direct: Direct
    idle_s: float
    receive_s: float
    max_connections: int
    state: dict[str, Any] = field(default_factory=dict)
    is_draining: bool = False
    connections: set[Connection] = field(default_factory=set)

    def sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the connections that rest or dawdle; once a second from now on."""
        now_s = loop.time()
        for connection in list(self.connections):
            connection.end_if_overdue(now_s)
        loop.call_later(_SWEEP_S, self.sweep, loop)


class Connection(asyncio.Protocol):
    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop):
        self._listener = listener
        self.loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()  # in their order; the first is being answered
        self._is_answering = False  # the first of them
        self._incoming: Exchange | None = None  # of which the body is not whole yet
        self._target = b""
        self._fields: Fields = []
        self._head_bytes = 0  # received of a head that is not complete
        self._since_s = loop.time()  # when the request that arrives began, or the last answer ended
        self._arriving = False
        self._refusal: BadRequest | None = None
        self._lingering_bytes: int | None = None  # not None: nothing is read any more, only dropped
        self._transport: asyncio.Transport | None = None
        self._is_paused = False  # nothing is read
        self._drained: asyncio.Future[None] | None = None  # not None: the client does not take what it is sent

    @property
    def is_draining(self) -> bool:
        return self._listener.is_draining

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._listener.connections.add(self)
        if len(self._listener.connections) > self._listener.max_connections:
            self._refuse(BadRequest(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        self._transport = None
        del self._parser  # it holds this connection: a cycle would wait for the collector
        self.resume_writing()
        for exchange in self._exchanges:
            exchange.disconnect()

    def data_received(self, data: bytes) -> None:
        if self._lingering_bytes is not None:
            self._drop(len(data))
            return
        if self._refusal is not None:
            return  # told once those before it are answered
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._incoming is None and self._arriving:
                self._check_head_bytes(self._head_bytes)
        except BadRequest as error:
            self._refusal = error
        except httptools.HttpParserError:
            self._refusal = self._refusal or BadRequest(400, "this is no HTTP request")
        self._go_on()

    # What the parser calls. An exception from one of these stops it for good.

    def on_message_begin(self) -> None:
        self._arriving, self._since_s = True, self.loop.time()
        self._target, self._fields = b"", []

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        # Those after a chunked body were never checked, and nobody wants them.
        if self._incoming is None:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        try:
            if parser.should_upgrade():
                # llhttp would take what follows for the other protocol, the body of this request included.
                raise BadRequest(400, "no other protocol is spoken here")
            if self._head_bytes > MAX_HEAD_BYTES:  # maybe of the body, in part
                self._check_head_bytes(len(self._target) + sum(len(name) + len(value) for name, value in self._fields))
            head = checked_head(parser.get_method(), self._target, parser.get_http_version(), self._fields)
        except BadRequest as error:
            self._refusal = error
            raise
        self._incoming = Exchange(self, head, parser.should_keep_alive() and head.version == "1.1")
        self._exchanges.append(self._incoming)
        self._head_bytes = 0

    def on_body(self, data: bytes) -> None:
        assert self._incoming is not None
        self._incoming.add_body(data)

    def on_message_complete(self) -> None:
        assert self._incoming is not None
        self._incoming.complete()
        self._incoming = None
        self._head_bytes = 0
        self._arriving = False

    def _check_head_bytes(self, count: int) -> None:
        if count > MAX_HEAD_BYTES:
            raise BadRequest(431, f"the head has more than {MAX_HEAD_BYTES} bytes")

    def _go_on(self) -> None:
        """Answer what is next, unless an answer is under way."""
        if self._transport is None:
            return
        if self._exchanges:
            if not self._is_answering:
                self._begin(self._exchanges[0])
        elif self._refusal is not None:
            self._refuse(self._refusal)
        if len(self._exchanges) > 1 or self._is_flooded():
            self._pause_receiving()

    def _is_flooded(self) -> bool:
        return self._incoming is not None and self._incoming.is_full

    def _begin(self, exchange: Exchange) -> None:
        self._is_answering = True
        if exchange.received and self._listener.direct(exchange):
            return
        if not exchange.received and exchange.head.expects_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.answer_with(exchange.run(self._listener.app))

    @property
    def addresses(self) -> tuple[Any, Any]:
        """Host and port of this end and of the client's; None for a unix socket or once it is closed."""
        names = [self._transport and self._transport.get_extra_info(name) for name in ("sockname", "peername")]
        server, client = (name[:2] if isinstance(name, tuple) else None for name in names)
        return server, client

    @property
    def state(self) -> dict[str, Any]:
        return self._listener.state

    def answered(self, exchange: Exchange, close: bool) -> None:
        """The answer of the first exchange was written."""
        self._exchanges.popleft()
        self._is_answering = False
        self._since_s = self.loop.time()
        if close:
            self._hang_up(exchange)
        elif self._exchanges or self._refusal is not None:
            # Not at once: a client that sends a thousand requests in one piece must not make a tower of calls.
            self.loop.call_soon(self._go_on)
        else:
            self.resume_receiving()

    def _hang_up(self, exchange: Exchange) -> None:
        if exchange.received and not self._exchanges and self._refusal is None:
            self.close()
        else:
            self._linger()

    def _refuse(self, error: BadRequest) -> None:
        body = json.dumps(
            {"type": "urn:bedplate:problem:bad-request", "title": "Bad request", "status": error.status}
            | {"detail": error.detail, "next_step": "send what RFC 9112 describes; the connection is closed"}
        ).encode()
        fields = [(b"Content-Type", b"application/problem+json"), (b"Content-Length", b"%d" % len(body))]
        self.write(render_head(error.status, render_fields(fields), close=True) + body)
        self._linger()

    def _linger(self) -> None:
        """Say that no more comes, and read on for a while: closed with bytes unread, the answer would be lost too."""
        if self._transport is None:
            return
        self._lingering_bytes = 0
        for exchange in self._exchanges:
            exchange.disconnect()
        self._exchanges.clear()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._is_paused = False
        self._transport.resume_reading()
        self.loop.call_later(_LINGER_S, self.close)

    def _drop(self, count: int) -> None:
        assert self._lingering_bytes is not None
        self._lingering_bytes += count
        if self._lingering_bytes > _LINGER_BYTES:
            self.abort()

    def end_if_overdue(self, now_s: float) -> None:
        """Asked once a second."""
        if self._lingering_bytes is not None:
            return
        rested_s = now_s - self._since_s
        if self._arriving and rested_s > self._listener.receive_s:
            self._refusal = BadRequest(408, f"the request was not here after {self._listener.receive_s:g} s")
            self._arriving = False
            if not self._exchanges or not self._exchanges[0].received:
                # Whoever answers a request that is not even whole gives up. One that is whole is answered first.
                self._refuse(self._refusal)
        elif not self._arriving and not self._exchanges and rested_s > self._listener.idle_s:
            self.close()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self.loop.create_future()
            self._pause_receiving()

    def resume_writing(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
            self.resume_receiving()

    async def writable(self) -> None:
        """Waits while the client does not take what it was sent."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def _pause_receiving(self) -> None:
        if self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_receiving(self) -> None:
        if not self._is_paused or self._transport is None:
            return
        if self._drained is not None or len(self._exchanges) > 1 or self._is_flooded():
            return
        self._is_paused = False
        self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
