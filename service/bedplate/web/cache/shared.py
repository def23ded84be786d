"""The second tier of the cache: Redis, which the hosts share. If it is away, slow or wrong, requests must not suffer.

Every operation has a time limit. After a few failures in a row requests skip Redis, until a background probe finds
that it works again. Writes go to a short queue, and no request waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, MaxConnectionsError, ResponseError

from bedplate.web.cache.circuit_breaker import Circuit

T = TypeVar("T")
_log = logging.getLogger("bedplate.web.cache")

USER = "bedplate-web"
PREFIX = "bedplate:cache:"
FAILURES_TO_OPEN = 5
PROBE_INTERVAL_S = 1.0
# Reads at a time. Past it a request does without: it would wait longer for a connection than it can win.
_MAX_CONNECTIONS = 8
_MAX_PENDING_WRITES = 256
MAX_VALUE_BYTES = 256 << 10
_COMPRESS_ABOVE_BYTES = 1024


class SharedCache:
    """Texts by key, in Redis.

    Args:
        socket: where Redis, or a proxy to it, listens.
        on_error: called with the kind of each failure: timeout, connection, authentication, response (Redis refused
            the command), value (the stored value is not ours), busy (no free connection), dropped (the write queue is
            full).
    """

    def __init__(
        self,
        socket: Path,
        password: str,
        ttl_s: int,
        timeout_s: float,
        on_error: Callable[[str], None] = lambda kind: None,
    ):
        self._redis = Redis(
            unix_socket_path=str(socket),
            username=USER,
            password=password,
            # RESP2 without the driver's name: AUTH is all that a new connection says, to any Redis since 6.0.
            protocol=2,
            driver_info=None,
            # The library would try ten times, waiting up to a second in between. The circuit decides instead.
            retry=Retry(NoBackoff(), 0),
            # It bounds each step of an operation; `_bounded` bounds the whole.
            socket_timeout=None,
            max_connections=_MAX_CONNECTIONS,
        )
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._on_error = on_error
        self._circuit = Circuit(FAILURES_TO_OPEN)
        self._pending: asyncio.Queue[tuple[str, bytes | None, int]] = asyncio.Queue(_MAX_PENDING_WRITES)
        self._background: list[asyncio.Task[None]] = []

    @property
    def available(self) -> bool:
        return self._circuit.closed

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Start probing and writing, in Falcon's lifespan."""
        self._background = [asyncio.create_task(self._probe_forever()), asyncio.create_task(self._write_forever())]

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._redis.aclose()

    async def get(self, key: str) -> bytes | None:
        """Return the text under `key`; None if there is none, or if Redis does not answer in time."""
        if not self.available:
            return None
        value = await self._attempt(self._redis.get(PREFIX + key))
        if not isinstance(value, bytes):
            return None
        try:
            return _unpack(value)
        except (ValueError, zlib.error):
            self.discard(key)
            return None

    def put(self, key: str, text: bytes, ttl_s: int | None = None) -> None:
        """Queue `text`, JSON, to be stored for `ttl_s`, or for the cache's own time. It may be dropped."""
        if len(text) <= MAX_VALUE_BYTES:
            self._write(key, text, self._ttl_s if ttl_s is None else ttl_s)

    def discard(self, key: str) -> None:
        """Delete the value under `key`, because it is not ours."""
        self._on_error("value")
        self._write(key, None)

    def _write(self, key: str, text: bytes | None, ttl_s: int = 0) -> None:
        if not self.available:
            return
        try:
            self._pending.put_nowait((key, text, ttl_s))
        except asyncio.QueueFull:
            self._on_error("dropped")

    async def _write_forever(self) -> None:
        while True:
            key, text, ttl_s = await self._pending.get()
            if not self.available:
                continue
            if text is None:
                await self._attempt(self._redis.delete(PREFIX + key))
            else:
                await self._attempt(self._redis.set(PREFIX + key, _pack(text), ex=ttl_s))

    async def _probe_forever(self) -> None:
        while True:
            await self._circuit.wait_until_open()
            if await self._attempt(self._redis.ping()):
                _log.info("shared cache is in use")
                self._circuit.close()
            # After success too: a Redis that answers nothing but pings costs one request a second.
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _attempt(self, operation: Any) -> Any:
        """The operation's answer; None after a failure, which is counted."""
        try:
            answer = await self._bounded(operation)
        except MaxConnectionsError:
            self._on_error("busy")
            return None
        # Whatever the library makes of it: no fault of the cache is one of the prediction, and the probe goes on.
        except Exception as error:
            self._failed(_kind(error))
            return None
        self._circuit.succeeded()
        return answer

    def _failed(self, kind: str) -> None:
        self._on_error(kind)
        if self._circuit.failed():
            _log.warning("shared cache is not in use", extra={"kind": kind})

    async def _bounded(self, operation: Coroutine[Any, Any, T]) -> T:
        """Not wait_for: on Python 3.11 it can swallow a cancellation, and it waits for what it cancels."""
        task = asyncio.ensure_future(operation)
        task.add_done_callback(_see_exception)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        finally:
            task.cancel()
        if not done:
            raise asyncio.TimeoutError
        return task.result()


def _kind(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "timeout"
    # What the server says while connecting comes wrapped.
    if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
        return "authentication"
    return "response" if isinstance(error, ResponseError) else "connection"


def _see_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _pack(text: bytes) -> bytes:
    return zlib.compress(text, 1) if len(text) > _COMPRESS_ABOVE_BYTES else text


def _unpack(value: bytes) -> bytes:
    """JSON begins with a brace and zlib never does.

    Raises:
        ValueError, zlib.error: neither, or larger than anything that is put.
    """
    if value[:1] == b"{":
        return value
    text = zlib.decompressobj().decompress(value, MAX_VALUE_BYTES + 1)
    if len(text) > MAX_VALUE_BYTES:
        raise ValueError("too large")
    return text
