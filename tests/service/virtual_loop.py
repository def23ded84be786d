"""As much of an event loop as tasks and futures need, with a clock that moves when a test says so."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.AbstractEventLoop):
    """No thread, no socket, no time of its own: what a test does to it, it does again each time."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.faults: list[dict[str, Any]] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._count = 0

    def clock(self) -> int:
        return self.now_ns

    def turn(self) -> None:
        """Run what is ready now, and not what becomes ready by it."""
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    def settle(self) -> None:
        """Run until nothing is ready any more."""
        while self._ready:
            self.turn()

    def advance(self, by_ns: int) -> None:
        """Let time pass; every timer on the way goes off at its own time."""
        self.settle()
        end_ns = self.now_ns + by_ns
        while self._timers and self._timers[0][0] <= end_ns:
            when_ns, _, handle = heapq.heappop(self._timers)
            self.now_ns = max(self.now_ns, when_ns)
            if not handle.cancelled():
                self._ready.append(handle)
            self.settle()
        self.now_ns = end_ns

    def collide(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the very turn in which the next timer goes off, just before it."""
        self.settle()
        if not self._timers:
            return
        self.call_soon(callback)
        self.now_ns, _, handle = heapq.heappop(self._timers)
        self._ready.append(handle)
        self.settle()

    def time(self) -> float:
        return self.now_ns / 1e9

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        return asyncio.Task(coro, loop=self)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        when_ns = self.now_ns + round(delay * 1e9)
        handle = asyncio.TimerHandle(when_ns / 1e9, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when_ns, self._count, handle))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass
