"""Single flight: concurrent requests for the same answer share one computation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bedplate.errors import EnginesLost, EngineUnavailable, InvalidRequest

T = TypeVar("T")


@dataclass(eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]  # nobody's own, so that no caller who leaves takes it along
    waiting: int = 0


class SingleFlight(Generic[T]):
    def __init__(self) -> None:
        self._by_key: dict[str, _Flight[T]] = {}

    async def join(self, key: str, compute: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> tuple[T, bool]:
        """Return the result of the computation in flight for `key`, or of `compute`.

        Returns: the result, and whether somebody else's computation gave it.

        If another request's computation fails for a reason of its own, such as its deadline, the caller computes for
        itself. An invalid request is invalid for all of them, and a request that may have ended engines would end more.

        Raises:
            asyncio.TimeoutError: the caller's time is over; the computation continues for those who still wait.
            Exception: what `compute` raised.
        """
        flight = self._by_key.get(key)
        if flight is None:
            return await self._wait(key, self._start(key, compute), timeout_s), False
        try:
            return await self._wait(key, flight, timeout_s), True
        except (asyncio.TimeoutError, InvalidRequest, EnginesLost, EngineUnavailable):
            raise
        except Exception:
            return await compute(), False

    def _start(self, key: str, compute: Callable[[], Coroutine[Any, Any, T]]) -> _Flight[T]:
        flight = self._by_key[key] = _Flight(asyncio.ensure_future(compute()))
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    async def _wait(self, key: str, flight: _Flight[T], timeout_s: float) -> T:
        flight.waiting += 1
        try:
            done, _ = await asyncio.wait({flight.task}, timeout=max(0, timeout_s))
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # if it has failed already, this also says that nobody is to hear of it
                self._land(key, flight)
        if not done:
            raise asyncio.TimeoutError
        return flight.task.result()

    def _land(self, key: str, flight: _Flight[T]) -> None:
        if self._by_key.get(key) is flight:
            del self._by_key[key]
