"""Who may still come in: only a request that the queue has room for, and whose answer will be in time, if what was
learned holds. Who may not is told when to come again.

The finish is predicted with batches as full as they can get. Predicting with what waits right now lets in too many:
each batch fills up after the prediction was made, every answer comes a little late, and under load all are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable

from bedplate.engine import refusals
from bedplate.engine.profile import ModelProfiles
from bedplate.engine.schedule import Batch, Schedule
from bedplate.engine.work import QueuedRequest
from bedplate.wire import PROBE

# Of the time that a request is expected to wait: small errors of several batches add up, and answers have a way to go.
_DOUBT = 0.02
# Probes that may wait beside a full queue. A front end has one of each model at a time, the watchdog one.
_PROBES = 64


class Admission:
    """Judges requests; changes nothing.

    Args:
        queue_limit: requests that may wait, beside those on the device.
    """

    def __init__(self, schedule: Schedule, profiles: ModelProfiles, queue_limit: int):
        self._schedule = schedule
        self._profiles = profiles
        self._queue_limit = queue_limit

    def admit(self, work: QueuedRequest, now_ns: int, is_device_busy: bool, free_ns: Callable[[int], float]) -> None:
        """Nothing if `work` may wait.

        Args:
            free_ns: when the device will be free, seen from now.

        Raises:
            EngineBusy: the queue is full, or too much waits for the answer to be in time; says when to come again.
            DeadlineExceeded: its deadline has passed already, or would even on an idle device.
        """
        if work.is_late(now_ns):
            raise refusals.too_late(work, now_ns)
        waiting = len(self._schedule)
        if waiting >= self._queue_limit:
            limit = self._queue_limit + (_PROBES if work.priority == PROBE else 0)
            if waiting >= limit:
                raise refusals.full(waiting, limit, free_ns(now_ns) - now_ns + self._waiting_ns())
        # An idle device refuses nobody: what was learned may be wrong, and is put right only by computing.
        if work.priority != PROBE and (is_device_busy or waiting):
            self.refuse_if_late(work, now_ns, free_ns(now_ns))

    def refuse_if_late(self, work: QueuedRequest, now_ns: float, free_ns: float) -> None:
        """Nothing if `work` and all that waits behind it will be in time.

        Args:
            free_ns: when the device will be free.

        Raises:
            EngineBusy: it would not, and will once there is less to do; says when.
            DeadlineExceeded: it could not, even with nothing else to do.
        """
        profile = self._profiles.of(work.model)
        if not profile.curve.is_known or self._surely_fits(work, free_ns):
            return
        late_ns = self._late_ns(work, free_ns)
        if late_ns <= 0:
            return
        least_ns = profile.expect_ns(work.cost) + profile.margin_ns
        if 0 < work.deadline_ns < now_ns + least_ns:
            raise refusals.too_short(work.deadline_ns - now_ns, least_ns)
        raise refusals.too_much_waits(len(self._schedule), late_ns)

    def _waiting_ns(self) -> float:
        """What the device will take for all that waits now."""
        return sum(self._expect_ns(batch, batch.cost) for batch in self._schedule.batches())

    def _surely_fits(self, work: QueuedRequest, free_ns: float) -> bool:
        """A bound that is quickly found: as if each request that waits were a full batch of its own."""
        if not self._schedule.comes_last(work):
            return False
        if not work.deadline_ns:
            return True
        longest_ns = (len(self._schedule) + 1) * self._profiles.slowest_ns()
        return free_ns + longest_ns * (1 + _DOUBT) <= work.deadline_ns

    def _late_ns(self, work: QueuedRequest, free_ns: float) -> float:
        """By how much `work` would miss its deadline, or the worst of those whom it would make miss theirs."""
        with_it = self._misses(self._schedule.batches(work), free_ns)
        late_ns = with_it.pop(work, 0.0)
        if with_it and not self._schedule.comes_last(work):
            without_it = self._misses(self._schedule.batches(), free_ns)
            late_ns = max([late_ns, *(by for each, by in with_it.items() if each not in without_it)])
        return late_ns

    def _misses(self, batches: list[Batch], free_ns: float) -> dict[QueuedRequest, float]:
        """Who would be late, and by how many ns, if the device computed these one after another."""
        misses: dict[QueuedRequest, float] = {}
        waiting_ns = 0.0
        for batch in batches:
            waiting_ns += self._expect_ns(batch, batch.full_cost)
            sure_ns = free_ns + waiting_ns * (1 + _DOUBT) + self._profiles.of(batch.works[0].model).margin_ns
            misses |= {work: sure_ns - work.deadline_ns for work in batch.works if work.is_late(sure_ns)}
        return misses

    def _expect_ns(self, batch: Batch, cost: float) -> float:
        return self._profiles.of(batch.works[0].model).expect_ns(cost)
