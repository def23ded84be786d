"""While the device works, requests gather; nobody waits for company, nobody waits for ever."""

import queue
import threading

import numpy as np
import pytest
from bedplate.engine.batcher import Batcher
from bedplate.engine.faults import DeviceLost, DeviceOutOfMemory
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.work import QueuedRequest
from bedplate.errors import DeadlineExceeded, Draining, EngineBusy, Internal, NotFinite, OutOfMemory, UnknownModel
from bedplate.wire import PROBE, now_ns

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

    def make(queue_limit=64, clock=now_ns, wait_ms=0, on_lost=pytest.fail):
        wait_ns = wait_ms * 1_000_000
        batcher = Batcher(settled, queue_limit, clock, observer=EngineMetrics(), wait_ns=wait_ns, on_lost=on_lost)
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
    work = QueuedRequest(model, bright())
    batcher.submit(work)
    model.begun.get(timeout=DEADLINE_S)
    return work


def test_a_lone_request_goes_to_the_device_at_once(batcher_of, settled):
    lamp = GatedLamp()
    work = QueuedRequest(lamp, bright())

    batcher_of().submit(work)

    assert settled.next() == [work]
    assert np.array_equal(work.outputs, lamp_logits(bright()))
    assert work.batch_items == 1
    assert work.compute_ns > 0


def test_requests_gather_while_the_device_works(batcher_of, settled, lamp):
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    waiting = [QueuedRequest(lamp, bright(2, value)) for value in (0.1, 0.2, 0.3)]
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
    five, four, one = (QueuedRequest(lamp, bright(items)) for items in (5, 4, 1))
    for work in (five, four, one):
        batcher.submit(work)

    lamp.gate.set()

    assert [settled.next() for _ in range(3)] == [[first], [five], [four, one]]


def test_a_batch_holds_one_model_and_the_oldest_request_chooses_it(batcher_of, settled, lamp):
    other = GatedLamp("other")
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    a, b, c = QueuedRequest(other, bright()), QueuedRequest(lamp, bright()), QueuedRequest(other, bright())
    for work in (a, b, c):
        batcher.submit(work)

    lamp.gate.set()

    assert [settled.next() for _ in range(3)] == [[first], [a, c], [b]]


def test_a_full_queue_refuses_with_depth_limit_and_when_to_retry(batcher_of, settled, lamp):
    batcher = batcher_of(queue_limit=2)
    occupy(batcher, lamp)
    kept = [QueuedRequest(lamp, bright()), QueuedRequest(lamp, bright())]
    for work in kept:
        batcher.submit(work)

    with pytest.raises(EngineBusy) as refusal:
        batcher.submit(QueuedRequest(lamp, bright()))

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
        batcher.submit(QueuedRequest(lamp, bright()))

    with pytest.raises(EngineBusy) as refusal:
        batcher.submit(QueuedRequest(lamp, bright()))

    assert refusal.value.retry_after_s == 22  # ten wait, one is on the device


def test_a_cancelled_request_makes_room_and_never_reaches_the_device(batcher_of, settled, lamp):
    batcher = batcher_of(queue_limit=1)
    first = occupy(batcher, lamp)
    cancelled, kept = QueuedRequest(lamp, bright(value=0.5)), QueuedRequest(lamp, bright(value=0.7))
    batcher.submit(cancelled)

    batcher.cancel(cancelled)
    batcher.submit(kept)
    lamp.gate.set()

    assert [settled.next(), settled.next()] == [[first], [kept]]
    assert lamp.begun.get(timeout=DEADLINE_S)[0, 0, 0, 0] == np.float32(0.7)


def test_a_request_cancelled_on_the_device_is_not_delivered(batcher_of, settled, lamp):
    batcher = batcher_of()
    cancelled = occupy(batcher, lamp)
    after = QueuedRequest(lamp, bright())

    batcher.cancel(cancelled)
    batcher.submit(after)
    lamp.gate.set()

    assert settled.next() == [after]


def test_a_deadline_that_has_passed_is_refused_at_the_door(batcher_of):
    clock = Clock()
    batcher = batcher_of(clock=clock)

    with pytest.raises(DeadlineExceeded):
        batcher.submit(QueuedRequest(GatedLamp(), bright(), deadline_ns=clock.now_ns))


def test_a_deadline_that_passes_in_the_queue_never_reaches_the_device(batcher_of, settled, lamp):
    clock = Clock()
    batcher = batcher_of(clock=clock)
    first = occupy(batcher, lamp)
    late, patient = QueuedRequest(lamp, bright(), deadline_ns=clock.now_ns + 1), QueuedRequest(lamp, bright(value=0.5))
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


def test_the_device_lives_on_when_all_that_waited_was_too_late(batcher_of, settled, lamp):
    clock = Clock()
    batcher = batcher_of(clock=clock)
    first = occupy(batcher, lamp)
    late = QueuedRequest(lamp, bright(), deadline_ns=clock.now_ns + 1)
    batcher.submit(late)
    clock.now_ns += 2
    lamp.gate.set()
    assert [settled.next(), settled.next()] == [[first], [late]]

    after = QueuedRequest(lamp, bright())
    batcher.submit(after)

    assert settled.next() == [after]


def test_the_device_lives_on_when_the_one_that_waited_for_company_has_left(batcher_of, settled):
    batcher = batcher_of(wait_ms=60_000)
    after = QueuedRequest(GatedLamp(), bright(8))

    for _ in range(100):  # the thread may not have begun to wait when it leaves
        lonely = QueuedRequest(GatedLamp(), bright())
        batcher.submit(lonely)
        batcher.execute(lambda: None).result(DEADLINE_S)
        batcher.cancel(lonely)
        batcher.retire(("lamp", "0")).result(DEADLINE_S)  # wakes the thread, and tells that it has seen it
    batcher.submit(after)

    assert settled.next() == [after]


def test_a_fault_of_the_engine_itself_ends_it_instead_of_leaving_it_hung(batcher_of):
    reasons = queue.SimpleQueue()

    class Unreadable(GatedLamp):
        @property
        def overlaps(self):
            raise MemoryError("nothing left")

        @overlaps.setter
        def overlaps(self, value):
            pass

    batcher_of(on_lost=reasons.put).submit(QueuedRequest(Unreadable(), bright()))

    assert "nothing left" in str(reasons.get(timeout=DEADLINE_S))


def test_only_the_request_that_the_model_fails_on_gets_an_error_and_the_device_lives_on(
    batcher_of, settled, lamp, caplog
):
    class Picky(GatedLamp):
        def run(self, items):
            if (items == np.float32(0.13)).any():
                raise ValueError("secret detail")
            return super().run(items)

    picky = Picky()
    batcher = batcher_of()
    occupy(batcher, lamp)
    members = [QueuedRequest(picky, bright(value=value)) for value in (0.1, 0.13, 0.2, 0.3)]
    for work in members:
        batcher.submit(work)

    lamp.gate.set()
    settled.next()
    assert settled.next() == members
    after = QueuedRequest(picky, bright())
    batcher.submit(after)

    assert [type(work.error) for work in members] == [type(None), Internal, type(None), type(None)]
    assert "secret" not in str(members[1].error)
    assert np.array_equal(members[3].outputs, lamp_logits(bright(value=0.3)))
    assert settled.next() == [after]
    assert after.outputs is not None
    assert caplog.text.count("a batch failed") == 1


def test_of_several_items_the_one_to_blame_is_named(batcher_of, settled):
    inputs = bright(5)
    inputs[3] = np.nan
    work = QueuedRequest(GatedLamp(), inputs)

    batcher_of().submit(work)

    settled.next()
    assert isinstance(work.error, NotFinite)
    assert "item 3" in str(work.error)


def test_the_item_is_named_by_its_place_in_its_own_request(batcher_of, settled):
    batcher = batcher_of()
    batcher.pause(("lamp", "1"))
    good, bad = QueuedRequest(GatedLamp(), bright(3)), QueuedRequest(GatedLamp(), bright(2))
    bad.model = good.model
    bad.inputs[1] = np.nan
    batcher.submit(good)
    batcher.submit(bad)

    batcher.resume(("lamp", "1"))

    assert settled.next() == [good, bad]
    assert good.outputs is not None
    assert "item 1 of the request" in str(bad.error)


def test_a_batch_that_failed_teaches_nothing(batcher_of, settled):
    lamp = GatedLamp()
    lamp.fault = ValueError("broken")
    batcher = batcher_of()

    batcher.submit(QueuedRequest(lamp, bright()))
    settled.next()

    figures = batcher.figures(("lamp", "1"))
    assert (figures["batches"], figures["failures"]) == (0, 1)


def test_what_is_overdue_is_expected_to_take_that_time_again(batcher_of, settled, lamp):
    clock = Clock()
    batcher = batcher_of(clock=clock)
    batcher.learn(lamp, 1, 1_000_000_000)
    batcher.learn(lamp, 8, 1_000_000_000)
    occupy(batcher, lamp)
    clock.now_ns += 4_000_000_000  # three seconds more than expected

    with pytest.raises(EngineBusy):
        batcher.submit(QueuedRequest(lamp, bright(), deadline_ns=clock.now_ns + 3_500_000_000))

    batcher.submit(QueuedRequest(lamp, bright(), deadline_ns=clock.now_ns + 7_000_000_000))


def test_an_idle_device_takes_what_it_is_thought_too_slow_for(batcher_of, settled):
    lamp = GatedLamp()
    batcher = batcher_of()
    batcher.learn(lamp, 1, 60_000_000_000)
    work = QueuedRequest(lamp, bright(), deadline_ns=now_ns() + 10_000_000_000)

    batcher.submit(work)

    assert settled.next() == [work]
    assert work.outputs is not None


def test_a_probe_comes_in_past_a_full_queue_and_goes_first(batcher_of, settled, lamp):
    batcher = batcher_of(queue_limit=1)
    occupy(batcher, lamp)
    person, probe = QueuedRequest(lamp, bright(8)), QueuedRequest(lamp, bright(), priority=PROBE)
    batcher.submit(person)

    batcher.submit(probe)
    lamp.gate.set()

    settled.next()
    assert [settled.next(), settled.next()] == [[probe], [person]]


def test_probes_past_a_full_queue_have_a_bound_too(batcher_of, lamp):
    batcher = batcher_of(queue_limit=1)
    occupy(batcher, lamp)
    batcher.submit(QueuedRequest(lamp, bright(8)))
    for _ in range(64):
        batcher.submit(QueuedRequest(lamp, bright(), priority=PROBE))

    with pytest.raises(EngineBusy) as refusal:
        batcher.submit(QueuedRequest(lamp, bright(), priority=PROBE))

    assert (refusal.value.value, refusal.value.limit) == (65, 65)


def test_after_running_out_of_memory_batches_are_half_as_large(batcher_of, settled, lamp):
    class Small(GatedLamp):
        def run(self, items):
            if len(items) > 4:
                raise DeviceOutOfMemory
            return super().run(items)

    small = Small("small")
    batcher = batcher_of()
    occupy(batcher, lamp)
    works = [QueuedRequest(small, bright()) for _ in range(12)]
    for work in works:
        batcher.submit(work)

    lamp.gate.set()
    settled.next()
    sizes = [len(settled.next()) for _ in range(2)]

    assert sizes == [8, 4]
    assert all(work.outputs is not None for work in works)
    figures = batcher.figures(("small", "1"))
    assert (figures["out_of_memory"], figures["max_items"]) == (1, 4)


def test_what_does_not_fit_by_itself_is_told_so(batcher_of, settled):
    class Full(GatedLamp):
        def run(self, items):
            raise DeviceOutOfMemory

    work = QueuedRequest(Full(), bright())

    batcher_of().submit(work)

    settled.next()
    assert isinstance(work.error, OutOfMemory)


def test_a_lost_device_ends_the_thread_and_answers_nobody(batcher_of, settled):
    class Lost(GatedLamp):
        def run(self, items):
            raise DeviceLost("CUDA error: an illegal memory access was encountered")

    reasons = queue.SimpleQueue()

    batcher_of(on_lost=reasons.put).submit(QueuedRequest(Lost(), bright()))

    assert "illegal memory access" in str(reasons.get(timeout=DEADLINE_S))
    assert settled.is_empty()


def test_a_job_runs_in_the_device_thread_between_two_batches(batcher_of, settled, lamp):
    batcher = batcher_of()
    first = occupy(batcher, lamp)
    second = QueuedRequest(lamp, bright())
    batcher.submit(second)

    job = batcher.execute(lambda: (threading.current_thread().name, second.outputs))
    assert not job.done()
    lamp.gate.set()

    assert job.result(DEADLINE_S) == ("device", None)
    assert [settled.next(), settled.next()] == [[first], [second]]


def test_a_job_that_fails_tells_who_asked_and_harms_nobody(batcher_of, settled):
    batcher = batcher_of()
    work = QueuedRequest(GatedLamp(), bright())

    with pytest.raises(ZeroDivisionError):
        batcher.execute(lambda: 1 / 0).result(DEADLINE_S)

    batcher.submit(work)
    assert settled.next() == [work]


def test_a_job_is_progress_and_none_comes_in_while_draining(batcher_of):
    batcher = batcher_of()

    batcher.execute(lambda: None).result(DEADLINE_S)
    wait_until(lambda: batcher.batches == 1)
    batcher.drain()

    with pytest.raises(Draining):
        batcher.execute(lambda: None).result(DEADLINE_S)


def test_requests_of_a_paused_model_wait_until_it_is_resumed(batcher_of, settled):
    batcher = batcher_of()
    batcher.pause(("lamp", "1"))
    waiting, other = QueuedRequest(GatedLamp(), bright()), QueuedRequest(GatedLamp("other"), bright())
    batcher.submit(waiting)
    batcher.submit(other)
    assert settled.next() == [other]
    assert batcher.is_paused(("lamp", "1"))
    wait_until(lambda: batcher.idle)

    batcher.resume(("lamp", "1"))

    assert settled.next() == [waiting]


def test_requests_of_a_model_that_is_gone_are_dismissed_with_the_reason(batcher_of, settled):
    batcher = batcher_of()
    batcher.pause(("lamp", "1"))
    waiting = QueuedRequest(GatedLamp(), bright())
    batcher.submit(waiting)

    batcher.dismiss(("lamp", "1"), UnknownModel("gone"))

    assert settled.next() == [waiting]
    assert isinstance(waiting.error, UnknownModel)


def test_a_model_is_retired_when_nothing_of_it_waits_or_is_on_the_device(batcher_of, settled, lamp):
    batcher = batcher_of()
    occupy(batcher, lamp)
    batcher.submit(QueuedRequest(lamp, bright()))

    retired = batcher.retire(("lamp", "1"))
    idle = batcher.retire(("other", "1"))
    assert not retired.done()
    lamp.gate.set()

    retired.result(DEADLINE_S)
    assert settled.next()
    assert settled.next()
    assert idle.done()
    assert batcher.figures(("lamp", "1")) == {}


def test_draining_does_not_wait_for_a_model_that_nobody_resumes(batcher_of, settled):
    batcher = batcher_of()
    batcher.pause(("lamp", "1"))
    waiting = QueuedRequest(GatedLamp(), bright())
    batcher.submit(waiting)

    batcher.drain()

    assert settled.next() == [waiting]
    assert isinstance(waiting.error, Draining)
    assert batcher.join(DEADLINE_S)


def test_with_a_wait_the_first_request_waits_for_company_and_not_longer_than_a_full_batch(batcher_of, settled):
    batcher = batcher_of(wait_ms=60_000)
    lamp = GatedLamp()
    works = [QueuedRequest(lamp, bright(4)) for _ in range(2)]

    batcher.submit(works[0])
    assert settled.is_empty()
    batcher.submit(works[1])

    assert settled.next() == works


def test_with_a_wait_a_lone_request_is_computed_when_it_has_waited(batcher_of, settled):
    work = QueuedRequest(GatedLamp(), bright())

    batcher_of(wait_ms=20).submit(work)

    assert settled.next() == [work]
    assert work.queue_ns >= 20_000_000


class Overlapping(GatedLamp):
    """Takes a batch while it computes another; `finished` is what it was asked to wait for."""

    def __init__(self):
        super().__init__(is_open=False)
        self.overlaps = True

    def begin(self, items):
        self.begun.put(items)

        def finish():
            assert self.gate.wait(DEADLINE_S)
            return lamp_logits(items)

        return finish


def test_a_device_that_overlaps_gets_the_next_batch_while_it_computes(batcher_of, settled):
    model = Overlapping()
    batcher = batcher_of()
    batcher.pause(("lamp", "1"))
    works = [QueuedRequest(model, bright(8, value)) for value in (0.1, 0.2, 0.3)]
    for work in works:
        batcher.submit(work)

    batcher.resume(("lamp", "1"))
    begun = [model.begun.get(timeout=DEADLINE_S) for _ in range(2)]
    assert settled.is_empty()
    assert model.begun.empty()
    model.gate.set()

    assert np.array_equal(begun, [work.inputs for work in works[:2]])
    assert [settled.next() for _ in works] == [[work] for work in works]
    assert all(np.array_equal(work.outputs, lamp_logits(work.inputs)) for work in works)


def test_who_is_alone_has_the_device_for_itself(settled):
    """What ends the process then can be nothing else."""
    model = Overlapping()
    told = queue.SimpleQueue()
    batcher = Batcher(settled, 64, observer=EngineMetrics(), on_lost=pytest.fail, announce=told.put)
    batcher.start().result(DEADLINE_S)
    batcher.pause(("lamp", "1"))
    works = [
        QueuedRequest(model, bright(8)),
        QueuedRequest(model, bright(8), alone=True),
        QueuedRequest(model, bright(8)),
    ]
    for work in works:
        batcher.submit(work)

    batcher.resume(("lamp", "1"))
    model.begun.get(timeout=DEADLINE_S)
    alone_waits = told.empty()
    model.gate.set()
    answered = [settled.next() for _ in works]
    batcher.drain()

    assert batcher.join(DEADLINE_S)
    assert alone_waits
    assert (told.get(timeout=DEADLINE_S), told.empty()) == (works[1], True)
    assert answered == [[work] for work in works]


def test_a_job_waits_for_all_that_is_on_the_device(batcher_of, settled):
    model = Overlapping()
    batcher = batcher_of()
    batcher.pause(("lamp", "1"))
    works = [QueuedRequest(model, bright(8)) for _ in range(2)]
    for work in works:
        batcher.submit(work)
    batcher.resume(("lamp", "1"))
    for _ in works:
        model.begun.get(timeout=DEADLINE_S)

    job = batcher.execute(lambda: [work.outputs is not None for work in works])
    model.gate.set()

    assert job.result(DEADLINE_S) == [True, True]


def test_a_batch_that_fails_while_another_is_on_the_device_is_taken_apart_in_its_turn(batcher_of, settled):
    class Failing(Overlapping):
        def begin(self, items):
            if len(items) == 2:
                raise ValueError("two")
            return super().begin(items)

        def run(self, items):
            return lamp_logits(items)

    model = Failing()
    model.gate.set()
    batcher = batcher_of()
    first, pair = QueuedRequest(model, bright(8)), QueuedRequest(model, bright(2, 0.5))
    batcher.submit(first)
    batcher.submit(pair)

    assert [settled.next(), settled.next()] == [[first], [pair]]
    assert np.array_equal(pair.outputs, lamp_logits(bright(2, 0.5)))


def test_a_model_that_answers_too_few_items_gives_nobody_a_wrong_answer(batcher_of, settled):
    class Short(GatedLamp):
        def run(self, items):
            return super().run(items)[:-1]

    work = QueuedRequest(Short(), bright(2))

    batcher_of().submit(work)

    settled.next()
    assert isinstance(work.error, Internal)


def test_only_the_request_whose_answer_is_not_finite_fails(batcher_of, settled, lamp):
    batcher = batcher_of()
    occupy(batcher, lamp)
    poisoned, healthy = QueuedRequest(lamp, bright(value=np.nan)), QueuedRequest(lamp, bright())
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
    queued = QueuedRequest(lamp, bright())
    batcher.submit(queued)

    batcher.drain()
    with pytest.raises(Draining):
        batcher.submit(QueuedRequest(lamp, bright()))
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
    batcher.submit(QueuedRequest(lamp, bright()))
    settled.next()

    wait_until(lambda: batcher.idle)
    assert batcher.batches == 1
