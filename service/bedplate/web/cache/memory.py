"""The first tier of the cache: the most recently used answers of this process, bounded in bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

# What CPython takes for an entry besides the value's own bytes: key, digest, tuple, time, place in the dictionary.
ENTRY_BYTES = 400


class MemoryCache:
    """Values by key, evicted least recently used first.

    Args:
        max_bytes: of values and their overhead.
        ttl_s: after which a value expires.
        clock: seconds.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic):
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires = entry
        if expires <= self._clock():
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store `value` for `ttl_s`, or for the cache's own time, unless it alone exceeds the limit."""
        self._forget(key)
        size = len(value) + ENTRY_BYTES
        if size > self._max_bytes:
            return
        self._entries[key] = (value, self._clock() + (self._ttl_s if ttl_s is None else ttl_s))
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: str) -> None:
        if entry := self._entries.pop(key, None):
            self.used_bytes -= len(entry[0]) + ENTRY_BYTES
