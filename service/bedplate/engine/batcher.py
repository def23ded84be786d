"""The queue before the device, and the thread that owns it.

While the device works requests gather; when it is free it takes what is there. Everything a caller may see is a
`QueuedRequest` that comes back settled, exactly once, through `deliver`; a cancelled one never comes back.

To wake a thread takes longer than a small batch. So whoever queues requests may compute short batches itself, while the
thread rests (docs/adr/0013). One of the two has the device at a time: `_busy` says the thread, `_lent` the other.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from bedplate.engine import refusals
from bedplate.engine.admission import Admission
from bedplate.engine.device import Device, DeviceObserver
from bedplate.engine.jobs import Jobs
from bedplate.engine.profile import ModelProfiles
from bedplate.engine.schedule import Schedule
from bedplate.engine.work import Key, QueuedRequest, Runnable, key_of
from bedplate.errors import ServiceError
from bedplate.wire import now_ns

logger = logging.getLogger(__name__)
T = TypeVar("T")
# What may be computed outside of the device thread, at a time: its caller does nothing else meanwhile.
_SHORT_NS = 1_000_000


class Observer(DeviceObserver, Protocol):
    """Is told what happens, by the device thread and by those that submit and cancel."""

    def rejected(self, reason: str) -> None: ...

    def cancelled(self, stage: str) -> None: ...


class Batcher:
    """Bounded queue and device thread.

    Args:
        deliver: takes the settled works of one batch; called in the device thread.
        queue_limit: requests that may wait, beside those on the device.
        wait_ns: how long an incomplete batch waits for company; 0 sends it at once.
        on_lost: called when the device is lost, or its thread ends otherwise than by a drain.
        offer: asks somebody to call `compute_short` soon; called in the device thread when it could rest and what waits
            is short. Without it that thread goes on with it.
        announce: told of each request that is computed alone, right before; called in the device thread.
    """

    def __init__(
        self,
        deliver: Callable[[list[QueuedRequest]], None],
        queue_limit: int,
        clock: Callable[[], int] = now_ns,
        *,
        observer: Observer,
        wait_ns: int = 0,
        on_lost: Callable[[BaseException], None],
        offer: Callable[[], object] | None = None,
        announce: Callable[[QueuedRequest], object] = lambda work: None,
    ):
        self._deliver = deliver
        self._clock = clock
        self._observer = observer
        self._wait_ns = wait_ns
        self._on_lost = on_lost
        self._offer = offer
        self._announce = announce
        self._profiles = ModelProfiles()
        self._schedule = Schedule(lambda work: self._profiles.of(work.model).limits_for(work))
        self._admission = Admission(self._schedule, self._profiles, queue_limit)
        self._device = Device(clock, self._profiles, observer)
        self._jobs = Jobs()
        self._retiring: list[tuple[Key, Future[None]]] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._numbers = itertools.count(1)
        self._jobs_done = 0
        self._draining = False
        self._busy = False
        self._lent = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self, warm_up: Callable[[], None] = lambda: None) -> Future[None]:
        """Start the device thread with `warm_up`; the future tells how that went. What torch sets up is per thread."""
        ready: Future[None] = Future()
        self._warm_up, self._ready = warm_up, ready
        self._thread.start()
        return ready

    def submit(self, work: QueuedRequest) -> None:
        """`queue`, and wake the device thread."""
        self.queue(work)
        with self._lock:
            self._changed.notify()

    def queue(self, work: QueuedRequest) -> None:
        """Let one request wait, until `compute_short` is called after the last of them.

        Raises:
            EngineBusy: the queue is full, or too much waits for the answer to be in time.
            DeadlineExceeded: its deadline has passed already, or would even on an idle device.
            Draining: the engine is stopping.
        """
        now = self._clock()
        work.come(now, next(self._numbers))
        with self._lock:
            try:
                if self._draining:
                    raise refusals.draining()
                self._admission.admit(work, now, self._busy, self._device.free_ns)
            except ServiceError as refusal:
                self._observer.rejected(refusal.code)
                raise
            self._schedule.add(work)

    def compute_short(self) -> list[QueuedRequest]:
        """Compute what waits here and now, as far as that is short; the device thread is woken for what is left.

        Returns: what is settled, as `deliver` takes it.
        """
        until_ns = self._clock() + _SHORT_NS
        settled: list[QueuedRequest] = []
        try:
            while self._borrow(until_ns, settled):
                self._device.begin()
                settled += self._device.finish()
        except BaseException as error:
            # As in the device thread. It gets nothing back that nobody can use any more.
            self._on_lost(error)
        return [work for work in settled if not work.cancelled]

    def _borrow(self, until_ns: int, settled: list[QueuedRequest]) -> bool:
        """True if a short batch is in hand for the caller to compute; the thread rests until the caller asks again."""
        with self._lock:
            self._lent = False
            now = self._clock()
            if self._may_rest() and self._is_short(until_ns - now):
                settled += self._take_late(now)
                self._lent = self._take_batch(now)
            elif self._has_something_to_do() or self._retiring:
                self._changed.notify()
            return self._lent

    def _may_rest(self) -> bool:
        """The device thread has nothing to do that only it can do, and no batch may come to need it soon."""
        needed = self._busy or self._device.in_hand or self._jobs or self._retiring or self._draining or self._wait_ns
        return not needed

    def _is_short(self, limit_ns: int) -> bool:
        """True if something waits, and the next batch takes no longer than that."""
        first = self._schedule.first()
        if first is None or first.model.overlaps or first.alone:
            return False
        return self._profiles.of(first.model).is_short(self._schedule.cost, limit_ns)

    def cancel(self, work: QueuedRequest) -> None:
        """Forget a request; on the device already, its answer is dropped."""
        with self._lock:
            work.cancelled = True
            waited = self._schedule.remove(work)
        self._observer.cancelled("queue" if waited else "device")

    def execute(self, job: Callable[[], T]) -> Future[T]:
        """Run `job` in the device thread, between two batches; requests wait meanwhile.

        The future fails with what `job` raises, or with Draining.
        """
        with self._lock:
            if self._draining:
                refused: Future[T] = Future()
                refused.set_exception(refusals.draining())
                return refused
            future = self._jobs.add(job)
            self._changed.notify()
        return future

    def pause(self, key: Key) -> None:
        """Take no request of this (name, version); those that come wait, within the limits of the queue."""
        with self._lock:
            self._schedule.held.add(key)

    def resume(self, key: Key) -> None:
        with self._lock:
            self._schedule.held.discard(key)
            self._changed.notify()

    def is_paused(self, key: Key) -> bool:
        return key in self._schedule.held

    def dismiss(self, key: Key, error: ServiceError) -> None:
        """Answer every request of a model that waits with `error`; a pause ends."""
        with self._lock:
            works = self._schedule.take_all(key)
            self._schedule.held.discard(key)
            self._changed.notify()
        self._refuse(works, error)

    def retire(self, key: Key) -> Future[None]:
        """Done once no request of a model that takes no new ones waits or is on the device; then it is forgotten."""
        future: Future[None] = Future()
        with self._lock:
            self._retiring.append((key, future))
            self._changed.notify()
        return future

    def learn(self, model: Runnable, cost: int, took_ns: int) -> None:
        """A batch that the model computed outside of the queue, while it was warmed up."""
        self._profiles.of(model).learn(cost, took_ns)

    def figures(self, key: Key) -> dict[str, Any]:
        """For operators: what was computed and learned, and what waits; empty before the first batch."""
        figures = self._profiles.figures(key)
        return figures and {**figures, "waiting": sum(key_of(work.model) == key for work in self._schedule.waiting)}

    @property
    def depth(self) -> int:
        """Requests that wait; without the lock, so that asking never holds up the device."""
        return len(self._schedule)

    @property
    def batches(self) -> int:
        """That brought an answer, and jobs: the watchdog's sign of progress."""
        return self._device.batches + self._jobs_done

    @property
    def idle(self) -> bool:
        with self._lock:
            return not self._busy and not self._has_something_to_do()

    def drain(self) -> None:
        """Take nothing new; the thread ends when the queue is empty."""
        with self._lock:
            self._draining = True
            held = [work for key in self._schedule.held for work in self._schedule.take_all(key)]
            self._schedule.held.clear()
            self._changed.notify()
        self._refuse(held, refusals.draining())

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
        try:
            self._work()
        except BaseException as error:
            # DeviceLost, or a fault of ours. A program without this thread would look alive and answer nobody.
            self._on_lost(error)

    def _work(self) -> None:
        while True:
            job, is_new_batch, late = self._next()
            self._settle(late)
            if job:
                self._finish_all()
                job()
                self._jobs_done += 1
            elif is_new_batch and self._device.in_hand[-1].batch.works[0].alone:
                self._compute_alone()
            elif is_new_batch:
                self._device.begin()
                while self._device.is_full:
                    self._settle(self._device.finish())
            elif self._device.in_hand:
                self._settle(self._device.finish())
            elif self._draining and not late:
                return

    def _compute_alone(self) -> None:
        """The batch that was taken last, with nothing else on the device: if this process ends, it was that request."""
        while len(self._device.in_hand) > 1:
            self._settle(self._device.finish())
        self._announce(self._device.in_hand[0].batch.works[0])
        self._device.begin()
        self._settle(self._device.finish())

    def _next(self) -> tuple[Callable[[], None] | None, bool, list[QueuedRequest]]:
        """What comes next, in this order: a job, a batch that the device has now, finishing what it has, the end.

        Also those that are too late for the device.
        """
        with self._lock:
            self._busy = False
            self._let_retire()
            if self._offer and self._may_rest() and self._is_short(_SHORT_NS):
                self._offer()
                self._changed.wait()
                self._let_retire()
            while self._lent or not self._has_something_to_do():
                self._changed.wait()
                self._let_retire()
            self._wait_for_company()
            self._busy = True
            now = self._clock()
            late = self._take_late(now)
            job = self._jobs.take()
            return job, not job and self._take_batch(now), late

    def _take_late(self, now: int) -> list[QueuedRequest]:
        late = self._schedule.take_late(now)
        for work in late:
            work.error = refusals.too_late(work, now)
            self._observer.rejected(work.error.code)
        return late

    def _take_batch(self, now: int) -> bool:
        batch = self._schedule.take()
        if batch:
            self._device.take(batch, now)
        return batch is not None

    def _has_something_to_do(self) -> bool:
        return bool(self._jobs or self._device.in_hand or self._draining or self._schedule.first())

    def _let_retire(self) -> None:
        """Those of whose models nothing waits or is on the device any more."""
        if not self._retiring:
            return
        needed = {key_of(each.model) for each in (*self._schedule, *self._device.in_hand)}
        done = [(key, future) for key, future in self._retiring if key not in needed]
        self._retiring = [(key, future) for key, future in self._retiring if key in needed]
        for key, future in done:
            self._profiles.forget(key)
            future.set_result(None)

    def _wait_for_company(self) -> None:
        """Until the next batch is full, or its oldest request has waited long enough."""
        while self._wait_ns and not (self._jobs or self._device.in_hand or self._draining):
            batches = self._schedule.batches()
            if not batches or batches[0].is_full:
                return
            left_ns = batches[0].oldest_ns + self._wait_ns - self._clock()
            if left_ns <= 0:
                return
            self._changed.wait(left_ns / 1e9)

    def _finish_all(self) -> None:
        while self._device.in_hand:
            self._settle(self._device.finish())

    def _refuse(self, works: list[QueuedRequest], error: ServiceError) -> None:
        for work in works:
            work.error = error
        self._settle(works)

    def _settle(self, works: list[QueuedRequest]) -> None:
        alive = [work for work in works if not work.cancelled]
        if alive:
            self._deliver(alive)
