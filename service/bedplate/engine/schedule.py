"""The queue before the device, and its order. It has no threads, no clock and no errors: only the order."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bedplate.engine.work import Key, QueuedRequest, key_of


@dataclass(frozen=True)
class BatchLimits:
    """How much one batch may hold."""

    items: int
    cost: float


# How much a batch may hold that this request is in.
LimitsFor = Callable[[QueuedRequest], BatchLimits]


@dataclass(eq=False)
class Batch:
    """Requests of one bucket that go to the device together; the first always fits, however large.

    The request with the least time left limits the size of the batch.
    """

    limits_for: LimitsFor
    room: BatchLimits = field(init=False)
    time_ns: float = math.inf  # that the one with the least had when it came
    works: list[QueuedRequest] = field(default_factory=list)
    items: int = 0
    cost: int = 0
    is_open: bool = True  # later requests may still join

    @property
    def is_full(self) -> bool:
        """True if not even one more request like the last would fit."""
        return not self.is_open or not self._holds(self.room, self.works[-1])

    @property
    def oldest_ns(self) -> int:
        return min(work.submitted_ns for work in self.works)

    @property
    def full_cost(self) -> float:
        """The cost once everything that may join has joined."""
        if not self.is_open:
            return self.cost
        return max(self.cost, min(self.room.cost, self.room.items * self.cost / self.items))

    def join(self, work: QueuedRequest) -> bool:
        """Add a request; return False, and change nothing, if it does not fit."""
        if not self.works:
            self.room, self.time_ns = self.limits_for(work), work.time_ns
            self.is_open = not work.alone
        elif work.time_ns < self.time_ns:
            room = self.limits_for(work)
            if not self._holds(room, work):
                return False
            self.room, self.time_ns = room, work.time_ns
        elif not self._holds(self.room, work):
            return False
        self.works.append(work)
        self.items += work.items
        self.cost += work.cost
        return True

    def _holds(self, room: BatchLimits, work: QueuedRequest) -> bool:
        return self.items + work.items <= room.items and self.cost + work.cost <= room.cost


class Schedule:
    """The queue by urgency. A batch takes the most urgent request and those that follow it in its bucket."""

    def __init__(self, limits_for: LimitsFor):
        self._room_for = limits_for
        self._works: list[QueuedRequest] = []
        self._no_deadline_before_ns = math.inf  # a bound: the one that it was may have gone
        self.held: set[Key] = set()  # (name, version) of models whose requests are not taken

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[QueuedRequest]:
        return iter(self._works)

    @property
    def waiting(self) -> list[QueuedRequest]:
        """A copy of the queue, for other threads."""
        return self._works.copy()

    @property
    def cost(self) -> int:
        """The cost of everything in the queue."""
        return sum([work.cost for work in self._works])

    def add(self, work: QueuedRequest) -> None:
        if self.comes_last(work):
            self._works.append(work)
        else:
            bisect.insort(self._works, work, key=_urgency)
        if 0 < work.deadline_ns < self._no_deadline_before_ns:
            self._no_deadline_before_ns = work.deadline_ns

    def remove(self, work: QueuedRequest) -> bool:
        """Remove a request; return False if it is not in the queue."""
        place = self._find(work)
        if place is None:
            return False
        del self._works[place]
        return True

    def _find(self, work: QueuedRequest) -> int | None:
        place = bisect.bisect_left(self._works, work.urgency, key=_urgency)
        found = place < len(self._works) and self._works[place] is work
        return place if found else None

    def first(self) -> QueuedRequest | None:
        """Return the most urgent request that may be taken."""
        return next((work for work in self._works if not self._is_held(work)), None)

    def comes_last(self, work: QueuedRequest) -> bool:
        """True if no queued request would go to the device after `work`, which arrives now."""
        return not self._works or self._works[-1].due_ns <= work.due_ns

    def take_all(self, key: Key | None = None) -> list[QueuedRequest]:
        """Remove and return all requests, or those of one model."""
        taken = [work for work in self._works if key is None or key_of(work.model) == key]
        self._works = [work for work in self._works if not (key is None or key_of(work.model) == key)]
        return taken

    def take_late(self, now_ns: float) -> list[QueuedRequest]:
        """Remove and return the requests whose deadline has passed."""
        if now_ns < self._no_deadline_before_ns:
            return []
        late = [work for work in self._works if work.is_late(now_ns)]
        self._works = [work for work in self._works if not work.is_late(now_ns)]
        self._no_deadline_before_ns = min((work.deadline_ns or math.inf for work in self._works), default=math.inf)
        return late

    def take(self) -> Batch | None:
        """Return the next batch, or None. Smaller requests do not overtake one that does not fit any more."""
        first = self.first()
        if first is None:
            return None
        batch = Batch(self._room_for)
        if first.alone:
            self.remove(first)
            batch.join(first)
            return batch
        model, shape = first.bucket
        left: list[QueuedRequest] = []
        for place, work in enumerate(self._works):
            if work.model is not model or work.shape != shape or work.alone:
                left.append(work)
            elif not batch.join(work):
                left += self._works[place:]
                break
        self._works = left
        return batch

    def batches(self, newcomer: QueuedRequest | None = None) -> list[Batch]:
        """Return the batches that `take` would give, one after another, if `newcomer` were queued too."""
        works = self._works
        if newcomer is not None:
            works = works.copy()
            bisect.insort(works, newcomer, key=_urgency)
        batches: list[Batch] = []
        open_batches: dict[Any, Batch] = {}
        for work in works:
            if self._is_held(work):
                continue
            batch = open_batches.get(work.bucket)
            if batch is not None and batch.join(work):
                continue
            if batch is not None:
                batch.is_open = False
            batch = open_batches[work.bucket] = Batch(self._room_for)
            batch.join(work)
            batches.append(batch)
        return batches

    def _is_held(self, work: QueuedRequest) -> bool:
        return bool(self.held) and key_of(work.model) in self.held


def _urgency(work: QueuedRequest) -> tuple[int, int]:
    return work.urgency
