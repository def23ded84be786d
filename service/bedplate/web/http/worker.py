"""gunicorn's ASGI worker with our connections in place of its own (docs/adr/0014)."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.workers.gasgi import ASGIWorker

from bedplate.process import garbage
from bedplate.web.http.connection import Connection, Listener

# gunicorn's arbiter wants a sign of life well within its timeout of 30 s.
_HEARTBEAT_S = 1.0
# Longer than the longest deadline and than nginx waits. Only a fault of ours takes so long.
_GRACE_S = 4


class Worker(ASGIWorker):  # type: ignore[misc]  # gunicorn has no types
    """Loop, signals and the order of a stop are gunicorn's; it serves an application that has `direct`."""

    def handle_exit_signal(self) -> None:
        super().handle_exit_signal()
        self._listener.is_draining = True
        self._stopping.set()

    @property
    def nr_conns(self) -> int:
        """What gunicorn waits for when it stops."""
        return len(self._listener.connections)

    @nr_conns.setter
    def nr_conns(self, value: int) -> None:
        """Ours are counted by themselves."""

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self._stopping = asyncio.Event()
        self._listener = Listener(
            self.asgi,
            self.asgi.direct,
            idle_s=self.cfg.keepalive,
            receive_s=self.cfg.graceful_timeout,
            max_connections=self.cfg.worker_connections,
            send_s=self.cfg.graceful_timeout,
            answer_s=self.cfg.graceful_timeout + _GRACE_S,
            state=self.state,
        )

    async def _serve(self) -> None:
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as error:
            self.log.error("the application did not start: %s", error)
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from None
        garbage.settle()
        self._listener.sweep(self.loop)
        for sock in self.sockets:
            server = await self.loop.create_server(self._connection, sock=sock.sock, backlog=self.cfg.backlog)
            self.servers.append(server)
        while self.alive and self.ppid == os.getppid():
            self.notify()
            await _waited(self._stopping, _HEARTBEAT_S)
        await self._shutdown()

    def _connection(self) -> Any:
        return Connection(self._listener, self.loop)


async def _waited(event: asyncio.Event, timeout_s: float) -> None:
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({waiting}, timeout=timeout_s)
    waiting.cancel()
