"""Text through the whole service: bytes, JSON, forms and the protocol, to the labels that the model gives offline."""

import json
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import Bundle, BundleError, read_bundle, write_manifest
from bedplate.bundle.tokenizer import tokenizer_of
from bedplate.decode.text import ids_of
from bedplate.engine.model import Model
from bedplate.errors import MediaTooLong
from bedplate.optimize import check
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.service.engine_tools import write_bundle
from tests.service.media_tools import damaged
from tests.service.text_tools import FEWEST, MAX_CHARACTERS, MOST, TOKENIZER, TOKENIZERS, WEIGHTS, WORDS, moods

MUTATIONS = 1_000
TEXTS = ["A very good day", "bad", "not a good day", "good good bad", "Ünknown wörds 日本", "a day\nnot bad \0 good"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("moods") / "1", WEIGHTS, moods())


@pytest.fixture(scope="module")
def offline(served):
    """The label and the score of a text, without the service."""
    known = read_bundle(served)
    model = Model.load(known, served, torch.device("cpu"))

    def ask(text):
        ids = ids_of(text.encode(), known.input, known.input.text, tokenizer_of(known.tokenizer))
        scores = model.predict(torch.from_numpy(ids)).softmax(1)[0].tolist()
        best = int(np.argmax(scores))
        return known.labels[best], round(scores[best], 6)

    return ask


@pytest.fixture
def post(service):
    def send(body, content_type, path="/v1/models/moods/predict"):
        headers = {"Authorization": f"Bearer {service.key}", "Content-Type": content_type}
        request = urllib.request.Request(service.url + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return send


def named(answer):
    status, document = answer
    assert status == 200, document
    return [(one["label"], pytest.approx(one["score"], abs=2e-6)) for one in document["predictions"]]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "text/plain", "Text/Plain;charset=UTF-8"])
def test_a_text_gets_the_label_that_the_model_gives_offline(post, offline, text, content_type):
    assert named(post(text.encode(), content_type)) == [offline(text)]


def test_texts_of_different_lengths_are_answered_in_their_order(post, offline):
    body = json.dumps({"inputs": TEXTS}).encode()

    assert named(post(body, "application/json")) == [offline(text) for text in TEXTS]


def test_files_of_a_form_are_texts(post, offline):
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\n' + text.encode() + b"\r\n"
        for text in TEXTS
    )

    assert named(post(form + b"--b--\r\n", "multipart/form-data; boundary=b")) == [offline(text) for text in TEXTS]


def test_a_single_text_and_ids_are_taken_as_json_too(post, offline):
    as_ids = [[WORDS.index(word) for word in TEXTS[0].lower().split()]]

    assert named(post(json.dumps({"inputs": TEXTS[0]}).encode(), "application/json")) == [offline(TEXTS[0])]
    assert named(post(json.dumps({"inputs": as_ids}).encode(), "application/json")) == [offline(TEXTS[0])]


@pytest.mark.parametrize("nested", [False, True])
def test_the_protocol_takes_texts_as_json(post, offline, nested):
    shape = [len(TEXTS), 1] if nested else [len(TEXTS)]
    data = [[text] for text in TEXTS] if nested else TEXTS
    document = {"inputs": [{"name": "tokens", "datatype": "BYTES", "shape": shape, "data": data}]}

    status, answer = post(json.dumps(document).encode(), "application/json", "/v2/models/moods/infer")

    assert status == 200, answer
    [output] = answer["outputs"]
    assert output["shape"] == [len(TEXTS), 2]
    labels = np.array(output["data"]).reshape(output["shape"]).argmax(1)
    assert [("bad", "good")[place] for place in labels] == [offline(text)[0] for text in TEXTS]


def test_the_protocol_takes_texts_as_binary_data(service, offline):
    data = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in TEXTS)
    tensor = {"name": "tokens", "datatype": "BYTES", "shape": [len(TEXTS)]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    headers = {"Authorization": f"Bearer {service.key}", "Inference-Header-Content-Length": str(len(head))}

    request = urllib.request.Request(f"{service.url}/v2/models/moods/infer", data=head + data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        [output] = json.load(response)["outputs"]

    labels = np.array(output["data"]).reshape(output["shape"]).argmax(1)
    assert [("bad", "good")[place] for place in labels] == [offline(text)[0] for text in TEXTS]


def test_metadata_tells_of_ids_whose_number_varies(service):
    request = urllib.request.Request(
        f"{service.url}/v2/models/moods", headers={"Authorization": f"Bearer {service.key}"}
    )

    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}]


REFUSED = {
    "no UTF-8": (b"good \xff day", "text/plain", 422, "unreadable-media", 5, None),
    "no tokens": (b" \n ", "text/plain", 422, "wrong-size", 0, FEWEST),
    "too many tokens": (b"good " * 13, "text/plain", 413, "media-too-long", 13, MOST),
    "too many characters": (b"g" * 201, "text/plain", 413, "media-too-long", 201, MAX_CHARACTERS),
    "too many bytes": (b"g" * 801, "text/plain", 413, "media-too-long", 801, 4 * MAX_CHARACTERS),
    "a huge one": (b"good " * 1_000_000, "text/plain", 413, "media-too-long", 5_000_000, 4 * MAX_CHARACTERS),
    "another charset": (b"good", "text/plain; charset=latin-1", 415, "unsupported-media-type", None, "utf-8"),
    "an empty one": (b'{"inputs": ["good", ""]}', "application/json", 400, "empty-body", 0, None),
    "none": (b'{"inputs": []}', "application/json", 422, "wrong-shape", "[0]", None),
    "half a pair": (rb'{"inputs": ["\ud800"]}', "application/json", 422, "unreadable-media", 0, None),
    "texts and numbers": (b'{"inputs": ["good", 1]}', "application/json", 422, "wrong-shape", None, None),
    "deep JSON": (b"[" * 50_000, "application/json", 413, "body-too-large", 50_000, None),
    "deeper JSON": (b'{"inputs": ' + b"[" * 20_000, "application/json", 400, "malformed-json", None, None),
    "too many": (json.dumps({"inputs": ["good"] * 9}).encode(), "application/json", 413, "too-many-items", 9, 8),
    "ids that are none": (b'{"inputs": [[99]]}', "application/json", 422, "out-of-range", None, None),
}


@pytest.mark.parametrize(("body", "content_type", "status", "code", "value", "limit"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_text_of_this_model_is_refused_with_the_next_step(
    post, body, content_type, status, code, value, limit
):
    found, problem = post(body, content_type)

    assert (found, problem["type"]) == (status, f"urn:bedplate:problem:{code}")
    assert value is None or problem.get("value") == value
    assert limit is None or problem["limit"] == limit


def test_damaged_texts_get_an_answer_or_a_refusal_and_no_fault(post):
    chance, statuses = Random("damaged texts"), Counter()
    wholes = [
        ("a good day, not bad: 日本 \u202e\0".encode(), "text/plain"),
        (json.dumps({"inputs": TEXTS}).encode(), "application/json"),
    ]

    for _ in range(MUTATIONS):
        whole, content_type = chance.choice(wholes)
        body = damaged(damaged(whole, chance) or whole, chance)
        status, _ = post(body, content_type)
        statuses[status] += 1

    assert sum(statuses.values()) == MUTATIONS
    assert not [status for status in statuses if status >= 500], statuses
    assert min(statuses[200], statuses[422]) > MUTATIONS / 20, statuses


def test_a_text_that_is_too_long_is_cut_where_the_bundle_says_so():
    text = {**moods()["inputs"][0]["text"], "truncation": True}
    whole = Bundle.from_description(moods(), TOKENIZERS)
    cut = Bundle.from_description(moods(inputs=[{**moods()["inputs"][0], "text": text}]), TOKENIZERS)

    found = ids_of(b"good bad " * 10, cut.input, cut.input.text, tokenizer_of(cut.tokenizer))

    assert found.tolist() == [[1, 2] * (MOST // 2)]
    # The next one has the same tokenizer, and none of its decisions.
    with pytest.raises(MediaTooLong, match="the text has 20 tokens, 12 are allowed"):
        ids_of(b"good bad " * 10, whole.input, whole.input.text, tokenizer_of(whole.tokenizer))


def test_what_stands_around_a_text_stays_where_it_is_cut():
    known = Tokenizer.from_str(TOKENIZER.decode())
    known.post_processor = TemplateProcessing(single="a $A day", special_tokens=[("a", 6), ("day", 5)])
    taken = Bundle.from_description(moods(), TOKENIZERS).input
    spec = replace(taken.text, truncation=True)

    found = ids_of(b"good " * 20, taken, spec, known)

    assert found.tolist() == [[6, *[1] * (MOST - 2), 5]]


def with_validation(directory, inputs, labels):
    validation = {"file": "validation.safetensors", "metric": "accuracy", "threshold": 0.5}
    write_bundle(directory, WEIGHTS, moods(validation=validation))
    save_file({"inputs": inputs, "expected": torch.tensor(labels)}, directory / "validation.safetensors")
    write_manifest(directory)
    return directory


def filled_up(*texts):
    most = max(len(text.encode()) for text in texts)
    return torch.tensor([list(text.encode().ljust(most, b"\0")) for text in texts], dtype=torch.uint8)


def test_a_validation_set_of_texts_is_computed(tmp_path):
    directory = with_validation(
        tmp_path / "1", filled_up("good", "A very bad day", "not 日本", "good day"), [1, 0, 1, 1]
    )
    bundle, model = check.load(directory, "float32")

    measured = check.measure(bundle, directory, model)

    assert (measured.items, measured.share) == (4, 0.75)
    assert check.canary_answer(bundle, model) == bundle.canary.wanted == "good"


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (torch.tensor([[1, 2]]), "'inputs' is int64 [1, 2], wanted uint8 [items, bytes]"),
        (torch.zeros(1, dtype=torch.uint8), "wanted uint8 [items, bytes]"),
        (filled_up("good " * 13), "the text has 13 tokens, 12 are allowed"),
        (torch.tensor([[255]], dtype=torch.uint8), "no UTF-8"),
    ],
)
def test_a_validation_set_that_is_no_texts_is_refused(tmp_path, inputs, told):
    directory = with_validation(tmp_path / "1", inputs, [1])
    bundle, model = check.load(directory, "float32")

    with pytest.raises(BundleError) as refused:
        check.measure(bundle, directory, model)

    assert told in str(refused.value)
