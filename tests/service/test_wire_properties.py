"""Whatever the two ends of a socket do to each other, at any moment: no request gets another's answer, none hangs.

In memory and without time: hypothesis chooses what happens and in which order, two thousand times each, and ten
thousand with --hypothesis-profile=acceptance.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter

import numpy as np
from bedplate import wire
from bedplate.engine import server
from bedplate.errors import EngineBusy
from bedplate.web.engines.connection import EngineLink, EngineLost
from bedplate.web.options import RequestOptions
from bedplate.wire import Frame, FrameError, FrameReader, Type
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.service.engine_tools import GatedLamp, bright, predict_frame
from tests.service.virtual_loop import VirtualLoop

thoroughly = settings(
    max_examples=10_000 if settings.get_current_profile_name() == "acceptance" else 2_000, deadline=None
)

HEADER = struct.Struct("<4sBBBBQQII")  # as ADR 1 has it, written down a second time
numbers = st.sampled_from([0, 1, 255, 2**32, 2**64 - 1])
frames = st.builds(
    Frame,
    type=st.sampled_from(Type),
    id=numbers,
    meta=st.sampled_from([{}, {"a": 1}, {"model": "lämp", "inputs": [{"shape": [1, 2]}]}, {"{": '"}\\'}]),
    tensors=st.binary(max_size=40),
    deadline_ns=numbers,
    priority=st.sampled_from([wire.INTERACTIVE, wire.BATCH, wire.PROBE]),
)
FOLLOWER = Frame(Type.RESULT, 1, {"model": "lamp"}, b"12345678")


def raw(frame):
    return b"".join(bytes(piece) for piece in wire.encode(frame))


def pieces_of(stream, sizes):
    """`stream` cut into pieces of these sizes, and the rest."""
    for size in sizes:
        yield stream[:size]
        stream = stream[size:]
    yield stream


@thoroughly
@given(st.lists(frames, max_size=4), st.lists(st.integers(0, 60), max_size=12), st.integers(0, 600))
def test_a_stream_cut_anywhere_gives_the_frames_that_are_whole(sent, cuts, length):
    stream = b"".join(map(raw, sent))[:length]
    ends = [sum(len(raw(frame)) for frame in sent[: n + 1]) for n in range(len(sent))]
    whole = sent[: sum(end <= length for end in ends)]
    reader = FrameReader()

    received = [frame for piece in pieces_of(stream, cuts) for frame in reader.feed(piece)]

    assert received == whole
    assert reader.idle == (len(stream) in (0, *ends))


@thoroughly
@given(frames, st.lists(st.integers(0, 255), min_size=1, max_size=4, unique=True), st.integers(1, 200))
def test_flipped_bits_in_a_header_are_refused_or_are_a_frame(frame, bits, cut):
    damaged = bytearray(raw(frame))
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    magic, version, kind, priority, reserved, _, _, meta_bytes, tensor_bytes = HEADER.unpack(damaged[: HEADER.size])
    stream = bytes(damaged) + raw(FOLLOWER)
    reader = FrameReader()
    received, refused = [], False

    try:
        for piece in (stream[:cut], stream[cut:]):
            received += reader.feed(piece)
    except FrameError:
        refused = True

    right = (magic, version, reserved) == (b"BEDP", 1, 0) and priority in (0, 1, 2) and kind in set(Type)
    bounded = meta_bytes <= wire.MAX_META_BYTES and tensor_bytes <= wire.MAX_TENSOR_BYTES
    # What is announced beyond the limits is refused by the header alone, and never waited for.
    assert refused or (right and bounded)
    assert all(isinstance(found, Frame) for found in received)


class Wire:
    """A transport: what is written comes out as frames; `abort` ends it a moment later, as a real one does."""

    def __init__(self, on_abort):
        self.frames = []
        self.closing = False
        self.written_too_late = False
        self._reader = FrameReader()
        self._on_abort = on_abort

    def writelines(self, pieces):
        self.written_too_late |= self.closing
        self.frames += self._reader.feed(b"".join(bytes(piece) for piece in pieces))

    def abort(self):
        if not self.closing:
            self.closing = True
            self._on_abort()

    def set_write_buffer_limits(self, high):
        pass


class Web:
    """One link of a web to an engine that does what hypothesis says."""

    def __init__(self):
        self.loop = VirtualLoop()
        self.link = EngineLink(lambda meta: None, self.loop.clock)
        self.transport = Wire(lambda: self.loop.call_soon(self._end))
        self.loop.call_soon(self.link.connection_made, self.transport)
        self.loop.turn()
        self.asks = []  # (task, tensors, asked and deadline in ns, list of the times it ended)
        self.cancelled = set()  # indices of asks
        self._incoming = b""  # written by the engine, not read yet
        self._ended_ns = None

    def _end(self):
        if self._ended_ns is None:
            self._ended_ns = self.loop.now_ns
            self.transport.closing = True
            self.link.connection_lost(None)

    def must_end_by(self, asked_ns, deadline_ns):
        """The peer's end is that of every request, too; one that comes later ends as it comes."""
        return deadline_ns if self._ended_ns is None else min(deadline_ns, max(asked_ns, self._ended_ns))

    def ask(self, timeout_ms):
        tensors = struct.pack("<Q", len(self.asks))
        deadline_ns = self.loop.now_ns + timeout_ms * 1_000_000
        options = RequestOptions(deadline_ns, deadline_ns - timeout_ms * 20_000)
        task = self.loop.create_task(self.link.ask(Type.PREDICT, {}, tensors, options))
        ends = []
        task.add_done_callback(lambda _: ends.append(self.loop.now_ns))
        self.asks.append((task, tensors, self.loop.now_ns, deadline_ns, ends))

    def cancel(self, which):
        if self.asks and not self.asks[which % len(self.asks)][0].done():
            self.asks[which % len(self.asks)][0].cancel()
            self.cancelled.add(which % len(self.asks))

    @property
    def seen(self):
        return [frame for frame in self.transport.frames if frame.type is Type.PREDICT]

    def answer(self, which):
        """Any request that the engine ever saw: late, again, or after it was cancelled."""
        if self.seen:
            frame = self.seen[which % len(self.seen)]
            self._incoming += raw(Frame(Type.RESULT, frame.id, {}, frame.tensors))

    def stray(self, request_id):
        """An answer to what was never asked, or not yet."""
        known = {frame.id for frame in self.seen}
        if request_id not in known:
            self._incoming += raw(Frame(Type.RESULT, 2**40 + request_id, {}, b"stray"))

    def describe(self, _):
        self._incoming += raw(Frame(Type.DESCRIPTION, 0, {}))

    def deliver(self, size):
        if not self.transport.closing:
            self.link.data_received(self._incoming[:size])
            self._incoming = self._incoming[size:]

    def deliver_at_the_last_moment(self, size):
        self.loop.collide(lambda: self.deliver(size))

    def garbage(self, _):
        self._incoming += b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2

    def vanish(self, _):
        self._end()

    def wait(self, duration_ms):
        self.loop.advance(duration_ms * 1_000_000)

    def turn(self, _):
        self.loop.turn()


def steps(*choices):
    return st.lists(st.one_of([st.tuples(st.just(name), numbers) for name, numbers in choices]), max_size=30)


few = st.integers(0, 7)
web_steps = steps(
    ("ask", st.integers(0, 50)),
    ("ask", st.just(1000)),
    ("cancel", few),
    ("answer", few),
    ("answer", few),
    ("deliver", st.integers(1, 100)),
    ("deliver", st.just(1000)),
    ("deliver_at_the_last_moment", st.just(1000)),
    ("turn", st.just(0)),
    ("turn", st.just(0)),
    ("wait", st.integers(0, 30)),
    ("stray", few),
    ("describe", st.just(0)),
    ("vanish", st.just(0)),
    ("garbage", st.just(0)),
)


@thoroughly
@given(web_steps)
def test_each_ask_ends_once_in_time_and_with_its_own_answer_or_an_error(chosen):
    web = Web()

    for name, number in chosen:
        getattr(web, name)(number)
    web.wait(2000)

    for index, (task, tensors, asked_ns, deadline_ns, ends) in enumerate(web.asks):
        assert len(ends) == 1
        assert ends[0] <= web.must_end_by(asked_ns, deadline_ns)
        if task.cancelled():
            assert index in web.cancelled
        elif task.exception() is None:
            assert (task.result().type, task.result().tensors) == (Type.RESULT, tensors)
        else:
            assert isinstance(task.exception(), (EngineLost, asyncio.TimeoutError))
    assert web.link.outstanding == {}
    assert web.loop.faults == []
    assert not web.transport.written_too_late
    forgotten = Counter(frame.id for frame in web.transport.frames if frame.type is Type.CANCEL)
    assert forgotten.keys() <= {frame.id for frame in web.seen}
    assert set(forgotten.values()) <= {1}


class Peer:
    """One web at the engine, as its connection sees it."""

    def __init__(self, engine):
        self.connection = server.Connection(engine)
        self.transport = Wire(self.leave)
        self.connection.connection_made(self.transport)
        self.gone = False
        self.arrived = []  # whole frames that the connection was given, each with how many it had written by then
        self._ids = 0
        self._outgoing = b""
        self._reader = FrameReader()

    def predict(self, number):
        self._ids += 1
        self._outgoing += raw(predict_frame(self._ids, bright(value=number)))

    def cancel(self, request_id):
        """A web cancels what it asked; what was never asked may be cancelled too, under an id that never comes."""
        if request_id > self._ids:
            request_id += 2**40
        self._outgoing += raw(Frame(Type.CANCEL, request_id, {}))

    def deliver(self, size):
        if self.gone:
            return
        data, self._outgoing = self._outgoing[:size], self._outgoing[size:]
        self.connection.data_received(data)
        self.arrived += [(frame, len(self.transport.frames)) for frame in self._reader.feed(data)]

    def leave(self):
        if not self.gone:
            self.gone = self.transport.closing = True
            self.connection.connection_lost(None)


class Engine:
    """What a connection needs of a server; the device computes when hypothesis says so."""

    def __init__(self):
        self.connections = set()
        self.batcher = self.catalogue = self
        self.description = {"models": []}
        self.peers = [Peer(self), Peer(self)]
        self.everybody = list(self.peers)
        self.sent = 0
        self._model = GatedLamp()
        self._is_full = False
        self._queue = []
        self._settled = []
        self._returned = []

    def find(self, name, version):
        return self._model

    def compute_short(self):
        """Nothing is."""

    def queue(self, work):
        if self._is_full:
            raise EngineBusy("full", retry_after_s=1)
        self._queue.append(work)

    def cancel(self, work):
        """As the real one: what is on its way back already comes back all the same."""
        assert work not in self._returned, "forgotten after its answer, so it was kept for ever"
        if work in self._queue:
            self._queue.remove(work)

    def predict(self, number):
        self.sent += 1
        self.peers[number % 2].predict(self.sent)

    def forget(self, number):
        self.peers[number % 2].cancel(number // 2)

    def deliver(self, size):
        self.peers[size % 2].deliver(size // 2)

    def compute(self, count):
        for work in self._queue[:count]:
            work.outputs = np.array(work.inputs)
        self._settled += self._queue[:count]
        self._queue = self._queue[count:]

    def answer(self, _):
        works, self._settled = self._settled, []
        server.answer(works)
        self._returned += works

    def fill(self, number):
        self._is_full = bool(number % 2)

    def leave(self, number):
        """Maybe in the middle of a frame; the next one begins with the same ids."""
        self.peers[number % 2].leave()
        self.peers[number % 2] = Peer(self)
        self.everybody.append(self.peers[number % 2])


engine_steps = steps(
    ("predict", few),
    ("predict", few),
    ("forget", st.integers(0, 15)),
    ("deliver", st.integers(2, 200)),
    ("deliver", st.integers(2000, 2001)),
    ("compute", st.integers(1, 4)),
    ("answer", st.just(0)),
    ("leave", few),
    ("fill", few),
)


@thoroughly
@given(engine_steps)
def test_each_request_is_answered_once_by_its_own_and_never_after_its_cancel(chosen):
    engine = Engine()

    for name, number in chosen:
        getattr(engine, name)(number)
    for name, number in [("deliver", 100_000), ("deliver", 100_001), ("compute", 100), ("answer", 0)]:
        getattr(engine, name)(number)

    for peer in engine.everybody:
        assert not peer.transport.written_too_late
        asked = {frame.id: frame for frame, _ in peer.arrived if frame.type is Type.PREDICT}
        answered = Counter(frame.id for frame in peer.transport.frames)
        assert answered.keys() <= asked.keys()
        assert set(answered.values()) <= {1}
        for frame in peer.transport.frames:
            assert frame.type is Type.ERROR or frame.tensors == asked[frame.id].tensors
        forgotten = set()
        for frame, answers_before in peer.arrived:
            if frame.type is Type.CANCEL:
                forgotten.add(frame.id)
                assert frame.id not in {late.id for late in peer.transport.frames[answers_before:]}
        if not peer.gone:
            assert asked.keys() - forgotten <= answered.keys()
    assert engine.connections == {peer.connection for peer in engine.everybody if not peer.gone}
