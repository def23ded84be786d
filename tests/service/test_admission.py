"""Only a request whose answer will be in time comes in, and none that makes another one late."""

import contextlib

import numpy as np
import pytest
from bedplate.engine.admission import Admission
from bedplate.engine.profile import ModelProfiles
from bedplate.engine.schedule import Schedule
from bedplate.engine.work import QueuedRequest
from bedplate.errors import DeadlineExceeded, EngineBusy
from bedplate.wire import BATCH, INTERACTIVE, PROBE

from tests.service.engine_tools import GatedLamp

MS = 1_000_000
NOW = 10_000 * MS


class Desk:
    """An admission before a device that takes 20 ms + 10 ms an item, eight at most."""

    def __init__(self):
        self.lamp = GatedLamp()
        self.profiles = ModelProfiles()
        self.schedule = Schedule(lambda work: self.profiles.of(work.model).limits_for(work))
        self._admission = Admission(self.schedule, self.profiles, queue_limit=1000)
        self._number = 0
        self.now = NOW
        for items in (1, 2, 4, 8):
            self.learn(self.lamp, items, 20 + 10 * items)

    def learn(self, model, items, took_ms):
        self.profiles.of(model).curve.learn(items, took_ms * MS)
        self.profiles.of(model).curve.deviation_ns = 0

    def come(self, timeout_ms=500, items=1, free_in_ms=100, model=None, **options):
        self._number += 1
        work = QueuedRequest(
            model or self.lamp,
            np.zeros((items, 1, 2, 2), np.float32),
            deadline_ns=self.now + int(timeout_ms * MS) if timeout_ms else 0,
            **options,
        )
        work.come(self.now, self._number)
        self._admission.refuse_if_late(work, self.now, self.now + free_in_ms * MS)
        self.schedule.add(work)
        return work

    def wait(self, timeout_ms, priority=INTERACTIVE):
        """Somebody who was let in, rightly or not."""
        items = np.zeros((8, 1, 2, 2), np.float32)
        work = QueuedRequest(self.lamp, items, deadline_ns=self.now + timeout_ms * MS, priority=priority)
        work.come(self.now, 0)
        self.schedule.add(work)

    def come_until_refused(self, **options):
        for accepted in range(1000):
            try:
                self.come(**options)
            except EngineBusy as refusal:
                return accepted, refusal
        raise AssertionError("nobody is refused")


@pytest.fixture
def desk():
    return Desk()


def test_as_many_come_in_as_full_batches_fit_before_the_deadline(desk):
    # 100 ms until the device is free, then three batches of 100 ms; a fourth would end at 500 ms sharp.
    accepted, _ = desk.come_until_refused(timeout_ms=500)

    assert accepted == 24


def test_a_batch_that_can_still_fill_up_is_foreseen_full(desk):
    # Alone it would take 30 ms; by the time it starts others may have joined.
    with pytest.raises(EngineBusy):
        desk.come(timeout_ms=220, free_in_ms=121)

    desk.come(timeout_ms=220, free_in_ms=117)


def test_the_refused_learn_when_to_come_back(desk):
    desk.come(timeout_ms=0, items=8, priority=PROBE)
    for _ in range(20):
        desk.come(timeout_ms=0, items=8, priority=PROBE)

    with pytest.raises(EngineBusy) as refusal:
        desk.come(timeout_ms=500)

    # 100 ms + 21 batches of 100 ms + its own, against 500 ms.
    assert refusal.value.retry_after_s == 2
    assert refusal.value.value == pytest.approx(1800, rel=0.05)


def test_what_cannot_be_done_even_by_an_idle_device_is_no_matter_of_waiting(desk):
    with pytest.raises(DeadlineExceeded) as refusal:
        desk.come(timeout_ms=25, free_in_ms=1)

    assert (refusal.value.value, refusal.value.limit) == (25, 30)


def test_without_a_deadline_everybody_comes_in(desk):
    for _ in range(100):
        desk.come(timeout_ms=0)


def test_before_anything_was_learned_everybody_comes_in(desk):
    unknown = GatedLamp("unknown")

    for _ in range(100):
        desk.come(timeout_ms=1, model=unknown)


def test_nobody_comes_in_at_the_cost_of_somebody_who_already_waits(desk):
    promised = [desk.come(timeout_ms=480) for _ in range(24)]

    with pytest.raises(EngineBusy):
        desk.come(timeout_ms=450)

    assert [work for work in desk.schedule] == promised


def test_an_urgent_request_comes_in_where_those_behind_it_can_wait(desk):
    for _ in range(24):
        desk.come(timeout_ms=5000)

    urgent = desk.come(timeout_ms=300)

    assert desk.schedule.take().works[0] is urgent


def test_jobs_do_not_keep_people_out(desk):
    for _ in range(40):
        desk.come(timeout_ms=60_000, priority=BATCH)

    person = desk.come(timeout_ms=300)

    assert desk.schedule.take().works[0] is person


def test_who_is_late_already_keeps_nobody_out(desk):
    desk.wait(timeout_ms=1)

    desk.come(timeout_ms=500)


def test_a_job_that_is_late_already_keeps_no_person_out(desk):
    desk.wait(timeout_ms=450, priority=BATCH)

    desk.come(timeout_ms=2000, free_in_ms=400)


def test_a_person_in_no_hurry_does_not_come_in_at_the_cost_of_a_job_that_is(desk):
    for _ in range(24):
        desk.come(timeout_ms=480, priority=BATCH)

    with pytest.raises(EngineBusy):
        desk.come(timeout_ms=60_000)


def test_four_who_name_500_ms_leave_one_who_names_nothing_its_turn_and_are_answered_all_the_same(desk):
    patient = desk.come(timeout_ms=0, items=8)
    turns, hurried = 0, 0
    wait_for = {desk.come(items=8, free_in_ms=0) for _ in range(4)}

    while patient in desk.schedule:
        [done] = desk.schedule.take().works
        desk.now += 100 * MS
        assert not done.is_late(desk.now)
        turns += 1
        if done in wait_for:
            hurried += 1
            with contextlib.suppress(EngineBusy):
                wait_for.add(desk.come(items=8, free_in_ms=0))

    assert desk.now - NOW <= 1000 * MS
    assert hurried == turns - 1


def test_requests_of_another_model_count_with_their_own_times(desk):
    slow = GatedLamp("slow")
    for items in (1, 2, 4, 8):
        desk.learn(slow, items, 1000 * items)
    desk.come(timeout_ms=0, items=1, model=slow, priority=PROBE)

    with pytest.raises(EngineBusy) as refusal:
        desk.come(timeout_ms=500)

    # The slow batch may fill up to 8 s before it starts.
    assert refusal.value.retry_after_s == 8


def test_a_model_whose_full_batch_takes_too_long_gets_smaller_batches(desk):
    wide = GatedLamp("wide")
    wide.max_items = wide.max_cost = 64
    for items in (1, 64):
        desk.learn(wide, items, 20 + 10 * items)

    room = desk.profiles.of(wide).limits_for(
        QueuedRequest(wide, np.zeros((1, 1, 2, 2), np.float32), submitted_ns=NOW, deadline_ns=NOW + 500 * MS)
    )

    # Half of 500 ms is for its batch: 20 + 10 x 23.
    assert room.cost == pytest.approx(23)


@pytest.fixture
def admit_one(desk):
    """admit_one(...) to a queue of two that is full, while the device is busy for 900 ms."""
    for _ in range(2):
        desk.come(timeout_ms=0, items=8)
    admission = Admission(desk.schedule, desk.profiles, queue_limit=2)

    def make(**options):
        work = QueuedRequest(desk.lamp, np.zeros((1, 1, 2, 2), np.float32), **options)
        work.come(desk.now, 3)
        admission.admit(work, desk.now, is_device_busy=True, free_ns=lambda now_ns: now_ns + 900 * MS)

    return make


def test_a_full_queue_takes_nobody_and_says_when_it_will_be_empty(admit_one):
    with pytest.raises(EngineBusy) as refusal:
        admit_one()

    assert (refusal.value.value, refusal.value.limit) == (2, 2)
    # 900 ms until the device is free, and two batches of 100 ms.
    assert refusal.value.retry_after_s == 2


def test_a_full_queue_takes_a_probe(admit_one):
    admit_one(priority=PROBE)


def test_a_deadline_that_has_passed_is_told_before_all_else(admit_one):
    with pytest.raises(DeadlineExceeded):
        admit_one(deadline_ns=NOW - MS)
