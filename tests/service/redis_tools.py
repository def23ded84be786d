"""A Redis of a test's own, as a process on a unix socket, and what can stand between it and the service."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

PASSWORD = "bp_redis-test"
# The server is in Debian's redis-tools under another name; it goes by the one it is called by. So no service runs here.
SERVER = shutil.which("redis-server") or "/usr/bin/redis-check-rdb"
CONFIGURATION = f"""
port 0
save ""
maxmemory 64mb
maxmemory-policy allkeys-lru
user default off
user bedplate-web on >{PASSWORD} resetchannels ~bedplate:* -@all +get +set +del +ping
user admin on >{PASSWORD} ~* +@all
"""


class PrivateRedis:
    def __init__(self, directory: Path):
        self.socket = directory / "redis.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = self.client("admin")

    def start(self) -> None:
        path = self._directory / "redis.conf"
        path.write_text(f"{CONFIGURATION}\nunixsocket {self.socket}\ndir {self._directory}\n")
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(["redis-server", str(path)], executable=SERVER, stdout=log)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(redis.ConnectionError):
                self.admin.ping()
                return
            assert time.monotonic() < deadline, (self._directory / "log").read_text()
            time.sleep(0.02)

    def client(self, user: str) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), username=user, password=PASSWORD, protocol=2)

    def send(self, signum: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(signum)

    def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        self.admin.close()
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class Proxy:
    """Forwards one unix socket to another; every chunk waits `delay_s`."""

    def __init__(self, socket: Path, target: Path):
        self.socket = socket
        self.delay_s = 0.0
        self.connections = 0
        self._target = target
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_unix_server(self._accept, str(self.socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_unix_connection(str(self._target))
        for source, sink in ((reader, back), (there, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                while data := await source.read(65_536):
                    await asyncio.sleep(self.delay_s)
                    sink.write(data)
            finally:
                sink.close()
