"""A health check tells whether the path is well, at once, however much users have to wait."""

import asyncio

import pytest
from bedplate import wire
from bedplate.bundle.bundle import Bundle
from bedplate.errors import DeadlineExceeded, DecoderBusy, EngineBusy, EngineUnavailable
from bedplate.web import readiness
from bedplate.web.options import within
from bedplate.web.predictor import question
from bedplate.web.readiness import ReadinessProbe

from tests.service.engine_tools import DEADLINE_S, bright
from tests.service.lamp import description
from tests.service.scripted_engines import right, run

MODELS = {
    name: Bundle.from_description(description(name=name, digest=digit * 64))
    for name, digit in (("lamp", "a"), ("moon", "b"), ("star", "c"))
}


class Path:
    """Stands where the pool and the predictor stand: canaries are answered when a test says so."""

    engines = ()

    def __init__(self):
        self.asked = asyncio.Queue()
        self.computed_s = 0.0

    async def models(self):
        return MODELS

    async def canary(self, model, options):
        answer = asyncio.get_running_loop().create_future()
        await self.asked.put((model.name, options.priority, answer))
        return await answer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(readiness, "_WAIT_S", 0.01)
    monkeypatch.setattr(readiness, "_REMEMBER_S", 0.0)
    monkeypatch.setattr(readiness, "_REMEMBER_TIMES", 0.0)


def probing(check):
    async def main():
        path = Path()
        await check(path, ReadinessProbe(path, path, lambda model: path.computed_s))

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


async def answered(path, probe, *outcomes):
    """One check whose canaries are answered in turn; what it says."""
    checking = asyncio.create_task(probe.check())
    for outcome in outcomes:
        _, _, answer = await path.asked.get()
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
    return await checking


def test_all_canaries_are_asked_before_one_is_answered_and_none_waits_among_users():
    async def check(path, probe):
        checking = asyncio.create_task(probe.check())
        canaries = [await path.asked.get() for _ in MODELS]
        for _, _, answer in canaries:
            answer.set_result(True)

        assert (await checking).ready
        assert [canary[:2] for canary in canaries] == [(name, wire.PROBE) for name in MODELS]

    probing(check)


def test_until_a_canary_is_answered_what_the_last_one_said_holds():
    async def check(path, probe):
        assert (await answered(path, probe, True, True, True)).ready

        busy = await probe.check()
        canaries = [await path.asked.get() for _ in MODELS]
        checking = asyncio.create_task(probe.check())
        for (_, _, answer), is_right in zip(canaries, (True, False, True), strict=True):
            answer.set_result(is_right)
        after = await checking

        assert busy.ready
        assert (after.ready, after.models) == (False, {"lamp": True, "moon": False, "star": True})

    probing(check)


def test_a_model_that_never_answered_a_canary_is_not_ready(monkeypatch):
    monkeypatch.setattr(readiness, "_FIRST_WAIT_S", 0.01)

    async def check(path, probe):
        assert not (await probe.check()).ready

    probing(check)


@pytest.mark.parametrize("busy", [EngineBusy("full"), DecoderBusy("full"), DeadlineExceeded("late")])
@pytest.mark.parametrize("others_are_answered", [True, False])
def test_too_busy_for_a_canary_is_alive_while_clients_get_answers(busy, others_are_answered):
    async def check(path, probe):
        await answered(path, probe, True, True, True)
        path.computed_s = float("inf") if others_are_answered else 0.0

        assert (await answered(path, probe, busy, True, True)).models["lamp"] is others_are_answered

    probing(check)


def test_no_engine_is_not_ready_whatever_was_known():
    async def check(path, probe):
        await answered(path, probe, True, True, True)
        path.computed_s = float("inf")

        assert not (await answered(path, probe, EngineUnavailable("gone"), True, True)).ready

    probing(check)


def test_an_asker_who_leaves_takes_no_canary_along():
    async def check(path, probe):
        checking = asyncio.create_task(probe.check())
        canaries = [await path.asked.get() for _ in MODELS]
        checking.cancel()
        await asyncio.wait([checking])
        checking = asyncio.create_task(probe.check())
        for _, _, answer in canaries:
            answer.set_result(True)

        assert (await checking).ready

    probing(check)


@pytest.mark.parametrize(("knows", "priority"), [(True, wire.PROBE), (False, wire.INTERACTIVE)])
def test_an_engine_that_knows_no_probes_is_asked_as_by_a_client(tmp_path, knows, priority):
    async def check(pool, peers):
        peers[0].probes = knows
        model = await pool.model("lamp")
        await pool.predict(*question(model, bright()), within(5, wire.PROBE))

        assert [frame.priority for frame in peers[0].seen] == [priority]

    run(tmp_path, [right], check)
