"""One client's connection: llhttp parses the requests, and they are answered one after another, in order.

The connection ends after an answer that says so, after a request that is ambiguous or takes too long to arrive, when
its client does not read the answers, and when it is idle for a while.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

from bedplate.web.http.exchange import Asgi, Exchange
from bedplate.web.http.head import MAX_HEAD_BYTES, BadRequest, Fields, checked_head
from bedplate.web.http.reply import render_fields, render_head

_log = logging.getLogger("bedplate.web")

# How long and how much is still read of a client that was refused, so that it can read why.
_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20
_SWEEP_S = 1.0
# What the parser is given at once. A longer read may hold thousands of requests, each a hundred times as large as text.
_PIECE_BYTES = 64 << 10
# A client has `send_s` and the time that its answer takes at this rate.
_SLOWEST_BYTES_PER_S = 1 << 20
# When a client that sends no more is told that its answer takes time, and how often it is then looked for.
_PROCESSING_S = 0.25

Direct = Callable[[Exchange], bool]


@dataclass(eq=False)
class Listener:
    """What the connections of one process share.

    Args:
        app: answers what `direct` does not take.
        direct: answers a request that has arrived whole, or returns False and has done nothing.
        idle_s: how long a connection may be idle between two requests.
        receive_s: how long a request may take to arrive.
        max_connections: more are refused with 503.
        send_s: how long a client may read nothing of an answer.
        answer_s: how long the answer to a whole request may take; it is above any deadline, the last bound.
    """

    app: Asgi
    direct: Direct
    idle_s: float
    receive_s: float
    max_connections: int
    send_s: float = 30.0
    answer_s: float = math.inf
    state: dict[str, Any] = field(default_factory=dict)
    is_draining: bool = False
    connections: set[Connection] = field(default_factory=set)

    def sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """End idle and slow connections, once a second from now on."""
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
        self._watched: tuple[Exchange | None, float] = (None, 0)  # the first of them, since when
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
        self._unparsed: bytes | memoryview = b""  # read, and left until there is room
        self._base_bytes = 0  # of the head that a chunked body follows; its trailers count with it
        self._drained: asyncio.Future[None] | None = None  # not None: the client does not take what it is sent
        self._taken_by_s: float | None = None  # when the client must have taken it
        self._is_half_closed = False  # the client sends no more

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
        # Nothing is left of the last: it was not read on. Most are one request, and parsed whole.
        self._unparsed = data if len(data) <= _PIECE_BYTES else memoryview(data)
        self._go_on()

    def eof_received(self) -> bool:
        """Handle a client that sends no more: it may have left, or it may have closed its half and wait for answers.

        Returns: whether the connection stays open for the answers.
        """
        if self._lingering_bytes is not None:
            return False
        if self._arriving:
            self._break_off(BadRequest(400, "the connection ended before the request did"))
        self._is_half_closed = True
        self._go_on()
        if not self._exchanges:
            return False
        self.loop.call_later(_PROCESSING_S, self._tell_processing)
        return True

    def _tell_processing(self) -> None:
        """Say something, once: the system of a client that has left, which looks the same until then, refuses it."""
        if self._transport is not None and self._exchanges:
            self._exchanges[0].tell_processing()
            self.loop.call_later(_PROCESSING_S, self._end_if_refused)

    def _end_if_refused(self) -> None:
        if self._transport is None or not self._exchanges:
            return
        # Nothing is read any more, so the loop does not see this by itself.
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
        else:
            self.loop.call_later(_PROCESSING_S, self._end_if_refused)

    @property
    def _has_room(self) -> bool:
        """For another request, or for more of a body."""
        incoming = self._incoming
        return self._drained is None and len(self._exchanges) <= 1 and (incoming is None or not incoming.is_full)

    def _parse(self) -> None:
        while self._unparsed and self._refusal is None and self._has_room:
            piece, self._unparsed = self._unparsed[:_PIECE_BYTES], self._unparsed[_PIECE_BYTES:]
            self._head_bytes += len(piece)
            try:
                self._feed(piece)
                if self._arriving:
                    self._check_head_bytes(self._head_bytes)
            except BadRequest as error:
                self._break_off(error)
            except httptools.HttpParserError:
                self._break_off(self._refusal or BadRequest(400, "this is no HTTP request"))

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                # The parser took the body for the other protocol. Nobody must take an offer up: it reads the head again
                # without it.
                data, head = data[offer.args[0] :], self._head_without_offer()
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)

    def _head_without_offer(self) -> bytes:
        version = self._parser.get_http_version().encode()
        fields = render_fields(field for field in self._fields if field[0] != b"upgrade")
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self._parser.get_method(), self._target, version, fields)

    def _break_off(self, error: BadRequest) -> None:
        """What is arriving will never be whole: it is refused, once those before it are answered."""
        self._refusal = error
        self._arriving = False
        self._unparsed = b""
        broken, self._incoming = self._incoming, None
        if broken is None:
            return
        self._exchanges.pop()  # it is the last
        if not self._exchanges:
            self._is_answering = False
            broken.disconnect()
            if broken.is_answer_under_way:
                self.abort()  # in the middle of an answer no other can be given

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
                if parser.get_method() == b"CONNECT":
                    raise BadRequest(400, "no tunnel begins here")
                return  # read again, see _feed
            if self._head_bytes > MAX_HEAD_BYTES:  # maybe of the body, in part
                self._check_head_bytes(len(self._target) + sum(len(name) + len(value) for name, value in self._fields))
            head = checked_head(parser.get_method(), self._target, parser.get_http_version(), self._fields)
        except BadRequest as error:
            self._refusal = error
            raise
        self._incoming = Exchange(self, head, parser.should_keep_alive() and head.version == "1.1")
        self._exchanges.append(self._incoming)
        if b"transfer-encoding" in head.by_name:
            self._base_bytes = len(self._target) + sum(len(name) + len(value) for name, value in self._fields)
        else:
            self._base_bytes = 0
        self._head_bytes = self._base_bytes

    def on_body(self, data: bytes) -> None:
        assert self._incoming is not None
        self._head_bytes = self._base_bytes  # what comes between two pieces of a body counts as the head does
        self._incoming.add_body(data)

    def on_message_complete(self) -> None:
        if self._incoming is None:
            return  # of a head that is read again
        self._incoming.complete()
        self._incoming = None
        self._head_bytes = 0
        self._arriving = False

    def _check_head_bytes(self, count: int) -> None:
        if count > MAX_HEAD_BYTES:
            raise BadRequest(431, f"the head, or what stands beside the body, has more than {MAX_HEAD_BYTES} bytes")

    def _go_on(self) -> None:
        """Read on and answer what is next, unless an answer is under way or the client has not taken the last one."""
        if self._transport is None or self._lingering_bytes is not None:
            return
        self._parse()
        if self._exchanges:
            if not self._is_answering and self._drained is None:
                self._begin(self._exchanges[0])
        elif self._refusal is not None:
            self._refuse(self._refusal)
            return
        elif self._is_half_closed and not self._unparsed:
            self.close()
            return
        if self._unparsed or not self._has_room:
            self._pause_receiving()
        elif self._is_paused:
            self.resume_receiving()

    def _begin(self, exchange: Exchange) -> None:
        self._is_answering = True
        if exchange.received and self._listener.direct(exchange):
            return
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
        """Handle that the answer of the first exchange was written."""
        self._exchanges.popleft()
        self._is_answering = False
        self._since_s = self.loop.time()
        if close:
            self._hang_up(exchange)
        elif self._exchanges or self._unparsed or self._refusal is not None or self._is_half_closed:
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
            {"type": f"urn:bedplate:problem:{error.code}", "title": error.title, "status": error.status}
            | {"detail": error.detail, "next_step": f"{error.next_step}; the connection is closed"}
        ).encode()
        fields = [(b"Content-Type", b"application/problem+json"), (b"Content-Length", b"%d" % len(body))]
        self.write(render_head(error.status, render_fields(fields), close=True) + body)
        self._linger()

    def _linger(self) -> None:
        """Say that no more comes, and read on for a while: closed with bytes unread, the answer would be lost too."""
        if self._transport is None:
            return
        self._lingering_bytes = 0
        self._unparsed = b""
        for exchange in self._exchanges:
            exchange.disconnect()
        self._exchanges.clear()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._is_paused = False
        if not self._is_half_closed:
            self._transport.resume_reading()
        self.loop.call_later(_LINGER_S, self.close)

    def _drop(self, count: int) -> None:
        assert self._lingering_bytes is not None
        self._lingering_bytes += count
        if self._lingering_bytes > _LINGER_BYTES:
            self.abort()

    def end_if_overdue(self, now_s: float) -> None:
        """End the connection if a limit has passed; called once a second."""
        if self._taken_by_s is not None and now_s > self._taken_by_s:
            self.abort()
            return
        if self._lingering_bytes is not None:
            return
        first = self._exchanges[0] if self._exchanges and self._exchanges[0].received else None
        if first is not self._watched[0]:
            self._watched = first, now_s
        rested_s = now_s - self._since_s
        if first is not None and now_s - self._watched[1] > self._listener.answer_s:
            self._give_up(first)
            return
        if self._arriving and rested_s > self._listener.receive_s:
            self._break_off(BadRequest(408, f"the request was not here after {self._listener.receive_s:g} s"))
            self._go_on()
        elif not self._arriving and not self._exchanges and rested_s > self._listener.idle_s:
            self.close()

    def _give_up(self, exchange: Exchange) -> None:
        """Whoever was to answer has not, long after every deadline: the client must not wait for ever."""
        _log.error("a request had no answer after %g s: its connection is closed", self._listener.answer_s)
        if exchange.is_answer_under_way:
            self.abort()
            return
        detail = f"no answer within {self._listener.answer_s:g} s"
        self._refuse(BadRequest(504, detail, "deadline-exceeded", "Deadline exceeded", "try again"))

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self.loop.create_future()
            self._expect_taken()
            self._pause_receiving()

    def resume_writing(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
            if self._transport is not None and not self._transport.is_closing():
                self._taken_by_s = None
            self.loop.call_soon(self._go_on)

    def _expect_taken(self) -> None:
        if self._transport is not None:
            left_s = self._transport.get_write_buffer_size() / _SLOWEST_BYTES_PER_S
            self._taken_by_s = self.loop.time() + self._listener.send_s + left_s

    async def writable(self) -> None:
        """Wait while the client does not read what was sent."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def _pause_receiving(self) -> None:
        if self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_receiving(self) -> None:
        if not self._is_paused or self._transport is None or not self._has_room:
            return
        if self._unparsed:
            self.loop.call_soon(self._go_on)
            return
        self._is_paused = False
        if not self._is_half_closed:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close once the client has read what was sent; it has as long for that as for an answer."""
        if self._transport is not None and not self._transport.is_closing():
            self._expect_taken()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
