"""What a caller of POST /v1/models/{name}/predict sees."""

import asyncio
import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from bedplate.errors import DeadlineExceeded, EngineBusy, EngineUnavailable
from PIL import Image

from tests.service.lamp import FakeEngines, png_of, varying

URL = "/v1/models/lamp/predict"
BRIGHT = png_of([[255, 255], [255, 255]])
DARK = png_of([[0, 0], [0, 0]])
LARGE = png_of([[0] * 100] * 40)  # 4,000 of the 10,000 pixels that the client fixture allows
FORM = "multipart/form-data; boundary=xx"


def post(client, body, content_type, url=URL):
    return client.simulate_post(url, body=body, headers={"Content-Type": content_type})


def form(*parts):
    """parts: (name, bytes) → body and content type of a multipart form."""
    lines = [
        f'--xx\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in parts
    ]
    return b"".join(lines) + b"--xx--\r\n", "multipart/form-data; boundary=xx"


def labels(result):
    return [prediction["label"] for prediction in result.json["predictions"]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_answered_with_its_label_and_scores(client, kind):
    result = post(client, png_of([[250, 250], [250, 250]], kind=kind), "image/png")

    assert result.status_code == 200
    [prediction] = result.json["predictions"]
    assert prediction["label"] == "bright"
    assert prediction["score"] == pytest.approx(1 / (1 + np.exp(-2 * (250 / 255 - 0.5) / 0.5)), abs=0.02)
    assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert (result.json["model"], result.json["version"]) == ("lamp", "1")


def test_files_of_a_form_are_answered_in_their_order(client):
    body, content_type = form(("file", BRIGHT), ("file", DARK), ("file", BRIGHT))

    result = post(client, body, content_type)

    assert labels(result) == ["bright", "dark", "bright"]


def test_a_raw_tensor_holds_as_many_items_as_its_bytes_say(client):
    items = np.array([[-1] * 4, [1] * 4], "<f4")

    result = post(client, items.tobytes(), "application/octet-stream")

    assert labels(result) == ["dark", "bright"]


@pytest.mark.parametrize("inputs", [[[[1, 1], [1, 1]]], [[[[1.0, 1], [1, 1]]]]])
def test_json_takes_one_item_or_a_list_of_items(client, inputs):
    result = post(client, json.dumps({"inputs": inputs}), "application/json")

    assert labels(result) == ["bright"]


@pytest.fixture
def varied():
    return FakeEngines(**varying())


@pytest.fixture
def varied_client(client_of, varied):
    """Of a model that takes 1 x 2..8 x 2..6 numbers, and 96 pixels at once."""
    return client_of(varied, max_body_bytes=65536)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 3, 5), (1, 8, 6)])
@pytest.mark.parametrize("items", [1, 2])
def test_json_says_the_shape_of_its_items_by_itself(varied_client, varied, shape, items):
    result = post(varied_client, json.dumps({"inputs": np.ones((items, *shape)).tolist()}), "application/json")

    assert labels(result) == ["bright"] * items
    assert [asked.shape for asked in varied.asked] == [(items, *shape)]


def test_json_takes_one_item_without_a_list_where_its_shape_varies_too(varied_client, varied):
    result = post(varied_client, json.dumps({"inputs": np.ones((1, 3, 5)).tolist()}), "application/json")

    assert labels(result) == ["bright"]
    assert varied.asked[0].shape == (1, 1, 3, 5)


@pytest.mark.parametrize("declared", ["shape=1,3,2", 'shape="1,3,2"', "charset=binary; Shape=1,3,2"])
def test_a_raw_tensor_says_in_its_type_the_shape_of_its_items(varied_client, varied, declared):
    body = np.array([[-1] * 6, [1] * 6], "<f4").tobytes()

    result = post(varied_client, body, f"application/octet-stream; {declared}")

    assert labels(result) == ["dark", "bright"]
    assert varied.asked[0].shape == (2, 1, 3, 2)


def test_a_raw_tensor_of_a_fixed_shape_may_say_it(client):
    result = post(client, np.ones(8, "<f4").tobytes(), "application/octet-stream; shape=1,2,2")

    assert labels(result) == ["bright", "bright"]


def test_a_raw_tensor_that_says_no_shape_is_told_how(varied_client):
    result = post(varied_client, np.ones(4, "<f4").tobytes(), "application/octet-stream")

    assert result.status_code == 422
    assert result.json["limit"] == "[items, 1, 2..8, 2..6]"
    assert result.json["next_step"] == "send Content-Type: application/octet-stream; shape=1,2,2"


def numbers(*shape):
    return json.dumps({"inputs": np.ones(shape).tolist()}).encode()


BAD_SHAPES = {
    "too high": (numbers(1, 1, 9, 2), "application/json", 422, "wrong-shape"),
    "too narrow": (numbers(1, 1, 2, 1), "application/json", 422, "wrong-shape"),
    "too many channels": (numbers(1, 2, 2, 2), "application/json", 422, "wrong-shape"),
    "too few dimensions": (numbers(4, 4), "application/json", 422, "wrong-shape"),
    "items of two shapes": (
        json.dumps({"inputs": [np.ones((1, 2, 2)).tolist(), np.ones((1, 3, 3)).tolist()]}).encode(),
        "application/json",
        422,
        "wrong-shape",
    ),
    "three that cost too much": (numbers(3, 1, 8, 6), "application/json", 413, "too-many-items"),
    "nine that cost little": (numbers(9, 1, 2, 2), "application/json", 413, "too-many-items"),
    "JSON longer than the model can take": (b" " * 8200, "application/json", 413, "body-too-large"),
    "a picture": (BRIGHT, "image/png", 415, "unsupported-media-type"),
    "raw, another shape": (b"\0" * 72, "application/octet-stream; shape=1,9,2", 422, "wrong-shape"),
    "raw, shape cut off": (b"\0" * 16, "application/octet-stream; shape=1,2,", 422, "wrong-shape"),
    "raw, shape of words": (b"\0" * 16, "application/octet-stream; shape=1,2,two", 422, "wrong-shape"),
    "raw, negative shape": (b"\0" * 16, "application/octet-stream; shape=1,-2,-2", 422, "wrong-shape"),
    "raw, endless shape": (b"\0" * 16, f"application/octet-stream; shape={'1,' * 500}1", 422, "wrong-shape"),
    "raw, half an item": (b"\0" * 20, "application/octet-stream; shape=1,2,2", 422, "wrong-size"),
    "raw, three that cost too much": (b"\0" * 576, "application/octet-stream; shape=1,8,6", 413, "too-many-items"),
}


@pytest.mark.parametrize(("body", "content_type", "status", "code"), BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_a_shape_out_of_range_is_refused_with_its_problem(varied_client, varied, body, content_type, status, code):
    result = post(varied_client, body, content_type)

    assert result.status_code == status
    assert result.json["type"] == f"urn:bedplate:problem:{code}"
    assert varied.asked == []


def test_a_raw_tensor_that_says_another_than_the_fixed_shape_is_refused(client):
    result = post(client, bytes(16), "application/octet-stream; shape=1,4,1")

    assert result.status_code == 422
    assert result.json["type"] == "urn:bedplate:problem:wrong-shape"


def test_the_list_of_models_says_what_varies(varied_client):
    [model] = varied_client.simulate_get("/v1/models").json["models"]

    assert model["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, [2, 8], [2, 6]]}]


def test_a_canary_of_numbers_is_answered_rightly(varied_client, varied):
    result = varied_client.simulate_get("/health/ready")

    assert result.status_code == 200
    assert [asked.shape for asked in varied.asked] == [(1, 1, 2, 2)]


def test_the_answer_says_where_the_time_went(client):
    result = post(client, BRIGHT, "image/png")

    timing = re.sub(r"decode;dur=(?!0\.000)\d+\.\d{3}", "decode;dur=D", result.headers["server-timing"])
    assert timing == "queue;dur=0.001, decode;dur=D, batch;dur=0.003, compute;dur=0.002"


def test_a_large_picture_is_resized_and_turned_upright(client_of, engines):
    wide = np.zeros((300, 400), np.uint8)
    wide[:, 200:] = 255
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees: the bright right half becomes the lower half
    Image.fromarray(wide).save(out, "JPEG", exif=exif)

    post(client_of(engines, max_pixels=200_000), out.getvalue(), "image/jpeg")

    [[[tensor]]] = engines.asked
    assert tensor[0].mean() < -0.5
    assert tensor[1].mean() > 0.5


def png_claiming(width, height):
    """A PNG of 70 bytes whose header announces width x height pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def deep_png():
    out = io.BytesIO()
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(out, "PNG")
    return out.getvalue()


NAN = np.array([np.nan, 0, 0, 0], "<f4").tobytes()
BAD_REQUESTS = {
    "empty": (b"", "image/png", 400, "empty-body"),
    "larger than allowed": (b"x" * 9000, "image/png", 413, "body-too-large"),
    "no picture by content": (b"%PDF-1.7 ...", "image/png", 415, "unsupported-media-type"),
    "a picture of a kind we do not parse": (png_of([[0]], kind="BMP"), "image/bmp", 415, "unsupported-media-type"),
    "truncated picture": (png_of(np.arange(900).reshape(30, 30) % 251)[:-90], "image/png", 422, "unreadable-media"),
    "picture without its last bytes": (BRIGHT[:-5], "image/png", 422, "unreadable-media"),
    "picture with a flipped bit": (BRIGHT[:45] + b"\x00" + BRIGHT[46:], "image/png", 422, "unreadable-media"),
    "bomb": (png_claiming(60_000, 60_000), "image/png", 413, "too-many-pixels"),
    "a picture of one column": (png_claiming(1, 20_000), "image/png", 413, "too-many-pixels"),
    "pictures too large together": (*form(*[("file", LARGE)] * 3), 413, "too-many-pixels"),
    "part name that is no text": (
        form(("\xff", BRIGHT))[0].replace(b"\xc3\xbf", b"\xff"),
        FORM,
        400,
        "malformed-multipart",
    ),
    "JSON longer than the model can take": (b" " * 6000, "application/json", 413, "body-too-large"),
    "16 bits a channel": (deep_png(), "image/png", 422, "unreadable-media"),
    "unknown type": (b"abc", "text/csv", 415, "unsupported-media-type"),
    "no type": (b"abc", "", 415, "unsupported-media-type"),
    "part of another name": (*form(("image", BRIGHT)), 422, "unknown-field"),
    "form without files": (b"--xx--\r\n", "multipart/form-data; boundary=xx", 400, "empty-body"),
    "form cut off": (form(("file", BRIGHT))[0][:-8], "multipart/form-data; boundary=xx", 400, "malformed-multipart"),
    "form without boundary": (b"abc", "multipart/form-data", 400, "malformed-multipart"),
    "too many files": (*form(*[("file", BRIGHT)] * 9), 413, "too-many-items"),
    "far too many files": (*form(*[("file", b"x")] * 40), 413, "too-many-items"),
    "tensor of an odd length": (b"\0" * 15, "application/octet-stream", 422, "wrong-size"),
    "too many tensors": (b"\0" * 16 * 9, "application/octet-stream", 413, "too-many-items"),
    "tensor with NaN": (NAN, "application/octet-stream", 422, "not-finite"),
    "JSON cut off": (b'{"inputs": [', "application/json", 400, "malformed-json"),
    "JSON far too deep": (b"[" * 4000, "application/json", 400, "malformed-json"),
    "JSON with NaN": (b'{"inputs": [[[NaN, 1], [1, 1]]]}', "application/json", 400, "malformed-json"),
    "JSON number beyond float": (b'{"inputs": [[[1e999, 1], [1, 1]]]}', "application/json", 422, "not-finite"),
    "JSON without inputs": (b"{}", "application/json", 422, "unknown-field"),
    "JSON list": (b"[]", "application/json", 422, "unknown-field"),
    "unknown field": (b'{"inputs": [[[1, 1], [1, 1]]], "url": 1}', "application/json", 422, "unknown-field"),
    "uneven lists": (b'{"inputs": [[[1, 1], [1]]]}', "application/json", 422, "wrong-shape"),
    "texts for numbers": (b'{"inputs": [[["1", "1"], ["1", "1"]]]}', "application/json", 422, "wrong-shape"),
    "booleans for numbers": (b'{"inputs": [[[true, true], [true, true]]]}', "application/json", 422, "wrong-shape"),
    "a boolean among numbers": (b'{"inputs": [[[1.0, false], [1, 1]]]}', "application/json", 422, "wrong-shape"),
    "another shape": (b'{"inputs": [[1, 1], [1, 1]]}', "application/json", 422, "wrong-shape"),
    "no items": (b'{"inputs": []}', "application/json", 422, "wrong-shape"),
}


@pytest.mark.parametrize(("body", "content_type", "status", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_input_is_refused_with_its_problem(client, engines, body, content_type, status, code):
    result = post(client, body, content_type)

    assert result.status_code == status
    assert result.headers["content-type"] == "application/problem+json"
    assert result.json["type"] == f"urn:bedplate:problem:{code}"
    assert result.json["request_id"] == result.headers["x-request-id"]
    assert engines.asked == []


def test_a_body_that_announces_no_length_is_counted_while_it_comes(client_of, engines):
    async def endless(scope, app):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

        async def send(event):
            sent.append(event)

        await app(scope, receive, send)
        return sent

    client = client_of(engines, max_body_bytes=4096)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": URL,
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer bp_test-key"), (b"content-type", b"image/png")],
    }

    [start, *_] = asyncio.run(endless(scope, client.app))

    assert start["status"] == 413


def test_a_refusal_has_value_limit_and_next_step(client):
    result = post(client, png_claiming(200, 100), "image/png")

    assert (result.json["value"], result.json["limit"]) == (20_000, 10_000)
    assert "bedplate_max_pixels" in result.json["next_step"]


def test_nothing_of_the_payload_is_logged_or_answered(client, caplog):
    secret = b"S3CR3T-payload"
    caplog.set_level("DEBUG")

    bodies = [
        (secret, "image/png"),
        (b'{"inputs": "%s"}' % secret, "application/json"),
        form((secret.decode(), secret)),
    ]
    answers = [post(client, body, content_type).text for body, content_type in bodies]

    assert "S3CR3T" not in caplog.text + "".join(answers)


def test_an_unknown_model_is_404(client):
    result = post(client, BRIGHT, "image/png", "/v1/models/other/predict")

    assert result.status_code == 404
    assert result.json["type"] == "urn:bedplate:problem:unknown-model"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (EngineBusy("queue full", value=64, limit=64, retry_after_s=2), 429, "2"),
        (EngineUnavailable("gone", retry_after_s=5), 503, "5"),
        (DeadlineExceeded("late"), 504, None),
    ],
)
def test_an_engine_that_cannot_is_told_to_the_caller(client, engines, error, status, retry_after):
    engines.error = error

    result = post(client, BRIGHT, "image/png")

    assert result.status_code == status
    assert result.headers.get("retry-after") == retry_after


def test_a_fault_of_ours_is_a_500_that_tells_nothing(client, engines, caplog):
    engines.error = RuntimeError("/var/lib/secret/path")

    result = post(client, BRIGHT, "image/png")

    assert result.status_code == 500
    assert "secret" not in result.text
    assert "secret" in caplog.text
