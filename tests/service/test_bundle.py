"""A bundle is read strictly: what differs from the manifest or the format is refused, and the message says where."""

import base64
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import yaml
from bedplate.bundle.bundle import (
    MAX_CANARY_BYTES,
    MAX_TOKENIZER_BYTES,
    Bundle,
    BundleError,
    describe,
    files_beside,
    read_bundle,
    write_manifest,
)
from bedplate.bundle.tensor import Range
from bedplate.wire import MAX_TENSOR_BYTES

from tests.service import text_tools
from tests.service.detection_tools import lamps
from tests.service.engine_tools import write_bundle, write_lamp
from tests.service.lamp import VARYING, custom, description, numbers, tabular, varying


@pytest.fixture
def lamp(tmp_path):
    return write_lamp(tmp_path / "lamp" / "1")


def rewrite(directory, change):
    """Change bundle.yaml and sign it again, so that only the content can be refused."""
    document = yaml.safe_load((directory / "bundle.yaml").read_text())
    change(document)
    (directory / "bundle.yaml").write_text(yaml.safe_dump(document))
    write_manifest(directory)


def test_a_whole_bundle_is_read(lamp):
    bundle = read_bundle(lamp)

    assert (bundle.name, bundle.version, bundle.max_items) == ("lamp", "1", 8)
    assert bundle.input.shape == (1, 2, 2)
    assert bundle.input.item_bytes_of((1, 2, 2)) == 16
    assert [layer.kind for layer in bundle.network] == ["flatten", "linear"]
    assert bundle.canary.content == (lamp / "canary.png").read_bytes()


def test_the_manifest_can_be_checked_by_hand(lamp):
    lines = (lamp / "SHA256SUMS").read_text().splitlines()

    assert lines == [
        f"{hashlib.sha256((lamp / name).read_bytes()).hexdigest()}  {name}"
        for name in ("bundle.yaml", "canary.png", "weights.safetensors")
    ]


def test_a_description_over_the_wire_gives_the_same_bundle(lamp):
    bundle = read_bundle(lamp)

    received = Bundle.from_description(json.loads(json.dumps(describe(bundle), allow_nan=False)))

    assert received == bundle


def test_a_bundle_that_takes_text_brings_its_tokenizer(tmp_path):
    bundle = read_bundle(write_bundle(tmp_path / "moods", text_tools.WEIGHTS, text_tools.moods()))

    assert bundle.tokenizer == text_tools.TOKENIZER
    assert Bundle.from_description(json.loads(json.dumps(describe(bundle))), text_tools.TOKENIZERS) == bundle


def test_a_tokenizer_that_is_no_file_of_the_bundle_is_refused(tmp_path):
    directory = write_bundle(tmp_path / "moods", text_tools.WEIGHTS, text_tools.moods())
    (directory / "tokenizer.json").unlink()
    write_manifest(directory)

    with pytest.raises(BundleError, match=r"inputs\[0\].text.tokenizer: 'tokenizer.json' does not do"):
        read_bundle(directory)


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path):
    directory = write_bundle(tmp_path / "moods", text_tools.WEIGHTS, text_tools.moods())
    (directory / "tokenizer.json").write_bytes(b" " * (MAX_TOKENIZER_BYTES + 1))
    write_manifest(directory)

    with pytest.raises(BundleError, match=f"larger than {MAX_TOKENIZER_BYTES} bytes"):
        read_bundle(directory)


def test_a_text_has_one_dimension_of_ids():
    inputs = [{**text_tools.moods()["inputs"][0], "shape": [1, [1, 12]]}]

    with pytest.raises(BundleError, match=r"shape: \[1, \[1, 12\]\] does not do, wanted \[\[fewest, most\]\] ids"):
        Bundle.from_description(text_tools.moods(inputs=inputs), text_tools.TOKENIZERS)


def write_with_a_large_canary(directory):
    numbers = [[[round(x / 7, 6) for x in range(side)] for side in [400] * 100]]
    text = json.dumps({"inputs": numbers}).encode()
    assert 300_000 < len(text) < MAX_CANARY_BYTES
    entry = [{"name": "image", "dtype": "float32", "shape": [100, 400]}]
    canary = {"file": "canary.json", "label": "bright"}
    content = base64.b64encode(text).decode()
    return write_lamp(directory, task="classification", inputs=entry, canary=canary, canary_bytes=content)


def test_a_large_canary_goes_beside_the_description(tmp_path):
    bundle = read_bundle(write_with_a_large_canary(tmp_path / "lamp"))

    described = json.loads(json.dumps(describe(bundle)))

    assert len(json.dumps(described)) < 10_000
    assert files_beside(bundle) == {described["canary_sha256"]: bundle.canary.content}
    assert Bundle.from_description(described, files_beside(bundle)) == bundle
    with pytest.raises(BundleError, match="canary_sha256: is of no file"):
        Bundle.from_description(described)


def test_a_description_without_its_tokenizer_is_refused():
    with pytest.raises(BundleError, match="tokenizer_sha256: is missing or of no file"):
        Bundle.from_description(text_tools.moods())


def test_dimensions_may_vary_between_a_smallest_and_a_largest(tmp_path):
    bundle = read_bundle(write_lamp(tmp_path / "lamp", **VARYING))

    assert bundle.input.shape == (1, Range(2, 8), Range(2, 6))
    assert (bundle.input.smallest, bundle.input.largest) == ((1, 2, 2), (1, 8, 6))
    assert bundle.input.item_bytes_of((1, 3, 5)) == 60
    assert bundle.input.document == [1, [2, 8], [2, 6]]
    assert Bundle.from_description(json.loads(json.dumps(describe(bundle)))) == bundle


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((1, 2, 2), True),
        ((1, 8, 6), True),
        ((1, 1, 2), False),
        ((1, 9, 6), False),
        ((2, 4, 4), False),
        ((4, 4), False),
        ((1, 1, 4, 4), False),
        ((), False),
    ],
)
def test_an_item_has_a_size_of_each_dimension(shape, fits):
    assert Bundle.from_description(varying()).input.accepts(shape) is fits


def test_an_item_costs_what_varies_of_it():
    bundle = Bundle.from_description(varying(batch={"max_items": 8}))

    assert bundle.input.cost_of((1, 3, 5)) == 15
    assert bundle.max_cost == 8 * 8 * 6
    assert bundle.input.most_items((1, 3, 5), max_items=8, max_cost=48) == 3


def test_an_item_of_a_fixed_shape_costs_one():
    bundle = Bundle.from_description(description())

    assert bundle.input.cost_of((1, 2, 2)) == 1
    assert bundle.max_cost == bundle.max_items


@pytest.mark.parametrize(
    ("make", "name", "content_type"),
    [
        (description, "canary.png", "image/*"),
        (varying, "canary.json", "application/json"),
        (text_tools.moods, "canary.txt", "text/plain"),
    ],
)
def test_a_canary_comes_as_a_client_would_send_it(make, name, content_type):
    label = make()["canary"]["label"]

    bundle = Bundle.from_description(make(canary={"file": name, "label": label}), text_tools.TOKENIZERS)

    assert bundle.canary.content_type == content_type


def flip_a_bit(directory):
    content = bytearray((directory / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "weights.safetensors").write_bytes(content)


def truncate(directory):
    os.truncate(directory / "weights.safetensors", 10)


def add_a_file(directory):
    (directory / "extra.py").write_text("print()")


def add_a_hidden_file(directory):
    (directory / ".hidden").write_text("")


def add_a_directory(directory):
    (directory / "sub").mkdir()


def remove_a_file(directory):
    (directory / "canary.png").unlink()


def remove_the_manifest(directory):
    (directory / "SHA256SUMS").unlink()


def link_the_weights(directory):
    shutil.move(directory / "weights.safetensors", directory.parent / "elsewhere")
    (directory / "weights.safetensors").symlink_to(directory.parent / "elsewhere")


def link_the_manifest(directory):
    shutil.move(directory / "SHA256SUMS", directory.parent / "SHA256SUMS")
    (directory / "SHA256SUMS").symlink_to(directory.parent / "SHA256SUMS")


def put_a_pipe(directory):
    (directory / "canary.png").unlink()
    os.mkfifo(directory / "canary.png")


def list_a_file_outside(directory):
    outside = directory.parent / "outside"
    outside.write_text("secret")
    digest = hashlib.sha256(outside.read_bytes()).hexdigest()
    with (directory / "SHA256SUMS").open("a") as manifest:
        manifest.write(f"{digest}  ../outside\n")


def list_a_file_twice(directory):
    manifest = directory / "SHA256SUMS"
    manifest.write_text(manifest.read_text() * 2)


def scribble_in_the_manifest(directory):
    with (directory / "SHA256SUMS").open("a") as manifest:
        manifest.write("hello\n")


def swell_the_manifest(directory):
    with (directory / "SHA256SUMS").open("a") as manifest:
        manifest.write("# \n" * 100_000)


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (flip_a_bit, "weights.safetensors: has sha256"),
        (truncate, "weights.safetensors: has sha256"),
        (add_a_file, "extra.py: is not listed"),
        (add_a_hidden_file, "file name '.hidden'"),
        (add_a_directory, "sub: is not a regular file"),
        (remove_a_file, "canary.png: is listed in SHA256SUMS and missing"),
        (remove_the_manifest, "SHA256SUMS: is missing"),
        (link_the_weights, "weights.safetensors: is not a regular file"),
        (link_the_manifest, "SHA256SUMS: is not a regular file"),
        (put_a_pipe, "canary.png: is not a regular file"),
        (list_a_file_outside, "file name '../outside'"),
        (list_a_file_twice, "twice"),
        (scribble_in_the_manifest, "SHA256SUMS:4: 'hello'"),
        (swell_the_manifest, "SHA256SUMS: is larger than"),
    ],
)
def test_a_tampered_bundle_is_refused_before_it_is_read(lamp, tamper, told):
    (lamp / "bundle.yaml").write_text("not read: [")
    write_manifest(lamp)
    tamper(lamp)

    with pytest.raises(BundleError) as refusal:
        read_bundle(lamp)

    assert told in str(refusal.value)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nothing: cannot be listed"):
        read_bundle(tmp_path / "nothing")


def _set(*path_and_value):
    *path, value = path_and_value

    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def _drop(key):
    return lambda document: document.pop(key)


def _validation(**changes):
    return _set("validation", {"file": "weights.safetensors", "metric": "accuracy", "threshold": 0.9, **changes})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("speed", 3), "speed: unknown key; known keys here are format, name"),
        (_set("batch", "wait_ms", 3), "batch.wait_ms: unknown key"),
        (_set("inputs", 0, "image", "colour", 1), "inputs[0].image.colour: unknown key"),
        (_set("program", "network.json"), "network: unknown key"),
        (_drop("labels"), "labels: is missing"),
        (_set("format", 2), "format: 2 does not do"),
        (_set("format", True), "format: True does not do"),
        (_set("name", "../etc"), "name: '../etc' does not do"),
        (_set("name", "Lamp"), "name: 'Lamp' does not do"),
        (_set("name", "lamp\n"), "name: 'lamp\\n' does not do"),
        (_set("version", 1), "version: 1 does not do"),
        (_set("version", ".."), "version: '..' does not do"),
        (_set("task", "generation"), "task: 'generation' does not do"),
        (_set("inputs", []), "inputs: [] does not do"),
        (_set("inputs", 0, "dtype", "float16"), "inputs[0].dtype: 'float16' does not do, wanted float32"),
        (_set("inputs", 0, "shape", [1, 2, 3]), "inputs[0].shape: [1, 2, 3] does not do"),
        (_set("inputs", 0, "shape", [-1, 2, 2]), "inputs[0].shape: [-1, 2, 2] does not do"),
        (_set("inputs", 0, "image", "mode", "RGB"), "inputs[0].image.mean: [0.5] does not do"),
        (_set("inputs", 0, "image", "std", [0]), "inputs[0].image.std: [0] does not do"),
        (_set("inputs", 0, "image", "scale", float("nan")), "inputs[0].image.scale: nan does not do"),
        (_set("inputs", 0, "image", "height", 10**400), "inputs[0].image.height: 1000"),
        (_set("outputs", 0, "shape", [3]), "outputs[0].shape: [3] does not do, wanted [2]"),
        (_set("labels", ["a", "a"]), "labels: ['a', 'a'] does not do"),
        (_set("labels", [0, 1]), "labels: [0, 1] does not do, wanted a list of texts (numbers need quotes"),
        (_set("activation", "tanh"), "activation: 'tanh' does not do"),
        (_set("batch", "max_items", 0), "batch.max_items: 0 does not do"),
        (_set("weights", "../weights"), "weights: '../weights' does not do"),
        (_set("weights", "other.safetensors"), "weights: 'other.safetensors' does not do, wanted a file of the bundle"),
        (_set("network", []), "network: [] does not do"),
        (_set("network", [{"relu": {}, "flatten": {}}]), "network[0]: "),
        (_set("network", [{"linear": {"in_features": {"a": 1}}}]), "network[0]: "),
        (_validation(threshold=1.5), "validation.threshold: 1.5 does not do"),
        (_validation(metric="agreement"), "validation.metric: 'agreement' does not do, wanted accuracy"),
        (_validation(file="absent"), "validation.file: 'absent' does not do, wanted a file of the bundle"),
        (_validation(measured=1.0), "validation.measured: unknown key"),
        (_set("canary", "label", "purple"), "canary.label: 'purple' does not do"),
        (_set("canary", "file", "/etc/passwd"), "canary.file: '/etc/passwd' does not do"),
        (_set("canary", "file", "absent.png"), "absent.png: is not listed in SHA256SUMS"),
    ],
)
def test_a_wrong_document_is_refused_with_key_value_and_remedy(lamp, change, told):
    rewrite(lamp, change)

    with pytest.raises(BundleError) as refusal:
        read_bundle(lamp)

    assert told in str(refusal.value)
    assert str(lamp) in str(refusal.value)


def varying_but(*path_and_value):
    document = json.loads(json.dumps(varying()))
    _set(*path_and_value)(document)
    return document


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (varying_but("inputs", 0, "shape", [1, [8, 2]]), "inputs[0].shape: [1, [8, 2]] does not do"),
        (varying_but("inputs", 0, "shape", [1, [2, 2]]), "inputs[0].shape: [1, [2, 2]] does not do"),
        (varying_but("inputs", 0, "shape", [1, [0, 2]]), "inputs[0].shape: [1, [0, 2]] does not do"),
        (varying_but("inputs", 0, "shape", [[2, 1048577]]), "inputs[0].shape: [[2, 1048577]] does not do"),
        (varying_but("inputs", 0, "shape", [[2, 3, 4]]), "inputs[0].shape: [[2, 3, 4]] does not do"),
        (varying_but("inputs", 0, "shape", [[True, 4]]), "inputs[0].shape: [[True, 4]] does not do"),
        (varying_but("inputs", 0, "shape", [[2.0, 4]]), "inputs[0].shape: [[2.0, 4]] does not do"),
        (varying_but("inputs", 0, "shape", ["2..4"]), "or of ranges [low, high] of them"),
        (varying_but("inputs", 0, "shape", []), "inputs[0].shape: [] does not do"),
        (varying_but("inputs", 0, "image", {}), "inputs[0].image: unknown key"),
        (varying_but("outputs", 0, "shape", [[1, 2]]), "outputs[0].shape: [[1, 2]] does not do"),
        (varying_but("batch", "max_cost", 47), "batch.max_cost: 47 does not do, wanted a whole number from 48 to 384"),
        (varying_but("batch", "max_cost", 385), "batch.max_cost: 385 does not do"),
        (varying_but("canary", "file", "canary.png"), "canary.file: 'canary.png' does not do, wanted a JSON document"),
        (varying_but("task", "image-classification"), "inputs[0].image: is missing"),
        (
            description(canary={"file": "canary.json", "label": "bright"}),
            "canary.file: 'canary.json' does not do, wanted a file of the kind that the model takes",
        ),
        (
            description(inputs=[description()["inputs"][0] | {"shape": [1, [2, 4], 2]}]),
            "inputs[0].shape: [1, [2, 4], 2] does not do, wanted [channels, height, width]",
        ),
    ],
)
def test_what_varies_has_bounds_and_a_price(document, told):
    with pytest.raises(BundleError) as refusal:
        Bundle.from_description(document)

    assert told in str(refusal.value)


def test_a_bundle_of_raw_tensors_needs_no_labels(tmp_path):
    bundle = read_bundle(write_bundle(tmp_path / "same", {}, numbers("int16")))

    assert (bundle.labels, bundle.activation, bundle.validation) == ((), "none", None)
    assert bundle.input.numpy_dtype == bundle.output.numpy_dtype == np.dtype("<i2")
    assert bundle.input.item_bytes_of((2, 3)) == 12
    assert bundle.input.batch_bytes_of(bundle.max_cost) == 8 * 12
    assert Bundle.from_description(json.loads(json.dumps(describe(bundle), allow_nan=False))) == bundle


def numbers_but(*path_and_value):
    document = numbers("float32")
    _set(*path_and_value)(document)
    return document


def _allowing(document):
    _set("outputs", 0, "non_finite", "allow")(document)
    return document


def expecting(text):
    return numbers("float32", expect_bytes=base64.b64encode(text).decode())


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (numbers_but("inputs", 0, "dtype", "int128"), "inputs[0].dtype: 'int128' does not do, wanted bool or uint8 or"),
        (numbers_but("outputs", 0, "dtype", "FP32"), "outputs[0].dtype: 'FP32' does not do, wanted bool or uint8 or"),
        (
            numbers_but("outputs", 0, "non_finite", True),
            "outputs[0].non_finite: True does not do, wanted refuse or allow",
        ),
        (numbers_but("inputs", 0, "non_finite", "allow"), "inputs[0].non_finite: unknown key"),
        (
            numbers("int32", outputs=[{"name": "same", "dtype": "int32", "shape": [2, 3], "non_finite": "allow"}]),
            "outputs[0].non_finite: 'allow' does not do, wanted refuse, or a floating dtype",
        ),
        *(
            (
                _allowing(document),
                "outputs[0].non_finite: 'allow' does not do, wanted refuse, or the task tensors or tab",
            )
            for document in (description(), varying(activation="none"), tabular(), lamps(), custom())
        ),
        (numbers_but("activation", "softmax"), "activation: unknown key"),
        (numbers_but("labels", ["a", "b"]), "outputs[0].shape: [2, 3] does not do, wanted [2], one for each of"),
        (numbers_but("canary", "label", "a"), "canary.label: unknown key; known keys here are file, expect, tolerance"),
        (numbers_but("canary", "tolerance", -1), "canary.tolerance: -1 does not do"),
        (numbers_but("canary", "expect", "../x"), "canary.expect: '../x' does not do"),
        (numbers_but("canary", {"file": "canary.json", "tolerance": 0}), "canary.expect: is missing"),
        (numbers_but("canary", "file", "canary.png"), "canary.file: 'canary.png' does not do, wanted a JSON document"),
        (numbers_but("expect_bytes", "?"), "expect_bytes: is missing or not base64"),
        (expecting(b""), "canary.expect: 'expected.json' does not do, wanted a file of 1 to"),
        (expecting(b"[" * 9000), "canary.expect: 'expected.json' does not do, wanted a JSON document"),
        (expecting(b'{"outputs": [[1, 2, 3]]}'), "with finite numbers of shape [items, 2, 3]"),
        (expecting(b'{"outputs": []}'), "canary.expect: "),
        (expecting(b'{"outputs": [[["1", "2", "3"], ["4", "5", "6"]]]}'), "canary.expect: "),
        (expecting(b'{"outputs": [[[1, 2, NaN], [4, 5, 6]]]}'), "canary.expect: "),
    ],
)
def test_a_wrong_bundle_of_raw_tensors_is_refused(document, told):
    with pytest.raises(BundleError) as refusal:
        Bundle.from_description(document)

    assert told in str(refusal.value)


def test_answers_that_no_frame_can_carry_are_refused():
    document = expecting(json.dumps({"outputs": [[[0] * 16384] * 4]}).encode())
    document["batch"] = {"max_items": 4096}
    document["outputs"] = [{"name": "many", "dtype": "float32", "shape": [4, 16384]}]
    assert Bundle.from_description(document)

    document["outputs"][0]["dtype"] = "float64"

    with pytest.raises(BundleError, match=rf"batch.max_items: 4096 does not do, wanted answers.*{MAX_TENSOR_BYTES}"):
        Bundle.from_description(document)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x [1]\nb: *x\n", "aliases are not allowed"),
        ("name: a\nname: b\n", "key 'name' stands twice"),
        ("name: !!python/object/apply:os.system ['true']\n", "is not plain YAML"),
        ("[" * 20_000, "is not plain YAML"),
        ("just text", "wanted 'key: value' lines"),
        ("a: b\n" * 100_000, "is larger than"),
        ("a: \xff", "is not plain YAML"),
    ],
)
def test_yaml_beyond_plain_data_is_refused(lamp, text, told):
    (lamp / "bundle.yaml").write_bytes(text.encode("latin-1"))
    write_manifest(lamp)

    with pytest.raises(BundleError, match=told):
        read_bundle(lamp)


def test_a_canary_that_is_too_large_is_refused(lamp):
    (lamp / "canary.png").write_bytes(bytes(MAX_CANARY_BYTES + 1))
    write_manifest(lamp)

    with pytest.raises(BundleError, match=r"canary.png: is larger than 4194304 bytes"):
        read_bundle(lamp)


def test_a_batch_that_no_frame_can_carry_is_refused():
    side = 16384
    picture = {"mode": "L", "height": side, "width": side, "scale": 1, "mean": [0], "std": [1]}
    inputs = [{"name": "image", "dtype": "float32", "shape": [1, side, side], "image": picture}]

    with pytest.raises(BundleError, match=rf"batch.max_items: 8 does not do.*{MAX_TENSOR_BYTES}"):
        Bundle.from_description(description(inputs=inputs))


def test_a_costly_batch_fits_a_frame_if_max_cost_says_so():
    inputs = [{"name": "image", "dtype": "float32", "shape": [1, [1, 16384], [1, 16384]]}]

    with pytest.raises(BundleError, match=r"batch.max_items: 8 does not do.* or max_cost"):
        Bundle.from_description(varying(inputs=inputs, batch={"max_items": 8}))

    assert Bundle.from_description(varying(inputs=inputs, batch={"max_items": 8, "max_cost": 16384 * 16384}))


@pytest.mark.parametrize("canary", ["not base64!", None, 7, ""])
def test_a_description_without_a_canary_is_refused(canary):
    with pytest.raises(BundleError, match="canary"):
        Bundle.from_description(description(canary_bytes=canary))


def test_a_manifest_is_not_written_over_a_link(lamp):
    (lamp / "link").symlink_to("/etc/hostname")

    with pytest.raises(BundleError, match="link: is not a regular file"):
        write_manifest(lamp)
