"""Requests that end the engines that compute them: begun twice at most, and nobody else suffers for it."""

import asyncio
import json
import re

import numpy as np
import pytest
import uvloop
from bedplate.errors import EnginesLost, EngineUnavailable
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.engines.pool import EnginePool
from bedplate.web.metrics import WebMetrics
from bedplate.web.options import within
from bedplate.web.predictor import question
from bedplate.web.settings import WebSettings

from tests.service.conftest import API_KEY
from tests.service.direct_tools import no_direct, sent
from tests.service.killable_engines import POISON, SLOW, killable_engines

NAMES = ["cpu0", "cpu1", "cpu2"]
V1, V2 = "/v1/models/lamp/predict", "/v2/models/lamp/infer"
NEIGHBOURS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    with killable_engines(tmp_path_factory.mktemp("engines")) as running:
        yield running


@pytest.fixture
def asking(engines):
    """asking(check, count) → what `check(pool)` gives, before so many living engines."""

    def ask(check, count=3, on_retry=lambda reason: None):
        sockets = engines.start(NAMES[:count])

        async def main():
            pool = EnginePool(sockets, on_retry)
            try:
                await pool.model("lamp")
                return await asyncio.wait_for(check(pool), 20)
            finally:
                pool.close()

        return uvloop.run(main())

    return ask


async def predict(pool, first):
    """The output of one item, or the error."""
    model = await pool.model("lamp")
    items = np.full((1, 1, 2, 2), first, np.float32)
    try:
        return (await pool.predict(*question(model, items), within(10))).tensors
    except Exception as error:
        return error


def request(path, first):
    numbers = [first] * 4
    inputs = (
        [[[numbers[:2], numbers[2:]]]]
        if path == V1
        else [{"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": numbers}]
    )
    body = json.dumps({"inputs": inputs[0] if path == V1 else inputs}).encode()
    lines = f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + body


def status_and_document(answer):
    return int(answer[0].split()[1]), json.loads(answer[1])


def web(pool, tmp_path, **settings):
    """The application, and its metrics."""
    metrics = WebMetrics()
    return create_app(WebSettings(engines=(), **settings), pool, ApiKeys.read(tmp_path / "api-keys"), metrics), metrics


@pytest.mark.parametrize(("path", "direct"), [(V1, False), (V2, False), (V2, True)])
def test_a_request_that_ends_engines_is_begun_twice_and_told_so(asking, engines, keys, tmp_path, path, direct):
    async def check(pool):
        app, metrics = web(pool, tmp_path)
        answer = await sent(app, app.direct if direct else no_direct, request(path, POISON))
        return status_and_document(answer), metrics.registry.get_sample_value(
            "bedplate_errors_total", {"type": "engine-lost"}
        )

    (status, document), told = asking(check)

    assert (status, engines.begun(POISON), told) == (500, 2, 1)
    said = document["error"] if path == V2 else f"{document['type']} {document['next_step']}"
    assert re.search(r"do not send it again unchanged", said)
    assert path == V2 or document["type"] == "urn:bedplate:problem:engine-lost"
    assert path == V2 or (document["value"], document["limit"]) == (2, 2)


@pytest.mark.parametrize("count", [3, 2])
def test_who_shares_a_batch_with_it_is_answered(asking, engines, count):
    """Where two engines are all there are, whoever has not been computed by then is for another host."""

    async def check(pool):
        slow = [asyncio.create_task(predict(pool, SLOW)) for _ in range(count)]
        while sum(numbers.count(SLOW) for _, numbers in engines.batches()) < count:
            await asyncio.sleep(0.002)
        # They gather behind what is computed, and go to the device together.
        answers = await asyncio.gather(*[predict(pool, first) for first in (*NEIGHBOURS[:3], POISON, *NEIGHBOURS[3:])])
        await asyncio.gather(*slow)
        return answers

    answers = asking(check, count)

    poisoned = answers.pop(3)
    assert isinstance(poisoned, EnginesLost)
    assert engines.begun(POISON) == 2
    assert any(POISON in numbers and len(numbers) > 1 for _, numbers in engines.batches())
    innocent = [answer for answer in answers if not isinstance(answer, bytes | memoryview)]
    assert not [answer for answer in innocent if not (count == 2 and isinstance(answer, EngineUnavailable))]


def test_who_is_asked_together_with_it_is_answered(asking, engines, keys, tmp_path):
    async def check(pool):
        app, _ = web(pool, tmp_path)
        # The first of all say how quick the model is: what comes then in one turn of the loop is one question.
        for first in (0.5, 0.5, 0.5):
            assert (await sent(app, app.direct, request(V2, first)))[0].split()[1] == b"200"
        firsts = (*NEIGHBOURS, POISON)
        answers = await asyncio.gather(*[sent(app, app.direct, request(V2, first)) for first in firsts])
        return [int(answer[0].split()[1]) for answer in answers]

    assert asking(check) == [200] * 6 + [500]
    assert engines.begun(POISON) == 2


def test_those_who_wait_for_one_computation_do_not_begin_it_again(asking, engines, keys, tmp_path):
    async def check(pool):
        app, _ = web(pool, tmp_path, cache_ttl_s=60)
        answers = await asyncio.gather(*[sent(app, no_direct, request(V1, POISON)) for _ in range(5)])
        return [status_and_document(answer) for answer in answers]

    answers = asking(check)

    assert [(status, document["type"]) for status, document in answers] == [
        (500, "urn:bedplate:problem:engine-lost")
    ] * 5
    assert engines.begun(POISON) == 2


def test_an_engine_that_somebody_else_ended_costs_no_answer(asking, engines):
    reasons = []

    async def check(pool):
        slow = [asyncio.create_task(predict(pool, SLOW)) for _ in range(2)]
        killed = await engines.until_begun(SLOW)
        others = [asyncio.create_task(predict(pool, first)) for first in NEIGHBOURS]
        await asyncio.sleep(0)
        engines.kill(killed)
        return await asyncio.gather(*slow, *others)

    answers = asking(check, 2, reasons.append)

    assert all(isinstance(answer, bytes | memoryview) for answer in answers)
    assert set(reasons) == {"lost"}


def test_one_engine_is_no_verdict(asking, engines):
    """It ended, and nobody knows why: another host may find out."""
    answer = asking(lambda pool: predict(pool, POISON), 1)

    assert isinstance(answer, EngineUnavailable)
    assert engines.begun(POISON) == 1
