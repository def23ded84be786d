"""Limits the memory of all request bodies in one process, before they are read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from bedplate.errors import ServerBusy

# How long the rate is counted at which requests end, and what a client is told to wait at most.
_WINDOW_S = 1.0
_MAX_RETRY_AFTER_S = 30


class BodyBudget:
    """Bounds the bodies in memory. Without it clients could send any number, while engines take a few at a time.

    Args:
        limit_bytes: of all bodies; a single one may be longer, or it could never be sent.
        clock: seconds.
    """

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic):
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._clock = clock
        self._since_s = self._idle_since_s = clock()
        self._ended_bytes = 0  # since then
        self._bytes_per_s = 0.0  # before
        self._next_turn_s = 0.0  # when whom nobody told to wait yet could come

    def has_room(self, count: int) -> bool:
        return self.held_bytes + count <= self.limit_bytes or not self.held_bytes

    def take(self, count: int) -> None:
        """Reserve memory for a body.

        Raises:
            ServerBusy: it would exceed the limit together with the other bodies.
        """
        if not self.has_room(count):
            raise ServerBusy(
                f"{self.held_bytes + count} bytes of requests would be in flight here, {self.limit_bytes} may be",
                value=self.held_bytes + count,
                limit=self.limit_bytes,
                next_step="try again after the seconds in Retry-After, or send less at a time",
                retry_after_s=self._retry_after_s(count),
            )
        if not self.held_bytes:
            # A front end that had nothing to do was not slow: its idle time must not lower the rate.
            self._since_s += self._clock() - self._idle_since_s
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        self.held_bytes -= count
        self._ended_bytes += count
        now_s = self._idle_since_s = self._clock()
        if now_s - self._since_s > _WINDOW_S:
            self._bytes_per_s = self._ended_bytes / (now_s - self._since_s)
            self._since_s, self._ended_bytes = now_s, 0

    def _retry_after_s(self, count: int) -> int:
        """Until what is in flight has ended, and what others were told to send again, as far as is known.

        Who comes sooner sends a body for nothing: to read and drop it costs a part of what an answer costs.
        """
        if not self._bytes_per_s:
            return 1
        now_s = self._clock()
        first_s = now_s + self.held_bytes / self._bytes_per_s
        latest_s = now_s + _MAX_RETRY_AFTER_S
        self._next_turn_s = min(max(first_s, self._next_turn_s) + count / self._bytes_per_s, latest_s)
        return max(1, math.ceil(self._next_turn_s - now_s))
