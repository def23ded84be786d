"""Tasks of the device thread other than batches, such as warming up a model. The owner's lock guards them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Jobs:
    """The queued tasks, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Callable[[], T]) -> Future[T]:
        """Queue a task; the future gets its result once it has run."""
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
