"""The engines of this host, as the web sees them: one connection each, requests told apart by their id.

A request stays here until it is answered. When its engine is lost it is sent once more, if an engine is there and the
deadline allows; what comes back too late is dropped, because its id is forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bedplate import errors, wire
from bedplate.bundle import Bundle, BundleError
from bedplate.errors import DeadlineExceeded, Draining, EngineBusy, EngineUnavailable, UnknownModel
from bedplate.wire import Frame, Type

_log = logging.getLogger("bedplate.web.engines")

# Long enough for systemd to start the engine again and for torch to load.
RETRY_AFTER_S = 5
_CONNECT_TIMEOUT_S = 2.0
# After a refusal. Short: a dead engine refuses within microseconds, and one that has just become ready must not wait.
_BACK_OFF_S = 0.1
# Bytes that may wait for an engine that does not read. Past it requests go elsewhere, or are refused.
_UNSENT_BYTES = 64 << 20


class EngineLost(Exception):
    """The connection ended before the answer."""


class EngineLink(asyncio.Protocol):
    """One connection to one engine. Made again by EnginePool when it is lost."""

    def __init__(self) -> None:
        self.outstanding: dict[int, asyncio.Future[Frame]] = {}
        self.lost = False
        self.congested = False
        self._reader = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._ids = itertools.count(1)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except wire.FrameError as error:
            _log.error("engine broke the protocol: %s", error)
            self.close()
            return
        for frame in frames:
            waiting = self.outstanding.pop(frame.id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for waiting in self.outstanding.values():
            if not waiting.done():
                waiting.set_exception(EngineLost())
        self.outstanding.clear()

    async def ask(
        self, kind: Type, meta: dict[str, Any], tensors: bytes | memoryview = b"", deadline_ns: int = 0
    ) -> Frame:
        """Send one frame and wait for its answer.

        Raises:
            EngineLost: the connection ended first.
            asyncio.TimeoutError: the deadline passed; the engine is told to forget the request.
        """
        if self._transport is None or self.lost:
            raise EngineLost
        timeout_s = (deadline_ns - wire.now_ns()) / 1e9 if deadline_ns else None
        if timeout_s is not None and timeout_s <= 0:
            raise asyncio.TimeoutError
        request_id = next(self._ids)
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self.outstanding[request_id] = waiting
        self._transport.writelines(wire.encode(Frame(kind, request_id, meta, tensors, deadline_ns)))
        try:
            return await asyncio.wait_for(waiting, timeout_s)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            self._forget(request_id)
            raise

    def _forget(self, request_id: int) -> None:
        if self.outstanding.pop(request_id, None) is not None and self._transport is not None and not self.lost:
            self._transport.writelines(wire.encode(Frame(Type.CANCEL, request_id, {})))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.lost = True


class Engine:
    """One engine by its socket: connects in the background when it has to, knows which models it described last."""

    def __init__(self, socket: Path):
        self.socket = socket
        # By name; of several versions the first described, as everywhere.
        self.models: dict[str, Bundle] = {}
        self.versions: set[tuple[str, str]] = set()
        self.link: EngineLink | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next_try_s = 0.0  # on the loop's clock
        self._closed = False

    @property
    def connected(self) -> bool:
        return self.link is not None and not self.link.lost

    def connecting(self) -> asyncio.Task[None] | None:
        """The attempt to connect that is under way, begun now if it has to be; None if connected or just refused.

        One for all requests that wait for it: none of them can cancel it, and none starts a second.
        """
        if self.connected:
            return None
        loop = asyncio.get_running_loop()
        if self._connecting is None or self._connecting.done():
            if loop.time() < self._next_try_s:
                return None
            self._connecting = loop.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        link = EngineLink()
        try:
            await loop.create_unix_connection(lambda: link, str(self.socket))
            answer = await link.ask(Type.DESCRIBE, {}, deadline_ns=wire.now_ns() + int(_CONNECT_TIMEOUT_S * 1e9))
            described = [Bundle.from_description(model) for model in answer.meta["models"]]
        except (OSError, EngineLost, asyncio.TimeoutError, KeyError, TypeError, BundleError) as error:
            self._next_try_s = loop.time() + _BACK_OFF_S
            _log.debug("no engine: %r", error, extra={"socket": str(self.socket)})
            link.close()
            return
        self.models = {model.name: model for model in reversed(described)}
        self.versions = {(model.name, model.version) for model in described}
        self.link = link
        if self._closed:
            link.close()
        _log.info("connected to engine", extra={"socket": str(self.socket), "models": sorted(self.models)})

    def close(self) -> None:
        # An attempt under way ends by itself: cancelled in the middle, it would leave its connection open.
        self._closed = True
        if self.link is not None:
            self.link.close()


class EnginePool:
    """All engines of the host. A request goes to the connected one with the fewest outstanding requests."""

    def __init__(self, sockets: Sequence[Path]):
        self.engines = [Engine(socket) for socket in sockets]

    async def models(self) -> dict[str, Bundle]:
        """What the engines serve, by name.

        Raises:
            EngineUnavailable: no engine ever said.
        """
        if attempts := [attempt for engine in self.engines if (attempt := engine.connecting())]:
            await asyncio.wait(attempts)
        known = {name: model for engine in reversed(self.engines) for name, model in engine.models.items()}
        if not known:
            raise _unavailable()
        return known

    async def model(self, name: str) -> Bundle:
        """Raises: UnknownModel, EngineUnavailable."""
        for engine in self.engines:
            if engine.connected and name in engine.models:
                return engine.models[name]
        models = await self.models()
        if name not in models:
            raise UnknownModel("no model of this name is served here", next_step="GET /v1/models lists what there is")
        return models[name]

    async def predict(self, meta: dict[str, Any], tensors: bytes | memoryview, deadline_ns: int) -> Frame:
        """One PREDICT frame in, one RESULT frame out.

        Raises:
            ServiceError: what the engine answered, DeadlineExceeded, or EngineUnavailable when none is left.
        """
        tried: set[Path] = set()
        for _ in range(2):
            try:
                engine, link = await self._least_busy((meta["model"], meta["version"]), tried, deadline_ns)
                tried.add(engine.socket)
                answer = await link.ask(Type.PREDICT, meta, tensors, deadline_ns)
            except EngineLost:
                continue
            except asyncio.TimeoutError:
                raise DeadlineExceeded("no answer within the deadline", next_step="send less, or later") from None
            if answer.type is Type.RESULT:
                return answer
            error = errors.from_meta(answer.meta)
            if not isinstance(error, Draining):
                raise error
        raise _unavailable()

    async def _least_busy(
        self, version: tuple[str, str], tried: set[Path], deadline_ns: int
    ) -> tuple[Engine, EngineLink]:
        """The best engine that serves `version`; one that just failed comes last, for it may be back.

        Raises:
            EngineLost: there is none.
            EngineBusy: there is, but it does not even take what it was sent.
            asyncio.TimeoutError: the deadline passed while engines were connecting.
        """
        while True:
            attempts = [attempt for engine in self.engines if (attempt := engine.connecting())]
            serving = [engine for engine in self.engines if engine.connected and version in engine.versions]
            fresh = [engine for engine in serving if engine.socket not in tried]
            if fresh or (serving and not attempts):
                return _choose(fresh or serving)
            if not attempts:
                raise EngineLost
            left_s = (deadline_ns - wire.now_ns()) / 1e9
            done, _ = await asyncio.wait(attempts, timeout=max(0, left_s), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise asyncio.TimeoutError

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def _choose(engines: list[Engine]) -> tuple[Engine, EngineLink]:
    links = [(engine, engine.link) for engine in engines if engine.link is not None and not engine.link.congested]
    if not links:
        raise EngineBusy("the engine does not take what it was sent", next_step="try again", retry_after_s=1)
    return min(links, key=lambda pair: len(pair[1].outstanding))


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable("no engine can answer right now", next_step="try again", retry_after_s=RETRY_AFTER_S)
