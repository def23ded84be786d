"""Infer requests and responses as bytes: whatever is sent, and every datatype, with tritonclient's own decoder."""

from __future__ import annotations

import contextlib
import json
import struct

import numpy as np
import pytest
from bedplate.bundle.bundle import Bundle
from bedplate.errors import (
    BodyTooLarge,
    InvalidParameter,
    InvalidPriority,
    InvalidRequest,
    InvalidTimeout,
    MalformedJson,
    NotFinite,
    TooManyItems,
    UnknownField,
    WrongShape,
    WrongSize,
)
from bedplate.web.oip.datatypes import datatype_of
from bedplate.web.oip.request import parse
from bedplate.web.oip.response import HEADER, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import InferResult

from tests.service.lamp import description, png_of
from tests.service.oip_tools import DATATYPES, LIMITS, answer, model_of, request
from tests.service.test_media import SOUND

thoroughly = settings(max_examples=500, deadline=None)
MODELS = {(dtype, varied): model_of(dtype, varied) for dtype in DATATYPES for varied in (False, True)}
FLAT = [0.0, -1.5, 2.5, 1e30]
PIXELS = np.array(FLAT, "<f4").reshape(1, 1, 2, 2)


def as_held(array, dtype):
    """bfloat16 is held as its 16 bits."""
    return array.view("<u2") if dtype == "bfloat16" else array


def decoded(reply):
    length = reply.fields.get(HEADER)
    return InferResult.from_response_body(reply.body, header_length=None if length is None else int(length))


@st.composite
def tensors(draw, dtype, shape):
    kind = DATATYPES[dtype][1]
    if dtype == "bfloat16":
        bits = draw(arrays.arrays("<u2", shape))
        bits[bits & 0x7F80 == 0x7F80] = 0  # no NaN, no infinity
        return bits.view(kind)
    options = {"allow_nan": False, "allow_infinity": False} if kind.kind == "f" else {}
    return draw(arrays.arrays(kind, shape, elements=arrays.from_dtype(kind, **options)))


@thoroughly
@given(st.data(), st.sampled_from(sorted(DATATYPES)), st.booleans(), st.booleans(), st.booleans())
def test_what_a_client_sends_is_what_the_model_gets(data, dtype, varied, binary, nested):
    binary = binary or dtype == "bfloat16"
    shape = (data.draw(st.integers(1, 8)), 1, 2, 2)
    if varied:
        shape = (data.draw(st.integers(1, 2)), 1, data.draw(st.integers(2, 8)), data.draw(st.integers(2, 6)))
    sent = data.draw(tensors(dtype, shape))
    body, json_bytes = request(sent, DATATYPES[dtype][0], binary, nested)

    asked = parse(body, json_bytes, MODELS[dtype, varied], LIMITS)

    assert asked.items.dtype == as_held(sent, dtype).dtype == datatype_of(MODELS[dtype, varied].input).numpy
    assert asked.items.flags.c_contiguous
    np.testing.assert_array_equal(asked.items, as_held(sent, dtype))


@thoroughly
@given(st.data(), st.sampled_from(sorted(DATATYPES)), st.booleans(), st.text(max_size=5))
def test_what_the_model_gives_is_what_a_client_reads(data, dtype, binary, request_id):
    binary = binary or dtype == "bfloat16"
    model = MODELS[dtype, False]
    given_out = data.draw(tensors(dtype, (data.draw(st.integers(1, 3)), 2)))
    fields = {"id": request_id, "parameters": {"binary_data_output": binary}}
    ones = np.ones((1, 1, 2, 2), DATATYPES[dtype][1])
    asked = parse(*request(ones, DATATYPES[dtype][0], binary=True, **fields), model, LIMITS)

    result = decoded(encode(answer(given_out, dtype), model, asked))

    found = result.as_numpy("logits")
    assert found.dtype == given_out.dtype
    np.testing.assert_array_equal(found, given_out)
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == ("lamp", "1")
    assert response.get("id", "") == request_id


@thoroughly
@given(st.data(), st.sampled_from(sorted(DATATYPES)), st.booleans(), st.integers(1, 5))
def test_classes_come_best_first_with_score_index_and_label(data, dtype, binary, classes):
    model = MODELS[dtype, False]
    scores = data.draw(tensors(dtype, (data.draw(st.integers(1, 3)), 2)))
    outputs = [{"name": "logits", "parameters": {"classification": classes, "binary_data": binary}}]
    ones = np.ones((1, 1, 2, 2), DATATYPES[dtype][1])
    asked = parse(*request(ones, DATATYPES[dtype][0], binary=True, outputs=outputs), model, LIMITS)

    found = decoded(encode(answer(scores, dtype), model, asked)).as_numpy("logits")

    assert found.shape == (len(scores), min(classes, 2))
    for row, texts in zip(scores.astype("f8"), found, strict=True):
        order = sorted(range(2), key=lambda i: (-row[i], i))[:classes]
        named = [(text if isinstance(text, str) else text.decode()).split(":") for text in texts]
        assert [(int(index), label) for _, index, label in named] == [(i, model.labels[i]) for i in order]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
NAMES = st.sampled_from(["image", "logits", "other", ""]) | JUNK
SIZES = st.sampled_from([0, 1, 4, 8, 12, 16, 32, 2**31, 2**64 - 1, -1]) | JUNK
PARAMETERS = JUNK | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["binary_data_size", "classification", "timeout", "priority", "sequence_id"], SIZES),
        **dict.fromkeys(["binary_data", "binary_data_output", "shared_memory_region"], st.booleans() | JUNK),
    },
)
INPUTS = st.fixed_dictionaries(
    {"name": st.just("image") | NAMES},
    optional={
        "datatype": st.sampled_from([name for name, _ in DATATYPES.values()] + ["BYTES"]) | JUNK,
        "shape": st.sampled_from([[1, 1, 2, 2], [1], [1, 1], [2, 1, 2, 2], [1, 1, 3, 3], [2**63, 1, 2, 2]]) | JUNK,
        "data": st.lists(st.integers(-300, 300) | st.floats() | JUNK, min_size=4, max_size=4) | JUNK,
        "parameters": PARAMETERS,
    },
)
OUTPUTS = st.fixed_dictionaries({"name": st.just("logits") | NAMES}, optional={"parameters": PARAMETERS})
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(INPUTS, max_size=2) | JUNK},
    optional={"id": NAMES, "parameters": PARAMETERS, "outputs": st.lists(OUTPUTS | JUNK, max_size=2) | JUNK},
)


@settings(max_examples=1_000, deadline=None)
@given(
    DOCUMENTS, st.binary(max_size=40), st.none() | st.integers(-2, 2), st.sampled_from(sorted(DATATYPES)), st.booleans()
)
def test_no_document_raises_anything_but_an_error_of_ours(document, data, off_by, dtype, varied):
    text = json.dumps(document).encode()
    json_bytes = None if off_by is None else max(0, len(text) + off_by)

    with contextlib.suppress(InvalidRequest):
        asked = parse(text + data, json_bytes, MODELS[dtype, varied], LIMITS)
        assert (asked.items is None) != (asked.files is None)


@settings(max_examples=1_000, deadline=None)
@given(st.binary(max_size=60), st.none() | st.integers(0, 70), st.sampled_from(sorted(DATATYPES)))
def test_no_bytes_raise_anything_but_an_error_of_ours(body, json_bytes, dtype):
    with contextlib.suppress(InvalidRequest):
        parse(body, json_bytes, MODELS[dtype, False], LIMITS)


LAMP = MODELS["float32", False]


def refused(kind, model=LAMP, json_bytes=None, body=None, **changes):
    tensor = {"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": FLAT}
    fields = {name: changes.pop(name) for name in ("id", "outputs", "parameters") if name in changes}
    document = {"inputs": [{key: value for key, value in {**tensor, **changes}.items() if value is not ...}], **fields}
    with pytest.raises(kind) as caught:
        parse(json.dumps(document).encode() if body is None else body, json_bytes, model, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        *[("uint8", wrong) for wrong in (300, -1, 1.5, True, "1", None, [1])],
        *[("int32", wrong) for wrong in (2**31, 1.5, 1.0, False)],
        *[("int64", wrong) for wrong in (2**63, 1e300)],
        ("uint64", 2**64),
        *[("float16", wrong) for wrong in (65520, True, "1")],
        *[("float32", wrong) for wrong in (1e39, None, "NaN", {})],
        *[("float64", wrong) for wrong in ("1", True)],
        *[("bool", wrong) for wrong in (1, 0, "true", None)],
    ],
)
def test_a_number_that_the_datatype_cannot_hold_is_refused(dtype, wrong):
    fill = dtype == "bool"

    error = refused(WrongSize, MODELS[dtype, False], datatype=DATATYPES[dtype][0], data=[fill, fill, fill, wrong])

    assert error.limit == DATATYPES[dtype][0]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_has_no_number_that_is_not_finite(number):
    body = b'{"inputs":[{"name":"image","shape":[1,1,2,2],"datatype":"FP32","data":[1,1,1,%b]}]}' % number.encode()

    refused((MalformedJson, WrongSize), body=body)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_binary_numbers_that_are_not_finite_are_refused(dtype, value):
    items = np.full((1, 1, 2, 2), value, DATATYPES[dtype][1])
    body, json_bytes = request(items, DATATYPES[dtype][0], binary=True)

    refused(NotFinite, MODELS[dtype, False], json_bytes, body)


def test_a_bool_is_true_where_its_byte_is_not_zero():
    body, json_bytes = request(np.array([0, 1, 2, 255], "u1").reshape(1, 1, 2, 2), "BOOL", binary=True)

    asked = parse(body, json_bytes, MODELS["bool", False], LIMITS)

    assert asked.items.ravel().tolist() == [False, True, True, True]
    assert asked.items.tobytes() == bytes([0, 1, 1, 1])


def test_bfloat16_has_no_form_as_json():
    model = MODELS["bfloat16", False]

    refused(WrongShape, model, datatype="BF16", parameters={"binary_data_output": True})
    ones = np.ones((1, 1, 2, 2), DATATYPES["bfloat16"][1])
    body, json_bytes = request(ones, "BF16", binary=True, parameters={})
    with pytest.raises(InvalidParameter, match="no form as JSON"):
        parse(body, json_bytes, model, LIMITS)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (UnknownField, {"name": "picture"}),
        (WrongShape, {"datatype": "FP64"}),
        (WrongShape, {"datatype": ...}),
        (WrongShape, {"shape": [1, 2, 2]}),
        (WrongShape, {"shape": [0, 1, 2, 2]}),
        (WrongShape, {"shape": [1.0, 1, 2, 2]}),
        (WrongShape, {"shape": [True, 1, 2, 2]}),
        (WrongShape, {"shape": []}),
        (TooManyItems, {"shape": [9, 1, 2, 2], "data": [0] * 36}),
        (WrongSize, {"data": FLAT[:3]}),
        (WrongSize, {"data": []}),
        (WrongShape, {"data": [FLAT]}),
        (WrongShape, {"data": [[[FLAT[:2], FLAT[2:], 1]]]}),
        (WrongShape, {"data": [[[FLAT[:3], FLAT[3:]]]]}),
        (WrongShape, {"data": ...}),
        (WrongShape, {"datatype": "BYTES", "shape": [1], "data": ["x"]}),
        (InvalidParameter, {"id": 7}),
        (InvalidParameter, {"outputs": [{"name": "other"}]}),
        (InvalidParameter, {"outputs": [{"name": "logits"}] * 2}),
        (InvalidParameter, {"outputs": [{"name": "logits", "parameters": {"classification": -1}}]}),
        (InvalidParameter, {"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}),
        (InvalidParameter, {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "x"}}]}),
        (InvalidParameter, {"parameters": {"sequence_id": 3}}),
        (InvalidParameter, {"parameters": {"sequence_id": "a"}}),
        (InvalidParameter, {"parameters": {"binary_data_output": "yes"}}),
        (InvalidTimeout, {"parameters": {"timeout": 0.5}}),
        (InvalidTimeout, {"parameters": {"timeout": -1}}),
        (InvalidPriority, {"parameters": {"priority": "high"}}),
        (MalformedJson, {"body": b"[]"}),
        (MalformedJson, {"body": b"[" * 4000}),
        (MalformedJson, {"body": b"\xff"}),
        (BodyTooLarge, {"body": b" " * 5377}),
    ],
)
def test_what_is_no_request_of_this_model_is_refused(kind, changes):
    assert refused(kind, **changes).detail


def test_numbers_that_are_too_few_are_counted():
    assert (refused(WrongSize, data=FLAT[:3]).value, refused(WrongSize, data=FLAT[:3]).limit) == (3, 4)


@pytest.mark.parametrize(
    ("said", "data", "limit"), [(15, b"x" * 15, 16), (16, b"x" * 20, 20), (16, b"", 0), (0, b"", 16)]
)
def test_binary_data_has_the_length_that_is_said_and_that_its_shape_needs(said, data, limit):
    tensor = {"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": said}}
    text = json.dumps({"inputs": [tensor]}).encode()

    assert refused(WrongSize, json_bytes=len(text), body=text + data).limit == limit


def test_binary_data_that_no_input_claims_is_refused():
    text, _ = request(PIXELS, "FP32")

    assert refused(WrongSize, json_bytes=len(text), body=text + b"x").value == 1


def test_there_is_no_shared_memory():
    tensor = {"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "parameters": {"shared_memory_region": "x"}}

    assert "shared memory" in refused(InvalidParameter, body=json.dumps({"inputs": [tensor]}).encode()).detail


def test_a_request_may_say_when_how_urgently_and_what_nobody_knows():
    fields = {"parameters": {"timeout": 1500, "priority": 2, "my own": {"x": [1]}}}

    asked = parse(*request(PIXELS, "FP32", **fields), LAMP, LIMITS)

    assert (asked.timeout_us, asked.priority) == (1500, 1)


def test_a_body_without_json_is_the_tensor_and_is_answered_as_binary():
    asked = parse(PIXELS.tobytes(), 0, LAMP, LIMITS)

    np.testing.assert_array_equal(asked.items, PIXELS)
    assert encode(answer(PIXELS.reshape(2, 2)), LAMP, asked).fields[HEADER]


def elements(*parts):
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def bytes_request(data, shape):
    tensor = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + data, len(text)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_picture_model_takes_files(shape):
    files = [png_of([[0, 0], [0, 0]]), b"x"]

    asked = parse(*bytes_request(elements(*files), shape), LAMP, LIMITS)

    assert (asked.items, asked.files) == (None, files)


@pytest.mark.parametrize(
    ("kind", "data", "shape"),
    [
        (WrongSize, elements(b"x"), [2]),
        (WrongSize, elements(b"x", b"y", b"z"), [2]),
        (WrongSize, elements(b"x", b""), [2]),
        (WrongSize, elements(b"x", b"y")[:-1], [2]),
        (WrongSize, elements(b"x") + b"\xff\xff\xff\xff", [2]),
        (WrongSize, b"", [2]),
        (WrongShape, elements(b"x", b"y"), [1, 2]),
        (WrongShape, b"", [0]),
        (WrongShape, b"", []),
        (TooManyItems, elements(*[b"x"] * 9), [9]),
    ],
)
def test_what_are_no_files_is_refused(kind, data, shape):
    with pytest.raises(kind):
        parse(*bytes_request(data, shape), LAMP, LIMITS)


def test_a_model_without_pictures_takes_no_files():
    with pytest.raises(WrongShape):
        parse(*bytes_request(elements(b"x"), [1]), MODELS["float32", True], LIMITS)


def test_of_whole_numbers_there_is_no_mean_so_recordings_are_refused():
    whole = Bundle.from_description(description(**SOUND, outputs=[{"name": "logits", "dtype": "int32", "shape": [2]}]))
    renamed = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    text = json.dumps({"inputs": [renamed]}).encode()

    with pytest.raises(WrongShape):
        parse(text + elements(b"x"), len(text), whole, LIMITS)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_json_cannot_say_binary_data_says(value):
    outputs = np.array([[1, value]], "<f4")
    as_json = parse(*request(PIXELS, "FP32"), LAMP, LIMITS)
    as_binary = parse(*request(PIXELS, "FP32", parameters={"binary_data_output": True}), LAMP, LIMITS)

    with pytest.raises(NotFinite, match="NaN or infinite") as refusal:
        encode(answer(outputs), LAMP, as_json)
    assert "binary_data_output" in refusal.value.next_step
    np.testing.assert_array_equal(decoded(encode(answer(outputs), LAMP, as_binary)).as_numpy("logits"), outputs)


def test_classes_are_in_no_order_where_a_score_is_none():
    outputs = [{"name": "logits", "parameters": {"classification": 1}}]
    asked = parse(*request(PIXELS, "FP32", outputs=outputs), LAMP, LIMITS)

    with pytest.raises(NotFinite, match="NaN"):
        encode(answer(np.array([[1, np.nan]], "<f4")), LAMP, asked)
