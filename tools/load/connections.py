"""Keep-alive connections, opened when a request finds none idle."""

import asyncio
import ssl
import time
from typing import cast

from tools.load.http1 import MalformedResponse, Response, parse_response

# A connection that has rested for long is not reused, because a request that meets the server's close is lost through
# no fault of the server. nginx closes idle ones after 75 s, a front end that is asked directly after 5.
REUSE_WITHIN_S = 4.0


class ExchangeFailed(Exception):
    """No whole answer came; `kind` is the word that the ledger keeps."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


def failure_of(error: BaseException | None) -> ExchangeFailed:
    if isinstance(error, ssl.SSLError):
        return ExchangeFailed("tls")
    if isinstance(error, ConnectionRefusedError):
        return ExchangeFailed("refused")
    if isinstance(error, ConnectionError):
        return ExchangeFailed("reset")
    if isinstance(error, TimeoutError):
        return ExchangeFailed("timeout")
    return ExchangeFailed("closed" if error is None else "unreachable")


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.used = False
        self.last_used = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Response] | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and time.monotonic() - self.last_used < REUSE_WITHIN_S

    async def exchange(self, request: bytes) -> Response:
        if self._transport is None:
            raise ExchangeFailed("closed")
        self.used = True
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            response = await self._answer
        finally:
            self._answer = None
        self.last_used = time.monotonic()
        return response

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports act as asyncio's without being subclasses.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._settle(ended=False)

    def eof_received(self) -> None:
        self._settle(ended=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(failure_of(exc))

    def _settle(self, ended: bool) -> None:
        if self._answer is None or self._answer.done():
            # Nobody asked: the server broke the protocol or is closing.
            return self.abort()
        try:
            response = parse_response(self._buffer, ended)
        except MalformedResponse:
            self._answer.set_exception(ExchangeFailed("malformed"))
            return self.abort()
        if response is not None:
            self._buffer.clear()
            self._answer.set_result(response)
            if not response.reusable:
                self.abort()


class Pool:
    """At most `limit` requests at once, each on an idle connection or else on a new one."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None, server_name: str, limit: int):
        self._address = address
        self._tls = tls
        self._server_name = server_name
        self._idle: list[Connection] = []
        self.slots = asyncio.Semaphore(limit)
        self.opened = 0

    async def take(self) -> Connection:
        # The last one used comes first, so that what a burst needed can go stale and is closed.
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return await self._open()

    def give_back(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()

    async def _open(self) -> Connection:
        self.opened += 1
        server_name = self._server_name if self._tls else None
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, *self._address, ssl=self._tls, server_hostname=server_name
            )
        except OSError as error:
            raise failure_of(error) from error
        return connection
