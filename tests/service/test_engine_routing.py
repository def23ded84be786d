"""Which engine a request goes to, when it goes to a second one, and what the engine is told of its client."""

from __future__ import annotations

import asyncio

import pytest
from bedplate import wire
from bedplate.errors import DeadlineExceeded, EngineBusy, EnginesLost, EngineUnavailable, UnknownModel
from bedplate.web.options import within
from bedplate.wire import Frame, Type

from tests.service.lamp import description
from tests.service.scripted_engines import (
    META,
    begin_and_vanish,
    busy_for,
    draining,
    garbage,
    right,
    run,
    silence,
    unloaded,
    vanish,
    vanish_in_the_middle,
)

WAIT_S = 5  # for what should take milliseconds


@pytest.mark.parametrize(
    ("fault", "reason"), [(vanish, "lost"), (draining, "draining"), (busy_for(3), "busy"), (unloaded, "stale")]
)
def test_a_second_attempt_is_told_with_its_reason(tmp_path, fault, reason):
    reasons = []

    async def check(pool, peers):
        answer = await pool.predict(META, b"12345678", within(WAIT_S))

        assert answer.tensors == b"12345678"
        assert [len(peer.seen) for peer in peers] == [1, 1]

    run(tmp_path, [fault, right], check, reasons.append)

    assert reasons == [reason]


@pytest.mark.parametrize(("first", "second"), [(7, 3), (3, 7)])
def test_when_all_are_busy_the_sooner_of_two_is_told(tmp_path, first, second):
    async def check(pool, peers):
        with pytest.raises(EngineBusy) as caught:
            await pool.predict(META, b"", within(WAIT_S))
        assert caught.value.retry_after_s == 3
        assert sum(len(peer.seen) for peer in peers) == 2

    run(tmp_path, [busy_for(first), busy_for(second), busy_for(1)], check)


def test_a_busy_engine_alone_is_asked_once(tmp_path):
    async def check(pool, peers):
        peers[1].models = [description(version="2")]
        await pool.models()

        with pytest.raises(EngineBusy):
            await pool.predict(META, b"", within(WAIT_S))

        assert [len(peer.seen) for peer in peers] == [1, 0]

    run(tmp_path, [busy_for(3), right], check)


def test_busy_stays_busy_when_the_other_engine_is_lost(tmp_path):
    async def check(pool, peers):
        with pytest.raises(EngineBusy):
            await pool.predict(META, b"", within(WAIT_S))
        assert [len(peer.seen) for peer in peers] == [1, 1]

    run(tmp_path, [busy_for(3), vanish], check)


async def hush(pool, peer):
    """Let a request run into its deadline at an engine that is stopped, as far as anybody can tell."""

    async def stopped(frame):
        pass

    take, peer.take = peer.take, stopped
    with pytest.raises(DeadlineExceeded):
        await pool.predict(META, b"", within(0.05))
    return take


def test_an_engine_that_fell_silent_does_not_go_on_collecting_requests(tmp_path):
    async def check(pool, peers):
        await pool.models()
        await hush(pool, peers[0])

        for _ in range(6):
            await pool.predict(META, b"", within(WAIT_S))

        assert len(peers[1].seen) == 6

    run(tmp_path, [right, right], check)


def test_anything_that_comes_from_a_silent_engine_ends_its_silence(tmp_path):
    async def check(pool, peers):
        await pool.models()
        peers[0].take = await hush(pool, peers[0])
        assert pool.engines[0].silent

        peers[0].describe()
        while pool.engines[0].silent:
            await asyncio.sleep(0.001)
        await pool.predict(META, b"", within(WAIT_S))

        assert Type.PREDICT in [frame.type for frame in peers[0].seen]

    run(tmp_path, [right, right], check)


def test_an_engine_that_an_impatient_client_did_not_wait_for_is_not_silent_for_long(tmp_path):
    async def check(pool, peers):
        with pytest.raises(DeadlineExceeded):
            await pool.predict(META, b"", within(0.02))
        assert pool.engines[0].silent

        while pool.engines[0].silent:
            await asyncio.sleep(0.001)

    run(tmp_path, [silence], check)


def test_an_engine_that_answers_others_is_not_silent(tmp_path):
    async def only_some(peer, frame):
        if frame.tensors:
            await right(peer, frame)

    async def check(pool, peers):
        late = asyncio.create_task(pool.predict(META, b"", within(0.1)))
        while not peers[0].seen:
            await asyncio.sleep(0.001)
        await pool.predict(META, b"answered", within(WAIT_S))

        with pytest.raises(DeadlineExceeded):
            await late

        assert not pool.engines[0].silent

    run(tmp_path, [only_some], check)


def test_when_all_are_silent_they_are_asked_all_the_same(tmp_path):
    async def check(pool, peers):
        await pool.models()
        peers[0].take = await hush(pool, peers[0])

        assert (await pool.predict(META, b"", within(WAIT_S))).type is Type.RESULT

    run(tmp_path, [right], check)


def test_a_busy_client_is_not_sent_to_a_silent_engine(tmp_path):
    async def check(pool, peers):
        await pool.models()
        await hush(pool, peers[0])

        with pytest.raises(EngineBusy):
            await pool.predict(META, b"", within(WAIT_S))

    run(tmp_path, [right, busy_for(3)], check)


@pytest.mark.parametrize(("timeout_s", "reserve_ms"), [(0.5, 25), (1, 50), (30, 50)])
def test_the_engine_has_a_little_less_time_than_the_client(tmp_path, timeout_s, reserve_ms):
    async def check(pool, peers):
        options = within(timeout_s, wire.BATCH)

        await pool.predict(META, b"", options)

        [frame] = peers[0].seen
        assert (options.deadline_ns - frame.deadline_ns) / 1e6 == reserve_ms
        assert frame.priority == wire.BATCH

    run(tmp_path, [right], check)


def test_what_the_engine_says_unasked_holds_at_once(tmp_path):
    async def check(pool, peers):
        peers[0].models = [description(), description(version="2")]
        peers[0].aliases = {"lamp": {"default": "1", "canary": "2"}}
        before = [(await pool.model("lamp", wanted)).version for wanted in (None, "canary", "2", "1")]

        peers[0].aliases = {"lamp": {"default": "2", "canary": "2"}}
        peers[0].describe()
        while (await pool.model("lamp")).version == "1":
            await asyncio.sleep(0.001)

        assert before == ["1", "2", "2", "1"]
        assert (await pool.models())["lamp"].version == "2"
        assert (await pool.served()).versions("lamp") == ["1", "2"]

    run(tmp_path, [right], check)


def test_an_answer_that_is_older_than_what_was_said_unasked_does_not_undo_it(tmp_path):
    async def check(pool, peers):
        async def describe_then_change(frame):
            old, new = {"models": [description()]}, {"models": [description(version="2")]}
            frames = Frame(Type.DESCRIPTION, frame.id, old), Frame(Type.DESCRIPTION, 0, new)
            peers[0].writer.writelines([piece for each in frames for piece in wire.encode(each)])

        peers[0].take = describe_then_change

        assert (await pool.model("lamp")).version == "2"

    run(tmp_path, [right], check)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"models": 1},
        {"models": [1]},
        {"models": [{}]},
        {"models": [], "aliases": []},
        {"models": [], "aliases": {"lamp": 1}},
        {"models": [], "aliases": {"lamp": {"default": 1}}},
    ],
)
def test_a_description_that_is_none_ends_the_connection(tmp_path, meta):
    async def check(pool, peers):
        await pool.models()

        peers[0].send(Frame(Type.DESCRIPTION, 0, meta))

        while pool.engines[0].connected:
            await asyncio.sleep(0.001)
        assert (await pool.models())["lamp"].version == "1"

    run(tmp_path, [right], check)


def test_a_version_wins_over_an_alias_of_its_name_even_at_another_engine(tmp_path):
    async def check(pool, peers):
        peers[0].models = [description(version="3")]
        peers[0].aliases = {"lamp": {"default": "3", "2": "3"}}
        peers[1].models = [description(version="2")]
        await pool.models()

        assert (await pool.model("lamp", "2")).version == "2"

    run(tmp_path, [right, right], check)


@pytest.mark.parametrize("wanted", ["2", "fast", "", "default"])
def test_what_no_engine_has_is_unknown(tmp_path, wanted):
    async def check(pool, peers):
        peers[0].aliases = {"lamp": {"default": "gone", "fast": "gone"}}

        with pytest.raises(UnknownModel):
            await pool.model("lamp", wanted)

    run(tmp_path, [right], check)


def test_a_version_that_its_only_engine_unloaded_is_unknown_and_its_successor_is_known(tmp_path):
    async def check(pool, peers):
        await pool.models()

        with pytest.raises(UnknownModel):
            await pool.predict(META, b"", within(WAIT_S))

        assert (await pool.model("lamp")).version == "2"
        assert len(peers[0].seen) == 1

    run(tmp_path, [unloaded], check)


@pytest.mark.parametrize(
    ("fault", "alone"),
    [(begin_and_vanish, True), (vanish, False), (vanish_in_the_middle, False), (garbage, False)],
)
def test_two_engines_that_end_over_a_request_are_enough(tmp_path, fault, alone):
    """Also where they are of an earlier release, which does not say what it begins."""

    async def check(pool, peers):
        for peer in peers:
            peer.alone = alone
        with pytest.raises(EnginesLost) as caught:
            await pool.predict(META, b"", within(WAIT_S))
        assert (caught.value.value, caught.value.limit) == (2, 2)
        assert sum(len(peer.seen) for peer in peers) == 2

    run(tmp_path, [fault] * 3, check)


@pytest.mark.parametrize("knows", [True, False])
def test_only_after_a_loss_is_it_asked_alone_and_only_of_an_engine_that_knows_this(tmp_path, knows):
    async def check(pool, peers):
        peers[1].alone = knows

        await pool.predict(META, b"", within(WAIT_S))

        assert [peer.seen[0].meta.get("alone") for peer in peers] == [None, True if knows else None]

    run(tmp_path, [vanish, right], check)


@pytest.mark.parametrize("fault", [draining, busy_for(3), unloaded])
def test_what_was_refused_is_not_asked_alone(tmp_path, fault):
    async def check(pool, peers):
        await pool.predict(META, b"", within(WAIT_S))

        assert "alone" not in peers[1].seen[0].meta

    run(tmp_path, [fault, right], check)


def test_who_only_waited_where_another_ended_the_engine_is_asked_again(tmp_path):
    async def check(pool, peers):
        answer = await pool.predict(META, b"12345678", within(WAIT_S))

        assert answer.tensors == b"12345678"
        assert [len(peer.seen) for peer in peers] == [1, 1, 1]

    run(tmp_path, [vanish, vanish, right], check)


def test_who_only_waited_is_asked_of_each_engine_once(tmp_path):
    async def check(pool, peers):
        with pytest.raises(EngineUnavailable):
            await pool.predict(META, b"", within(WAIT_S))

        assert [len(peer.seen) for peer in peers] == [1, 1, 1, 1]

    run(tmp_path, [vanish] * 4, check)


def test_an_engine_that_ends_while_it_is_asked_what_it_serves_now_is_no_verdict(tmp_path):
    async def gone(peer, frame):
        async def end(frame):
            peer.writer.transport.abort()

        peer.take = end
        peer.send(Frame(Type.ERROR, frame.id, {"code": "unknown-model", "detail": "not loaded"}))

    async def check(pool, peers):
        answer = await pool.predict(META, b"12345678", within(WAIT_S))

        assert answer.tensors == b"12345678"
        assert "alone" not in peers[1].seen[0].meta

    run(tmp_path, [gone, right], check)


def test_what_had_not_been_sent_when_the_engine_went_was_not_begun(tmp_path):
    async def check(pool, peers):
        await pool.models()
        answer = asyncio.create_task(pool.predict(META, b"12345678", within(WAIT_S)))
        while not pool.engines[0].link.outstanding:
            await asyncio.sleep(0)
        pool.engines[0].link.connection_lost(None)

        assert (await answer).tensors == b"12345678"
        assert [len(peer.seen) for peer in peers] == [0, 1]
        assert "alone" not in peers[1].seen[0].meta

    run(tmp_path, [right, right], check)
