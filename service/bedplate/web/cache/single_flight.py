"""Single flight: concurrent requests for the same answer share one computation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bedplate.errors import EnginesLost, EngineUnavailable, InvalidRequest

T = TypeVar("T")


@dataclass(eq=False)
class Flight(Generic[T]):
    """A computation: a task that is nobody's own, so that no caller who leaves takes it along.

    Its first caller may make it without a task, as long as it stays and all goes well; then `result` is a future that
    it sets.
    """

    key: str
    result: asyncio.Future[T]
    waiting: int = 0


class SingleFlight(Generic[T]):
    def __init__(self) -> None:
        self._by_key: dict[str, Flight[T]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

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
            flight = self.lead(key)
            self.go_on(flight, compute())
            return await self.wait(flight, timeout_s), False
        flight.waiting += 1
        try:
            return await self.wait(flight, timeout_s), True
        except (asyncio.TimeoutError, InvalidRequest, EnginesLost, EngineUnavailable):
            raise
        except Exception:
            return await compute(), False

    def lead(self, key: str) -> Flight[T]:
        """Begin a computation for `key`, under way nowhere; the caller makes it, and waits for it itself."""
        flight = self._by_key[key] = Flight(key, asyncio.get_running_loop().create_future(), waiting=1)
        return flight

    def land(self, flight: Flight[T], result: T) -> None:
        """The caller that leads it has made it, and waits no longer."""
        self._close(flight)
        if self.leave(flight):
            flight.result.set_result(result)

    def fail(self, flight: Flight[T], error: Exception) -> None:
        """As `land`, where that came of it."""
        self._close(flight)
        if self.leave(flight):
            flight.result.set_exception(error)

    def leave(self, flight: Flight[T]) -> bool:
        """The caller that leads it waits no longer. True if others do: then it has to `go_on`."""
        flight.waiting -= 1
        if not flight.waiting:
            self._close(flight)
        return flight.waiting > 0

    def go_on(self, flight: Flight[T], computing: Coroutine[Any, Any, T]) -> None:
        """A task makes it from now on."""
        led, task = flight.result, asyncio.ensure_future(computing)
        flight.result = task
        task.add_done_callback(lambda _: self._close(flight))
        led.cancel()  # who waits for it looks again

    async def wait(self, flight: Flight[T], timeout_s: float) -> T:
        """For a caller that is counted among those who wait.

        Raises:
            asyncio.TimeoutError: its time is over.
            Exception: what the computation raised.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + max(0, timeout_s)
        try:
            while True:
                result = flight.result
                done, _ = await asyncio.wait({result}, timeout=max(0, ends_s - loop.time()))
                if not done:
                    raise asyncio.TimeoutError
                if result is flight.result:
                    return result.result()
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.result.cancel()  # if it has failed already, this also says that nobody is to hear of it
                self._close(flight)

    def _close(self, flight: Flight[T]) -> None:
        """Nobody may join any more."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
