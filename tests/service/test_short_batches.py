"""Short batches are computed by whoever queues them; the device thread and its guarantees stay as they are."""

import queue
import threading

import numpy as np
import pytest
from bedplate.engine.batcher import Batcher
from bedplate.engine.faults import DeviceLost
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.work import QueuedRequest
from bedplate.errors import DeadlineExceeded, NotFinite
from bedplate.wire import now_ns

from tests.service.engine_tools import DEADLINE_S, GatedLamp, bright, wait_until
from tests.service.lamp import lamp_logits

MS = 1_000_000


class Lamp(GatedLamp):
    """Tells which thread computed."""

    def __init__(self, name="lamp"):
        super().__init__(name)
        self.threads = queue.SimpleQueue()
        self.meanwhile = lambda: None

    def run(self, items):
        self.threads.put(threading.current_thread().name)
        self.meanwhile()
        return super().run(items)


@pytest.fixture
def delivered():
    return queue.SimpleQueue()


@pytest.fixture
def offered():
    return queue.SimpleQueue()


@pytest.fixture
def lost():
    return queue.SimpleQueue()


@pytest.fixture
def batcher_of(delivered, offered, lost):
    started = []

    def make(wait_ms=0, clock=lambda: 1000 * MS):  # it stands still: no batch takes long because the machine is busy
        batcher = Batcher(
            delivered.put,
            64,
            clock,
            observer=EngineMetrics(),
            wait_ns=wait_ms * MS,
            on_lost=lost.put,
            offer=lambda: offered.put(True),
        )
        batcher.start().result(DEADLINE_S)
        started.append(batcher)
        return batcher

    yield make
    for batcher in started:
        batcher.drain()
        assert not lost.empty() or batcher.join(DEADLINE_S)


@pytest.fixture
def batcher(batcher_of):
    return batcher_of()


def taught(batcher, model, took_ns=MS // 100):
    """The batcher knows how long batches of `model` take."""
    for items in (1, 8) * 10:
        batcher.learn(model, items, took_ns)
    return model


def queued(batcher, *works):
    for work in works:
        batcher.queue(work)
    return list(works)


def test_what_arrived_together_is_computed_together_by_who_brought_it(batcher, delivered):
    lamp = taught(batcher, Lamp())
    works = queued(batcher, *(QueuedRequest(lamp, bright(2, value)) for value in (0.1, 0.2, 0.3)))

    assert batcher.compute_short() == works

    assert lamp.threads.get(timeout=DEADLINE_S) == threading.current_thread().name
    assert [work.batch_items for work in works] == [6, 6, 6]
    assert all(np.array_equal(work.outputs, lamp_logits(work.inputs)) for work in works)
    assert (batcher.idle, batcher.batches, delivered.empty()) == (True, 1, True)


@pytest.mark.parametrize("took_ns", [None, 50 * MS])
def test_what_is_not_known_to_be_short_goes_to_the_device_thread(batcher, delivered, took_ns):
    lamp = Lamp()
    if took_ns:
        taught(batcher, lamp, took_ns)
    works = queued(batcher, QueuedRequest(lamp, bright()))

    assert batcher.compute_short() == []

    assert delivered.get(timeout=DEADLINE_S) == works
    assert lamp.threads.get(timeout=DEADLINE_S) == "device"


def test_a_device_that_overlaps_computes_nothing_in_passing(batcher, delivered):
    lamp = taught(batcher, Lamp())
    lamp.overlaps, lamp.begin = True, lambda items: lambda: lamp.run(items)
    works = queued(batcher, QueuedRequest(lamp, bright()))

    assert batcher.compute_short() == []

    assert delivered.get(timeout=DEADLINE_S) == works


def test_a_batch_that_waits_for_company_is_left_to_the_device_thread(batcher_of, delivered):
    batcher = batcher_of(wait_ms=1, clock=now_ns)
    works = queued(batcher, QueuedRequest(taught(batcher, Lamp()), bright()))

    assert batcher.compute_short() == []

    assert delivered.get(timeout=DEADLINE_S) == works


def test_a_batch_is_as_short_as_its_cost(batcher, delivered):
    lamp = Lamp()
    for items in (8, 1):
        batcher.learn(lamp, items, items * MS // 4)
    large, small = QueuedRequest(lamp, bright(8)), QueuedRequest(lamp, bright())

    queued(batcher, large)
    assert batcher.compute_short() == []
    assert delivered.get(timeout=DEADLINE_S) == [large]

    wait_until(lambda: batcher.idle)
    queued(batcher, small)
    assert batcher.compute_short() == [small]


def test_after_one_that_took_long_the_next_batch_goes_to_the_device_thread(batcher, delivered):
    lamp = taught(batcher, Lamp())
    batcher.learn(lamp, 1, 50 * MS)
    works = queued(batcher, QueuedRequest(lamp, bright()))

    assert batcher.compute_short() == []

    assert delivered.get(timeout=DEADLINE_S) == works


def test_while_the_thread_has_the_device_nobody_else_computes(batcher, delivered, offered):
    busy, lamp = Lamp("busy"), taught(batcher, Lamp())
    busy.gate.clear()
    first = queued(batcher, QueuedRequest(busy, bright()))
    assert batcher.compute_short() == []
    busy.begun.get(timeout=DEADLINE_S)
    second = queued(batcher, QueuedRequest(lamp, bright()))

    assert batcher.compute_short() == []
    assert lamp.threads.empty()
    busy.gate.set()

    assert delivered.get(timeout=DEADLINE_S) == first
    assert offered.get(timeout=DEADLINE_S), "what is short was not left to others again"
    assert batcher.compute_short() == second


def test_while_a_job_runs_nobody_else_computes(batcher, delivered, offered):
    lamp = taught(batcher, Lamp())
    begun, over = threading.Event(), threading.Event()
    batcher.execute(lambda: (begun.set(), over.wait(DEADLINE_S)))
    assert begun.wait(DEADLINE_S)
    works = queued(batcher, QueuedRequest(lamp, bright()))

    assert batcher.compute_short() == []
    over.set()

    assert offered.get(timeout=DEADLINE_S)
    assert batcher.compute_short() == works


def test_meanwhile_a_job_and_a_drain_wait_until_the_device_is_given_back(batcher):
    lamp = taught(batcher, Lamp())
    lamp.gate.clear()
    works = queued(batcher, QueuedRequest(lamp, bright()))
    settled = queue.SimpleQueue()
    computing = threading.Thread(target=lambda: settled.put(batcher.compute_short()))
    computing.start()
    lamp.begun.get(timeout=DEADLINE_S)

    job = batcher.execute(lambda: works[0].outputs is not None)
    retired = batcher.retire(("lamp", "1"))
    batcher.drain()
    assert (batcher.join(0.05), job.done(), retired.done()) == (False, False, False)
    lamp.gate.set()

    assert settled.get(timeout=DEADLINE_S) == works
    assert job.result(DEADLINE_S)
    retired.result(DEADLINE_S)
    assert batcher.join(DEADLINE_S)
    computing.join(DEADLINE_S)


def test_cancelled_and_faulty_requests_end_as_in_the_device_thread(batcher):
    lamp = taught(batcher, Lamp())
    cancelled, bad, leaving, good = queued(
        batcher, *(QueuedRequest(lamp, bright(value=v)) for v in (0.5, np.nan, 0.7, 1.0))
    )
    batcher.cancel(cancelled)

    lamp.meanwhile = lambda: batcher.cancel(leaving)
    assert batcher.compute_short() == [bad, good]

    assert isinstance(bad.error, NotFinite)
    assert good.outputs is not None


def test_who_is_late_by_now_is_told_so_and_not_computed(batcher_of):
    now = [1000 * MS]
    batcher = batcher_of(clock=lambda: now[0])
    lamp = taught(batcher, Lamp())
    late = queued(batcher, QueuedRequest(lamp, bright(), deadline_ns=now[0] + MS))
    now[0] += MS

    assert batcher.compute_short() == late

    assert isinstance(late[0].error, DeadlineExceeded)
    assert lamp.threads.empty()
    assert batcher.idle


def test_what_is_held_waits_and_others_pass(batcher):
    held, free = taught(batcher, Lamp("held")), taught(batcher, Lamp("free"))
    batcher.pause(("held", "1"))
    waiting, passing = queued(batcher, QueuedRequest(held, bright()), QueuedRequest(free, bright()))

    assert batcher.compute_short() == [passing]

    assert waiting.outputs is None
    assert batcher.depth == 1


def test_a_lost_device_is_told_at_once_and_computes_nothing_any_more(batcher, lost):
    lamp = taught(batcher, Lamp())
    lamp.fault = DeviceLost("CUDA error")
    queued(batcher, QueuedRequest(lamp, bright()))

    assert batcher.compute_short() == []

    assert lost.qsize() == 1
    batcher.drain()
    assert not batcher.join(0.05)
