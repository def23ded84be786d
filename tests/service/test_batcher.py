"""While the device works, requests gather; nobody waits for company, nobody waits for ever."""

import queue

import numpy as np
import pytest
from bedplate.engine.batcher import Batcher
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.work import Work
from bedplate.errors import DeadlineExceeded, Draining, EngineBusy, Internal, NotFinite
from bedplate.wire import now_ns

from tests.service.engine_tools import DEADLINE_S, GatedLamp, bright, wait_until
from tests.service.lamp import lamp_logits


class Settled:
    """What the batcher delivers, batch by batch."""

    def __init__(self):
        self._batches = queue.SimpleQueue()

    def __call__(self, works):
        self._batches.put(works)

    def next(self):
        return self._batches.get(timeout=DEADLINE_S)

    def is_empty(self):
        return self._batches.empty()


class Clock:
    def __init__(self):
        self.now_ns = 1_000_000_000

    def __call__(self):
        return self.now_ns


@pytest.fixture
def settled():
    return Settled()


@pytest.fixture
def batcher_of(settled):
    started = []

    def make(queue_limit=64, clock=now_ns):
        batcher = Batcher(settled, queue_limit, clock, observer=EngineMetrics(), on_lost=pytest.fail)
        batcher.start().result(DEADLINE_S)
        started.append(batcher)
        return batcher

    yield make
    for batcher in started:
        batcher.drain()
        assert batcher.join(DEADLINE_S)


@pytest.fixture
def lamp():
    model = GatedLamp(is_open=False)
    yield model
    model.gate.set()


def occupy(batcher, model):
    """Give the device a request that it holds until the gate opens."""
    work = Work(model, bright())
    batcher.submit(work)
    model.begun.get(timeout=DEADLINE_S)
    return work


def test_a_lone_request_goes_to_the_device_at_once(batcher_of, settled):
    lamp = GatedLamp()
    work = Work(lamp, bright())

    batcher_of().submit(work)

    assert settled.next() == [work]
    assert np.array_equal(work.outputs, lamp_logits(bright()))
    assert work.batch_items == 1
    assert work.compute_ns > 0


def test_requests_gather_while_the_device_works(batcher_of, settled, lamp):
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    waiting = [Work(lamp, bright(2, value)) for value in (0.1, 0.2, 0.3)]
    for work in waiting:
        batcher.submit(work)

    lamp.gate.set()

    assert settled.next() == [first]
    assert settled.next() == waiting
    assert [work.batch_items for work in waiting] == [6, 6, 6]
    for work, value in zip(waiting, (0.1, 0.2, 0.3), strict=True):
        assert np.array_equal(work.outputs, lamp_logits(bright(2, value)))


def test_a_batch_holds_no_more_items_than_the_model_takes_and_nobody_overtakes(batcher_of, settled, lamp):
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    five, four, one = (Work(lamp, bright(items)) for items in (5, 4, 1))
    for work in (five, four, one):
        batcher.submit(work)

    lamp.gate.set()

    assert [settled.next() for _ in range(3)] == [[first], [five], [four, one]]


def test_a_batch_holds_one_model_and_the_oldest_request_chooses_it(batcher_of, settled, lamp):
    other = GatedLamp("other")
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    a, b, c = Work(other, bright()), Work(lamp, bright()), Work(other, bright())
    for work in (a, b, c):
        batcher.submit(work)

    lamp.gate.set()

    assert [settled.next() for _ in range(3)] == [[first], [a, c], [b]]


def test_a_full_queue_refuses_with_depth_limit_and_when_to_retry(batcher_of, settled, lamp):
    batcher = batcher_of(queue_limit=2)
    occupy(batcher, lamp)
    kept = [Work(lamp, bright()), Work(lamp, bright())]
    for work in kept:
        batcher.submit(work)

    with pytest.raises(EngineBusy) as refusal:
        batcher.submit(Work(lamp, bright()))

    assert (refusal.value.value, refusal.value.limit) == (2, 2)
    assert refusal.value.retry_after_s >= 1
    lamp.gate.set()
    settled.next()
    assert settled.next() == kept


def test_the_time_to_retry_follows_what_a_request_costs(batcher_of, settled, lamp):
    clock = Clock()
    batcher = batcher_of(queue_limit=10, clock=clock)
    for _ in range(100):  # requests of 2 s each, until the mean has learnt it
        lamp.gate.clear()
        occupy(batcher, lamp)
        clock.now_ns += 2_000_000_000
        lamp.gate.set()
        settled.next()
    lamp.gate.clear()
    occupy(batcher, lamp)
    for _ in range(10):
        batcher.submit(Work(lamp, bright()))

    with pytest.raises(EngineBusy) as refusal:
        batcher.submit(Work(lamp, bright()))

    assert refusal.value.retry_after_s == 22  # ten wait, one is on the device


def test_a_cancelled_request_makes_room_and_never_reaches_the_device(batcher_of, settled, lamp):
    batcher = batcher_of(queue_limit=1)
    first = occupy(batcher, lamp)
    cancelled, kept = Work(lamp, bright(value=0.5)), Work(lamp, bright(value=0.7))
    batcher.submit(cancelled)

    batcher.cancel(cancelled)
    batcher.submit(kept)
    lamp.gate.set()

    assert [settled.next(), settled.next()] == [[first], [kept]]
    assert lamp.begun.get(timeout=DEADLINE_S)[0, 0, 0, 0] == np.float32(0.7)


def test_a_request_cancelled_on_the_device_is_not_delivered(batcher_of, settled, lamp):
    batcher = batcher_of()
    cancelled = occupy(batcher, lamp)
    after = Work(lamp, bright())

    batcher.cancel(cancelled)
    batcher.submit(after)
    lamp.gate.set()

    assert settled.next() == [after]


def test_a_deadline_that_has_passed_is_refused_at_the_door(batcher_of):
    clock = Clock()
    batcher = batcher_of(clock=clock)

    with pytest.raises(DeadlineExceeded):
        batcher.submit(Work(GatedLamp(), bright(), deadline_ns=clock.now_ns))


def test_a_deadline_that_passes_in_the_queue_never_reaches_the_device(batcher_of, settled, lamp):
    clock = Clock()
    batcher = batcher_of(clock=clock)
    first = occupy(batcher, lamp)
    late, patient = Work(lamp, bright(), deadline_ns=clock.now_ns + 1), Work(lamp, bright(value=0.5))
    batcher.submit(late)
    batcher.submit(patient)
    clock.now_ns += 2

    lamp.gate.set()

    assert settled.next() == [first]
    assert [settled.next(), settled.next()] == [[late], [patient]]
    assert isinstance(late.error, DeadlineExceeded)
    assert late.outputs is None
    assert patient.outputs is not None
    assert len(lamp.begun.get(timeout=DEADLINE_S)) == 1


def test_a_batch_that_fails_answers_every_member_and_the_device_lives_on(batcher_of, settled, lamp, caplog):
    batcher = batcher_of()
    occupy(batcher, lamp)
    members = [Work(lamp, bright()), Work(lamp, bright())]
    for work in members:
        batcher.submit(work)
    lamp.fault = ValueError("secret detail")

    lamp.gate.set()
    settled.next()
    assert settled.next() == members
    lamp.fault = None
    after = Work(lamp, bright())
    batcher.submit(after)

    assert all(isinstance(work.error, Internal) and "secret" not in str(work.error) for work in members)
    assert settled.next() == [after]
    assert after.outputs is not None
    assert "a batch failed" in caplog.text


def test_a_model_that_answers_too_few_items_gives_nobody_a_wrong_answer(batcher_of, settled):
    class Short(GatedLamp):
        def run(self, items):
            return super().run(items)[:-1]

    work = Work(Short(), bright(2))

    batcher_of().submit(work)

    settled.next()
    assert isinstance(work.error, Internal)


def test_only_the_request_whose_answer_is_not_finite_fails(batcher_of, settled, lamp):
    batcher = batcher_of()
    occupy(batcher, lamp)
    poisoned, healthy = Work(lamp, bright(value=np.nan)), Work(lamp, bright())
    batcher.submit(poisoned)
    batcher.submit(healthy)

    lamp.gate.set()

    settled.next()
    assert settled.next() == [poisoned, healthy]
    assert isinstance(poisoned.error, NotFinite)
    assert healthy.outputs is not None


def test_draining_finishes_what_is_queued_and_refuses_the_rest(batcher_of, settled, lamp):
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    queued = Work(lamp, bright())
    batcher.submit(queued)

    batcher.drain()
    with pytest.raises(Draining):
        batcher.submit(Work(lamp, bright()))
    assert not batcher.join(0)
    lamp.gate.set()

    assert batcher.join(DEADLINE_S)
    assert [settled.next(), settled.next()] == [[first], [queued]]
    assert settled.is_empty()


def test_a_failed_warm_up_is_told_to_whoever_started_the_device(settled):
    def fail():
        raise RuntimeError("no kernel")

    batcher = Batcher(settled, 64, observer=EngineMetrics(), on_lost=pytest.fail)

    with pytest.raises(RuntimeError, match="no kernel"):
        batcher.start(fail).result(DEADLINE_S)
    assert batcher.join(DEADLINE_S)


def test_progress_counts_batches_that_the_device_computed(batcher_of, settled, lamp):
    batcher = batcher_of()
    occupy(batcher, lamp)
    assert not batcher.idle
    assert batcher.batches == 0

    lamp.gate.set()
    settled.next()
    lamp.fault = ValueError("broken")
    batcher.submit(Work(lamp, bright()))
    settled.next()

    wait_until(lambda: batcher.idle)
    assert batcher.batches == 1
