"""Recordings and videos as a client sends them, and what it is told of the whole file and of its parts."""

import io
import wave

import numpy as np
import pytest

from tests.service import media_tools
from tests.service.lamp import FakeEngines, png_of

RATE_HZ = 8_000
URL = "/v1/models/lamp/predict"
WINDOW = 2_000  # samples, a quarter of a second
SOUND = {
    "task": "audio-classification",
    "inputs": [
        {"name": "x", "dtype": "float32", "shape": [1, WINDOW], "audio": {"sample_rate": RATE_HZ, "hop": WINDOW}}
    ],
    "activation": "none",
}
PICTURE = {"mode": "L", "height": 2, "width": 2, "scale": 1 / 127.5, "mean": [1.0], "std": [1.0]}
VIDEO = {
    "task": "video-classification",
    "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 2, 2], "video": {"frames": 4, **PICTURE}}],
}


def levels(*values):
    """A recording of a quarter of a second at each level, from -1 to 1."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes((np.repeat(values, WINDOW) * 32767).astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture
def sound(client_of):
    engines = FakeEngines(**SOUND)
    return client_of(engines), engines


def post(client, body, content_type, **headers):
    return client.simulate_post(URL, body=body, headers={"Content-Type": content_type, **headers})


def test_a_recording_is_judged_as_a_whole_and_window_by_window(sound):
    client, _ = sound

    result = post(client, levels(0.5, -0.25, 0.5), "audio/wav")

    [found] = result.json["predictions"]
    assert (found["label"], found["length_s"]) == ("bright", 0.75)
    assert found["score"] == pytest.approx(0.25, abs=0.001)
    assert [(part["at_s"], part["label"]) for part in found["windows"]] == [
        (0.0, "bright"),
        (0.25, "dark"),
        (0.5, "bright"),
    ]
    assert [part["score"] for part in found["windows"]] == pytest.approx([0.5, 0.25, 0.5], abs=0.001)


def test_a_recording_of_more_windows_than_a_batch_holds_is_asked_in_several(sound):
    client, engines = sound

    result = post(client, levels(*[0.5] * 19, -0.5), "audio/wav")

    assert [len(items) for items in engines.asked] == [8, 8, 4]
    assert len(result.json["predictions"][0]["windows"]) == 20
    last = result.json["predictions"][0]["windows"][-1]
    assert (last["at_s"], last["label"]) == (4.75, "dark")


def test_several_recordings_are_told_one_by_one(sound):
    client, _ = sound
    boundary = "b"
    parts = [levels(0.5), levels(-0.5, -0.5)]
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + part + b"\r\n" for part in parts
    )

    result = post(client, form + b"--b--\r\n", f"multipart/form-data; boundary={boundary}")

    assert [(found["label"], len(found["windows"])) for found in result.json["predictions"]] == [
        ("bright", 1),
        ("dark", 2),
    ]


def test_a_recording_is_answered_from_the_cache_as_it_was(sound):
    client, engines = sound

    answers = [post(client, levels(0.5, -0.25), "audio/wav") for _ in range(2)]

    assert answers[1].headers["cache-status"] == "bedplate; hit; detail=memory"
    assert answers[0].json["predictions"] == answers[1].json["predictions"]
    assert len(engines.asked) == 1


def test_windows_can_be_sent_as_tensors_and_are_items_then(sound):
    client, _ = sound

    result = post(client, np.full((2, 1, WINDOW), 0.5, "<f4").tobytes(), "application/octet-stream")

    assert [found.keys() for found in result.json["predictions"]] == [{"label", "score", "scores"}] * 2


def test_a_video_is_judged_as_a_whole_and_picture_by_picture(client_of):
    client = client_of(FakeEngines(**VIDEO))

    result = post(client, media_tools.video("mp4", frames=12), "video/mp4")

    [found] = result.json["predictions"]
    assert [part["label"] for part in found["frames"]] == ["dark", "dark", "bright", "bright"]
    assert [part["at_s"] for part in found["frames"]] == [0.1, 0.4, 0.7, 1.0]
    assert found.keys() == {"label", "score", "scores", "frames"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (png_of([[0]]), 415, "unsupported-media-type"),
        (media_tools.recording("mp3")[:100], 422, "unreadable-media"),
        (b"", 400, "empty-body"),
    ],
    ids=["a picture", "a beginning", "nothing"],
)
def test_what_is_no_recording_is_refused(sound, body, status, code):
    client, engines = sound

    result = post(client, body, "audio/mpeg")

    assert (result.status_code, result.json["type"]) == (status, f"urn:bedplate:problem:{code}")
    assert engines.asked == []


def test_without_a_decoder_files_are_told_to_come_back_and_tensors_are_answered(client_of, engines, tmp_path):
    client = client_of(engines, decoders=(tmp_path / "gone.sock",))

    refused = post(client, png_of([[0, 0], [0, 0]]), "image/png")
    answered = post(client, np.ones((1, 1, 2, 2), "<f4").tobytes(), "application/octet-stream")

    assert (refused.status_code, refused.json["type"]) == (503, "urn:bedplate:problem:decoder-unavailable")
    assert refused.headers["retry-after"] == "1"
    assert answered.json["predictions"][0]["label"] == "bright"
