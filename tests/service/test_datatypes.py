"""Tensors of every datatype, through a web and through an engine with a real network."""

import base64
import json

import numpy as np
import pytest
import torch
from bedplate.bundle import dtypes
from bedplate.bundle.bundle import BundleError, read_bundle
from bedplate.engine.containment import Containment
from bedplate.engine.model import Model
from bedplate.engine.variant import ModelVariant
from bedplate.engine.work import key_of
from bedplate.wire import Frame, Type

from tests.service.engine_tools import Peer, predict_frame, running_engine, wait_until, write_bundle
from tests.service.lamp import FakeEngines, description, numbers

URL = "/v1/models/lamp/predict"
SHAPE = (2, 3)
ALL = list(dtypes.HOLDERS)
WHOLE = [name for name in ALL if "int" in name]
EMBEDDING = {"embedding": {"num_embeddings": 10, "embedding_dim": 4}}


def any_numbers(dtype, items, seed=0):
    """(items, 2, 3), the whole range of a whole number's type, as it is held."""
    random = np.random.default_rng(seed)
    if dtype in dtypes.FLOATING:
        return dtypes.from_numbers(dtype, random.normal(0, 100, (items, *SHAPE)))
    if dtype == "bool":
        return random.integers(0, 2, (items, *SHAPE)) > 0
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, (items, *SHAPE), dtype=dtype, endpoint=True)


@pytest.fixture
def model_of(tmp_path):
    def load(document, weights=None, precision="float32"):
        directory = write_bundle(tmp_path / "bundle", weights or {}, document)
        return Model.load(read_bundle(directory), directory, torch.device("cpu"), ModelVariant(precision))

    return load


def frame_of(request_id, items, dtype, name="numbers"):
    return predict_frame(request_id, items, inputs=[{"name": name, "dtype": dtype, "shape": list(items.shape)}])


@pytest.mark.parametrize("dtype", ALL)
def test_requests_of_one_batch_get_their_own_numbers_back_bit_by_bit(tmp_path, model_of, dtype):
    model = model_of(numbers(dtype))
    sent = [any_numbers(dtype, items, seed=items) for items in (1, 3, 2)]

    with running_engine(tmp_path / "engine.sock", model) as engine:
        peer = Peer(engine.path)
        engine.server.batcher.pause(key_of(model))
        for number, items in enumerate(sent):
            peer.send(frame_of(number, items, dtype))
        # Answered in order, so all requests are in the queue once this one is.
        peer.send(Frame(Type.DESCRIBE, 99, {}))
        assert peer.receive().type is Type.DESCRIPTION
        engine.server.batcher.resume(key_of(model))
        answers = {answer.id: answer for answer in (peer.receive() for _ in sent)}
        peer.leave()

    for number, items in enumerate(sent):
        answer = answers[number]
        assert answer.type is Type.RESULT, answer.meta
        assert answer.meta["batch_items"] == 6
        assert answer.meta["outputs"] == [{"name": "same", "dtype": dtype, "shape": list(items.shape)}]
        assert answer.tensors == items.tobytes()


@pytest.mark.parametrize("dtype", ALL)
def test_a_warm_up_and_a_probe_are_of_the_models_own_datatype(tmp_path, model_of, dtype):
    model = model_of(numbers(dtype))

    assert {inputs.dtype for inputs in model.warm_up_inputs()} == {dtypes.HOLDERS[dtype]}
    with running_engine(tmp_path / "engine.sock", model) as engine:
        probed, run = [], model.run
        model.run = lambda items: probed.append((items.shape, items.dtype)) or run(items)
        engine.server.probe()
        wait_until(lambda: probed)

    assert probed == [((1, *SHAPE), dtypes.HOLDERS[dtype])]


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ({"dtype": "uint16"}, "wrong-shape"),
        ({"dtype": "float16"}, "wrong-shape"),
        ({"dtype": "BF16"}, "wrong-shape"),
        ({"dtype": "bfloat16", "shape": [2, 2, 3]}, "wrong-size"),
    ],
)
def test_another_datatype_than_the_models_is_refused(tmp_path, model_of, declared, code):
    with running_engine(tmp_path / "engine.sock", model_of(numbers("bfloat16"))) as engine:
        peer = Peer(engine.path)
        items = any_numbers("bfloat16", 1)
        peer.send(predict_frame(1, items, inputs=[{"name": "numbers", "shape": list(items.shape), **declared}]))
        refusal = peer.receive()
        peer.leave()

    assert (refusal.type, refusal.meta["code"]) == (Type.ERROR, code)
    assert "bfloat16" in refusal.meta["detail"] + refusal.meta.get("next_step", "")


@pytest.mark.parametrize("dtype", dtypes.FLOATING)
def test_only_the_item_whose_answer_is_not_finite_fails(model_of, dtype):
    model = model_of(numbers(dtype))
    items = dtypes.from_numbers(dtype, np.ones((4, *SHAPE)))
    items[2, 1, 1] = dtypes.from_numbers(dtype, np.array(np.inf))

    outcome = Containment(model.run, lambda: False, model.bundle.output.finite).compute(items)

    assert list(outcome.faults) == [2]


def test_whole_numbers_that_look_like_infinity_in_bfloat16_are_answers(tmp_path, model_of):
    model = model_of(numbers("uint16"))
    items = np.full((1, *SHAPE), 0x7F80, np.uint16)

    with running_engine(tmp_path / "engine.sock", model) as engine:
        peer = Peer(engine.path)
        peer.send(frame_of(1, items, "uint16"))
        assert peer.receive().tensors == items.tobytes()
        peer.leave()


@pytest.mark.parametrize("given", dtypes.FLOATING)
@pytest.mark.parametrize("taken", dtypes.FLOATING)
def test_an_output_of_more_or_fewer_bits_becomes_the_declared_one(model_of, taken, given):
    model = model_of(numbers(taken, outputs=[{"name": "same", "dtype": given, "shape": [2, 3]}]))
    model.warm_up()

    result = model.run(dtypes.from_numbers(taken, np.full((1, *SHAPE), 1.5)))

    assert dtypes.to_numbers(given, result).tolist() == [[[1.5] * 3] * 2]


@pytest.mark.parametrize(
    ("taken", "given"),
    [("bfloat16", "uint16"), ("uint16", "bfloat16"), ("int32", "int64"), ("float32", "int32"), ("bool", "uint8")],
)
def test_an_output_of_another_kind_than_declared_is_refused_at_warm_up(model_of, taken, given):
    model = model_of(numbers(taken, outputs=[{"name": "same", "dtype": given, "shape": [2, 3]}]))

    with pytest.raises(BundleError, match=rf"network gives {taken} \(1, 2, 3\), bundle.yaml says {given} \(1, 2, 3\)"):
        model.warm_up()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [name for name in ALL if name != "bool"])
def test_numbers_of_any_datatype_can_be_cast_and_computed_with(model_of, dtype, precision):
    layers = [{"cast": {"dtype": "float32"}}, {"linear": {"in_features": 3, "out_features": 1}}, "flatten"]
    weights = {"1.weight": torch.tensor([[1.0, 2.0, 3.0]]), "1.bias": torch.tensor([0.5])}
    outputs = [{"name": "sums", "dtype": "float32", "shape": [2]}]
    changes = {
        "network": layers,
        "outputs": outputs,
        "expect_bytes": base64.b64encode(b'{"outputs": [[14, 32]]}').decode(),
    }
    model = model_of(numbers(dtype, **changes), weights, precision)
    model.warm_up()

    result = model.run(dtypes.from_numbers(dtype, np.array([[[1, 2, 3], [0, 1, 0]]])))

    assert result.dtype == np.float32
    assert result.tolist() == [[14.5, 2.5]]


def test_a_cast_to_more_bits_keeps_them(model_of):
    outputs = [{"name": "same", "dtype": "float64", "shape": [2, 3]}]
    model = model_of(numbers("int32", network=[{"cast": {"dtype": "float64"}}], outputs=outputs))
    items = any_numbers("int32", 2)

    assert np.array_equal(model.run(items), items.astype(np.float64))


@pytest.mark.parametrize("dtype", WHOLE)
def test_half_the_bits_leave_whole_numbers_alone(model_of, dtype):
    items = any_numbers(dtype, 2)

    assert np.array_equal(model_of(numbers(dtype), precision="bfloat16").run(items), items)


def words(dtype="int64", layers=None, **changes):
    """Ids of two words → two logits: each word's vector, one after another, through a linear layer."""
    layers = layers or [EMBEDDING, "flatten", {"linear": {"in_features": 8, "out_features": 2}}]
    return description(
        task="classification",
        inputs=[{"name": "words", "dtype": dtype, "shape": [2]}],
        network=layers,
        canary={"file": "canary.json", "label": "bright"},
        canary_bytes=base64.b64encode(b'{"inputs": [1, 2]}').decode(),
        **changes,
    )


WORD_WEIGHTS = {
    "0.weight": torch.arange(40.0).reshape(10, 4),
    "2.weight": torch.linspace(-1, 1, 16).reshape(2, 8),
    "2.bias": torch.zeros(2),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_ids_are_embedded_and_computed_with(model_of, dtype, precision):
    model = model_of(words(dtype), WORD_WEIGHTS, precision)
    model.warm_up()

    result = model.run(np.array([[1, 9], [0, 0]], dtype))

    vectors = WORD_WEIGHTS["0.weight"].numpy()
    wanted = np.array([np.concatenate([vectors[1], vectors[9]]), np.tile(vectors[0], 2)])
    assert np.allclose(
        result, wanted @ WORD_WEIGHTS["2.weight"].numpy().T, rtol=0.02 if precision == "bfloat16" else 1e-5
    )


def test_an_id_that_no_embedding_has_fails_its_item_alone(model_of):
    model = model_of(words(), WORD_WEIGHTS)

    outcome = Containment(model.run, lambda: False).compute(np.array([[1, 2], [3, 10], [-1, 0], [9, 9]]))

    assert {item: type(fault) for item, fault in outcome.faults.items()} == {1: IndexError, 2: IndexError}


@pytest.mark.parametrize(("ids", "told"), [([3, 10], 10), ([-1, 2], -1), ([2**62, 1], 2**62)])
def test_an_id_that_no_embedding_has_is_the_callers_error_and_never_reaches_the_device(tmp_path, model_of, ids, told):
    model = model_of(words(), WORD_WEIGHTS)

    with running_engine(tmp_path / "engine.sock", model) as engine:
        peer = Peer(engine.path)
        for number, asked in enumerate([ids, [0, 9]]):
            peer.send(frame_of(number, np.array([asked]), "int64", "words"))
        answers = {answer.id: answer for answer in (peer.receive() for _ in range(2))}
        peer.leave()

    assert answers[0].meta == {
        "code": "out-of-range",
        "detail": "an id of input 'words' is not known to the model",
        "value": told,
        "limit": 9,
        "next_step": "send ids from 0 to 9",
    }
    assert answers[1].type is Type.RESULT


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (words("float32"), "inputs[0].dtype: 'float32' does not do, wanted int32 or int64 as ids"),
        (words("uint8"), "inputs[0].dtype: 'uint8' does not do"),
        (words(layers=["relu", EMBEDDING]), "network[1].embedding: wanted before all layers but identity, flatten"),
        (words(layers=[{"cast": {"dtype": "int32"}}, EMBEDDING]), "network[1].embedding: wanted before all layers"),
        (words(layers=[{"cast": {"dtype": "complex64"}}]), "cast.dtype: 'complex64' does not do, wanted bool or uint8"),
        (words(layers=[{"cast": {}}]), "option 'dtype' is missing"),
        (words(layers=[{"embedding": {"num_embeddings": 1 << 25, "embedding_dim": 4}}]), "from 1 to 16777216"),
    ],
)
def test_a_network_that_does_not_suit_ids_is_refused(model_of, document, told):
    with pytest.raises(BundleError) as refusal:
        model_of(document, WORD_WEIGHTS)

    assert told in str(refusal.value)


class Echo(FakeEngines):
    """Engines that give back what they are given, plus `off`."""

    def __init__(self, document, off=0):
        super().__init__()
        self.serve(document)
        self.sent = []
        self._off = off

    async def predict(self, meta, tensors, options):
        [declared] = meta["inputs"]
        self.sent.append((declared["dtype"], declared["shape"], bytes(tensors)))
        outputs = [{"name": "same", "dtype": declared["dtype"], "shape": declared["shape"]}]
        held = dtypes.from_bytes(declared["dtype"], bytes(tensors))
        answer = {**meta, "digest": self.digest, "outputs": outputs, "queue_ns": 1, "compute_ns": 1, "batch_items": 1}
        return Frame(
            Type.RESULT, 1, answer, (held + held.dtype.type(self._off)).tobytes() if self._off else bytes(tensors)
        )


def post(client, body, content_type="application/json"):
    return client.simulate_post(URL, body=body, headers={"Content-Type": content_type})


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
def test_numbers_of_every_datatype_come_as_json_and_raw_and_go_as_json(client_of, dtype, content_type):
    engines = Echo(numbers(dtype))
    client = client_of(engines, max_body_bytes=8192)
    items = any_numbers(dtype, 2)
    listed = dtypes.to_numbers(dtype, items).tolist()
    body = json.dumps({"inputs": listed}) if content_type == "application/json" else items.tobytes()

    first, second = post(client, body, content_type), post(client, body, content_type)

    assert engines.sent == [(dtype, [2, 2, 3], items.tobytes())]
    assert first.json["predictions"] == [{"output": item} for item in listed]
    assert second.json["predictions"] == first.json["predictions"]
    assert "hit" in second.headers["cache-status"]


@pytest.mark.parametrize("dtype", WHOLE)
def test_the_smallest_and_the_largest_whole_number_come_as_they_are(client_of, dtype):
    engines = Echo(numbers(dtype))
    limits = np.iinfo(dtype)
    listed = [[[limits.min, limits.max, 1], [0, 0, 0]]]

    result = post(client_of(engines, max_body_bytes=8192), json.dumps({"inputs": listed}))

    assert result.json["predictions"] == [{"output": listed[0]}]


def with_first(number):
    return json.dumps({"inputs": [[number, 0, 0], [0, 0, 0]]}, allow_nan=False).encode()


REFUSED = {
    **{f"one below {name}": (name, with_first(int(np.iinfo(name).min) - 1), "wrong-size") for name in WHOLE},
    **{f"one above {name}": (name, with_first(int(np.iinfo(name).max) + 1), "wrong-size") for name in WHOLE},
    **{f"half for {name}": (name, with_first(0.5), "wrong-shape") for name in ["bool", *WHOLE]},
    **{f"a text for {name}": (name, with_first("1"), "wrong-shape") for name in ALL},
    **{f"null for {name}": (name, with_first(None), "wrong-shape") for name in ALL},
    "a number for bool": ("bool", b'{"inputs": [[1, 0, 0], [0, 0, 0]]}', "wrong-shape"),
    "true for int8": ("int8", b'{"inputs": [[true, true, true], [true, true, true]]}', "wrong-shape"),
    "beyond float16": ("float16", with_first(65520), "not-finite"),
    "beyond bfloat16": ("bfloat16", with_first(3.4e38), "not-finite"),
    "beyond float32": ("float32", with_first(1e39), "not-finite"),
    "beyond float64": ("float64", with_first(0).replace(b"[0,", b"[1e999,"), "not-finite"),
    "uneven lists for uint64": ("uint64", b'{"inputs": [[1, 2, 3], [4]]}', "wrong-shape"),
}


@pytest.mark.parametrize(("dtype", "body", "code"), REFUSED.values(), ids=REFUSED)
def test_json_that_the_datatype_does_not_take_is_refused(client_of, dtype, body, code):
    engines = Echo(numbers(dtype))

    result = post(client_of(engines, max_body_bytes=8192), body)

    assert result.status_code == 422
    assert result.json["type"] == f"urn:bedplate:problem:{code}"
    assert engines.sent == []


@pytest.mark.parametrize("dtype", dtypes.FLOATING)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_raw_numbers_that_are_not_finite_are_refused(client_of, dtype, bad):
    body = dtypes.from_numbers(dtype, np.array([0, 0, 0, 0, 0, bad])).tobytes()

    result = post(client_of(Echo(numbers(dtype)), max_body_bytes=8192), body, "application/octet-stream")

    assert (result.status_code, result.json["type"]) == (422, "urn:bedplate:problem:not-finite")


@pytest.mark.parametrize(
    ("dtype", "off", "ready"),
    [
        ("bool", 0, True),
        ("bfloat16", 0, True),
        ("float64", 0.0009, True),
        ("float64", 0.0011, False),
        ("int64", 0, True),
        ("int64", 1, False),
    ],
)
def test_a_canary_without_a_label_is_right_within_its_tolerance(client_of, dtype, off, ready):
    result = client_of(Echo(numbers(dtype), off)).simulate_get("/health/ready")

    assert result.status_code == (200 if ready else 503)


def test_items_without_a_label_are_counted_without_one(client_of, metrics):
    one_of_two = numbers(
        "int8",
        version="2",
        digest="e" * 64,
        inputs=[{"name": "numbers", "dtype": "int8", "shape": [2]}],
        outputs=[{"name": "same", "dtype": "int8", "shape": [2]}],
        labels=["low", "high"],
        expect_bytes=base64.b64encode(b'{"outputs": [[1, 2]]}').decode(),
    )

    post(client_of(Echo(numbers("int8"))), with_first(1))
    post(client_of(Echo(one_of_two)), b'{"inputs": [1, 2]}')

    for version in ("1", "2"):
        found = {"model": "lamp", "version": version, "label": "*"}
        assert metrics.registry.get_sample_value("bedplate_predictions_total", found) == 1
