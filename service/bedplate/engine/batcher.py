"""The queue before the device. While the device works requests gather; when it is free it takes what is there.

One thread owns the device. Everything a caller may see is a `Work` that comes back settled, exactly once,
through `deliver`; a cancelled one never comes back.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bedplate.errors import DeadlineExceeded, Draining, EngineBusy, Internal, NotFinite, ServiceError
from bedplate.wire import now_ns

logger = logging.getLogger(__name__)
Array = npt.NDArray[np.float32]
Key = tuple[str, str]  # name and version of a model
T = TypeVar("T")


class Runnable(Protocol):
    max_items: int

    def run(self, items: Array) -> Array: ...


class Observer(Protocol):
    """Is told of each batch, in the device thread."""

    def batch_computed(self, model: Any, items: int) -> None: ...

    def batch_failed(self, model: Any) -> None: ...


@dataclass(eq=False, slots=True)
class Work:
    """One request on its way through the device."""

    model: Runnable
    inputs: Array  # (items, *input shape)
    deadline_ns: int = 0  # absolute, CLOCK_MONOTONIC; 0 is none
    caller: Any = None  # whom `deliver` gives it back to
    request_id: int = 0
    cancelled: bool = False
    submitted_ns: int = 0

    outputs: Array | None = None  # (items, *output shape); None until settled, and with an error
    error: ServiceError | None = None
    queue_ns: int = 0
    compute_ns: int = 0
    batch_items: int = 0

    @property
    def items(self) -> int:
        return len(self.inputs)


class Batcher:
    """Bounded queue and device thread.

    Args:
        deliver: takes the settled works of one batch; called in the device thread.
        queue_limit: requests that may wait; one batch more is on the device.
    """

    def __init__(
        self,
        deliver: Callable[[list[Work]], None],
        queue_limit: int,
        clock: Callable[[], int] = now_ns,
        *,
        observer: Observer,
    ):
        self._deliver = deliver
        self._queue_limit = queue_limit
        self._clock = clock
        self._observer = observer
        self._queue: deque[Work] = deque()
        self._changed = threading.Condition()
        self._draining = False
        self._busy = False
        self._request_ns = 0.0  # of device time, a running mean; tells a refused caller when to come back
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._paused: set[Key] = set()
        self._retiring: list[tuple[Key, Future[None]]] = []
        self.batches = 0  # computed without a failure: the watchdog's sign of progress
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self, warm_up: Callable[[], None] = lambda: None) -> Future[None]:
        """Start the device thread with `warm_up`; the future tells how that went. What torch sets up is per thread."""
        self._warm_up = warm_up
        self._thread.start()
        return self._ready

    def submit(self, work: Work) -> None:
        """Queue one request.

        Raises:
            EngineBusy: the queue is full.
            DeadlineExceeded: its deadline has passed already.
            Draining: the engine is stopping.
        """
        work.submitted_ns = self._clock()
        if _is_late(work, work.submitted_ns):
            raise _too_late(work, work.submitted_ns)
        with self._changed:
            if self._draining:
                raise Draining("the engine is stopping", next_step="send it to another engine", retry_after_s=1)
            if len(self._queue) >= self._queue_limit:
                raise self._too_busy()
            self._queue.append(work)
            self._changed.notify()

    def cancel(self, work: Work) -> None:
        """Forget a request; on the device already, its answer is dropped."""
        with self._changed:
            work.cancelled = True
            if work in self._queue:
                self._queue.remove(work)

    def execute(self, job: Callable[[], T]) -> Future[T]:
        """Run `job` in the device thread, between two batches.

        Raises:
            Draining: the engine is stopping.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._draining:
                raise Draining("the engine is stopping", next_step="send it to another engine", retry_after_s=1)
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    def pause(self, key: Key) -> None:
        """Let the requests of one model wait, those that come too; `resume` or `dismiss` ends it."""
        with self._changed:
            self._paused.add(key)

    def resume(self, key: Key) -> None:
        with self._changed:
            self._paused.discard(key)
            self._changed.notify()

    def is_paused(self, key: Key) -> bool:
        return key in self._paused

    def dismiss(self, key: Key, error: ServiceError) -> None:
        """Answer the waiting requests of one model with `error`; a pause ends."""
        with self._changed:
            dismissed = [work for work in self._queue if _key(work) == key]
            self._queue = deque(work for work in self._queue if _key(work) != key)
            self._paused.discard(key)
            self._changed.notify()
        for work in dismissed:
            work.error = error
        self._settle(dismissed)

    def retire(self, key: Key) -> Future[None]:
        """Done once no request of a model that takes no new ones waits or is on the device; then it is forgotten."""
        future: Future[None] = Future()
        with self._changed:
            self._retiring.append((key, future))
            self._changed.notify()
        return future

    def stats(self, key: Key) -> dict[str, Any]:
        return {}

    @property
    def depth(self) -> int:
        """Requests that wait; without the lock, so that asking never holds up the device."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._takeable() and not self._busy

    def drain(self) -> None:
        """Take nothing new; the thread ends when the queue is empty."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of a drain; False if it did not come in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._warm_up()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        self._work()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._let_retire()
                self._changed.wait_for(lambda: self._jobs or self._retiring or self._takeable() or self._draining)
                if self._draining and not self._takeable():
                    break
                job = self._jobs.popleft() if self._jobs else None
                if job is None and not self._takeable():
                    continue
                self._busy = True
                batch, late = ([], []) if job else self._take()
            if job:
                self._do(*job)
            if batch:
                self._compute(batch)
            self._settle(batch + late)
            del batch, late, job
        self._end()

    def _takeable(self) -> bool:
        return bool(self._queue) and (not self._paused or any(_key(work) not in self._paused for work in self._queue))

    def _let_retire(self) -> None:
        waiting = {_key(work) for work in self._queue} if self._retiring else set()
        done = [entry for entry in self._retiring if entry[0] not in waiting]
        self._retiring = [entry for entry in self._retiring if entry[0] in waiting]
        for _, future in done:
            future.set_result(None)

    def _do(self, job: Callable[[], Any], future: Future[Any]) -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)
        self.batches += 1

    def _end(self) -> None:
        with self._changed:
            left, self._queue = list(self._queue), deque()
            jobs, self._jobs = list(self._jobs), deque()
            self._let_retire()
        for work in left:
            work.error = Draining("the engine is stopping", next_step="send it to another engine", retry_after_s=1)
        self._settle(left)
        for _, future in jobs:
            future.set_exception(Draining("the engine is stopping"))

    def _take(self) -> tuple[list[Work], list[Work]]:
        """What goes to the device next, and what is too late for it."""
        now = self._clock()
        batch: list[Work] = []
        late: list[Work] = []
        later: deque[Work] = deque()
        items, full = 0, False
        for work in self._queue:
            if _is_late(work, now):
                work.error = _too_late(work, now)
                late.append(work)
            elif (self._paused and _key(work) in self._paused) or full or (batch and work.model is not batch[0].model):
                later.append(work)
            elif batch and items + work.items > work.model.max_items:
                full = True  # smaller ones behind it must not overtake
                later.append(work)
            else:
                batch.append(work)
                items += work.items
        self._queue = later
        for work in batch:
            work.queue_ns = now - work.submitted_ns
            work.batch_items = items
        return batch, late

    def _compute(self, batch: list[Work]) -> None:
        started_ns = self._clock()
        try:
            # A copy even of one: torch wants memory that it may write.
            outputs = batch[0].model.run(np.concatenate([work.inputs for work in batch]))
            if len(outputs) != batch[0].batch_items:
                raise RuntimeError(f"the model answered {len(outputs)} of {batch[0].batch_items} items")
        except Exception:
            # The device thread outlives whatever a model does; the callers learn that it was not their fault.
            logger.exception("a batch failed", extra={"batch_items": batch[0].batch_items})
            self._observer.batch_failed(batch[0].model)
            for work in batch:
                work.error = Internal("the model failed")
            return
        compute_ns = self._clock() - started_ns
        self.batches += 1
        self._observer.batch_computed(batch[0].model, len(outputs))
        self._request_ns += 0.1 * (compute_ns / len(batch) - self._request_ns)
        _share_out(outputs, batch, compute_ns)

    def _settle(self, works: list[Work]) -> None:
        alive = [work for work in works if not work.cancelled]
        if alive:
            self._deliver(alive)

    def _too_busy(self) -> EngineBusy:
        depth = len(self._queue)
        return EngineBusy(
            f"queue holds {depth} of {self._queue_limit} requests",
            value=depth,
            limit=self._queue_limit,
            next_step="retry later, or ask the operator for more engines",
            retry_after_s=max(1, math.ceil(depth * self._request_ns / 1e9)),
        )


def _share_out(outputs: Array, batch: list[Work], compute_ns: int) -> None:
    start = 0
    for work in batch:
        part = outputs[start : start + work.items]
        start += work.items
        work.compute_ns = compute_ns
        if np.isfinite(part).all():
            work.outputs = part
        else:
            work.error = NotFinite("the model's answer is not finite", next_step="check the input for extreme values")


def _key(work: Work) -> Key:
    bundle = work.model.bundle  # type: ignore[attr-defined]
    return bundle.name, bundle.version


def _is_late(work: Work, now: int) -> bool:
    return 0 < work.deadline_ns <= now


def _too_late(work: Work, now: int) -> DeadlineExceeded:
    late_ms = (now - work.deadline_ns) / 1e6
    return DeadlineExceeded(
        f"the deadline passed {late_ms:.0f} ms before the device was free",
        value=round(late_ms),
        limit=0,
        next_step="allow more time, or retry when there is less to do",
    )
