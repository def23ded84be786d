"""Whatever happens in whatever order: who asked and did not leave is told, once, and by the deadline."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from bedplate import wire
from bedplate.errors import EngineBusy
from bedplate.web.engines.connection import EngineLink
from bedplate.web.engines.pool import EnginePool
from bedplate.web.engines.served import Served
from bedplate.web.options import RequestOptions
from bedplate.wire import BATCH, INTERACTIVE, FixedMeta, Frame, Type

from tests.service.lamp import description
from tests.service.virtual_loop import VirtualLoop

ORDERS, STEPS = 10_000, 14
MS = 1_000_000
SERVED = Served.from_meta({"models": [description()], "aliases": {}})
QUICK = {"compute_ns": 1_000, "batch_items": 1}


def _question(items: int) -> FixedMeta:
    inputs = [{"name": "image", "dtype": "float32", "shape": [items, 1, 2, 2]}]
    return FixedMeta({"model": "lamp", "version": "1", "inputs": inputs})


QUESTIONS = [_question(1), _question(2)]


class Caller:
    def __init__(self, loop: VirtualLoop, deadline_ns: int):
        self.deadline_ns = deadline_ns
        self.left = False
        self.told: list[tuple[int, object]] = []  # when, and what
        self._loop = loop

    def done(self):
        return self.left or bool(self.told)

    def set_result(self, answer, /):
        assert not self.left, "told though it had left"
        self.told.append((self._loop.now_ns, answer))

    set_exception = set_result


class Wire:
    """The transport of one link, and the engine at its other end: it remembers what it was asked."""

    def __init__(self, loop: VirtualLoop, link: EngineLink):
        self.loop, self.link = loop, link
        self.asked: list[Frame] = []
        self.ended = False
        self._frames = wire.FrameReader()

    def set_write_buffer_limits(self, high):
        pass

    def writelines(self, pieces):
        for frame in self._frames.feed(b"".join(bytes(piece) for piece in pieces)):
            if frame.type is Type.PREDICT:
                self.asked.append(frame)

    def abort(self):
        if not self.ended:
            self.ended = True
            self.loop.call_soon(self.link.connection_lost, None)

    def answer(self, frame: Frame):
        if not self.ended:
            self.link.data_received(b"".join(bytes(piece) for piece in wire.encode(frame)))


class Scene:
    """A pool before two engines, of which every move is drawn from `rng`."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.loop = VirtualLoop()
        self.pool = EnginePool([Path("one"), Path("other")])
        self.callers: list[Caller] = []
        self.begun: list[object] = []
        self.wires = [self._connect(engine) for engine in self.pool.engines]
        self.loop.settle()
        self.pool._pace.learn(("lamp", "1"), Frame(Type.RESULT, 0, QUICK))

    def _connect(self, engine):
        engine.served = SERVED
        engine.link = EngineLink(lambda description: None, self.loop.clock)
        transport = Wire(self.loop, engine.link)
        self.loop.call_soon(engine.link.connection_made, transport)
        return transport

    def join(self):
        left_ns = self.rng.choice((MS // 2, MS, 2 * MS, 5 * MS, 30 * MS))
        deadline_ns = self.loop.now_ns + left_ns
        reserve_ns = self.rng.choice((0, left_ns // 20))
        options = RequestOptions(
            deadline_ns, deadline_ns - reserve_ns, self.rng.choice((INTERACTIVE, INTERACTIVE, BATCH))
        )
        caller = Caller(self.loop, deadline_ns)
        meta = self.rng.choice(QUESTIONS)
        size = meta["inputs"][0]["shape"][0] * 16
        if begun := self.pool.begin(meta, bytes(size), options, caller):
            self.callers.append(caller)
            self.begun.append(begun)

    def leave(self):
        waiting = [number for number, caller in enumerate(self.callers) if not caller.done()]
        if waiting:
            number = self.rng.choice(waiting)
            self.callers[number].left = True
            self.begun[number][1].give_up()

    def dawdle(self):
        """Time passes within one turn of the loop."""
        self.loop.now_ns += self.rng.choice((MS // 2, MS, 3 * MS))

    def advance(self):
        self.loop.advance(self.rng.choice((MS // 2, MS, 3 * MS)))

    def turn(self):
        self.loop.turn()

    def answer(self):
        """One of the questions asked so far, maybe of long ago, in one of the ways an engine answers."""
        transport = self.rng.choice(self.wires)
        if transport.asked:
            asked = self.rng.choice(transport.asked)
            self.rng.choice((self.right, self.right, self.right, self.busy, self.nonsense))(transport, asked)

    def right(self, transport, asked):
        items = asked.meta["inputs"][0]["shape"][0]
        outputs = [{"name": "logits", "dtype": "float32", "shape": [items, 2]}]
        meta = {"outputs": outputs, **QUICK}
        transport.answer(Frame(Type.RESULT, asked.id, meta, bytes(8 * items)))

    def busy(self, transport, asked):
        transport.answer(Frame(Type.ERROR, asked.id, EngineBusy("full", retry_after_s=1).to_meta()))

    def nonsense(self, transport, asked):
        transport.answer(Frame(Type.RESULT, asked.id, {}, b""))

    def lose(self):
        self.rng.choice(self.wires).abort()

    def play(self, steps: int):
        moves = [self.join] * 5 + [self.turn] * 3 + [self.answer] * 3 + [self.dawdle] * 2
        moves += [self.advance, self.leave, self.leave]
        lost_at = self.rng.randrange(3 * steps)
        for step in range(steps):
            (self.lose if step == lost_at else self.rng.choice(moves))()
        self.loop.advance(60 * MS)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What is logged of unusable answers is not what is looked at."""
    caplog.set_level("CRITICAL", logger="bedplate")


def test_in_any_order_each_is_told_once_and_by_its_deadline():
    asked = together = 0
    for seed in range(ORDERS):
        scene = Scene(random.Random(seed))
        scene.play(STEPS)
        asked += len(scene.callers)
        together += sum(frame.meta["inputs"][0]["shape"][0] > 2 for one in scene.wires for frame in one.asked)
        for number, caller in enumerate(scene.callers):
            assert caller.left or len(caller.told) == 1, f"order {seed}: caller {number} was told {caller.told}"
            if caller.told:
                # `dawdle` is what a turn of the loop may take before anybody can be told.
                assert caller.told[0][0] <= caller.deadline_ns + STEPS * 3 * MS, f"order {seed}: caller {number} late"
        assert not scene.loop.faults
        assert not any(engine.link.outstanding for engine in scene.pool.engines)

    assert asked > 3 * ORDERS
    assert together > ORDERS // 10


def test_a_group_of_one_whose_deadline_passes_in_the_turn_it_came_in_is_told():
    scene = Scene(random.Random(0))
    caller = Caller(scene.loop, scene.loop.now_ns + MS)
    scene.pool.begin(QUESTIONS[0], bytes(16), RequestOptions(caller.deadline_ns, caller.deadline_ns), caller)
    scene.loop.now_ns += 2 * MS

    scene.loop.settle()

    [(_, told)] = caller.told
    assert isinstance(told, asyncio.TimeoutError)
