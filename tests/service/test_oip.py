"""What a caller of /v2 sees beside what tritonclient shows (test_tritonclient.py)."""

from __future__ import annotations

import gzip
import json
import logging
import random
import tracemalloc
import zlib

import numpy as np
import pytest
from bedplate.errors import BodyTooLarge, EngineBusy, EngineUnavailable, MalformedEncoding, OutOfMemory, UnknownModel
from bedplate.web.encoding import accepted, inflate
from bedplate.wire import Frame

from tests.service.lamp import FakeEngines, description, lamp_logits, png_of, varying
from tests.service.oip_tools import request

URL = "/v2/models/lamp/infer"
LENGTH = "Inference-Header-Content-Length"
GZIP = {"Content-Encoding": "gzip"}
ONES = np.ones((1, 1, 2, 2), "<f4")


def post(client, items=ONES, url=URL, headers=None, encode=bytes, **how):
    body, json_bytes = request(items, "FP32", **how)
    length = {} if json_bytes is None else {LENGTH: str(json_bytes)}
    return client.simulate_post(url, body=encode(body), headers={**length, **(headers or {})})


def said(result):
    assert result.json.keys() == {"error"}
    return result.json["error"]


def test_an_answer_is_as_the_protocol_has_it(client):
    result = post(client, id="7")

    assert result.headers["content-type"] == "application/json"
    assert result.json == {
        "model_name": "lamp",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [-1.0, 1.0]}],
    }
    assert result.headers["x-request-id"]
    assert LENGTH.lower() not in result.headers


def test_binary_data_follows_the_json(client):
    result = post(client, parameters={"binary_data_output": True})

    json_bytes = int(result.headers[LENGTH.lower()])
    assert result.headers["content-type"] == "application/octet-stream"
    assert json.loads(result.content[:json_bytes])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert result.content[json_bytes:] == np.array([-1, 1], "<f4").tobytes()


@pytest.mark.parametrize("length", ["", "x", "-1", "1.0", "9" * 30, "99999"])
def test_a_length_of_the_json_that_cannot_be_is_refused(client, length):
    result = post(client, headers={LENGTH: length})

    assert result.status_code == 422
    assert LENGTH in said(result)


def test_an_error_names_value_limit_and_next_step(client):
    result = post(client, np.ones((9, 1, 2, 2), "<f4"))

    assert result.status_code == 413
    assert said(result) == "9 items, 8 are allowed in a request; split them over several requests"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineBusy("queue holds 64 of 64 requests", retry_after_s=2), 429),
        (EngineUnavailable("no engine can answer right now", retry_after_s=5), 503),
        (OutOfMemory("does not fit"), 503),
    ],
)
def test_what_is_worth_another_try_says_when(client_of, error, status):
    engines = FakeEngines()
    client = client_of(engines)
    if isinstance(error, EngineUnavailable):
        engines.served = unavailable
    engines.error = error

    result = post(client)

    assert result.status_code == status
    assert int(result.headers["retry-after"]) == (error.retry_after_s or 1)
    assert said(result).startswith(error.detail)


async def unavailable():
    raise EngineUnavailable("no engine can answer right now", retry_after_s=5)


def test_a_fault_of_ours_is_not_described(client, engines):
    engines.error = ValueError("secret")

    result = post(client)

    assert result.status_code == 500
    assert "secret" not in said(result)


@pytest.mark.parametrize(
    ("headers", "parameters", "left_s", "priority"),
    [
        ({}, {}, 30, 0),
        ({}, {"timeout": 2_000_000, "priority": 2}, 2, 1),
        ({}, {"timeout": 90_000_000, "priority": 1}, 30, 0),
        ({"X-Request-Timeout-Ms": "1000", "X-Request-Priority": "batch"}, {"timeout": 2_000_000}, 1, 1),
        ({"X-Request-Timeout-Ms": "5000", "X-Request-Priority": "batch"}, {"timeout": 0, "priority": 0}, 5, 1),
        ({"X-Request-Priority": "batch"}, {"priority": 1}, 30, 0),
    ],
)
def test_the_sooner_deadline_holds_and_the_priority_of_the_body(client, engines, headers, parameters, left_s, priority):
    post(client, headers=headers, parameters=parameters)

    [options] = engines.options
    assert left_s - 1 < options.left_s <= left_s
    assert options.engine_deadline_ns < options.deadline_ns
    assert options.priority == priority


def test_an_alias_answers_with_its_version(client, engines):
    engines.serve(description(), description(version="2"), aliases={"lamp": {"fast": "2"}})

    result = post(client, url="/v2/models/lamp/versions/fast/infer")

    assert result.json["model_version"] == "2"
    assert engines.versions == ["2"]


class Confused(FakeEngines):
    async def predict(self, meta, tensors, options):
        frame = await super().predict(meta, tensors, options)
        return Frame(frame.type, frame.id, {**frame.meta, "version": "2"}, frame.tensors)


def test_an_answer_of_another_version_is_never_given(client_of):
    assert post(client_of(Confused())).status_code == 500


class Reloading(FakeEngines):
    """The first request finds that version 1 has made room for version 2."""

    async def predict(self, meta, tensors, options):
        if meta["version"] == "1":
            self.serve(description(version="2"), aliases={"lamp": {"default": "2"}})
            raise UnknownModel("not loaded")
        return await super().predict(meta, tensors, options)


@pytest.mark.parametrize(("url", "status"), [(URL, 200), ("/v2/models/lamp/versions/1/infer", 404)])
def test_a_version_that_went_meanwhile_is_replaced_for_who_did_not_name_it(client_of, url, status):
    assert post(client_of(Reloading()), url=url).status_code == status


def test_a_shape_that_varies_is_a_request_s_own(client_of):
    engines = FakeEngines(**varying())
    client = client_of(engines)

    result = post(client, np.ones((2, 1, 3, 5), "<f4"), binary=True)

    assert result.json["outputs"][0]["shape"] == [2, 2]
    assert engines.asked[0].shape == (2, 1, 3, 5)
    assert client.simulate_get("/v2/models/lamp").json["inputs"][0]["shape"] == [-1, 1, -1, -1]


@pytest.mark.parametrize(("kind", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("binary", [True, False])
def test_a_compressed_body_is_the_same_request(client, engines, kind, encode, binary):
    items = np.arange(32, dtype="<f4").reshape(8, 1, 2, 2)

    result = post(client, items, headers={"Content-Encoding": kind}, encode=encode, binary=binary)

    assert result.status_code == 200
    np.testing.assert_array_equal(engines.asked[0], items)


def bomb(size):
    """`size` bytes of blanks, a thousandth of it."""
    return gzip.compress(b" " * size)


def test_a_bomb_is_refused_at_what_the_model_can_take(client_of):
    client = client_of(FakeEngines(**varying()))

    result = client.simulate_post(URL, body=bomb(20 << 20), headers=GZIP)

    assert result.status_code == 413
    assert "8320 bytes" in said(result)  # 96 numbers, 40 bytes each as JSON and 4 as they are, and 4096 beside them


def test_pictures_may_be_four_times_what_came(client_of):
    client = client_of(FakeEngines())
    random_picture = png_of(np.random.default_rng(0).integers(0, 256, (90, 90)))  # larger than any tensor of the model
    sent = pictures(random_picture)
    padded = pictures(random_picture + b" " * 50_000)  # decoders do not mind

    whole = client.simulate_post(URL, body=gzip.compress(sent["body"]), headers={**sent["headers"], **GZIP})
    bomb = client.simulate_post(URL, body=gzip.compress(padded["body"]), headers={**padded["headers"], **GZIP})

    assert (whole.status_code, bomb.status_code) == (200, 413)


def test_a_bomb_is_not_inflated_further_than_it_may_be():
    allowed, body = 1 << 20, bomb(200 << 20)
    tracemalloc.start()

    try:
        with pytest.raises(BodyTooLarge, match="more than 1048576 bytes"):
            inflate(body, "gzip", allowed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * allowed


def malformed(seed):
    """A gzip body damaged in one of many ways."""
    chance = random.Random(seed)
    body = bytearray(gzip.compress(request(ONES, "FP32", id=str(seed) * 50)[0]))
    ways = [
        lambda: body[: chance.randrange(1, len(body))],
        lambda: body[:10] + chance.randbytes(len(body) - 10),
        lambda: body[:-8] + chance.randbytes(8),
        lambda: body + chance.randbytes(9),
        lambda: chance.randbytes(100),
        lambda: body + gzip.compress(b" "),
    ]
    return bytes(ways[seed % len(ways)]())


@pytest.mark.parametrize("seed", range(100))
def test_a_malformed_stream_is_400(client, seed):
    result = client.simulate_post(URL, body=malformed(seed), headers=GZIP)

    assert result.status_code == 400
    assert "gzip" in said(result)


def test_an_unknown_encoding_or_too_many_are_415(client):
    for encoding in ("br", "gzip, br", "x", "gzip, gzip, gzip, gzip"):
        assert post(client, headers={"Content-Encoding": encoding}).status_code == 415


def test_deflate_is_what_http_calls_it(client):
    raw = zlib.compressobj(wbits=-15)

    with pytest.raises(MalformedEncoding):
        inflate(raw.compress(b"{}") + raw.flush(), "deflate", 100)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate;q=1.0, GZIP;q=0", "deflate"),
        ("gzip;q=0.000", None),
        ("br", None),
        ("identity", None),
        (";;q=,=", None),
    ],
)
def test_an_answer_is_compressed_for_who_asks(header, kind):
    assert accepted(header) == kind


@pytest.mark.parametrize(("kind", "decode"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_long_answer_is_compressed_and_a_short_one_is_not(client, kind, decode):
    short = post(client, headers={"Accept-Encoding": kind})
    long = post(client, headers={"Accept-Encoding": kind}, id="x" * 1100)

    assert "content-encoding" not in short.headers
    assert long.headers["content-encoding"] == kind
    assert json.loads(decode(long.content))["outputs"][0]["data"] == [-1, 1]
    assert (short.headers["vary"], long.headers["vary"]) == ("Accept-Encoding",) * 2


def pictures(*files, shape=None):
    data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape or [len(files)]}
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    return {"body": text + data, "headers": {LENGTH: str(len(text))}}


def test_pictures_are_decoded_in_their_order(client):
    files = [png_of([[value] * 2] * 2) for value in (255, 0, 255)]

    result = client.simulate_post(URL, **pictures(*files))

    expected = lamp_logits(np.array([1, -1, 1], "f4").reshape(3, 1) * np.ones((1, 4), "f4"))
    np.testing.assert_allclose(result.json["outputs"][0]["data"], expected.ravel())


@pytest.mark.parametrize(
    ("files", "status"),
    [([b"no picture"], 415), ([png_of([[0] * 101] * 100)], 413), ([png_of([[0] * 100] * 60)] * 2, 413)],
)
def test_pictures_have_the_limits_of_v1(client, files, status):
    result = client.simulate_post(URL, **pictures(*files))

    assert result.status_code == status
    assert said(result)


def test_readiness_needs_an_engine(client, engines):
    engines.is_connected = lambda model: False

    result = client.simulate_get("/v2/models/lamp/ready")

    assert result.status_code == 503
    assert result.json == {"name": "lamp", "ready": False}


def test_an_answer_is_never_a_kept_one(client, engines):
    for _ in range(2):
        assert "cache-status" not in post(client).headers

    assert len(engines.asked) == 2


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="bedplate.performance")
    return lambda: [record.__dict__ for record in caplog.records if record.name == "bedplate.performance"]


def test_an_inference_is_counted_and_has_its_line(client, metrics, lines):
    post(client, np.ones((3, 1, 2, 2), "<f4"), id="not in the log")
    lamp = {"model": "lamp", "version": "1"}

    def value(name, **labels):
        return metrics.registry.get_sample_value(name, labels)

    assert value("bedplate_requests_total", route="infer", status="200") == 1
    assert value("bedplate_predictions_total", label="*", **lamp) == 3
    assert value("bedplate_prediction_seconds_count", **lamp) == 1
    assert value("bedplate_prediction_compute_seconds_sum", **lamp) == pytest.approx(2e-6)
    [line] = lines()
    assert (line["model"], line["status"], line["items"], line["cache"]) == ("lamp", 200, 3, "off")
    assert line["compute_ms"] == 0.002
    assert line["decode_ms"] > 0
    assert "not in the log" not in str(line)


def test_a_refused_inference_is_a_failure_of_its_model(client, metrics, lines):
    post(client, np.ones((9, 1, 2, 2), "<f4"))

    labels = {"model": "lamp", "version": "1"}
    assert metrics.registry.get_sample_value("bedplate_prediction_failed_seconds_count", labels) == 1
    assert [line["problem"] for line in lines()] == ["too-many-items"]
