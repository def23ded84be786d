"""What a caller may ask for besides a model's name: a version or an alias, a deadline, a priority."""

import asyncio

import pytest
from bedplate import wire
from bedplate.errors import DeadlineExceeded, UnknownModel
from bedplate.web.items.limits import Limits
from bedplate.web.options import within
from bedplate.web.predictor import Predictor

from tests.service.lamp import FakeEngines, description, png_of

URL = "/v1/models/lamp/predict"
BRIGHT = png_of([[255, 255], [255, 255]])
TWO = {"lamp": {"default": "1", "canary": "2"}}


def post(client, url=URL, **headers):
    return client.simulate_post(url, body=BRIGHT, headers={"Content-Type": "image/png", **headers})


def of(version):
    return f"/v1/models/lamp/versions/{version}/predict"


def two_versions():
    """The second has other labels: mixing them up would show."""
    second = description(version="2", labels=["off", "on"], canary={"file": "canary.png", "label": "on"})
    return description(), second


@pytest.mark.parametrize(
    ("url", "version", "label"),
    [(URL, "1", "bright"), (of("1"), "1", "bright"), (of("2"), "2", "on"), (of("canary"), "2", "on")],
)
def test_a_version_an_alias_or_the_default_answers(client, engines, url, version, label):
    engines.serve(*two_versions(), aliases=TWO)

    result = post(client, url)

    assert (result.json["version"], result.json["predictions"][0]["label"]) == (version, label)
    assert engines.versions == [version]


@pytest.mark.parametrize("version", ["3", "fast", "%20"])
def test_what_is_neither_version_nor_alias_is_404(client, version):
    result = post(client, of(version))

    assert result.status_code == 404
    assert result.json["type"] == "urn:bedplate:problem:unknown-model"


class Reloading(FakeEngines):
    """The first request finds that version 1 has made room for version 2."""

    async def predict(self, meta, tensors, options):
        if meta["version"] == "1":
            self.serve(two_versions()[1], aliases={"lamp": {"default": "2", "fast": "2"}})
            raise UnknownModel("not loaded")
        return await super().predict(meta, tensors, options)


@pytest.mark.parametrize("url", [URL, of("fast")])
def test_who_asked_for_no_version_gets_the_one_that_took_its_place(client_of, metrics, url):
    engines = Reloading()
    engines.serve(*two_versions(), aliases={"lamp": {"default": "1", "fast": "1"}})

    result = post(client_of(engines), url)

    assert (result.json["version"], result.json["predictions"][0]["label"]) == ("2", "on")
    assert metrics.registry.get_sample_value("bedplate_engine_retries_total", {"reason": "stale"}) == 1


def test_who_asked_for_a_version_that_is_gone_is_told_so(client_of):
    assert post(client_of(Reloading()), of("1")).status_code == 404


def test_a_model_that_is_never_found_is_asked_for_twice_and_no_more(client, engines):
    engines.error = UnknownModel("not loaded")

    assert post(client).status_code == 404


def test_an_answer_of_another_version_is_a_fault_and_no_answer(client_of):
    class Confused(FakeEngines):
        async def predict(self, meta, tensors, options):
            return await super().predict({**meta, "version": "2"}, tensors, options)

    result = post(client_of(Confused()))

    assert result.status_code == 500
    assert "bright" not in result.text


@pytest.mark.parametrize(
    ("given", "timeout_ms"),
    [(None, 30_000), ("250", 250), ("1.5", 1.5), ("030", 30), ("60000", 30_000), ("9" * 400, 30_000)],
)
def test_the_lower_of_both_timeouts_holds(client, engines, given, timeout_ms):
    headers = {"X-Request-Timeout-Ms": given} if given else {}
    before_ns = wire.now_ns()

    result = post(client, **headers)

    after_ns = wire.now_ns()
    assert result.status_code in (200, 504)
    for options in engines.options:
        assert before_ns <= options.deadline_ns - timeout_ms * 1e6 <= after_ns
        assert options.deadline_ns - options.engine_deadline_ns == min(int(timeout_ms * 50_000), 50_000_000)


@pytest.mark.parametrize(
    "given", ["0", "0.0", "-1", "+1", "1e3", "inf", "nan", "", " ", "1,5", "250 ms", "\xb2", "0x10", "1."]
)
def test_a_timeout_that_is_no_positive_number_is_refused(client, engines, given):
    result = post(client, **{"X-Request-Timeout-Ms": given})

    assert result.status_code == 400
    assert result.json["type"] == "urn:bedplate:problem:invalid-timeout"
    assert result.json["limit"] == 30_000
    assert result.json["next_step"]
    assert engines.asked == []


@pytest.mark.parametrize(("given", "shown"), [("-1", "-1"), ("x" * 33, None), ('a"b', None)])
def test_only_a_plain_value_is_said_back(client, given, shown):
    assert post(client, **{"X-Request-Timeout-Ms": given}).json.get("value") == shown


@pytest.mark.parametrize(
    ("headers", "priority"),
    [
        ({}, wire.INTERACTIVE),
        ({"X-Request-Priority": "interactive"}, wire.INTERACTIVE),
        ({"X-Request-Priority": "batch"}, wire.BATCH),
        ({"X-Request-Priority": "Batch"}, wire.BATCH),
    ],
)
def test_the_engine_is_told_how_urgent_a_request_is(client, engines, headers, priority):
    post(client, **headers)

    assert [options.priority for options in engines.options] == [priority]


@pytest.mark.parametrize("given", ["", "1", "high", "interactive, batch"])
def test_a_priority_that_is_none_is_refused(client, engines, given):
    result = post(client, **{"X-Request-Priority": given})

    assert result.status_code == 400
    assert result.json["type"] == "urn:bedplate:problem:invalid-priority"
    assert result.json["limit"] == "interactive, batch"
    assert engines.asked == []


def test_what_is_too_late_already_is_not_decoded(decoders, engines):
    predictor = Predictor(engines, decoders, Limits(8192, 64))

    async def too_late():
        await predictor.predict(await engines.model("lamp"), "image/png", b"no picture", within(-0.001))

    with pytest.raises(DeadlineExceeded):
        asyncio.run(too_late())


def test_a_picture_that_waits_too_long_for_a_decoder_is_answered_in_time(silent_decoders, engines):
    predictor = Predictor(engines, silent_decoders, Limits(8192, 64))

    async def waits():
        await predictor.predict(await engines.model("lamp"), "image/png", BRIGHT, within(0.03))

    with pytest.raises(DeadlineExceeded):
        asyncio.run(asyncio.wait_for(waits(), 5))
