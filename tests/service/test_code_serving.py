"""Bundles with programs of their own through all programs of a host: what answers, and what their faults leave be."""

import base64
import contextlib
import json
import time

import pytest
import yaml
from bedplate import wire
from bedplate.bundle.manifest import write_signature
from bedplate.wire import Frame, Type

from tests.service.code_tools import LAMP, sum_of, sums_of, write_coded, write_custom
from tests.service.decoder_tools import running_decoder
from tests.service.engine_tools import Peer, bright, predict_frame, raw
from tests.service.lamp import CODEC
from tests.service.models_tools import write_version
from tests.service.signing_tools import BRIGHT, host, make_key, signer
from tests.service.test_engine_process import Systemd, process

CPU_S = 1.0
SECRET = "what the author would not tell"
ROWS = [[1, 2, 3], [4, 5, 6]]
# Does what it is sent: a client of a test chooses how it fails.
WILD = f"""
import json, os, time

import numpy as np


def decode(content, content_type):
    # Where the next one would find it, in the same process.
    json.calls = getattr(json, "calls", 0) + 1
    asked = json.loads(content)
    if asked == "raise":
        raise ValueError({SECRET!r})
    if asked == "exit":
        raise SystemExit({SECRET!r})
    if asked == "die":
        os._exit(1)
    if asked == "burn":
        while True:
            pass
    if asked == "sleep":
        time.sleep(600)
    if asked == "type":
        asked = [[len(content_type), 0, 0], [0, 0, 0]]
    if asked == "calls":
        asked = [[json.calls, 0, 0], [0, 0, 0]]
    if asked == "misfit":
        return np.zeros(3, np.float32)
    if asked == "list":
        return [[[1, 2, 3], [4, 5, 6]]]
    return np.array([asked], np.float32)


def encode(outputs):
    total = float(outputs.sum())
    if total == 1001:
        raise ValueError({SECRET!r})
    if total == 1002:
        os._exit(1)
    if total == 1003:
        return {{"sum": float("nan")}}
    if total == 1004:
        return object()
    if total == 1005:
        return "x" * (1 << 20)
    if total == 1006:
        time.sleep(600)
    return {{"sum": total, "items": len(outputs)}}
"""
ANSWER = {"predictions": [{"sum": 21, "items": 1}]}


class Served:
    """A host that serves the lamp as code and `sums` with a codec, and may run both."""

    def __init__(self, host, decoder):
        self.host = host
        self.decoder = decoder

    def ask(self, content, content_type="text/json", **headers):
        status, body = self.host.post("/v1/models/sums/predict", json.dumps(content).encode(), content_type, **headers)
        return status, json.loads(body)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    key = make_key(folder, "signer")
    expected = wire.to_json(ANSWER)
    models = [
        write_coded(folder / "models/lamp/1"),
        write_custom(folder / "models/sums/1", codec=WILD, name="sums", expect_bytes=_text(expected)),
    ]
    broken = [
        write_coded(folder / "models/lamp/2", "import nowhere\n" + LAMP, version="2"),
        write_custom(folder / "models/sums/2", codec="import nowhere\n" + CODEC, version="2", name="sums"),
    ]
    for model in models + broken:
        write_signature(model, key)
    sums = sums_of(*models, *broken)
    with (
        running_decoder(code=sums, max_cpu_s=CPU_S) as decoder,
        host(folder, signer(key), "lamp/1", "sums/1", web={"decoder": decoder}, code=sums) as running,
    ):
        yield Served(running, decoder)


def _text(content):
    return base64.b64encode(content).decode()


def test_a_model_that_is_code_answers_as_any_other(served):
    status, body = served.host.post("/v1/models/lamp/predict", BRIGHT)

    assert (status, json.loads(body)["predictions"][0]["label"]) == (200, "bright")


def test_a_codec_says_what_a_content_is_and_what_the_answer_is(served):
    assert served.ask(ROWS)[1]["predictions"] == [{"sum": 21, "items": 1}]
    assert served.ask("type", "a/b; c=d")[1]["predictions"] == [{"sum": 8, "items": 1}]


def test_each_file_of_a_form_has_its_prediction(served):
    part = '--b\r\nContent-Disposition: form-data; name="file"\r\nContent-Type: text/json\r\n\r\n{}\r\n'
    form = "".join(part.format(rows) for rows in (ROWS, [[0, 0, 0], [0, 0, 5]])) + "--b--\r\n"

    status, body = served.host.post("/v1/models/sums/predict", form.encode(), "multipart/form-data; boundary=b")

    assert status == 200, body
    assert [one["sum"] for one in json.loads(body)["predictions"]] == [21, 5]


def test_a_prediction_is_kept_by_its_content_and_its_type(served):
    asked = {"Cache_Control": "max-age=60"}
    # Elsewhere all pictures are read alike, whatever they are called.
    first, again, other = (served.ask("type", kind, **asked)[1] for kind in ("image/png", "image/png", "image/jpeg"))

    assert [one["predictions"][0]["sum"] for one in (first, again, other)] == [9, 9, 10]


def test_the_open_inference_protocol_sends_and_gets_the_tensors_themselves(served):
    tensor = {"name": "numbers", "shape": [1, 2, 3], "datatype": "FP32", "data": [*ROWS[0], *ROWS[1]]}

    status, body = served.host.post(
        "/v2/models/sums/infer", json.dumps({"inputs": [tensor]}).encode(), "application/json"
    )

    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [*ROWS[0], *ROWS[1]])


@pytest.mark.parametrize("content", ["raise", "exit"])
def test_what_decode_does_not_take_is_422_and_tells_nothing(served, content):
    status, problem = served.ask(content)

    assert (status, problem["type"]) == (422, "urn:bedplate:problem:unreadable-media")
    assert SECRET not in json.dumps(problem) + served.decoder.log
    assert problem["request_id"] in served.decoder.log


def test_items_that_the_model_does_not_take_are_422(served):
    assert served.ask([[1, 2]])[0] == 422
    assert served.ask([[1, 2, float("inf")], [1, 2, 3]])[0] == 422


@pytest.mark.parametrize("content", ["misfit", "list"])
def test_a_decode_that_gives_no_tensor_is_500_with_the_request_id_in_the_log(served, content):
    status, problem = served.ask(content)

    assert (status, problem["type"]) == (500, "urn:bedplate:problem:internal")
    assert problem["request_id"] in served.decoder.log


@pytest.mark.parametrize("content", ["die", "burn"])
def test_a_decode_that_ends_its_process_is_422_and_the_next_is_answered(served, content):
    began = time.monotonic()

    assert served.ask(content)[0] == 422
    assert served.ask(ROWS)[0] == 200
    assert time.monotonic() - began < CPU_S + 5


@pytest.mark.parametrize("content", ["sleep", [[1006, 0, 0], [0, 0, 0]]], ids=["decode", "encode"])
def test_a_program_that_waits_ends_with_its_request(served, content):
    status, problem = served.ask(content, X_Request_Timeout_Ms="500")

    assert (status, problem["type"]) == (504, "urn:bedplate:problem:deadline-exceeded")
    assert served.ask(ROWS, X_Request_Timeout_Ms="5000")[0] == 200


@pytest.mark.parametrize("total", [1001, 1003, 1004, 1005])
def test_an_encode_that_fails_is_500_with_the_request_id_in_the_log(served, total):
    status, problem = served.ask([[total, 0, 0], [0, 0, 0]])

    assert (status, problem["type"]) == (500, "urn:bedplate:problem:internal")
    assert SECRET not in json.dumps(problem) + served.decoder.log
    assert any(problem["request_id"] in line and "encode" in line for line in served.decoder.log.splitlines())


def test_an_encode_that_ends_its_process_is_500_with_the_request_id_in_the_log(served):
    status, problem = served.ask([[1002, 0, 0], [0, 0, 0]])

    assert (status, problem["type"]) == (500, "urn:bedplate:problem:internal")
    assert problem["request_id"] in (served.host.folder / "service.log").read_text()
    assert served.ask(ROWS)[0] == 200


def test_a_program_finds_nothing_that_it_left_in_its_process(served):
    assert {served.ask("calls")[1]["predictions"][0]["sum"] for _ in range(5)} == {1}


def test_a_decoder_runs_no_program_that_its_settings_do_not_name(served, tmp_path):
    program = f"open({str(tmp_path / 'it-ran')!r}, 'w')\n{CODEC}"
    meta = {
        "input": {"name": "x", "dtype": "float32", "shape": [2, 3]},
        **{"sizes": [len(program), 2], "types": [""], "codec": {"model": "sums", "request_id": "forged"}},
    }
    answers = []

    for kind in (Type.DECODE, Type.ENCODE):
        peer = Peer(served.decoder.path)
        peer.send(Frame(kind, 1, meta, program.encode() + b"[]"))
        answers.append(peer.receive())
        peer.leave()

    assert [answer.meta["code"] for answer in answers] == ["internal"] * 2
    assert not (tmp_path / "it-ran").exists()
    assert sum_of(program) in served.decoder.log


@pytest.mark.parametrize(
    ("directory", "told"),
    [
        ("lamp/2", "model.py: fails (ModuleNotFoundError in line 1 of bundle's model.py"),
        ("sums/2", "codec.py: fails (ModuleNotFoundError in line 1 of bundle's codec"),
        ("lamp/3", "model.py: is a program, and this host does not run it"),
    ],
)
def test_a_program_that_cannot_run_is_not_loaded_and_what_is_served_goes_on(served, directory, told):
    if directory == "lamp/3":
        unknown = write_coded(served.host.folder / "models/lamp/3", "# another\n" + LAMP, version="3")
        write_signature(unknown, served.host.folder / "signer")

    assert told in served.host.load(directory)["error"]

    assert served.host.loaded() == {"1": ["default"]}
    assert served.host.answering_version() == "1"
    assert served.ask(ROWS)[0] == 200


def test_an_engine_that_starts_refuses_programs_and_serves_the_rest(tmp_path):
    key = make_key(tmp_path, "signer")
    for directory in (write_version(tmp_path / "models", "1"), write_coded(tmp_path / "models/lamp/2", version="2")):
        write_signature(directory, key)

    with host(tmp_path, signer(key), "lamp/2", "lamp/1") as running:
        assert running.loaded() == {"1": ["default"]}
        assert running.answering_version() == "1"


FUSSY = LAMP.replace(
    "    return module(batch)",
    """    first = batch[:, 0, 0, 0]
    if (first == 7).any():
        raise KeyError("seven")
    while (first == 9).any():
        pass
    return module(batch)""",
)


@pytest.fixture
def fussy(tmp_path):
    """An engine whose model fails on 7 and never comes back from 9; and the systemd that started it."""
    directory = write_coded(tmp_path / "lamp", FUSSY)
    settings = {"socket_dir": str(tmp_path), "bundles": [str(directory)], "code": sums_of(directory)}
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(settings))
    with (
        contextlib.closing(Systemd(tmp_path)) as systemd,
        process(tmp_path, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="300000"),
    ):
        assert systemd.next()[0] == "READY=1"
        peer = Peer(tmp_path / "cpu0.sock")
        yield peer, systemd
        peer.leave()


def test_an_item_that_predict_fails_on_fails_alone(fussy):
    peer, _ = fussy
    peer.send_raw(b"".join(raw(predict_frame(i, bright(1, value))) for i, value in enumerate([1.0, 7.0, 0.5, 1.0], 1)))

    answers = {answer.id: answer for answer in (peer.receive() for _ in range(4))}

    assert answers.pop(2).meta["code"] == "internal"
    assert [answer.type for answer in answers.values()] == [Type.RESULT] * 3


def test_a_predict_that_never_comes_back_ends_the_watchdogs_food(fussy):
    peer, systemd = fussy
    assert systemd.next() == ["WATCHDOG=1"]

    peer.predict(1, bright(1, 9.0))

    # A beat may have been on its way.
    assert systemd.hears_nothing_for(1.5) or systemd.hears_nothing_for(1.5)
