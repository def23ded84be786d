"""What an engine counts while it works."""

import pytest
from bedplate.engine.faults import DeviceOutOfMemory
from bedplate.wire import Frame, Type

from tests.service.engine_tools import DEADLINE_S, GatedLamp, Peer, bright, running_engine, wait_until


@pytest.fixture
def lamp():
    return GatedLamp(is_open=False)


@pytest.fixture
def engine(tmp_path, lamp):
    with running_engine(tmp_path / "cpu0.sock", lamp, queue_limit=7) as engine:
        yield engine


@pytest.fixture
def peer(engine):
    peer = Peer(engine.path)
    yield peer
    peer.leave()


@pytest.fixture
def value(engine):
    return lambda name, **labels: engine.metrics.registry.get_sample_value(name, labels)


def test_what_waits_is_told_beside_what_may_wait(peer, lamp, value):
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    peer.predict(2, bright())
    peer.predict(3, bright())

    wait_until(lambda: value("bedplate_queue_depth") == 2)
    assert value("bedplate_queue_limit") == 7


def test_a_batch_is_counted_with_its_items_not_its_requests(peer, lamp, value):
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    peer.predict(2, bright(2))
    peer.predict(3, bright(3))
    wait_until(lambda: value("bedplate_queue_depth") == 2)

    lamp.gate.set()
    for _ in range(3):
        peer.receive()

    assert value("bedplate_batch_items_count", model="lamp") == 2
    assert value("bedplate_batch_items_sum", model="lamp") == 6
    assert value("bedplate_batch_items_bucket", model="lamp", le="8.0") == 2
    assert value("bedplate_batch_items_bucket", model="lamp", le="4.0") == 1


def test_a_failed_batch_is_a_failure_and_no_batch(peer, lamp, value):
    assert value("bedplate_batch_failures_total", model="lamp") == 0
    lamp.fault = ValueError("broken")
    lamp.gate.set()

    peer.predict(1, bright())
    peer.receive()

    assert value("bedplate_batch_failures_total", model="lamp") == 1
    assert value("bedplate_batch_items_count", model="lamp") is None


def test_a_probe_of_the_watchdog_is_no_batch(engine, lamp, value):
    lamp.gate.set()

    engine.loop.call_soon_threadsafe(engine.server.probe)
    wait_until(lambda: engine.server.batcher.batches == 1)

    assert value("bedplate_batch_items_count", model="lamp") is None


def test_loaded_models_are_told_by_version(value):
    assert value("bedplate_model_info", model="lamp", version="1") == 1


def test_who_is_turned_away_and_who_leaves_is_counted_by_where_and_why(peer, lamp, value):
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    for request_id in range(2, 10):
        peer.predict(request_id, bright())
    peer.receive()  # the refusal of the ninth
    peer.predict(10, bright(), deadline_ns=1)
    peer.receive()

    peer.send(Frame(Type.CANCEL, 1, {}))
    peer.send(Frame(Type.CANCEL, 2, {}))
    wait_until(lambda: value("bedplate_cancelled_total", stage="queue") == 1)

    assert value("bedplate_cancelled_total", stage="device") == 1
    assert value("bedplate_rejected_total", reason="engine-busy") == 1
    assert value("bedplate_rejected_total", reason="deadline-exceeded") == 1


def test_a_batch_too_large_for_the_device_is_counted_and_what_fits_is_told(peer, lamp, value):
    lamp.fault = DeviceOutOfMemory()
    lamp.gate.set()

    peer.predict(1, bright(8))
    peer.receive()

    assert value("bedplate_out_of_memory_total", model="lamp") == 1
    # Eight did not fit, nor did four.
    assert value("bedplate_batch_max_items", model="lamp", version="1") == 2


def test_what_was_learned_of_a_model_is_told(engine, lamp, value):
    for items in (1, 2, 4, 8):
        engine.server.batcher.learn(lamp, items, (20 + 10 * items) * 1_000_000)

    assert value("bedplate_batch_fixed_seconds", model="lamp", version="1") == pytest.approx(0.02)
    assert value("bedplate_batch_cost_seconds", model="lamp", version="1") == pytest.approx(0.01)
