"""Keep the schedule: every request leaves when it is due, and every one gets a record."""

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

from tools.load.connections import Connection, ExchangeFailed, Pool
from tools.load.http1 import Response
from tools.load.ledger import Record
from tools.load.plan import Expected, Plan


async def run(plan: Plan, on_record: Callable[[Record], None] = lambda record: None) -> list[Record]:
    """Send the whole plan and wait for every answer. Records come in the order in which requests ended."""
    target = plan.target
    # Resolved once: a look-up per connection would measure the resolver.
    found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    address = (str(found[0][4][0]), target.port)
    pool = Pool(address, target.tls, target.server_name, plan.max_connections)
    sender = _Sender(plan, pool, on_record)
    await sender.keep_schedule()
    pool.close()
    return sender.records


class _Sender:
    def __init__(self, plan: Plan, pool: Pool, on_record: Callable[[Record], None]):
        self.records: list[Record] = []
        self._plan = plan
        self._pool = pool
        self._on_record = on_record
        self._start = time.monotonic()

    def _now(self) -> float:
        # Not loop.time(): uvloop's stands still within one turn of its loop.
        return time.monotonic() - self._start

    async def keep_schedule(self) -> None:
        tasks = set()
        self._start = time.monotonic()
        for number, intended in enumerate(self._plan.arrivals):
            while (wait_s := intended - self._now()) > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(self._send(number, intended))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.gather(*tasks)

    async def _send(self, number: int, intended: float) -> None:
        body = number % len(self._plan.requests)
        async with self._pool.slots:
            sent = self._now()
            response, error, reused = await self._exchange(self._plan.requests[body])
        done = self._now()
        if response is not None and error is None and not self._is_right(number, body, response):
            error = "wrong-body"
        record = Record(
            id=number,
            body=body,
            intended=round(intended, 6),
            sent=round(sent, 6),
            done=round(done, 6),
            status=response.status if response else None,
            error=error,
            sha256=hashlib.sha256(response.body).hexdigest() if response else None,
            bytes=len(response.body) if response else 0,
            retry_after=response.headers.get("retry-after") if response else None,
            reused=reused,
        )
        self.records.append(record)
        self._on_record(record)

    def _is_right(self, number: int, body: int, response: Response) -> bool:
        # A refusal is not an answer to check; its status says what it is.
        if not 200 <= response.status < 300:
            return True
        asked = self._plan.is_right is None or self._plan.is_right(number, response.body)
        return asked and _is_expected(response, self._plan.expected.get(body))

    async def _exchange(self, request: bytes) -> tuple[Response | None, str | None, bool]:
        connection: Connection | None = None
        reused = False
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                connection = await self._pool.take()
                reused = connection.used
                response = await connection.exchange(request)
        except (ExchangeFailed, TimeoutError) as error:
            if connection is not None:
                connection.abort()
            return None, error.kind if isinstance(error, ExchangeFailed) else "timeout", reused
        self._pool.give_back(connection)
        return response, None, reused


def _is_expected(response: Response, expected: Expected | None) -> bool:
    if expected is None:
        return True
    if expected.sha256 is not None and hashlib.sha256(response.body).hexdigest() != expected.sha256:
        return False
    return expected.label is None or _label_of(response.body) == expected.label


def _label_of(body: bytes) -> str | None:
    try:
        return _first_label(json.loads(body))
    except ValueError:
        return None


def _first_label(value: Any) -> str | None:
    if isinstance(value, dict) and isinstance(value.get("label"), str):
        return str(value["label"])
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((label for child in children if (label := _first_label(child)) is not None), None)
