"""The web's side of the socket, against a real unix socket with a peer that misbehaves."""

from __future__ import annotations

import asyncio

import pytest
from bedplate.errors import DeadlineExceeded, EngineBusy, EngineUnavailable, UnknownModel
from bedplate.web.engines.pool import EnginePool
from bedplate.web.options import within
from bedplate.wire import Type

from tests.service.lamp import description
from tests.service.scripted_engines import (
    META,
    busy_for,
    draining,
    garbage,
    right,
    run,
    silence,
    vanish,
    vanish_in_the_middle,
)


def test_each_request_gets_its_own_answer(tmp_path):
    async def later_first(peer, frame):
        if len(peer.seen) == 20:
            for seen in reversed(peer.seen):
                await right(peer, seen)

    async def check(pool, peers):
        async def ask(n):
            return await pool.predict(META, bytes([n]) * 8, within(5))

        answers = await asyncio.gather(*(ask(n) for n in range(20)))
        assert [answer.tensors for answer in answers] == [bytes([n]) * 8 for n in range(20)]

    run(tmp_path, [later_first], check)


@pytest.mark.parametrize("fault", [vanish, vanish_in_the_middle, garbage, draining])
def test_a_request_whose_engine_is_lost_goes_to_another(tmp_path, fault):
    async def check(pool, peers):
        answer = await pool.predict(META, b"12345678", within(5))
        assert answer.tensors == b"12345678"

    run(tmp_path, [fault, right], check)


@pytest.mark.parametrize("fault", [vanish, draining])
def test_with_no_engine_left_the_caller_is_told_to_retry(tmp_path, fault):
    async def check(pool, peers):
        with pytest.raises(EngineUnavailable) as caught:
            await pool.predict(META, b"", within(5))
        assert caught.value.retry_after_s > 0

    run(tmp_path, [fault, fault], check)


def test_a_request_is_sent_twice_at_most(tmp_path):
    async def check(pool, peers):
        with pytest.raises(EngineUnavailable):
            await pool.predict(META, b"", within(5))
        assert sum(len(peer.seen) for peer in peers) == 2

    run(tmp_path, [draining, draining, draining], check)


def test_silence_ends_at_the_deadline_and_the_engine_may_forget(tmp_path):
    async def check(pool, peers):
        with pytest.raises(DeadlineExceeded):
            await pool.predict(META, b"", within(0.1))
        while [frame.type for frame in peers[0].seen] != [Type.PREDICT, Type.CANCEL]:
            await asyncio.sleep(0.01)
        assert peers[0].seen[0].id == peers[0].seen[1].id

    run(tmp_path, [silence], check)


def test_a_late_answer_is_dropped(tmp_path):
    async def check(pool, peers):
        with pytest.raises(DeadlineExceeded):
            await pool.predict(META, b"late", within(0.05))
        await right(peers[0], peers[0].seen[0])
        peers[0].answer = right

        answer = await pool.predict(META, b"next", within(5))

        assert answer.tensors == b"next"

    run(tmp_path, [silence], check)


def test_what_the_engine_refuses_is_the_callers_error(tmp_path):
    async def check(pool, peers):
        with pytest.raises(EngineBusy) as caught:
            await pool.predict(META, b"", within(5))
        assert (caught.value.limit, caught.value.retry_after_s) == (64, 3)

    run(tmp_path, [busy_for(3)], check)


def test_an_engine_that_comes_back_is_used_again(tmp_path):
    async def check(pool, peers):
        await pool.predict(META, b"", within(5))
        peers[0].writer.transport.abort()
        await asyncio.sleep(0)

        answer = await pool.predict(META, b"again", within(5))

        assert answer.tensors == b"again"

    run(tmp_path, [right], check)


def test_the_least_busy_engine_is_asked(tmp_path):
    async def check(pool, peers):
        await pool.models()
        waiting = [asyncio.create_task(pool.predict(META, b"", within(5))) for _ in range(10)]
        while sum(len(peer.seen) for peer in peers) < 10:
            await asyncio.sleep(0.01)
        assert [len(peer.seen) for peer in peers] == [5, 5]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(tmp_path, [silence, silence], check)


def test_an_engine_that_accepts_and_stays_silent_holds_up_nobody(tmp_path):
    async def check(pool, peers):
        async def describe_nothing(frame):
            pass

        peers[0].take = describe_nothing
        started = asyncio.get_running_loop().time()

        answers = await asyncio.gather(*(pool.predict(META, bytes([n]), within(1)) for n in range(8)))

        assert [answer.tensors for answer in answers] == [bytes([n]) for n in range(8)]
        assert asyncio.get_running_loop().time() - started < 1

    run(tmp_path, [right, right], check)


def test_of_several_versions_the_first_described_is_served(tmp_path):
    async def check(pool, peers):
        peers[0].models = [description(version="2"), description(version="1")]

        assert (await pool.model("lamp")).version == "2"
        assert (await pool.models())["lamp"].version == "2"

    run(tmp_path, [right], check)


def test_a_request_goes_only_to_an_engine_that_serves_its_version(tmp_path):
    async def check(pool, peers):
        peers[0].models = [description(version="2")]
        await pool.models()

        await asyncio.gather(*(pool.predict(META, b"", within(5)) for _ in range(6)))

        assert [len(peer.seen) for peer in peers] == [0, 6]

    run(tmp_path, [right, right], check)


def test_a_request_that_is_too_late_is_not_sent(tmp_path):
    async def check(pool, peers):
        await pool.models()

        with pytest.raises(DeadlineExceeded):
            await pool.predict(META, b"", within(-0.001))

        assert peers[0].seen == []

    run(tmp_path, [right], check)


def test_an_engine_that_does_not_read_is_spared_and_then_busy(tmp_path):
    async def check(pool, peers):
        await pool.models()
        peers[0].writer.transport.pause_reading()
        big = bytes(16 << 20)

        refusals = []
        for _ in range(8):
            try:
                await pool.predict(META, big, within(0.1))
            except (DeadlineExceeded, EngineBusy) as refusal:
                refusals.append(type(refusal))

        assert refusals[0] is DeadlineExceeded
        assert refusals[-1] is EngineBusy
        peers[0].writer.transport.abort()

    run(tmp_path, [right], check)


def test_no_engine_at_all_is_unavailable_and_an_unknown_name_is_unknown(tmp_path):
    async def check(pool, peers):
        with pytest.raises(EngineUnavailable):
            await EnginePool([tmp_path / "nobody.sock"]).model("lamp")
        with pytest.raises(UnknownModel):
            await pool.model("other")

    run(tmp_path, [right], check)
