"""Frames on a real unix socket: right answers, clear refusals, and nothing that a peer does costs the others."""

import dataclasses
import itertools

import numpy as np
import pytest
from bedplate import wire
from bedplate.bundle.bundle import Bundle
from bedplate.engine import server
from bedplate.engine.work import QueuedRequest
from bedplate.wire import Frame, Type

from tests.service.engine_tools import (
    DEADLINE_S,
    GatedLamp,
    Peer,
    bright,
    logits_of,
    predict_frame,
    raw,
    running_engine,
    wait_until,
)
from tests.service.lamp import lamp_logits, varying


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cpu0.sock"


@pytest.fixture
def lamp():
    return GatedLamp()


@pytest.fixture
def engine(path, lamp):
    with running_engine(path, lamp, queue_limit=4) as engine:
        yield engine


@pytest.fixture
def connect():
    peers = []

    def make(engine):
        peers.append(Peer(engine.path))
        return peers[-1]

    yield make
    for peer in peers:
        peer.leave()


@pytest.fixture
def peer(engine, connect):
    return connect(engine)


def test_a_request_is_answered_under_its_own_id(peer):
    peer.predict(7, bright(3, 0.25))

    answer = peer.receive()

    assert answer.id == 7
    assert np.array_equal(logits_of(answer), lamp_logits(bright(3, 0.25)))
    assert answer.meta["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [3, 2]}]
    assert (answer.meta["model"], answer.meta["version"], answer.meta["batch_items"]) == ("lamp", "1", 3)
    assert answer.meta["compute_ns"] > 0
    assert answer.meta["queue_ns"] > 0
    assert answer.meta["batch_ns"] > 0


def test_a_request_that_arrives_byte_by_byte_is_answered(peer):
    for byte in raw(predict_frame(1, bright())):
        peer.send_raw(bytes([byte]))

    assert np.array_equal(logits_of(peer.receive()), lamp_logits(bright()))


def test_requests_that_arrive_in_one_piece_are_all_answered(peer):
    peer.send_raw(b"".join(raw(predict_frame(i, bright(value=i / 8))) for i in range(1, 5)))

    answers = {answer.id: answer for answer in (peer.receive() for _ in range(4))}

    for i in range(1, 5):
        assert np.array_equal(logits_of(answers[i]), lamp_logits(bright(value=i / 8)))


def test_several_peers_in_one_batch_each_get_their_own_answer(engine, lamp, connect):
    peers = [connect(engine) for _ in range(3)]
    lamp.gate.clear()
    peers[0].predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    for index, peer in enumerate(peers):
        peer.predict(9, bright(value=index / 4))
    wait_until(lambda: engine.server.batcher.depth == 3)

    lamp.gate.set()

    assert peers[0].receive().id == 1
    for index, peer in enumerate(peers):
        answer = peer.receive()
        assert answer.meta["batch_items"] == 3
        assert np.array_equal(logits_of(answer), lamp_logits(bright(value=index / 4)))


def test_the_engine_describes_its_models(peer, lamp):
    peer.send(Frame(Type.DESCRIBE, 3, {}))

    answer = peer.receive()

    assert (answer.type, answer.id) == (Type.DESCRIPTION, 3)
    assert [Bundle.from_description(model) for model in answer.meta["models"]] == [lamp.bundle]


def declared(**changes):
    return [{"name": "image", "dtype": "float32", "shape": [1, 1, 2, 2], **changes}]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "other"}, "unknown-model"),
        ({"model": None}, "unknown-model"),
        ({"model": ["lamp"]}, "unknown-model"),
        ({"version": "2"}, "unknown-model"),
        ({"priority": 1}, "unknown-field"),
        ({"inputs": []}, "wrong-shape"),
        ({"inputs": "image"}, "wrong-shape"),
        ({"inputs": declared() * 2}, "wrong-shape"),
        ({"inputs": declared(name="audio")}, "unknown-field"),
        ({"inputs": [{"name": "image"}]}, "unknown-field"),
        ({"inputs": declared(dtype="float64")}, "wrong-shape"),
        ({"inputs": declared(shape=[1, 1, 2, 3])}, "wrong-shape"),
        ({"inputs": declared(shape=[1, 2, 2])}, "wrong-shape"),
        ({"inputs": declared(shape=[0, 1, 2, 2])}, "wrong-shape"),
        ({"inputs": declared(shape=[-1, 1, 2, 2])}, "wrong-shape"),
        ({"inputs": declared(shape=[True, 1, 2, 2])}, "wrong-shape"),
        ({"inputs": declared(shape=[1.0, 1, 2, 2])}, "wrong-shape"),
        ({"inputs": declared(shape="1")}, "wrong-shape"),
        ({"inputs": declared(shape=[])}, "wrong-shape"),
        ({"inputs": declared(shape=[2, 1, 2, 2])}, "wrong-size"),
        ({"inputs": declared(shape=[9, 1, 2, 2])}, "too-many-items"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_and_the_connection_stays(peer, changes, code):
    peer.predict(1, bright(), **changes)
    refusal = peer.receive()
    peer.predict(2, bright())

    assert (refusal.type, refusal.id, refusal.meta["code"]) == (Type.ERROR, 1, code)
    assert peer.receive().type is Type.RESULT


def test_a_tensor_of_the_wrong_length_is_refused_with_both_lengths(peer):
    frame = predict_frame(1, bright())

    peer.send(Frame(Type.PREDICT, 1, frame.meta, bytes(frame.tensors) + b"x"))

    refusal = peer.receive()
    assert (refusal.meta["code"], refusal.meta["value"], refusal.meta["limit"]) == ("wrong-size", 17, 16)


@pytest.fixture
def varied(path, connect):
    """An engine of a lamp that takes 1 x 2..8 x 2..6 numbers, 8 items and 96 pixels at once."""
    with running_engine(path, GatedLamp(**varying())) as engine:
        yield engine


@pytest.mark.parametrize("shape", [(8, 1, 2, 2), (1, 1, 3, 5), (2, 1, 8, 6)])
def test_items_of_any_declared_shape_are_answered(varied, connect, shape):
    peer = connect(varied)
    items = np.full(shape, 0.5, np.float32)

    peer.predict(1, items)

    assert np.array_equal(logits_of(peer.receive()), lamp_logits(items))


@pytest.mark.parametrize(
    ("shape", "code", "limit"),
    [
        ([1, 1, 9, 2], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([1, 1, 2, 1], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([1, 2, 2, 2], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([1, 1, 4], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([1, 1, 4.0, 4], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([1, 1, [2, 8], 2], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([0, 1, 2, 2], "wrong-shape", "[items, 1, 2..8, 2..6]"),
        ([1, 1, 2, 4], "wrong-size", 32),
        ([9, 1, 2, 2], "too-many-items", 8),
        ([3, 1, 8, 6], "too-many-items", 2),
    ],
)
def test_items_of_another_shape_or_cost_are_refused(varied, connect, shape, code, limit):
    peer = connect(varied)

    peer.predict(1, bright(), inputs=declared(shape=shape))

    refusal = peer.receive()
    assert (refusal.meta["code"], refusal.meta["limit"]) == (code, limit)


def test_a_request_costs_what_its_items_cost(varied, connect):
    peer, lamp = connect(varied), varied.server.catalogue.models[0]
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)

    peer.predict(2, np.zeros((2, 1, 3, 5), np.float32))

    wait_until(lambda: [work.cost for work in varied.server.batcher._schedule.waiting] == [30])


def test_a_probe_of_a_model_of_many_shapes_is_of_the_smallest(varied):
    varied.loop.call_soon_threadsafe(varied.server.probe)

    assert varied.server.catalogue.models[0].begun.get(timeout=DEADLINE_S).shape == (1, 1, 2, 2)


def test_a_version_can_be_named_and_the_first_one_answers_otherwise(path, connect):
    first, second = GatedLamp(), GatedLamp()
    object.__setattr__(second.bundle, "version", "2")
    with running_engine(path, first, second) as engine:
        peer = connect(engine)
        versions = []

        for version in (None, "1", "2"):
            peer.predict(1, bright(), version=version)
            versions.append(peer.receive().meta["version"])

        assert versions == ["1", "1", "2"]


def test_a_full_queue_is_answered_engine_busy_at_once(engine, lamp, peer):
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)

    for request_id in range(2, 7):
        peer.predict(request_id, bright())

    refusal = peer.receive()
    assert (refusal.id, refusal.meta["code"]) == (6, "engine-busy")
    assert refusal.meta["retry_after_s"] >= 1
    lamp.gate.set()
    assert sorted(peer.receive().id for _ in range(5)) == [1, 2, 3, 4, 5]


def test_an_interactive_request_goes_before_a_job_that_came_first(lamp, peer):
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    job = predict_frame(2, bright(8))
    peer.send(dataclasses.replace(job, priority=wire.BATCH))
    peer.predict(3, bright(8))

    peer.send(Frame(Type.DESCRIBE, 4, {}))
    assert peer.receive().id == 4  # the engine has read all of the above
    lamp.gate.set()

    assert [peer.receive().id for _ in range(3)] == [1, 3, 2]


def test_a_deadline_that_has_passed_is_answered(peer):
    peer.predict(1, bright(), deadline_ns=wire.now_ns() - 1)

    assert peer.receive().meta["code"] == "deadline-exceeded"


def test_a_cancelled_request_is_never_answered(lamp, peer):
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    peer.predict(2, bright(value=0.5))

    peer.send(Frame(Type.CANCEL, 1, {}))
    peer.send(Frame(Type.CANCEL, 2, {}))
    peer.predict(3, bright())
    peer.send(Frame(Type.DESCRIBE, 4, {}))
    assert peer.receive().id == 4  # the engine has read all of the above
    lamp.gate.set()

    assert peer.receive().id == 3
    assert peer.hears_nothing()


def test_cancelling_what_is_not_there_is_no_event(peer):
    peer.send(Frame(Type.CANCEL, 99, {}))
    peer.predict(1, bright())

    assert peer.receive().id == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: engine\r\n\r\n",
        bytes(64),
        b"BEDP" + b"\xff" * 60,
        raw(Frame(Type.RESULT, 1, {})),
        raw(predict_frame(1, bright())).replace(b'{"model"', b'{"model}'),
    ],
)
def test_garbage_closes_the_connection_and_no_other(engine, peer, garbage, connect):
    broken = connect(engine)

    broken.send_raw(garbage)

    assert broken.is_closed_by_engine()
    peer.predict(1, bright())
    assert peer.receive().type is Type.RESULT


def test_an_id_used_twice_closes_the_connection(lamp, engine, connect):
    peer = connect(engine)
    lamp.gate.clear()

    peer.predict(1, bright())
    peer.predict(1, bright())

    assert peer.is_closed_by_engine()


def test_a_peer_that_leaves_in_the_middle_of_a_frame_costs_nothing(engine, peer, connect):
    leaving = connect(engine)
    leaving.send_raw(raw(predict_frame(1, bright()))[:-3])
    wait_until(lambda: len(engine.server.connections) == 2)

    leaving.leave()

    wait_until(lambda: len(engine.server.connections) == 1)
    peer.predict(1, bright())
    assert peer.receive().type is Type.RESULT


def test_what_a_peer_that_left_had_queued_never_reaches_the_device(engine, lamp, peer, connect):
    leaving = connect(engine)
    lamp.gate.clear()
    leaving.predict(1, bright(value=0.1))
    lamp.begun.get(timeout=DEADLINE_S)
    leaving.predict(2, bright(value=0.2))
    wait_until(lambda: engine.server.batcher.depth == 1)

    leaving.leave()
    wait_until(lambda: len(engine.server.connections) == 1)
    peer.predict(1, bright(value=0.3))
    lamp.gate.set()

    assert peer.receive().id == 1
    assert lamp.begun.get(timeout=DEADLINE_S)[0, 0, 0, 0] == np.float32(0.3)


def test_a_model_that_fails_is_answered_internal_without_the_reason(lamp, peer):
    lamp.fault = RuntimeError("secret detail")

    peer.predict(1, bright())

    refusal = peer.receive()
    assert refusal.meta["code"] == "internal"
    assert "secret" not in str(refusal.meta)
    lamp.fault = None
    peer.predict(2, bright())
    assert peer.receive().type is Type.RESULT


class Chatty(GatedLamp):
    """Answers are a hundred thousand times as long as questions."""

    def run(self, items):
        return np.zeros((len(items), 100_000), np.float32)


def test_a_peer_that_does_not_read_is_not_read_and_does_not_hold_up_the_drain(path, connect):
    with running_engine(path, Chatty(), queue_limit=10_000) as engine:
        silent, other = connect(engine), connect(engine)
        ids = itertools.count(1)

        wait_until(lambda: silent.is_not_read(raw(predict_frame(next(ids), bright()))))

        assert next(ids) < 10_000
        other.predict(1, bright())
        assert other.receive().type is Type.RESULT
        engine.begin_drain()
        engine.join()
        assert other.is_closed_by_engine()


def test_draining_answers_what_is_queued_and_refuses_what_comes(engine, lamp, peer, connect):
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    peer.predict(2, bright())
    wait_until(lambda: engine.server.batcher.depth == 1)

    engine.begin_drain()
    wait_until(lambda: engine.server.batcher._draining)
    peer.predict(3, bright())

    refusal = peer.receive()
    assert (refusal.id, refusal.meta["code"], refusal.meta["retry_after_s"]) == (3, "draining", 1)
    with pytest.raises(OSError, match="refused"):
        connect(engine)
    lamp.gate.set()
    assert [peer.receive().id, peer.receive().id] == [1, 2]
    assert peer.is_closed_by_engine()
    engine.join()


def test_a_probe_goes_through_the_device(engine, lamp):
    engine.loop.call_soon_threadsafe(engine.server.probe)

    assert np.array_equal(lamp.begun.get(timeout=DEADLINE_S), bright(value=0.0))
    wait_until(lambda: engine.server.batcher.batches == 1)


class Caller:
    def __init__(self, fault=None):
        self.fault = fault
        self.answered = []
        self.aborted = False

    def answer(self, works):
        if self.fault:
            raise self.fault
        self.answered += works

    def abort(self):
        self.aborted = True


def test_a_caller_that_cannot_be_answered_costs_the_others_nothing():
    gone, alive = Caller(RuntimeError("the handler is closed")), Caller()
    lost, wanted = (QueuedRequest(GatedLamp(), bright(), caller=caller) for caller in (gone, alive))

    server.answer([lost, wanted])

    assert alive.answered == [wanted]
    assert gone.aborted


def test_who_is_to_be_alone_is_told_of_before_it_is_computed(path, connect):
    with running_engine(path, lamp := GatedLamp(is_open=False)) as engine:
        peer = connect(engine)
        peer.predict(1, bright(), alone=True)
        begun = peer.receive()
        computing = lamp.begun.get(timeout=DEADLINE_S)
        nothing_more = peer.hears_nothing()
        lamp.gate.set()
        answer = peer.receive()

    assert (begun.type, begun.id, len(computing), nothing_more) == (Type.BEGUN, 1, 1, True)
    assert (answer.type, answer.id) == (Type.RESULT, 1)


def test_who_is_to_be_alone_shares_no_batch_and_others_do(engine, lamp, peer):
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    peer.send_raw(b"".join(raw(predict_frame(number, bright(), alone=number == 3)) for number in (2, 3, 4)))
    wait_until(lambda: engine.server.batcher.depth == 3)
    lamp.gate.set()

    frames = [peer.receive() for _ in range(5)]

    assert [lamp.begun.get(timeout=DEADLINE_S).shape[0] for _ in range(2)] == [2, 1]
    assert [(frame.type, frame.id) for frame in frames if frame.id == 3] == [(Type.BEGUN, 3), (Type.RESULT, 3)]
    assert sorted(frame.id for frame in frames if frame.type is Type.RESULT) == [1, 2, 3, 4]


def test_one_that_is_alone_and_cancelled_is_told_of_to_nobody(engine, lamp, peer):
    lamp.gate.clear()
    peer.predict(1, bright())
    lamp.begun.get(timeout=DEADLINE_S)
    peer.predict(2, bright(), alone=True)
    wait_until(lambda: engine.server.batcher.depth == 1)
    peer.send(Frame(Type.CANCEL, 2, {}))
    wait_until(lambda: engine.server.batcher.depth == 0)
    lamp.gate.set()

    assert peer.receive().id == 1
    peer.predict(3, bright())
    assert peer.receive().id == 3


def test_an_engine_says_that_it_knows_this(peer):
    peer.send(Frame(Type.DESCRIBE, 1, {}))

    assert peer.receive().meta["alone"] is True
