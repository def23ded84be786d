"""The engines of this host, as the web sees them: one connection each, requests told apart by their id.

A request stays here until it is answered. When its engine is lost it is sent once more, if an engine is there and the
deadline allows; what comes back too late is dropped, because its id is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bedplate import errors, wire
from bedplate.bundle import Bundle, BundleError
from bedplate.errors import DeadlineExceeded, Draining, EngineUnavailable, UnknownModel
from bedplate.wire import Frame, Type

_log = logging.getLogger("bedplate.web.engines")

# Long enough for systemd to start the engine again and for torch to load.
RETRY_AFTER_S = 5
_CONNECT_TIMEOUT_S = 2.0


class EngineLost(Exception):
    """The connection ended before the answer."""


class EngineLink(asyncio.Protocol):
    """One connection to one engine. Made again by EnginePool when it is lost."""

    def __init__(self) -> None:
        self.outstanding: dict[int, asyncio.Future[Frame]] = {}
        self.lost = False
        self._reader = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._ids = itertools.count(1)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

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
        request_id = next(self._ids)
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self.outstanding[request_id] = waiting
        self._transport.writelines(wire.encode(Frame(kind, request_id, meta, tensors, deadline_ns)))
        timeout_s = (deadline_ns - wire.now_ns()) / 1e9 if deadline_ns else None
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
    """One engine by its socket: connects when needed, knows which models it last described."""

    def __init__(self, socket: Path):
        self.socket = socket
        self.models: dict[str, Bundle] = {}
        self._link: EngineLink | None = None
        self._connecting = asyncio.Lock()

    @property
    def connected(self) -> bool:
        return self._link is not None and not self._link.lost

    @property
    def outstanding(self) -> int:
        return len(self._link.outstanding) if self._link is not None else 0

    async def link(self) -> EngineLink:
        """The connection, made and described if there is none.

        Raises:
            EngineLost: nobody listens, or the description did not come.
        """
        if self._link is not None and not self._link.lost:
            return self._link
        async with self._connecting:
            if self._link is None or self._link.lost:
                self._link = await self._connect()
            return self._link

    async def _connect(self) -> EngineLink:
        loop = asyncio.get_running_loop()
        deadline_ns = wire.now_ns() + int(_CONNECT_TIMEOUT_S * 1e9)
        try:
            _, link = await loop.create_unix_connection(EngineLink, str(self.socket))
        except OSError as error:
            raise EngineLost from error
        try:
            answer = await link.ask(Type.DESCRIBE, {}, deadline_ns=deadline_ns)
            described = [Bundle.from_description(model) for model in answer.meta["models"]]
        except (asyncio.TimeoutError, KeyError, TypeError, BundleError) as error:
            link.close()
            raise EngineLost from error
        self.models = {model.name: model for model in described}
        _log.info("connected to engine", extra={"socket": str(self.socket), "models": sorted(self.models)})
        return link

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


class EnginePool:
    """All engines of the host. A request goes to the connected one with the fewest outstanding requests."""

    def __init__(self, sockets: Sequence[Path]):
        self.engines = [Engine(socket) for socket in sockets]

    async def models(self) -> dict[str, Bundle]:
        """What the engines serve, by name.

        Raises:
            EngineUnavailable: no engine ever said.
        """
        for engine in self.engines:
            with contextlib.suppress(EngineLost):
                await engine.link()
        known = {name: model for engine in self.engines for name, model in engine.models.items()}
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
                engine, link = await self._least_busy(tried)
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

    async def _least_busy(self, tried: set[Path]) -> tuple[Engine, EngineLink]:
        """The best engine; one that just failed comes last, but may be tried again: it may be back."""
        for engine in sorted(self.engines, key=lambda engine: (engine.socket in tried, engine.outstanding)):
            with contextlib.suppress(EngineLost):
                return engine, await engine.link()
        raise EngineLost

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable("no engine can answer right now", next_step="try again", retry_after_s=RETRY_AFTER_S)
