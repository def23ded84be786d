"""A circuit breaker: after some failures in a row requests skip the service, until a probe finds it well again."""

from __future__ import annotations

import asyncio


class Circuit:
    """It is open at first: a probe, not a request, has to find out whether the service works.

    Args:
        threshold: failures in a row that open it.
    """

    def __init__(self, threshold: int):
        self._threshold = threshold
        self._failures = threshold
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def closed(self) -> bool:
        return not self._opened.is_set()

    async def wait_until_open(self) -> None:
        await self._opened.wait()

    def close(self) -> None:
        """Close after a successful probe, on trial: until the first success, one failure opens it again."""
        self._failures = self._threshold - 1
        self._opened.clear()

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> bool:
        """Count a failure; return True if it opened the circuit."""
        self._failures += 1
        if self._failures < self._threshold or not self.closed:
            return False
        self._opened.set()
        return True
