"""Texts, pictures and recordings that are answered with a vector, through the whole service."""

import base64
import json
import os
import struct
import subprocess
import sys
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import Bundle, BundleError
from bedplate.bundle.manifest import write_manifest
from bedplate.commands import cli
from bedplate.optimize import check
from bedplate.web.cache.kept import from_text, to_text
from bedplate.web.items.decoders import Media
from bedplate.web.items.postprocess import predictions_of
from bedplate.web.predictor import Prediction
from safetensors.torch import save_file

from tests.service import text_tools
from tests.service.engine_tools import write_bundle
from tests.service.lamp import numbers, png_of
from tests.service.running_service import running_service

RATE_HZ, WINDOW, HOP = 8_000, 800, 400
GREY = {"mode": "L", "height": 2, "width": 2, "scale": 1 / 255, "mean": [0.0], "std": [1.0]}
# What each is made of: an input, the layers behind it with their weights, and a canary with its vector.
TEXT = text_tools.moods()["inputs"][0]
PICTURE = {"name": "picture", "dtype": "float32", "shape": [1, 2, 2], "image": GREY}
SOUND = {"name": "sound", "dtype": "float32", "shape": [1, WINDOW], "audio": {"sample_rate": RATE_HZ, "hop": HOP}}


def vectors(name, taken, network, canary, content, expected, **changes):
    """The description of a model that answers with as many numbers as `expected` has."""
    return numbers(
        "float32",
        name=name,
        **({"inputs": [taken]} | changes),
        outputs=[{"name": "vector", "dtype": "float32", "shape": [len(expected)]}],
        network=network,
        canary={"file": canary, "expect": "expected.json", "tolerance": 1e-4},
        canary_bytes=base64.b64encode(content).decode(),
        expect_bytes=base64.b64encode(json.dumps({"outputs": [expected]}).encode()).decode(),
    )


def of_texts(**changes):
    # "A very good day" is the mean of its words: nothing, nothing, (0, 2) and (0, 0.5).
    return vectors(
        "texts", TEXT, text_tools.NETWORK[:2], "canary.txt", b"A very good day", [0, 0.625],
        tokenizer_sha256=text_tools.SHA256, **changes,
    )  # fmt: skip


def of_pictures(**changes):
    content = png_of([[0, 255], [255, 0]])
    return vectors("pictures", PICTURE, ["flatten"], "canary.png", content, [0, 1, 1, 0], **changes)


def of_sounds(**changes):
    # The mean of each half of a window.
    network = ["flatten", {"linear": {"in_features": WINDOW, "out_features": 2}}]
    content = loud(0.5, WINDOW / RATE_HZ)
    return vectors("sounds", SOUND, network, "canary.wav", content, [0.5, 0.5], **changes)


def loud(level, length_s):
    """A recording that has one level from its beginning to its end."""
    samples = np.full(int(length_s * RATE_HZ), level * 32768, "<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 1, 1, RATE_HZ,
                       2 * RATE_HZ, 2, 16, b"data", len(samples))  # fmt: skip
    return head + samples


HALVES = torch.block_diag(*[torch.full((1, WINDOW // 2), 2 / WINDOW)] * 2)
WEIGHTS = {
    "texts": {"0.weight": text_tools.WEIGHTS["0.weight"]},
    "pictures": {},
    "sounds": {"1.weight": HALVES, "1.bias": torch.zeros(2)},
}
MADE = {"texts": of_texts, "pictures": of_pictures, "sounds": of_sounds}


def write(directory, name, **changes):
    return write_bundle(directory, WEIGHTS[name], MADE[name](**changes))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    texts, pictures, sounds = (write(folder / name, name) for name in MADE)
    with running_service(folder, bundle=texts, beside=[pictures, sounds]) as running:
        yield running


@pytest.fixture
def post(service):
    def send(path, body, content_type, **headers):
        headers = {"Authorization": f"Bearer {service.key}", "Content-Type": content_type, **headers}
        request = urllib.request.Request(service.url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    return send


def outputs(document):
    return [one["output"] for one in document["predictions"]]


def near(*rows):
    return [pytest.approx(row, abs=1e-4) for row in rows]


def form(*files):
    parts = (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + file + b"\r\n" for file in files)
    return b"".join(parts) + b"--b--\r\n"


def test_a_text_is_answered_with_its_vector(post):
    found = post("/v1/models/texts/predict", b"very bad", "text/plain")

    assert found["predictions"] == [{"output": pytest.approx([1, 0])}]


def test_texts_of_different_lengths_are_answered_in_their_order(post):
    body = json.dumps({"inputs": ["very bad", "good", "a good day"]}).encode()

    found = post("/v1/models/texts/predict", body, "application/json")

    assert outputs(found) == near([1, 0], [0, 2], [0, 2.5 / 3])


def test_a_picture_is_answered_with_its_vector(post):
    found = post("/v1/models/pictures/predict", png_of([[255, 0], [0, 0]]), "image/png")

    assert found["predictions"] == [{"output": [1, 0, 0, 0]}]


def test_pictures_of_a_form_are_answered_in_their_order(post):
    body = form(png_of([[255, 0], [0, 0]]), png_of([[0, 0], [0, 255]]))

    found = post("/v1/models/pictures/predict", body, "multipart/form-data; boundary=b")

    assert outputs(found) == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_recording_is_answered_with_the_mean_of_its_windows(post):
    """Half of the third window is silence, by which it is filled up."""
    found = post("/v1/models/sounds/predict", loud(0.5, 3.5 * HOP / RATE_HZ), "audio/wav")

    windows = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.25]])
    assert found["predictions"] == [{"output": pytest.approx(windows.mean(0).tolist(), abs=1e-4), "length_s": 0.175}]


def test_recordings_of_different_lengths_are_answered_each_for_itself(post):
    body = form(loud(0.25, 4 * HOP / RATE_HZ), loud(-0.5, WINDOW / RATE_HZ))

    found = post("/v1/models/sounds/predict", body, "multipart/form-data; boundary=b")

    assert outputs(found) == near([0.25, 0.25], [-0.5, -0.5])


@pytest.mark.parametrize(
    ("name", "files", "wanted"),
    [
        ("texts", [b"very bad", b"good"], [[1, 0], [0, 2]]),
        ("pictures", [png_of([[255, 0], [0, 0]])], [[1, 0, 0, 0]]),
        ("sounds", [loud(0.25, 0.3), loud(0.5, 0.1)], [[0.25, 0.25], [0.5, 0.5]]),
    ],
)
def test_the_protocol_answers_files_with_a_tensor_of_a_row_each(post, name, files, wanted):
    data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    taken = {"texts": TEXT, "pictures": PICTURE, "sounds": SOUND}[name]
    tensor = {"name": taken["name"], "datatype": "BYTES", "shape": [len(files)]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}

    [output] = post(f"/v2/models/{name}/infer", head + data, "application/octet-stream", **length)["outputs"]

    assert (output["datatype"], output["shape"]) == ("FP32", [len(files), len(wanted[0])])
    assert np.reshape(output["data"], output["shape"]).tolist() == near(*wanted)


def test_numbers_are_taken_as_ever(post):
    body = json.dumps({"inputs": [[[[0.5, 0], [0, 0]]]]}).encode()

    assert outputs(post("/v1/models/pictures/predict", body, "application/json")) == [[0.5, 0, 0, 0]]


def test_the_command_shows_how_long_a_vector_is_and_the_vector_as_json(service, tmp_path):
    (tmp_path / "a.png").write_bytes(png_of([[255, 0], [0, 0]]))
    command = [sys.executable, "-m", "bedplate", "predict", service.url, tmp_path / "a.png", "--model", "pictures"]

    table, lines = (
        subprocess.check_output(
            [*command, *options], env=os.environ | {"BEDPLATE_API_KEY": service.key}, timeout=60, text=True
        )
        for options in ([], ["--json"])
    )

    assert "output of 4" in table
    assert json.loads(lines)["predictions"] == [{"output": [1, 0, 0, 0]}]


@pytest.mark.parametrize("name", MADE)
def test_the_command_checks_canary_and_validation_set(name, tmp_path, capsys):
    directory = write(tmp_path / name, name)
    bundle, model = check.load(directory, "float32")
    if name == "texts":
        inputs = np.zeros((2, 20), np.uint8)
        inputs[0, :8], inputs[1, :4] = [list(text) for text in (b"very bad", b"good")]
        expected = torch.tensor([[1.0, 0], [0, 2]])
    else:
        inputs = np.random.default_rng(0).random((3, *bundle.input.smallest)).astype(np.float32)
        expected = torch.from_numpy(model.run(inputs.copy()))
    save_file({"inputs": torch.from_numpy(inputs), "expected": expected}, directory / "validation.safetensors")
    with (directory / "bundle.yaml").open("a") as document:
        document.write("validation: {file: validation.safetensors, metric: agreement, threshold: 1}\n")
    write_manifest(directory)

    assert cli.main(["bundle", "check", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "canary: the numbers of expected.json" in said
    assert f"agreement: 1.0000 of {len(inputs)} items" in said


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"outputs": [{"name": "vector", "dtype": "int32", "shape": [2]}]}, "outputs.0..dtype: 'int32' does not do"),
        (
            {"outputs": [{"name": "vector", "dtype": "float32", "shape": [2], "non_finite": "allow"}]},
            "outputs.0..non_finite: 'allow' does not do",
        ),
    ],
)
def test_windows_whose_vectors_have_no_mean_are_refused(changed, told):
    with pytest.raises(BundleError, match=told):
        Bundle.from_description({**of_sounds(), **changed})


def test_two_kinds_of_files_are_one_too_many():
    document = of_pictures()
    document["inputs"] = [PICTURE | {"audio": SOUND["audio"]}]

    with pytest.raises(BundleError, match="audio: unknown key"):
        Bundle.from_description(document)


def test_a_model_of_files_wants_a_file_as_its_canary():
    document = of_pictures()
    document["canary"] = document["canary"] | {"file": "canary.json"}

    with pytest.raises(BundleError, match="a file of the kind that the model takes"):
        Bundle.from_description(document)


def test_an_answer_to_a_recording_is_kept():
    model = Bundle.from_description(of_sounds())
    file = {"items": 2, "at_s": [0, 0.05], "length_s": 0.15}
    found = predictions_of(np.array([[0, 1], [1, 1]], np.float32), model, Media([], [file]))
    told = Prediction(model.name, model.version, model.digest, found, 0, 0)

    assert found == [{"output": [0.5, 1.0], "length_s": 0.15}]
    assert from_text(to_text(told), model).predictions == found
    with pytest.raises(ValueError, match="no predictions"):
        from_text(to_text(replace(told, predictions=[found[0] | {"length_s": "long"}])), model)
