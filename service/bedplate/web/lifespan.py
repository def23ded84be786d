"""Reports start and stop of one web instance to systemd, from the process that serves.

gunicorn sends READY before it imports the application, so `web/main.py` takes the notification socket away from it
and this middleware notifies instead. A web is ready when it can accept requests; whether an engine is there is
another question (`/health/ready`), so an engine's fault never restarts a web.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from bedplate.process.notify import notify, watchdog_interval_s
from bedplate.telemetry.exposition import Exposition
from bedplate.web.engines.pool import EnginePool

_log = logging.getLogger("bedplate.web")


class Lifespan:
    def __init__(self, engines: EnginePool, exposition: Exposition | None, notify_address: str | None):
        self._engines = engines
        self._exposition = exposition
        self._address = notify_address
        self._feeding: asyncio.Task[None] | None = None

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        if self._exposition:
            await self._exposition.start()
        interval_s = watchdog_interval_s()
        if self._address and interval_s:
            self._feeding = asyncio.create_task(self._feed_watchdog(interval_s))
        if self._address:
            notify("READY=1", "STATUS=Taking requests", address=self._address)
        _log.info("web is ready")

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        if self._feeding:
            self._feeding.cancel()
        if self._exposition:
            self._exposition.close()
        self._engines.close()
        _log.info("web has stopped")

    async def _feed_watchdog(self, interval_s: float) -> None:
        """As long as the event loop turns, this runs."""
        while True:
            notify("WATCHDOG=1", address=self._address)
            await asyncio.sleep(interval_s)
