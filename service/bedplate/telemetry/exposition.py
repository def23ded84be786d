"""Exports the metrics of one process on a unix socket: a client that connects gets all of them as text.

The socket reads nothing, so there is nothing to parse. `bedplate metrics` reads these sockets and speaks HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest

from bedplate.process import endpoint
from bedplate.process.settings import SettingsError

_log = logging.getLogger(__name__)

# A comment to every reader of the format. Without it as the last line, the process died while it told.
END = b"# EOF\n"
# One reader asks every few seconds. More at once are readers that do not read.
_MAX_READERS = 4


def new_registry() -> CollectorRegistry:
    """Return a registry with memory, processor time and open files of this process."""
    registry = CollectorRegistry()
    _Process(registry=registry)
    return registry


def text(registry: CollectorRegistry) -> bytes:
    return generate_latest(_WithoutCreated(registry)) + END


class _Process(ProcessCollector):
    """Finds the time of boot without /proc/stat, which ProcSubset=pid hides."""

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class _WithoutCreated:
    """Leaves out when each series began: a second series for each, and Prometheus tells a restart without."""

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Exposition:
    """Exports `registry` on the socket `path`, from `start` to `close`.

    Args:
        read_timeout_s: a client that has not read everything by then is disconnected.
    """

    def __init__(self, path: Path, registry: CollectorRegistry, read_timeout_s: float = 2.0):
        self.read_timeout_s = read_timeout_s
        self.readers: set[_Reader] = set()
        self._path = path
        self._registry = registry
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen. If that fails the process continues without: answers matter more than metrics."""
        try:
            listener = endpoint.bind(self._path, setting="metrics_dir")
        except SettingsError as error:
            _log.error("no metrics: %s", error)
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Reader(self), sock=listener)

    def text(self) -> bytes:
        return text(self._registry)

    def close(self) -> None:
        if self._server:
            self._path.unlink(missing_ok=True)
            self._server.close()
        for reader in list(self.readers):
            reader.abort()


class _Reader(asyncio.Protocol):
    def __init__(self, exposition: Exposition):
        self._exposition = exposition
        self._give_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        readers = self._exposition.readers
        if len(readers) >= _MAX_READERS:
            transport.abort()
            return
        readers.add(self)
        self._give_up = asyncio.get_running_loop().call_later(self._exposition.read_timeout_s, self.abort)
        # What the socket does not take at once waits in the transport; closing lets it leave first.
        transport.write(self._exposition.text())
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._exposition.readers.discard(self)
        if self._give_up:
            self._give_up.cancel()

    def abort(self) -> None:
        self._transport.abort()
