"""Models whose answers may be -inf and NaN on purpose: who says so gets them as binary data, and no other way."""

import asyncio
import base64
import json
import math
import warnings

import numpy as np
import pytest
import torch
import uvloop
from bedplate.bundle.bundle import read_bundle
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.model import Model
from bedplate.engine.variant import ModelVariant
from bedplate.optimize import check
from bedplate.optimize.difference import difference_of
from bedplate.web.engines.pool import EnginePool
from safetensors.torch import save_file

from tests.service.code_tools import write_program
from tests.service.conftest import API_KEY
from tests.service.direct_tools import no_direct, sent
from tests.service.engine_tools import running_engine
from tests.service.lamp import numbers
from tests.service.test_killers import web

V1, V2 = "/v1/models/lamp/predict", "/v2/models/lamp/infer"
LOG = """
import torch
from torch import nn


class Log(nn.Module):
    def forward(self, batch):
        return torch.log(batch + 1)


def load(weights):
    return Log()


def predict(module, batch):
    return module(batch)
"""
LOG_OF_ZERO = LOG.replace("batch + 1", "batch")  # not finite already where it is warmed up
ITEM = [[0, -1, 1], [-2, 2, 3]]
ANSWER = [[0, -math.inf, math.log(2)], [math.nan, math.log(3), math.log(4)]]
FINITE = [[1, 2, 3], [4, 5, 6]]


def document(non_finite="allow", canary=FINITE, **changes):
    told = {"non_finite": non_finite} if non_finite else {}
    expected = [[[math.log(number + 1) for number in row] for row in FINITE]]
    return numbers(
        "float32",
        outputs=[{"name": "same", "dtype": "float32", "shape": [2, 3], **told}],
        code="model.py",
        canary_bytes=base64.b64encode(json.dumps({"inputs": [canary]}).encode()).decode(),
        expect_bytes=base64.b64encode(json.dumps({"outputs": expected}).encode()).decode(),
        **changes,
    )


@pytest.fixture
def model_of(tmp_path):
    def load(program=LOG, whole=None, **changes):
        directory = write_program(tmp_path / "lamp", whole or document(**changes), program)
        bundle = read_bundle(directory)
        return Model.load(bundle, directory, torch.device("cpu"), ModelVariant(), bundle.code_sums)

    return load


@pytest.fixture
def ask(tmp_path, keys, model_of):
    """ask(request, direct, …) → head and body of the answer, from an engine that serves such a model."""

    def answered(request, direct=False, **changes):
        with running_engine(tmp_path / "cpu0.sock", model_of(**changes)):

            async def main():
                pool = EnginePool([tmp_path / "cpu0.sock"])
                try:
                    await pool.model("lamp")
                    app, _ = web(pool, tmp_path, cache_ttl_s=60)
                    return await sent(app, app.direct if direct else no_direct, request)
                finally:
                    pool.close()

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(main())

    return answered


def infer(items, **fields):
    flat = [number for item in items for row in item for number in row]
    tensor = {"name": "numbers", "shape": [len(items), 2, 3], "datatype": "FP32", "data": flat}
    return post(V2, {"inputs": [tensor], **fields})


def post(path, content):
    body = json.dumps(content).encode()
    lines = f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + body


def status_of(answer):
    return int(answer[0].split()[1])


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    "asking",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "same", "parameters": {"binary_data": True}}]},
    ],
)
def test_binary_data_says_what_the_model_says(ask, asking, direct):
    answer = ask(infer([ITEM, FINITE], **asking), direct)

    assert status_of(answer) == 200
    found = np.frombuffer(answer[1][-48:], "<f4").reshape(2, 2, 3)
    np.testing.assert_allclose(found, [ANSWER, np.log(np.add(FINITE, 1))], rtol=1e-6)


@pytest.mark.parametrize("direct", [True, False])
def test_json_cannot_say_it_and_its_error_says_what_can(ask, direct):
    answer = ask(infer([ITEM]), direct)

    assert status_of(answer) == 422
    assert says(json.loads(answer[1])["error"], "NaN or infinite", "binary_data_output")


def test_v1_says_which_item_and_where_to_ask(ask):
    answer = ask(post(V1, {"inputs": [FINITE, ITEM]}))

    problem = json.loads(answer[1])
    assert (status_of(answer), problem["type"]) == (422, "urn:bedplate:problem:not-finite")
    assert "item 1 of the request" in problem["detail"]
    assert says(problem["next_step"], V2, "binary_data_output")


@pytest.mark.parametrize("path", [V1, V2])
def test_what_json_can_say_is_answered_as_ever(ask, path):
    answer = ask(post(V1, {"inputs": [FINITE]}) if path == V1 else infer([FINITE]))

    assert status_of(answer) == 200


@pytest.mark.parametrize("non_finite", [None, "refuse"])
@pytest.mark.parametrize("fields", [{}, {"parameters": {"binary_data_output": True}}])
def test_of_any_other_model_it_is_refused_in_both(ask, non_finite, fields):
    answer = ask(infer([ITEM], **fields), non_finite=non_finite)

    assert status_of(answer) == 422
    assert "not finite" in json.loads(answer[1])["error"]


@pytest.mark.parametrize("as_binary", [True, False])
def test_classes_have_no_order_where_a_score_is_none(ask, as_binary):
    one = {"name": "same", "parameters": {"classification": 2, "binary_data": as_binary}}
    flat = numbers("float32", outputs=[{"name": "same", "dtype": "float32", "shape": [3], "non_finite": "allow"}])
    changes = {key: flat[key] for key in ("outputs",)} | {
        "inputs": [{"name": "numbers", "dtype": "float32", "shape": [3]}],
        "canary_bytes": base64.b64encode(b'{"inputs": [[1, 2, 3]]}').decode(),
        "expect_bytes": base64.b64encode(b'{"outputs": [[0.693147, 1.098612, 1.386294]]}').decode(),
    }

    def asked(numbers_sent):
        tensor = {"name": "numbers", "shape": [1, 3], "datatype": "FP32", "data": numbers_sent}
        return ask(post(V2, {"inputs": [tensor], "outputs": [one]}), whole={**document(), **changes})

    unordered, ordered = asked([-2, 0, 1]), asked([-1, 0, 1])

    assert status_of(unordered) == 422
    assert says(json.loads(unordered[1])["error"], "NaN", "classification")
    assert status_of(ordered) == 200
    assert b"0.6931472:2" in ordered[1]
    assert b"0.0:1" in ordered[1]


def test_it_is_warmed_up_whatever_it_says_to_zeros(model_of):
    model_of(LOG_OF_ZERO).warm_up()

    with pytest.raises(BundleError, match="not finite"):
        model_of(LOG_OF_ZERO, non_finite=None).warm_up()


def test_a_canary_has_to_have_an_answer_that_json_can_say(model_of):
    model = model_of(canary=ITEM)

    with pytest.raises(BundleError, match=r"canary.file: canary.json .* holds NaN or infinity"):
        check.canary_answer(model.bundle, model)


@pytest.mark.parametrize(("non_finite", "share"), [("allow", 0.5), (None, 0.0)])
def test_a_validation_set_may_know_such_answers(tmp_path, non_finite, share):
    """Right is the same kind at the same place, and what no client would get is never right."""
    validation = {"file": "validation.safetensors", "metric": "agreement", "threshold": 0.5}
    directory = tmp_path / "lamp"
    directory.mkdir()
    inputs = torch.tensor([ITEM, ITEM], dtype=torch.float32)
    expected = torch.tensor([ANSWER, ANSWER])
    expected[1, 0, 1] = math.inf
    save_file({"inputs": inputs, "expected": expected}, directory / "validation.safetensors")
    write_program(directory, document(non_finite, validation=validation), LOG)
    bundle = read_bundle(directory)
    model = Model.load(bundle, directory, torch.device("cpu"), ModelVariant(), bundle.code_sums)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = check.measure(bundle, directory, model)

    assert measured.share == share


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("found", "wanted", "difference"),
    [
        ([1, 2], [1, 2], 0),
        ([1, 3], [1, 2], 0.5),
        ([0.1, 0], [0, 0], 0.1),
        ([NAN, -INF, 3], [NAN, -INF, 2], 0.5),
        ([NAN, INF], [NAN, INF], 0),
        ([INF, 2], [-INF, 2], INF),
        ([NAN, 2], [INF, 2], INF),
        ([1, 2], [NAN, 2], INF),
        ([NAN, 2], [1, 2], INF),
        ([1e30, -INF], [1e30, 2], INF),
    ],
)
def test_a_form_differs_without_end_where_it_is_not_finite_elsewhere(found, wanted, difference):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference_of(np.array(found, float), np.array(wanted, float)) == difference


def says(text, *parts):
    return all(part in text for part in parts)
