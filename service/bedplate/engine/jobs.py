"""What the device thread does beside batches, such as warming a model up. Guarded by the lock of its owner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Jobs:
    """Those that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Callable[[], T]) -> Future[T]:
        """The future tells how the job went, once it was taken and run."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self._waiting.append(run)
        return future

    def take(self) -> Callable[[], None] | None:
        return self._waiting.popleft() if self._waiting else None
