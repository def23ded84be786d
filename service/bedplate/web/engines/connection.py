"""One connection to one engine. Requests are told apart by id; each gets one answer, or ends at its deadline.

An answer that comes too late, or twice, is dropped because its id is forgotten; ids are never used again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bedplate import wire
from bedplate.bundle.bundle import BundleError
from bedplate.web.options import RequestOptions, ran_out
from bedplate.wire import Frame, Type

_log = logging.getLogger("bedplate.web.engines")

# Bytes that may wait for an engine that does not read. Past it requests go elsewhere, or are refused.
_UNSENT_BYTES = 64 << 20


class EngineLost(Exception):
    """The connection ended before the answer.

    Attributes:
        begun: the engine may have begun to compute it; never true if nothing was sent.
    """

    def __init__(self, begun: bool = False):
        super().__init__()
        self.begun = begun


class Waiting(Protocol):
    """The receiver of an answer: a future, or an object that handles the answer at once."""

    def done(self) -> bool: ...

    def set_result(self, answer: Frame, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


@dataclass(slots=True)
class _Asked:
    waiting: Waiting
    deadline_ns: int
    frames_before: int  # that had been received when it was sent


class EngineLink(asyncio.Protocol):
    """One connection; Engine makes a new one when it is lost.

    Args:
        on_description: called with each DESCRIPTION, requested or not, in the order of arrival; if it raises
            BundleError, the connection ends.
    """

    def __init__(self, on_description: Callable[[Frame], None], clock: Callable[[], int] = wire.now_ns):
        self.outstanding: dict[int, _Asked] = {}
        # One for all of them, at the earliest deadline or before: it may have been that of a request answered since.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self.lost = False
        self.congested = False
        # A deadline passed and nothing at all had come since its request was sent: maybe the process is stopped. Then
        # it must not look idle because what it was asked has been cancelled. Anything that comes ends this.
        self.silent = False
        self._frames = 0  # received
        self._on_description = on_description
        self._clock = clock
        self._reader = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes | memoryview] = []  # asked in this turn of the loop: one write for all of it
        self._last_id = 0
        self._last_sent_id = 0  # those after it are unsent
        self._not_begun: set[int] = set()  # of which the engine tells when it begins, and has not yet

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.loop = asyncio.get_running_loop()
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except (wire.FrameError, BundleError) as error:
            _log.error("engine broke the protocol: %s", error)
            self.close()

    def _take(self, frame: Frame) -> None:
        self._frames += 1
        self.silent = False
        if frame.type is not Type.RESULT and self._is_notice(frame):
            return
        asked = self.outstanding.pop(frame.id, None)
        if asked is not None and not asked.waiting.done():
            self._tell(asked.waiting, frame)

    def _is_notice(self, frame: Frame) -> bool:
        """True for what is no answer: nobody waits for it, or goes on waiting."""
        if frame.type is Type.DESCRIPTION:
            self._on_description(frame)
        elif frame.type is Type.BEGUN:
            self._not_begun.discard(frame.id)
            return True
        return False

    def _tell(self, waiting: Waiting, answer: Frame) -> None:
        """An answer that cannot be used is none: whoever waits is told that too, and no other is forgotten over it."""
        try:
            waiting.set_result(answer)
        except Exception:
            _log.exception("an answer of the engine cannot be used")
            self.close()
            _fail(waiting, EngineLost(begun=True))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        outstanding, self.outstanding = self.outstanding, {}
        for request_id, asked in outstanding.items():
            begun = request_id <= self._last_sent_id and request_id not in self._not_begun
            _fail(asked.waiting, EngineLost(begun))

    async def ask(
        self, kind: Type, meta: dict[str, Any], tensors: bytes | memoryview, options: RequestOptions
    ) -> Frame:
        """Send one frame and wait for its answer.

        Raises:
            EngineLost: the connection ended first.
            asyncio.TimeoutError: the deadline passed; the engine is told to drop the request.
        """
        if self._transport is None:
            raise EngineLost
        waiting: asyncio.Future[Frame] = self.loop.create_future()
        request_id = self.begin(kind, meta, tensors, options, waiting)
        # Not wait_for: it would cost a task, and on Python 3.11 it can swallow a cancellation.
        try:
            return await waiting
        finally:
            self.give_up(request_id)

    async def ask_alone(self, meta: dict[str, Any], tensors: bytes | memoryview, options: RequestOptions) -> Frame:
        """Do what `ask` does for a prediction that must not share a batch. Only for engines that support it.

        Such engines report when they begin, so an EngineLost knows whether they had begun.
        """
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        request_id = self.begin(Type.PREDICT, {**meta, "alone": True}, tensors, options, waiting)
        self._not_begun.add(request_id)
        try:
            return await waiting
        finally:
            self._not_begun.discard(request_id)
            self.give_up(request_id)

    def begin(
        self, kind: Type, meta: dict[str, Any], tensors: bytes | memoryview, options: RequestOptions, waiting: Waiting
    ) -> int:
        """Send one frame; `waiting` gets its answer, or the error that `ask` would raise, once.

        Returns: the argument for `give_up`.

        Raises:
            EngineLost: there is no connection any more.
            asyncio.TimeoutError: it is too late to begin.
        """
        if self.lost:
            raise EngineLost
        now_ns = self._clock()
        if options.engine_deadline_ns <= now_ns:
            raise asyncio.TimeoutError
        request_id = self._send(kind, meta, tensors, options)
        self.outstanding[request_id] = _Asked(waiting, options.deadline_ns, self._frames)
        if self._timer is None or options.deadline_ns < self._timer_ns:
            self._set_timer(options.deadline_ns, now_ns)
        return request_id

    def give_up(self, request_id: int) -> None:
        """Stop waiting for an answer that has not come, and tell the engine to drop the request."""
        asked = self.outstanding.pop(request_id, None)
        if asked is None or self.lost:
            return
        self._write(Frame(Type.CANCEL, request_id, {}))
        # Whoever asked may have given up at the same deadline, a moment earlier than the timer.
        if asked.frames_before == self._frames and ran_out(asked.deadline_ns, self._clock()):
            self._fall_silent()

    def _set_timer(self, deadline_ns: int, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = deadline_ns
        self._timer = self.loop.call_later((deadline_ns - now_ns) / 1e9, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_ns = self._clock()
        late = [
            (request_id, asked) for request_id, asked in self.outstanding.items() if ran_out(asked.deadline_ns, now_ns)
        ]
        for request_id, _ in late:
            self.give_up(request_id)
        if self.outstanding:
            self._set_timer(min(asked.deadline_ns for asked in self.outstanding.values()), now_ns)
        for _, asked in late:
            _fail(asked.waiting, asyncio.TimeoutError())

    def _send(
        self, kind: Type, meta: dict[str, Any], tensors: bytes | memoryview, options: RequestOptions | None
    ) -> int:
        request_id = self._last_id = self._last_id + 1
        deadline_ns, priority = (options.engine_deadline_ns, options.priority) if options else (0, wire.INTERACTIVE)
        self._write(Frame(kind, request_id, meta, tensors, deadline_ns, priority))
        return request_id

    def _write(self, frame: Frame) -> None:
        if not self._unsent:
            self.loop.call_soon(self.flush)
        self._unsent += wire.encode(frame)

    def flush(self) -> None:
        """Send the frames of this turn of the event loop now; otherwise they go at its end."""
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self.lost:
            self._last_sent_id = self._last_id
            self._transport.writelines(unsent)

    def _fall_silent(self) -> None:
        """Ask for a sign of life, once: an engine that was only slower than an impatient client gives it at once."""
        if not self.silent and not self.lost:
            self.silent = True
            self._send(Type.DESCRIBE, {}, b"", None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.lost = True


def _fail(waiting: Waiting, error: Exception) -> None:
    """Whatever one of them does about it, the next is told too."""
    if waiting.done():
        return
    try:
        waiting.set_exception(error)
    except Exception:
        _log.exception("a request could not be told that it has no answer")
