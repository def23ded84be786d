"""What a caller sees of the response cache, and what it must never see."""

import asyncio

import pytest
import uvloop
from bedplate import wire
from bedplate.errors import DeadlineExceeded, EngineBusy
from bedplate.web.cache.response import ResponseCache
from bedplate.web.items.limits import Limits
from bedplate.web.options import within
from bedplate.web.predictor import Predictor

from tests.service.lamp import FakeEngines, description, png_of, varying

URL = "/v1/models/lamp/predict"
BRIGHT = png_of([[255, 255], [255, 255]])
DARK = png_of([[0, 0], [0, 0]])
HIT = "bedplate; hit; detail=memory"
MISS = "bedplate; fwd=miss"


def post(client, body=BRIGHT, content_type="image/png", **headers):
    return client.simulate_post(URL, body=body, headers={"Content-Type": content_type, **headers})


def statuses(client, *requests):
    return [post(client, *request).headers.get("cache-status") for request in requests]


@pytest.fixture
def cache_of(decoders):
    """A cache before these engines, and what it reported."""

    def make(engines, **settings):
        limits = Limits(body_bytes=8192, items=64)
        arguments = {"ttl_s": 60, "memory_bytes": 1 << 20, **settings}
        return ResponseCache(Predictor(engines, decoders, limits), limits, **arguments)

    return make


def test_the_same_picture_is_computed_once(client, engines):
    first, second = post(client), post(client)

    assert (first.headers["cache-status"], second.headers["cache-status"]) == (MISS, HIT)
    assert first.json["predictions"] == second.json["predictions"]
    assert first.json["request_id"] != second.json["request_id"]
    assert len(engines.asked) == 1


def test_a_hit_says_that_nothing_was_computed(client):
    post(client)

    assert post(client).headers["server-timing"] == (
        "queue;dur=0.000, decode;dur=0.000, batch;dur=0.000, compute;dur=0.000"
    )


def test_another_picture_is_another_question(client):
    assert statuses(client, (BRIGHT,), (DARK,), (DARK,)) == [MISS, MISS, HIT]


def test_the_same_bytes_read_in_another_way_are_another_question(client):
    numbers = b"[[1.0,1.0]]12345"

    assert statuses(client, (numbers, "application/octet-stream")) == [MISS]
    assert post(client, numbers, "application/json").status_code == 400
    assert post(client, numbers, "image/png").status_code == 415


def test_the_same_numbers_in_another_shape_are_another_question(client_of):
    client = client_of(FakeEngines(**varying()))
    wide, high = (f"application/octet-stream; shape={shape}" for shape in ("1,2,6", "1,6,2"))

    assert statuses(client, (bytes(48), wide), (bytes(48), high), (bytes(48), wide)) == [MISS, MISS, HIT]


def test_what_is_read_alike_is_one_question(client):
    assert statuses(client, (BRIGHT, "image/png"), (BRIGHT, "IMAGE/jpeg; q=1")) == [MISS, HIT]


@pytest.mark.parametrize("directive", ["no-cache", "no-store", "max-age=0, No-Cache"])
def test_a_caller_may_ask_past_the_cache(client, engines, directive):
    post(client)

    result = post(client, **{"Cache-Control": directive})

    assert result.headers["cache-status"] == "bedplate; fwd=request"
    assert len(engines.asked) == 2


def test_without_a_time_to_live_nothing_is_kept(client_of, engines):
    client = client_of(engines, cache_ttl_s=0)

    assert statuses(client, (BRIGHT,), (BRIGHT,)) == [None, None]
    assert len(engines.asked) == 2


def test_a_bundle_may_forbid_that_its_answers_are_kept(client_of):
    engines = FakeEngines(cache={"ttl_s": 0})
    client = client_of(engines)

    assert statuses(client, (BRIGHT,), (BRIGHT,)) == [None, None]
    assert len(engines.asked) == 2


@pytest.mark.parametrize(("bundles_s", "kept_s"), [(30, 30), (90, 60)])
def test_answers_are_kept_for_the_shorter_of_the_operators_and_the_bundles_time(cache_of, bundles_s, kept_s):
    engines, now = FakeEngines(cache={"ttl_s": bundles_s}), [0.0]
    cache = cache_of(engines)
    cache._memory._clock = lambda: now[0]

    def lookup():
        model = engines.connected_model("lamp", None)
        return uvloop.run(cache.predict(model, "image/png", BRIGHT, within(20))).lookup

    assert [lookup(), lookup()] == ["miss", "memory"]
    now[0] = kept_s - 0.1
    assert lookup() == "memory"
    now[0] = float(kept_s)
    assert lookup() == "miss"


def test_errors_are_not_kept(client, engines):
    engines.error = EngineBusy("queue full", retry_after_s=1)
    assert post(client).status_code == 429

    engines.error = None

    assert post(client).status_code == 200


def test_a_bundle_made_anew_under_its_version_gets_new_answers(client, engines):
    post(client)

    engines.serve(description(digest="e" * 64))
    engines.digest = "e" * 64

    assert statuses(client, (BRIGHT,), (BRIGHT,)) == [MISS, HIT]


def test_an_answer_of_other_content_than_described_is_not_kept(client, engines):
    engines.digest = "e" * 64

    assert statuses(client, (BRIGHT,), (BRIGHT,)) == [MISS, MISS]


def test_a_lowered_limit_holds_for_what_was_answered_before(decoders, engines):
    model = asyncio.run(engines.model("lamp"))
    limits = [Limits(8192, 64), Limits(8192, 3)]
    caches = [ResponseCache(Predictor(engines, decoders, limit), limit, 60, 1 << 20) for limit in limits]

    keys = [asyncio.run(cache._key(model, "image/png", BRIGHT)) for cache in caches]

    assert keys[0] != keys[1]


def test_every_request_is_reported_once(cache_of):
    lookups = []

    async def scenario():
        engines = FakeEngines()
        cache = cache_of(engines, on_lookup=lookups.append)
        model = await engines.model("lamp")
        for control in ("", "", "no-store"):
            await cache.predict(model, "image/png", BRIGHT, within(5), control)
        engines.error = EngineBusy("queue full")
        with pytest.raises(EngineBusy):
            await cache.predict(model, "image/png", DARK, within(5))

    uvloop.run(scenario())

    assert lookups == ["miss", "memory", "bypass", "miss"]


class HeldEngines(FakeEngines):
    """Answers when the gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()

    async def predict(self, meta, tensors, options):
        await self.gate.wait()
        return await super().predict(meta, tensors, options)


def test_the_same_at_the_same_time_is_computed_once_even_if_the_first_caller_leaves(cache_of):
    async def scenario():
        engines = HeldEngines()
        cache, model = cache_of(engines), await engines.model("lamp")
        callers = [asyncio.create_task(cache.predict(model, "image/png", BRIGHT, within(5))) for _ in range(4)]
        await asyncio.sleep(0.01)
        callers[0].cancel()
        engines.gate.set()
        return await asyncio.gather(*callers[1:]), len(engines.asked)

    answers, asked = uvloop.run(scenario())

    assert [answer.cache_status for answer in answers] == [f"{MISS}; collapsed"] * 3
    assert [answer.prediction.predictions[0]["label"] for answer in answers] == ["bright"] * 3
    assert asked == 1


def test_who_is_in_a_hurry_does_not_wait_for_what_is_computed_at_low_priority(cache_of):
    async def scenario():
        engines = HeldEngines()
        engines.gate.set()
        cache, model = cache_of(engines), await engines.model("lamp")
        patient, urgent = (within(5, priority) for priority in (wire.BATCH, wire.INTERACTIVE))
        await asyncio.gather(*(cache.predict(model, "image/png", BRIGHT, options) for options in (patient, urgent)))
        return [options.priority for options in engines.options]

    assert uvloop.run(scenario()) == [wire.BATCH, wire.INTERACTIVE]


def test_a_deadline_that_passes_in_the_flight_is_told(cache_of):
    async def scenario():
        engines = HeldEngines()
        await cache_of(engines).predict(await engines.model("lamp"), "image/png", BRIGHT, within(0.02))

    with pytest.raises(DeadlineExceeded):
        uvloop.run(scenario())


def test_another_release_does_not_answer_from_what_this_one_kept(client, engines, monkeypatch):
    post(client)
    monkeypatch.setattr("bedplate.web.cache.response._RELEASE", "/opt/bedplate/releases/next")

    assert post(client).headers["cache-status"] == MISS
