"""Begins and finishes batches on the device, and learns from their times. Used by one thread at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bedplate.engine.containment import Containment, NotFiniteOutput, Outcome, Run
from bedplate.engine.faults import DeviceOutOfMemory
from bedplate.engine.profile import ModelProfile, ModelProfiles
from bedplate.engine.schedule import Batch
from bedplate.engine.work import Array, QueuedRequest, Runnable
from bedplate.errors import Internal, NotFinite, OutOfMemory, ServiceError
from bedplate.wire import PROBE

logger = logging.getLogger(__name__)
# Batches on a device that takes the next one while it computes: more would only wait there instead of in the queue.
_OVERLAPPING = 2


class DeviceObserver(Protocol):
    def batch_computed(self, model: Any, items: int) -> None: ...

    def batch_failed(self, model: Any) -> None: ...

    def out_of_memory(self, model: Any) -> None: ...


@dataclass(eq=False)
class InHand:
    """A batch between the queue and its answers."""

    batch: Batch
    profile: ModelProfile
    started_ns: int
    inputs: Array | None = None  # (items, *input shape)
    first: Run | None = None  # the first attempt

    @property
    def model(self) -> Runnable:
        return self.batch.works[0].model


class Device:
    def __init__(self, clock: Callable[[], int], profiles: ModelProfiles, observer: DeviceObserver):
        self._clock = clock
        self._profiles = profiles
        self._observer = observer
        self._last_end_ns = 0
        self.batches = 0  # that brought an answer
        # Replaced, never changed: other threads read it.
        self.in_hand: tuple[InHand, ...] = ()

    @property
    def is_full(self) -> bool:
        """True if a batch has to be finished before the next one may begin."""
        if not self.in_hand:
            return False
        overlap = all(each.model.overlaps for each in self.in_hand)
        return len(self.in_hand) >= (_OVERLAPPING if overlap else 1)

    def free_ns(self, now_ns: int) -> float:
        """The predicted time at which everything in hand will be finished."""
        if not self.in_hand:
            return now_ns
        end_ns = 0.0
        for each in self.in_hand:
            end_ns = max(end_ns, each.started_ns) + each.profile.expect_ns(each.batch.cost)
        # What is overdue by some time is expected to take that time again.
        return max(end_ns, now_ns, 2 * now_ns - end_ns)

    def take(self, batch: Batch, now_ns: int) -> None:
        """Take the batch in hand."""
        for work in batch.works:
            work.queue_ns = now_ns - work.submitted_ns
            work.batch_items = batch.items
        self.in_hand = (*self.in_hand, InHand(batch, self._profiles.of(batch.works[0].model), now_ns))

    def begin(self) -> None:
        """Send the batch that was taken last to the device; if the device does not overlap, `finish` computes it."""
        current = self.in_hand[-1]
        model = current.model
        # A copy even of one: torch wants memory that it may write. For many small ones thrice as fast as concatenate.
        first = current.batch.works[0]
        parts: list[Any] = [work.inputs for work in current.batch.works]  # buffers, which numpy's types do not say
        joined = bytearray().join(parts)
        inputs = np.frombuffer(joined, first.inputs.dtype).reshape(current.batch.items, *first.shape)
        current.inputs = inputs
        current.started_ns = self._clock()
        for work in current.batch.works:
            work.batch_ns = current.started_ns - work.submitted_ns - work.queue_ns
        if model.overlaps:
            current.first = _begun(model, inputs)

    def finish(self) -> list[QueuedRequest]:
        """Wait for the oldest batch and return its requests, settled.

        Raises:
            DeviceLost: this process cannot compute anything any more.
        """
        current = self.in_hand[0]
        assert current.inputs is not None
        model = current.model
        containment = Containment(
            model.run, lambda: _nobody_waits(current.batch.works, self._clock()), model.bundle.output.answerable
        )
        outcome = containment.compute(current.inputs, current.first)
        end_ns = self._clock()
        took_ns = end_ns - max(current.started_ns, self._last_end_ns)
        self._last_end_ns = end_ns
        self.batches += len(outcome.faults) < current.batch.items
        self._learn(current, outcome, took_ns)
        self.in_hand = self.in_hand[1:]
        _share_out(outcome, current.batch.works, took_ns)
        return current.batch.works

    def _learn(self, current: InHand, outcome: Outcome, took_ns: int) -> None:
        profile, model, items = current.profile, current.model, current.batch.items
        profile.items += items - len(outcome.faults)
        profile.failures += len(outcome.faults)
        faults = [error for error in outcome.faults.values() if not isinstance(error, NotFiniteOutput)]
        if outcome.too_many is not None:
            profile.shrink(outcome.too_many)
            self._observer.out_of_memory(model)
            logger.warning("out of memory", extra={"items": outcome.too_many, "items_from_now": profile.max_items})
        elif not faults:
            profile.learn(current.batch.cost, took_ns)
        if faults:
            self._observer.batch_failed(model)
            # Once for the batch: a model that is broken fails each of its items.
            logger.error("a batch failed", exc_info=faults[0], extra={"batch_items": items, "failed": len(faults)})
        if len(faults) < items and any(work.priority != PROBE for work in current.batch.works):
            self._observer.batch_computed(model, items)


def _begun(model: Any, inputs: Array) -> Run:
    """The first attempt, under way. What fails already now fails in its turn."""
    try:
        finish = model.begin(inputs)
    except Exception as error:
        failure = error

        def fail(_: Array) -> Array:
            raise failure

        return fail
    return lambda _: finish()


def _nobody_waits(works: list[QueuedRequest], now_ns: int) -> bool:
    return all(work.cancelled or work.is_late(now_ns) for work in works)


def _share_out(outcome: Outcome, works: list[QueuedRequest], compute_ns: int) -> None:
    start = 0
    for work in works:
        work.compute_ns = compute_ns
        stop = start + work.items
        failed = next((item for item in range(start, stop) if item in outcome.faults), None) if outcome.faults else None
        if failed is None and outcome.outputs is not None:
            work.outputs = outcome.outputs[start:stop]
        else:
            place = start if failed is None else failed
            work.error = _told(outcome.faults[place], place - start if work.items > 1 else None)
        start = stop


def _told(fault: Exception, item: int | None) -> ServiceError:
    """What a caller may know of it; the log has the rest.

    Args:
        item: which of several in the request, counted from 0.
    """
    where = "" if item is None else f" (item {item} of the request, counted from 0)"
    if isinstance(fault, NotFiniteOutput):
        return NotFinite(f"the model's answer is not finite{where}", next_step="check the input for extreme values")
    if isinstance(fault, DeviceOutOfMemory):
        return OutOfMemory(f"the device has no memory for it{where}", next_step="send fewer or smaller items")
    return Internal(f"the model failed{where}")
