"""A circuit breaker: after some failures in a row nobody asks any more, until a probe finds that it works again."""

from __future__ import annotations

import asyncio


class Circuit:
    """Open at first: whether it works has to be found out by a probe, not by a request.

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
        """A probe was answered. On trial: until the first success, one failure opens it again."""
        self._failures = self._threshold - 1
        self._opened.clear()

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> bool:
        """Count a failure; True if it opened the circuit."""
        self._failures += 1
        if self._failures < self._threshold or not self.closed:
            return False
        self._opened.set()
        return True
