"""One engine by its socket. Connects in the background when needed, and keeps the engine's last description."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from bedplate.web.engines.connection import EngineLink, EngineLost
from bedplate.web.engines.served import Served
from bedplate.web.options import RequestOptions, within
from bedplate.wire import Frame, Type

_log = logging.getLogger("bedplate.web.engines")

_CONNECT_TIMEOUT_S = 2.0
# After a refusal. Short: a dead engine refuses within microseconds, and one that has just become ready must not wait.
_BACK_OFF_S = 0.1


class Engine:
    def __init__(self, socket: Path):
        self.socket = socket
        self.served = Served()  # as it said last, also while it is away
        self.link: EngineLink | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next_try_s = 0.0  # on the loop's clock
        self._closed = False

    @property
    def connected(self) -> bool:
        return self.link is not None and not self.link.lost

    @property
    def silent(self) -> bool:
        return self.link is not None and self.link.silent

    def serves(self, version: tuple[str, str]) -> bool:
        return self.connected and version in self.served.bundles

    def connecting(self) -> asyncio.Task[None] | None:
        """Return the attempt to connect that is under way, or begin one; None if connected or just refused.

        All requests that wait share one attempt: none of them can cancel it, and none starts a second.
        """
        if self.connected:
            return None
        loop = asyncio.get_running_loop()
        if self._connecting is None or self._connecting.done():
            if loop.time() < self._next_try_s:
                return None
            self._connecting = loop.create_task(self._connect())
        return self._connecting

    async def describe(self, options: RequestOptions) -> None:
        """Request a new description of what the engine serves.

        Raises:
            EngineLost, asyncio.TimeoutError: it sent none.
        """
        if self.link is None:
            raise EngineLost
        try:
            await self.link.ask(Type.DESCRIBE, {}, b"", options)
        except EngineLost:
            # Not of a prediction, whatever was sent.
            raise EngineLost from None

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        link = EngineLink(self._described)
        try:
            await loop.create_unix_connection(lambda: link, str(self.socket))
            answer = await link.ask(Type.DESCRIBE, {}, b"", within(_CONNECT_TIMEOUT_S))
            if answer.type is not Type.DESCRIPTION:
                raise EngineLost
        except (OSError, EngineLost, asyncio.TimeoutError) as error:
            self._next_try_s = loop.time() + _BACK_OFF_S
            _log.debug("no engine: %r", error, extra={"socket": str(self.socket)})
            link.close()
            return
        self.link = link
        if self._closed:
            link.close()
        _log.info("connected to engine", extra={"socket": str(self.socket), "models": self.served.names})

    def _described(self, description: Frame) -> None:
        self.served = Served.from_meta(description.meta, description.tensors)

    def close(self) -> None:
        # An attempt under way ends by itself: cancelled in the middle, it would leave its connection open.
        self._closed = True
        if self.link is not None:
            self.link.close()
