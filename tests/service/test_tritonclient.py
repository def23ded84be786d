"""tritonclient's HTTP client and its asyncio variant, as they are, against both programs of a host."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.service import media_tools
from tests.service.engine_tools import write_bundle, write_lamp
from tests.service.lamp import lamp_logits, numbers, png_of
from tests.service.oip_tools import DATATYPES
from tests.service.test_media import SOUND, VIDEO, WINDOW, levels
from tests.service.test_processes import SERVICE, free_port, status_of, wait_until

KEY = "bp_triton-test"
# Of a window's numbers the mean, as the lamp of its pixels.
HEARD = {"1.weight": torch.tensor([[-1.0], [1.0]]).expand(2, WINDOW).contiguous() / WINDOW, "1.bias": torch.zeros(2)}
HEARS = ["flatten", {"linear": {"in_features": WINDOW, "out_features": 2}}]
BRIGHT = np.full((1, 1, 2, 2), 1, np.float32)
MIXED = np.concatenate([BRIGHT, -BRIGHT, 0.5 * BRIGHT])


def canary(kind, label, content):
    return {"canary": {"file": f"canary.{kind}", "label": label}, "canary_bytes": base64.b64encode(content)}


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Where `bedplate serve` serves lamps, of sounds and videos too, and of each datatype what gives it back."""
    folder = tmp_path_factory.mktemp("triton")
    bundles = [write_lamp(folder / "1"), write_lamp(folder / "2", version="2")]
    sound = canary("wav", "bright", levels(0.5))
    bundles.append(write_lamp(folder / "sound", HEARD, **SOUND, name="sound", network=HEARS, **sound))
    video = canary("mp4", "dark", media_tools.video("mp4", 2))
    bundles.append(write_lamp(folder / "video", **VIDEO, name="video", **video))
    bundles += [write_bundle(folder / dtype, {}, numbers(dtype, name=f"same-{dtype}")) for dtype in DATATYPES]
    port = free_port()
    with (folder / "log").open("w") as log:
        serve = subprocess.Popen(
            [sys.executable, "-m", "bedplate", "serve", *map(str, bundles), "--port", str(port)],
            env={**os.environ, "PYTHONPATH": str(SERVICE), "BEDPLATE_API_KEY": KEY, "TMPDIR": str(folder)},
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: serve.poll() is not None or status_of(port, "/health/ready") == 200)
            assert serve.poll() is None, Path(log.name).read_text()
            yield port
        finally:
            serve.terminate()
            serve.wait(60)


class Sync:
    """Every call with the key."""

    def __init__(self, url: str):
        self._client = triton.InferenceServerClient(url)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        # New for each call: the client writes into what it is given.
        return lambda *args, **options: method(*args, **{"headers": {"Authorization": f"Bearer {KEY}"}, **options})

    def close(self) -> None:
        self._client.close()


class Aio:
    """The asyncio variant, one call after another."""

    def __init__(self, url: str):
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._connect(url))

    async def _connect(self, url: str) -> Any:
        return triton_aio.InferenceServerClient(url)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        key = {"Authorization": f"Bearer {KEY}"}
        return lambda *args, **options: self._loop.run_until_complete(method(*args, **{"headers": key, **options}))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[Sync, Aio])
def client(request, port):
    with contextlib.closing(request.param(f"127.0.0.1:{port}")) as client:
        yield client


def sent(items, binary=True, name="image", datatype="FP32"):
    return [InferInput(name, list(items.shape), datatype).set_data_from_numpy(items, binary_data=binary)]


def wanted(binary=True, classes=0, name="logits"):
    return [InferRequestedOutput(name, binary_data=binary, class_count=classes)]


def test_the_server_and_its_models_are_live_and_ready(client):
    assert client.is_server_live() is True
    assert client.is_server_ready() is True
    assert client.is_model_ready("lamp") is True
    assert client.is_model_ready("lamp", "2") is True


@pytest.mark.parametrize(("name", "version"), [("lamp", "3"), ("other", "")])
def test_what_is_not_served_is_not_ready(client, name, version):
    assert client.is_model_ready(name, version) is False


def test_without_the_key_nothing_is_told(client):
    nobody = {"X-Nobody": "yes"}

    assert client.is_server_live(headers=nobody) is False
    with pytest.raises(InferenceServerException, match="API key") as caught:
        client.get_server_metadata(headers=nobody)
    assert caught.value.status() == "401"


def test_the_server_tells_its_extensions(client):
    told = client.get_server_metadata()

    assert told["name"] == "bedplate"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(told["extensions"])


def test_a_model_tells_what_goes_in_and_out(client):
    assert client.get_model_metadata("lamp", "2") == {
        "name": "lamp",
        "versions": ["1", "2"],
        "platform": "pytorch",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 2, 2]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
    }


def test_a_model_tells_its_configuration(client):
    config = client.get_model_config("lamp")

    assert (config["name"], config["max_batch_size"]) == ("lamp", 8)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": [1, 2, 2]}]


def test_the_repository_lists_what_is_served(client):
    index = client.get_model_repository_index()

    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        ("lamp", "1", "READY"),
        ("lamp", "2", "READY"),
        *[(f"same-{dtype}", "1", "READY") for dtype in sorted(DATATYPES)],
        ("sound", "1", "READY"),
        ("video", "1", "READY"),
    ]


@pytest.mark.parametrize("version", ["", "1", "2"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer_gives_what_the_model_computes(client, version, binary_in, binary_out):
    outputs = None if binary_out is None else wanted(binary_out)

    result = client.infer("lamp", sent(MIXED, binary_in), version, outputs, request_id="my request")

    np.testing.assert_allclose(result.as_numpy("logits"), lamp_logits(MIXED), rtol=1e-6)
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("my request", "lamp")
    assert response["model_version"] == (version or "1")
    assert result.get_output("logits")["datatype"] == "FP32"


# bfloat16 has no form as JSON: the client itself refuses to send it.
FORMS = [
    (dtype, binary_in, binary_out)
    for dtype in DATATYPES
    for binary_in in (True, False)
    for binary_out in (True, False)
    if dtype != "bfloat16" or (binary_in and binary_out)
]


@pytest.mark.parametrize(("dtype", "binary_in", "binary_out"), FORMS)
def test_every_datatype_comes_back_as_it_was_sent(client, dtype, binary_in, binary_out):
    datatype, held = DATATYPES[dtype]
    least, most = (np.iinfo(held).min, np.iinfo(held).max) if held.kind in "iu" else (-0.333, 1e4)
    items = np.array([[[least, most, 1], [0, 2, 3]], [[0, 0, 0], [1, 1, 1]]], held)

    result = client.infer(
        f"same-{dtype}", sent(items, binary_in, "numbers", datatype), outputs=wanted(binary_out, name="same")
    )

    found = result.as_numpy("same")
    assert found.dtype == items.dtype
    np.testing.assert_array_equal(found, items)


@pytest.mark.parametrize("there", ["gzip", "deflate", None])
@pytest.mark.parametrize("back", ["gzip", "deflate", None])
def test_bodies_may_be_compressed_both_ways(client, there, back):
    items = np.tile(BRIGHT, (8, 1, 1, 1))
    compression = {"request_compression_algorithm": there, "response_compression_algorithm": back}

    # Long enough to be worth compressing.
    result = client.infer("lamp", sent(items), outputs=wanted(binary=False), request_id="x" * 2000, **compression)

    np.testing.assert_allclose(result.as_numpy("logits"), lamp_logits(items), rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_classes_are_named(client, binary, classes):
    result = client.infer("lamp", sent(MIXED), outputs=wanted(binary, classes))

    found = result.as_numpy("logits")
    texts = [[text if isinstance(text, str) else text.decode() for text in row] for row in found]
    assert [row[0] for row in texts] == ["1.0:1:bright", "1.0:0:dark", "0.5:1:bright"]
    assert {len(row) for row in texts} == {min(classes, 2)}


def test_a_picture_may_be_sent_as_a_file(client):
    files = np.array([png_of([[255, 255], [255, 255]]), png_of([[0, 0], [0, 0]])], object)

    result = client.infer("lamp", sent(files, datatype="BYTES"))

    np.testing.assert_allclose(result.as_numpy("logits"), lamp_logits(MIXED[:2]), rtol=1e-6)


def test_of_recordings_sent_as_files_comes_the_mean_of_their_windows(client):
    files = np.array([levels(0.5, -0.25, 0.5), levels(-0.5)], object)

    result = client.infer("sound", sent(files, name="x", datatype="BYTES"), outputs=wanted())
    named = client.infer("sound", sent(files, name="x", datatype="BYTES"), outputs=wanted(classes=1))

    np.testing.assert_allclose(result.as_numpy("logits"), [[-0.25, 0.25], [0.5, -0.5]], atol=1e-3)
    assert [text.split(b":")[2] for [text] in named.as_numpy("logits")] == [b"bright", b"dark"]


def test_of_a_video_sent_as_a_file_come_the_scores_that_v1_has(client, port):
    clip = media_tools.video("mp4", frames=12)

    result = client.infer("video", sent(np.array([clip], object), name="x", datatype="BYTES"))

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "video/mp4"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/v1/models/video/predict", clip, headers)
        [told] = json.load(connection.getresponse())["predictions"]
    assert len(told["frames"]) == 4
    np.testing.assert_allclose(
        result.as_numpy("logits"), [[told["scores"]["dark"], told["scores"]["bright"]]], atol=1e-6
    )


def test_urgency_time_and_parameters_of_ones_own_are_taken(client):
    result = client.infer("lamp", sent(BRIGHT), priority=2, timeout=5_000_000, parameters={"mine": "x"})

    assert result.as_numpy("logits").shape == (1, 2)


def test_too_little_time_is_told(client):
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        client.infer("lamp", sent(BRIGHT), timeout=1)
    assert caught.value.status() == "504"


@pytest.mark.parametrize(
    ("status", "says", "call"),
    [
        ("404", "no model of this name", {"model_name": "other"}),
        ("404", "no model of this name", {"model_version": "3"}),
        ("422", "only 'image'", {"inputs": sent(BRIGHT, name="picture")}),
        ("422", "wanted", {"inputs": sent(np.ones((1, 2, 2), np.float32))}),
        ("422", "FP32", {"inputs": sent(BRIGHT.astype("f8"), datatype="FP64")}),
        ("413", "9 items, 8 are allowed", {"inputs": sent(np.tile(BRIGHT, (9, 1, 1, 1)))}),
        ("422", "NaN", {"inputs": sent(BRIGHT * np.nan)}),
        ("400", "'logits'", {"outputs": wanted(name="other")}),
        ("400", "sequence", {"sequence_id": 7, "sequence_start": True}),
    ],
)
def test_what_is_wrong_is_told_with_what_would_do(client, status, says, call):
    call = {"model_name": "lamp", "inputs": sent(BRIGHT), **call}

    with pytest.raises(InferenceServerException) as caught:
        client.infer(**call)

    assert caught.value.status() == status
    assert says in caught.value.message()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_model_metadata("other"),
        lambda client: client.get_model_config("lamp", "3"),
        lambda client: client.get_inference_statistics("other"),
        lambda client: client.load_model("lamp"),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.get_trace_settings(),
    ],
)
def test_what_is_not_there_is_404(client, call):
    with pytest.raises(InferenceServerException) as caught:
        call(client)

    assert caught.value.status() == "404"
    assert caught.value.message()


def test_statistics_count_what_was_asked(client):
    def counted():
        [stats] = client.get_inference_statistics("lamp", "2")["model_stats"]
        return stats

    before = counted()
    client.infer("lamp", sent(MIXED), "2")
    with pytest.raises(InferenceServerException):
        client.infer("lamp", sent(BRIGHT * np.nan), "2")
    after = counted()

    def grown(*path):
        start, end = before, after
        for step in path:
            start, end = start[step], end[step]
        return end - start

    assert grown("inference_count") == 3
    assert grown("execution_count") == 1
    for part in ("success", "fail", "queue", "compute_input", "compute_infer"):
        assert grown("inference_stats", part, "count") == 1
        assert grown("inference_stats", part, "ns") > 0
    assert after["last_inference"] > 1_600_000_000_000
    everything = client.get_inference_statistics()["model_stats"]
    assert {(stats["name"], stats["version"]) for stats in everything} >= {("lamp", "1"), ("lamp", "2")}


def test_the_log_can_be_looked_at_and_not_changed(client):
    assert client.get_log_settings()["log_error"] is True
    with pytest.raises(InferenceServerException) as caught:
        client.update_log_settings({"log_error": False})
    assert caught.value.status() == "405"


def test_requests_may_wait_for_their_answers_together(port):
    """Only the first client has this: the other one is asyncio's anyway."""
    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=4)) as client:
        waiting = [
            client.async_infer("lamp", sent(value * BRIGHT), headers={"Authorization": f"Bearer {KEY}"})
            for value in (1, 0.5, -1)
        ]
        results = [each.get_result().as_numpy("logits")[0, 1] for each in waiting]

    assert results == [1, 0.5, -1]


def test_a_request_and_its_answer_can_be_made_and_read_by_hand(port):
    body, json_bytes = triton.InferenceServerClient.generate_request_body(sent(BRIGHT), outputs=wanted())
    headers = {"Authorization": f"Bearer {KEY}", "Inference-Header-Content-Length": str(json_bytes)}

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/lamp/infer", body, headers)
        response = connection.getresponse()
        length = int(response.headers["Inference-Header-Content-Length"])
        answer = response.read()
    result = triton.InferenceServerClient.parse_response_body(answer, header_length=length)

    np.testing.assert_array_equal(result.as_numpy("logits"), [[-1, 1]])
