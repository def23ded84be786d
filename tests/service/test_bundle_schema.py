"""bundle.schema.json takes and refuses what the program does, but for what keys have to do with one another."""

import copy
import importlib.resources
import json
import random
import re

import pytest
import yaml
from bedplate.bundle.bundle import Bundle, BundleError
from bedplate.bundle.strict_yaml import Disagreement
from bedplate.commands.bundle import TEMPLATES
from jsonschema import Draft202012Validator, ValidationError, validators

from tests.service.detection_tools import lamps
from tests.service.lamp import custom, description, numbers, recommending, tabular, varying
from tests.service.test_vectors import TEXT, of_pictures, of_sounds, of_texts
from tests.service.text_tools import TOKENIZERS, moods

MUTATIONS = 4000
SCHEMA = json.loads(importlib.resources.files("bedplate.bundle").joinpath("bundle.schema.json").read_text())
VALIDATION = {"file": "validation.safetensors", "metric": "accuracy", "threshold": 0.9}
RGB = {"mode": "RGB", "height": 2, "width": 2, "scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}
DOCUMENTS = [
    description(),
    description(
        validation=VALIDATION,
        inputs=[{"name": "x", "dtype": "float32", "shape": [3, 2, 2], "image": RGB | {"background": "#FFFFFF"}}],
    ),
    description(
        inputs=[
            {
                "name": "x",
                "dtype": "float32",
                "shape": [3, 2, 2],
                "image": RGB | {"resize": {"shorter_side": 4}, "interpolation": "bicubic"},
            }
        ],
    ),
    description(
        inputs=[
            {
                "name": "x",
                "dtype": "float32",
                "shape": [3, 2, 2],
                "image": RGB | {"resize": {"height": 4, "width": 3}},
            }
        ],
    ),
    description(network=["flatten", {"linear": {"in_features": 4, "out_features": [2, 2.5, "x", True]}}]),
    description(
        task="audio-classification",
        inputs=[{"name": "x", "dtype": "float32", "shape": [1, 8], "audio": {"sample_rate": 4000, "hop": 4}}],
    ),
    description(
        task="video-classification",
        inputs=[
            {"name": "x", "dtype": "float32", "shape": [3, 2, 2], "video": {"frames": 2, "background": "drop", **RGB}}
        ],
    ),
    tabular(),
    recommending(),
    recommending(cache={"ttl_s": 1800}, request={"max_bytes": 1000}, validation=VALIDATION | {"metric": "hit-rate"}),
    tabular(task="tabular-regression"),
    moods(),
    lamps(validation=VALIDATION | {"metric": "map50"}),
    varying(activation="sigmoid"),
    numbers("float32", validation=VALIDATION | {"metric": "agreement"}),
    numbers("int64"),
    numbers("float16", outputs=[{"name": "same", "dtype": "float16", "shape": [2, 3], "non_finite": "allow"}]),
    numbers("float32", outputs=[{"name": "same", "dtype": "float32", "shape": [3]}], labels=["a", "b", "c"])
    | {"expect_bytes": "eyJvdXRwdXRzIjogW1sxLCAyLCAzXV19"},
    of_texts(),
    of_texts(inputs=[{**TEXT, "text": TEXT["text"] | {"truncation": True}}]),
    of_pictures(),
    of_sounds(),
    custom(),
    {key: value for key, value in description(code="model.py").items() if key != "network"},
    {key: value for key, value in description(program="network.json").items() if key != "network"},
    {key: value for key, value in description(onnx="lamp.onnx").items() if key not in ("network", "weights")},
]
VALUES = [None, True, False, 0, 1, -1, 2, 1.0, 1.5, 1e9, 10**20, "", "x", "lamp\n", "../x", "a" * 65, "a" * 1001, "é"]
VALUES += [[], {}, [1], [1, 2], [2, 1], ["a"], ["a", "a"], [[1, 2]], {"a": 1}, {"relu": {}}, "none", "L", "RGB", "bool"]
VALUES += [
    "float32",
    "float16",
    "tensors",
    "classification",
    "image-classification",
    "audio-classification",
    "video-classification",
    "tabular-classification",
    "tabular-regression",
    "text-classification",
    "recommendation",
    "hit-rate",
    "object-detection",
    "map50",
    "custom",
    "model.py",
    "text/plain",
    "accuracy",
    "agreement",
    "1",
    "#ffffff",
    "refuse",
    "bicubic",
]
ADDABLE = [
    "extra",
    "background",
    "resize",
    "shorter_side",
    "interpolation",
    "program",
    "onnx",
    "weights",
    "code",
    "codec",
    "content_type",
    "image",
    "cache",
    "request",
    "seen",
    "item",
    "network",
    "recommendation",
    "columns",
    "missing",
    "truncation",
    "unit",
    "label",
    "expect",
    "tolerance",
    "max_cost",
    "validation",
]


def _is_integer(checker, instance):
    return isinstance(instance, int) and not isinstance(instance, bool)


def _pattern(validator, pattern, instance, schema):
    # As ECMA has it: Python's $ also stands before a line's end.
    if isinstance(instance, str) and not re.fullmatch(pattern[1:-1], instance):
        yield ValidationError(f"{instance!r} is not like {pattern}")


# JSON Schema takes 1.0 for a whole number, and YAML has both.
Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)(SCHEMA)


def is_taken_by_schema(document):
    return Validator.is_valid({key: value for key, value in document.items() if key not in ADDED})


# Of a description, and not of bundle.yaml.
ADDED = ("canary_bytes", "expect_bytes", "codec_bytes", "tokenizer_sha256", "digest")


def is_taken_by_program(document):
    try:
        Bundle.from_description(document, TOKENIZERS)
    except Disagreement:
        return True
    except BundleError:
        return False
    return True


def places(value, path=()):
    """Every place in a document, as the way to it."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if key not in ADDED:
            yield from places(child, (*path, key))


def mutated(document, chance):
    """The document with one thing changed, gone or added."""
    changed = copy.deepcopy(document)
    *way, last = chance.choice(list(places(changed)))
    holder = changed
    for key in way:
        holder = holder[key]
    what = chance.choice(["change", "change", "change", "drop", "add", "retype"])
    if what == "drop":
        del holder[last]
    elif what == "add" and isinstance(holder, dict):
        holder[chance.choice(ADDABLE)] = chance.choice(VALUES)
    elif what == "add":
        holder.append(copy.deepcopy(chance.choice([holder[last], *VALUES])))
    elif what == "retype" and isinstance(holder[last], (int, float)) and not isinstance(holder[last], bool):
        holder[last] = chance.choice([float(holder[last]), str(holder[last]), holder[last] * -1, holder[last] * 10**12])
    else:
        holder[last] = copy.deepcopy(chance.choice(VALUES))
    return changed


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["task"])
def test_both_take_what_is_right(document):
    assert is_taken_by_schema(document)
    assert is_taken_by_program(document)


def _with(document, *way_and_value):
    changed = copy.deepcopy(document)
    *way, last, value = way_and_value
    holder = changed
    for key in way:
        holder = holder[key]
    holder[last] = value
    return changed


CLASSES, PICTURE, NUMBERS = varying(), description()["inputs"][0], numbers("float32")


@pytest.mark.parametrize(
    "document",
    [
        # What chance does not come upon, or not often.
        _with(CLASSES, "validation", VALIDATION | {"metric": "agreement"}),
        _with(CLASSES, "validation", VALIDATION | {"metric": "recall"}),
        _with(NUMBERS, "validation", VALIDATION),
        _with(NUMBERS, "activation", "none"),
        _with(NUMBERS, "canary", "tolerance", 1e10),
        _with(CLASSES, "inputs", [PICTURE]),
        _with(CLASSES, "inputs", CLASSES["inputs"] * 2),
        _with(CLASSES, "inputs", 0, "shape", [1, [2, 3, 4]]),
        _with(CLASSES, "labels", [str(number) for number in range(100_001)]),
        _with(CLASSES, "batch", "max_cost", (1 << 53) + 1),
        _with(CLASSES, "network", ["relu"] * 1001),
        _with(CLASSES, "network", [{"relu": {}, "flatten": {}}]),
        _with(description(), "inputs", 0, "image", "mean", [-1e10]),
        _with(description(), "inputs", 0, "image", "background", "#fff"),
        _with(description(), "inputs", 0, "image", "background", "#ffffff\n"),
        _with(NUMBERS, "outputs", 0, "non_finite", True),
        _with(NUMBERS, "outputs", 0, "non_finite", "binary"),
        _with(moods(), "inputs", 0, "text", "max_characters", 1_000_001),
        _with(moods(), "inputs", 0, "dtype", "float32"),
        _with(moods(), "detection", lamps()["detection"]),
        _with(of_texts(), "inputs", 0, "dtype", "float32"),
        _with(of_pictures(), "inputs", 0, "dtype", "float64"),
        _with(of_sounds(), "inputs", 0, "dtype", "int64"),
        _with(of_pictures(), "inputs", 0, "audio", of_sounds()["inputs"][0]["audio"]),
        _with(of_texts(), "inputs", 0, "image", of_pictures()["inputs"][0]["image"]),
        _with(of_texts(), "inputs", 0, "audio", of_sounds()["inputs"][0]["audio"]),
        _with(of_texts(), "inputs", 0, "columns", tabular()["inputs"][0]["columns"]),
        _with(of_texts(), "activation", "none"),
        _with(of_texts(), "inputs", 0, "text", TEXT["text"] | {"truncation": 12}),
        _with(custom(), "inputs", of_texts()["inputs"]),
        _with(lamps(), "canary", "iou", 0.05),
        _with(lamps(), "detection", "max_boxes", 1001),
    ],
)
def test_both_refuse_what_is_rarely_wrong(document):
    assert not is_taken_by_program(document)
    assert not is_taken_by_schema(document)


def test_both_take_and_refuse_the_same():
    chance = random.Random(2)
    outcomes = {True: 0, False: 0}

    for _ in range(MUTATIONS):
        document = mutated(chance.choice(DOCUMENTS), chance)
        taken = is_taken_by_program(document)
        assert is_taken_by_schema(document) is taken, json.dumps(document)
        outcomes[taken] += 1

    assert min(outcomes.values()) > MUTATIONS / 10


@pytest.mark.parametrize(("task", "template"), TEMPLATES.items())
def test_the_templates_are_taken_by_both(task, template):
    text = importlib.resources.files("bedplate.commands").joinpath(template).read_text()
    document = yaml.safe_load(text.replace("NAME", "lamp"))

    assert document["task"] == task
    assert is_taken_by_schema(document)
    added = {key: description()[key] for key in ("canary_bytes", "digest")}
    assert Bundle.from_description(document | added).name == "lamp"
