"""Small requests that come in one turn of the loop: asked as one, answered each with its own."""

import asyncio
import struct

import numpy as np
import pytest
from bedplate import errors
from bedplate.errors import EngineBusy, Internal
from bedplate.web.engines.connection import EngineLost
from bedplate.web.options import within
from bedplate.web.predictor import question
from bedplate.wire import BATCH, INTERACTIVE, Frame, Type

from tests.service.lamp import description
from tests.service.scripted_engines import run, silence, vanish

QUICK_NS, SLOW_NS = 1_000, 10_000_000
POISON = 13.0


class Caller:
    """Who waits for one answer."""

    def __init__(self):
        self.came = []
        self.left = False

    def done(self):
        return self.left or bool(self.came)

    def set_result(self, answer, /):
        self.came.append(answer)

    def set_exception(self, error, /):
        self.came.append(error)

    @property
    def numbers(self):
        """What the engine said of its items."""
        [answer] = self.came
        assert answer.type is Type.RESULT
        assert answer.meta["outputs"][0]["shape"] == [len(answer.tensors) // 4, 1]
        return list(struct.unpack(f"<{len(answer.tensors) // 4}f", answer.tensors))


def items_of(frame):
    """The first number of each item, which has four."""
    return list(struct.unpack(f"<{len(frame.tensors) // 4}f", bytes(frame.tensors)))[::4]


def engine(compute_ns=QUICK_NS, refuse=lambda items: None):
    """Answers each item with its first number; `refuse` may say an error for a frame's items."""

    async def answer(peer, frame):
        items = items_of(frame)
        if error := refuse(items):
            peer.send(Frame(Type.ERROR, frame.id, error.to_meta()))
            return
        outputs = [{"name": "logits", "dtype": "float32", "shape": [len(items), 1]}]
        meta = {"outputs": outputs, "compute_ns": compute_ns * len(items), "batch_items": len(items)}
        peer.send(Frame(Type.RESULT, frame.id, meta, struct.pack(f"<{len(items)}f", *items)))

    return answer


def items(*firsts):
    return np.array([[[[first, 0], [0, 0]]] for first in firsts], "<f4")


@pytest.fixture
def asked(tmp_path):
    """asked(engines, [(first numbers of the items, options), …]) → callers and the frames that engines got, in turn."""

    def ask(answers, requests, afterwards=None):
        callers = [Caller() for _ in requests]
        frames = []

        async def check(pool, peers):
            model = await pool.model("lamp")

            def begin(caller, firsts, options):
                return pool.begin(*question(model, items(*firsts)), options, caller)

            first = Caller()
            begin(first, [0.0], within(5))  # from its answer it is known how quick the model is
            for _ in range(100):
                await asyncio.sleep(0.005)
                if first.done():
                    break
            for peer in peers:
                peer.seen.clear()
            begun = [begin(caller, *request) for caller, request in zip(callers, requests, strict=True)]
            if afterwards:
                await afterwards(callers, begun)
            for _ in range(100):
                await asyncio.sleep(0.005)
                if all(caller.done() for caller in callers):
                    break
            frames.extend(peer.seen for peer in peers)

        run(tmp_path, answers, check)
        return callers, frames

    return ask


def predicts(frames):
    return [items_of(frame) for frame in frames if frame.type is Type.PREDICT]


def test_what_comes_in_one_turn_is_one_question_and_each_gets_its_own_answer(asked):
    callers, [frames] = asked([engine()], [([float(n)], within(5)) for n in range(1, 6)])

    assert predicts(frames) == [[1, 2, 3, 4, 5]]
    assert [caller.numbers for caller in callers] == [[1], [2], [3], [4], [5]]


def test_requests_of_several_items_get_all_of_theirs(asked):
    callers, [frames] = asked([engine()], [([1.0, 2.0], within(5)), ([3.0, 4.0], within(5))])

    assert predicts(frames) == [[1, 2, 3, 4]]
    assert [caller.numbers for caller in callers] == [[1, 2], [3, 4]]


def test_no_more_are_asked_together_than_the_model_takes(asked):
    most = description()["batch"]["max_items"]

    callers, [frames] = asked([engine()], [([float(n)], within(5)) for n in range(most + 3)])

    assert list(map(len, predicts(frames))) == [most, 3]
    assert [caller.numbers for caller in callers] == [[n] for n in range(most + 3)]


def test_a_model_that_takes_its_time_is_asked_one_by_one(asked):
    _, [frames] = asked([engine(SLOW_NS)], [([1.0], within(5)), ([2.0], within(5))])

    assert predicts(frames) == [[1], [2]]


@pytest.mark.parametrize(
    ("firsts", "options", "wanted"),
    [
        ([2.0], (5, BATCH), [[1, 9], [2]]),
        ([2.0, 3.0], (5, INTERACTIVE), [[1, 9], [2, 3]]),
        ([2.0], (50, INTERACTIVE), [[1], [2], [9]]),
    ],
)
def test_only_what_is_alike_is_asked_together(asked, firsts, options, wanted):
    requests = [([1.0], within(5)), (firsts, within(*options)), ([9.0], within(5))]

    callers, [frames] = asked([engine()], requests)

    assert predicts(frames) == wanted
    assert [caller.numbers for caller in callers] == [[1], firsts, [9]]


def test_one_bad_item_fails_alone(asked):
    def refuse(items):
        return Internal("the model failed") if POISON in items else None

    callers, [frames] = asked([engine(refuse=refuse)], [([n], within(5)) for n in (1.0, POISON, 3.0)])

    assert predicts(frames) == [[1, POISON, 3], [1], [POISON], [3]]
    assert (callers[0].numbers, callers[2].numbers) == ([1], [3])
    [answer] = callers[1].came
    assert isinstance(errors.from_meta(answer.meta), Internal)


def test_an_engine_without_room_for_all_takes_those_for_whom_it_has(asked):
    taken = []

    def refuse(items):
        if len(items) > 1 or len(taken) == 3:  # the first was the one that taught how quick it is
            return EngineBusy("full", retry_after_s=1)
        taken.extend(items)
        return None

    callers, _ = asked([engine(refuse=refuse)], [([n], within(5)) for n in (1.0, 2.0, 3.0)])

    assert [caller.came[0].type for caller in callers] == [Type.RESULT, Type.RESULT, Type.ERROR]


def test_all_are_told_that_the_engine_is_lost(asked):
    async def answer(peer, frame):
        await (engine()(peer, frame) if items_of(frame) == [0] else vanish(peer, frame))

    callers, _ = asked([answer], [([1.0], within(5)), ([2.0], within(5))])

    assert all(isinstance(caller.came[0], EngineLost) for caller in callers)


def test_all_are_told_of_the_deadline(asked):
    async def answer(peer, frame):
        await (engine()(peer, frame) if items_of(frame) == [0] else silence(peer, frame))

    callers, _ = asked([answer], [([1.0], within(0.2)), ([2.0], within(0.2))])

    assert all(isinstance(caller.came[0], asyncio.TimeoutError) for caller in callers)


@pytest.mark.parametrize(("leaving", "cancelled"), [([0], False), ([0, 1], True)])
def test_who_leaves_takes_nobody_along(asked, leaving, cancelled):
    async def answer(peer, frame):
        if items_of(frame) != [0]:
            await asyncio.sleep(0.1)
        await engine()(peer, frame)

    async def leave(callers, begun):
        await asyncio.sleep(0.05)
        for number in leaving:
            callers[number].left = True
            begun[number][1].give_up()
        await asyncio.sleep(0.1)

    callers, [frames] = asked([answer], [([1.0], within(5)), ([2.0], within(5))], leave)

    assert any(frame.type is Type.CANCEL for frame in frames) is cancelled
    assert [bool(caller.came) for caller in callers] == [number not in leaving for number in (0, 1)]


def test_who_leaves_before_it_is_sent_is_not_asked_for(asked):
    async def leave(callers, begun):
        callers[0].left = True
        begun[0][1].give_up()

    callers, [frames] = asked([engine()], [([n], within(5)) for n in (1.0, 2.0, 3.0)], leave)

    assert predicts(frames) == [[2, 3]]
    assert [caller.numbers for caller in callers[1:]] == [[2], [3]]


def test_a_connection_that_ends_before_they_are_sent_is_told_at_once(asked):
    async def end(callers, begun):
        begun[0][0].link.connection_lost(None)
        await asyncio.sleep(0.05)
        assert all(caller.done() for caller in callers)

    callers, _ = asked([engine()], [([1.0], within(5)), ([2.0], within(5))], end)

    assert all(isinstance(caller.came[0], EngineLost) for caller in callers)
