"""Requests for the same at the same time are computed once, and none suffers from another."""

import asyncio
import gc

import pytest
import uvloop
from bedplate.errors import DeadlineExceeded, EmptyBody, EnginesLost, EngineUnavailable, ServiceError
from bedplate.web.cache.single_flight import SingleFlight


class Computation:
    """Runs until it is let go; counts how often it was begun and cancelled."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.gate = asyncio.Event()
        self.begun = self.cancelled = 0

    async def __call__(self):
        self.begun += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def joined(flights, compute, count, timeout_s=5.0):
    """`count` callers that wait by now."""
    callers = [asyncio.create_task(flights.join("key", compute, timeout_s)) for _ in range(count)]
    await asyncio.sleep(0.01)
    return callers


def test_many_callers_share_one_computation():
    async def scenario():
        flights, compute = SingleFlight(), Computation("answer")
        callers = await joined(flights, compute, 5)
        compute.gate.set()
        return await asyncio.gather(*callers), compute.begun

    answers, begun = uvloop.run(scenario())

    assert [answer for answer, _ in answers] == ["answer"] * 5
    assert [collapsed for _, collapsed in answers] == [False, True, True, True, True]
    assert begun == 1


def test_the_first_caller_may_leave_without_the_others():
    async def scenario():
        flights, compute = SingleFlight(), Computation("answer")
        first, second = await joined(flights, compute, 2)
        first.cancel()
        await asyncio.wait({first})
        compute.gate.set()
        return await second, compute.begun, first.cancelled()

    assert uvloop.run(scenario()) == (("answer", True), 1, True)


def test_what_nobody_waits_for_is_cancelled_and_not_joined():
    async def scenario():
        flights, compute = SingleFlight(), Computation("answer")
        for caller in await joined(flights, compute, 2):
            caller.cancel()
        await asyncio.sleep(0)
        [late] = await joined(flights, compute, 1)
        compute.gate.set()
        return await late, compute.begun, compute.cancelled

    assert uvloop.run(scenario()) == (("answer", False), 2, 1)


def test_a_failure_that_may_be_the_first_callers_own_is_not_the_others():
    async def scenario():
        flights, compute = SingleFlight(), Computation(DeadlineExceeded("late"), "answer")
        callers = await joined(flights, compute, 3)
        compute.gate.set()
        return await asyncio.gather(*callers, return_exceptions=True)

    first, *others = uvloop.run(scenario())

    assert isinstance(first, DeadlineExceeded)
    assert others == [("answer", False)] * 2


@pytest.mark.parametrize(
    "error", [EmptyBody("empty"), EnginesLost("the end of two"), EngineUnavailable("the end of one")]
)
def test_a_request_that_is_wrong_or_ends_engines_is_computed_once_for_all(error):
    async def scenario():
        flights, compute = SingleFlight(), Computation(error)
        callers = await joined(flights, compute, 3)
        compute.gate.set()
        return await asyncio.gather(*callers, return_exceptions=True), compute.begun

    errors, begun = uvloop.run(scenario())

    assert all(isinstance(found, type(error)) for found in errors)
    assert begun == 1


def test_each_caller_waits_no_longer_than_its_own_time():
    async def scenario():
        flights, compute = SingleFlight(), Computation("answer")
        [patient] = await joined(flights, compute, 1)
        [hurried] = await joined(flights, compute, 1, timeout_s=0.02)
        with pytest.raises(asyncio.TimeoutError):
            await hurried
        compute.gate.set()
        return await patient

    assert uvloop.run(scenario()) == ("answer", False)


def test_a_landed_flight_is_not_joined():
    async def scenario():
        flights, compute = SingleFlight(), Computation("first", "second")
        compute.gate.set()
        return [await flights.join("key", compute, 5) for _ in range(2)]

    assert uvloop.run(scenario()) == [("first", False), ("second", False)]


def test_a_failure_that_nobody_saw_is_no_noise(caplog):
    async def scenario():
        flights = SingleFlight()

        async def leave_and_fail():
            await asyncio.sleep(0)
            caller.cancel()
            raise ServiceError("boom")

        caller = asyncio.create_task(flights.join("key", leave_and_fail, 5))
        await asyncio.wait({caller})
        return caller.cancelled()

    assert uvloop.run(scenario())
    gc.collect()  # when asyncio complains
    assert caplog.text == ""
