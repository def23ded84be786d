"""One request and its answer on a connection, for an ASGI application or a direct answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Protocol

from bedplate.web.http.head import Fields, Head
from bedplate.web.http.reply import render_fields, render_head

_log = logging.getLogger("bedplate.web")
Asgi = Callable[[Any, Any, Any], Awaitable[None]]
CHECKED = "bedplate.checked"  # in the scope: what came of the checks that the direct way made, or None

# Of a body that nobody has read yet. Past it the connection is not read, and TCP slows the sender down.
_UNREAD_BYTES = 256 << 10
_BODILESS = frozenset({204, 304})


class Channel(Protocol):
    """What an exchange needs of its connection."""

    loop: asyncio.AbstractEventLoop

    @property
    def state(self) -> MutableMapping[str, Any]: ...  # of the application's lifespan

    @property
    def addresses(self) -> tuple[Any, Any]: ...  # of this end and of the client's

    @property
    def is_draining(self) -> bool: ...  # it closes after the answer

    def write(self, data: bytes) -> None: ...

    async def writable(self) -> None: ...  # the client takes what it was sent

    def resume_receiving(self) -> None: ...  # there is room for more of the body

    def answered(self, exchange: Exchange, close: bool) -> None: ...

    def abort(self) -> None: ...


class Exchange:
    """The body comes in by `add_body` and `complete`; the answer goes out by `reply`, or by ASGI's `send`.

    `received` is true once the body is whole; `answered` once the answer is.
    """

    __slots__ = (
        "_chunked",
        "_gone",
        "_is_continued",
        "_is_opened",
        "_started",
        "_told_end",
        "_waiting",
        "answered",
        "body",
        "channel",
        "checked",
        "head",
        "keep_alive",
        "on_gone",
        "received",
        "task",
    )

    def __init__(self, channel: Channel, head: Head, keep_alive: bool):
        self.channel = channel
        self.head = head
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = b""  # what was not read yet
        self.received = False
        self.answered = False
        self.checked: Any = None  # what came of the checks, where the direct way made them
        self.task: asyncio.Task[None] | None = None  # that answers, where one does
        self.on_gone: Callable[[], None] = _nothing  # told that the client is gone, where no task answers
        self._started: tuple[int, Fields] | None = None  # told by the application, not sent yet
        self._chunked: bool | None = None  # None until the head was sent
        self._is_opened = False  # the application has heard of it
        self._is_continued = False  # it has asked for a body of which nothing had come
        self._told_end = False
        self._gone = False
        self._waiting: asyncio.Future[None] | None = None

    def add_body(self, data: bytes) -> None:
        if not self.body:
            self.body = data
        else:
            if not isinstance(self.body, bytearray):
                self.body = bytearray(self.body)
            self.body += data
        self._wake()

    def complete(self) -> None:
        self.received = True
        self._wake()

    def disconnect(self) -> None:
        """Handle that the client is gone: work for it may stop."""
        self._gone = True
        self._wake()
        if self.answered:
            return
        if self.task is not None:
            self.task.cancel()
        else:
            self.on_gone()

    @property
    def is_full(self) -> bool:
        return len(self.body) > _UNREAD_BYTES and not self.received

    @property
    def is_answer_under_way(self) -> bool:
        """Whether the head of the answer, or all of it, was sent."""
        return self.answered or self._chunked is not None

    def tell_processing(self) -> None:
        """Send 102 Processing if nothing of the answer was sent yet."""
        if not self.is_answer_under_way and self.head.version == "1.1":
            self.channel.write(b"HTTP/1.1 102 Processing\r\n\r\n")

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def reply(self, status: int, fields: bytes, body: bytes) -> None:
        """Send the whole answer at once.

        Args:
            fields: as lines, each with its end; Content-Length is added.
        """
        self._write_whole(status, b"%bContent-Length: %d\r\n" % (fields, len(body)), body)

    def _write_whole(self, status: int, fields: bytes, body: bytes) -> None:
        close = self._closes()
        head = render_head(status, fields, close)
        self.channel.write(head + body if self.head.method != "HEAD" else head)
        self._finish(close)

    def _closes(self) -> bool:
        # What is left of a body that nobody waits for would be read as the next request.
        return not self.keep_alive or not self.received or self.channel.is_draining

    def _finish(self, close: bool) -> None:
        self.answered = True
        self.on_gone = _nothing  # whoever answered holds this exchange: a cycle would wait for the collector
        self._wake()
        self.channel.answered(self, close)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whoever answered has returned: a client that got no whole answer must not wait for the rest."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("fault while answering", exc_info=error)
        if not (self.answered or self._gone):
            self.abort()

    def abort(self) -> None:
        """Close the connection without a whole answer."""
        self.answered = True
        self.channel.abort()

    def answer_with(self, answering: Coroutine[Any, Any, None]) -> None:
        """Let a task answer; if the client leaves, the task is cancelled."""
        self.task = self.channel.loop.create_task(answering)
        self.task.add_done_callback(self._ended)

    async def run(self, app: Asgi) -> None:
        """Let an ASGI application answer."""
        server, client = self.channel.addresses
        await app(self._scope(server, client, self.channel.state), self.receive, self.send)

    def _scope(self, server: Any, client: Any, state: MutableMapping[str, Any]) -> dict[str, Any]:
        head = self.head
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.fields,
            "client": client,
            "server": server,
            "state": dict(state),
            CHECKED: self.checked,
        }

    async def receive(self) -> dict[str, Any]:
        """ASGI: return the next piece of the body, or that the client is gone.

        The first piece may be empty, so that an application that waits for one sees the head at once. A client that
        expects 100 Continue sends the body when the application asks for more.
        """
        if not (self._is_opened or self.body or self.received or self._gone):
            self._is_opened = True
            return {"type": "http.request", "body": b"", "more_body": True}
        if not (self._is_continued or self.body or self.received or self._gone or self.answered):
            self._is_continued = True
            if self.head.expects_continue and not self.is_answer_under_way:
                self.channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.body or (self.received and not self._told_end) or self._gone or self.answered):
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._gone or self.answered or (self._told_end and not self.body):
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), b""
        self._told_end = self.received
        self.channel.resume_receiving()
        return {"type": "http.request", "body": body, "more_body": not self.received}

    async def send(self, event: MutableMapping[str, Any]) -> None:
        """ASGI: send the head of the answer, then its body in one piece or in several."""
        if self._gone or self.answered:
            return
        if event["type"] == "http.response.start":
            self._started = event["status"], list(event.get("headers", ()))
            return
        if event["type"] != "http.response.body" or self._started is None:
            raise RuntimeError(f"the application sent {event['type']} out of turn")
        body, more = event.get("body", b""), event.get("more_body", False)
        if self._chunked is None and not more:
            self._send_whole(*self._started, body)
            return
        if self._chunked is None:
            self._send_head(*self._started)
        self._send_piece(body, more)
        await self.channel.writable()

    def _send_whole(self, status: int, fields: Fields, body: bytes) -> None:
        if status not in _BODILESS and not any(name.lower() == b"content-length" for name, _ in fields):
            fields.append((b"content-length", b"%d" % len(body)))
        self._write_whole(status, render_fields(fields), body)

    def _send_head(self, status: int, fields: Fields) -> None:
        self._chunked = not any(name.lower() == b"content-length" for name, _ in fields)
        if self._chunked and self.head.version == "1.0":
            self._chunked = self.keep_alive = False  # the end of the connection is the end of the body
        elif self._chunked:
            fields.append((b"transfer-encoding", b"chunked"))
        self.channel.write(render_head(status, render_fields(fields), self._closes()))

    def _send_piece(self, body: bytes, more: bool) -> None:
        if self.head.method == "HEAD":
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if body:
            self.channel.write(body)
        if not more:
            self._finish(self._closes())


def _nothing() -> None:
    pass
