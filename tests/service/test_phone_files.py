"""What phones and browsers send: AVIF, m4a, opus and webm, under the limits of all other kinds. HEIC is refused."""

import io
from random import Random

import av
import numpy as np
import pytest
from bedplate.decode.container import SOUNDS, VIDEOS
from bedplate.decode.image import FORMATS
from bedplate.errors import InvalidRequest, MediaTooLong, TooManyPixels, UnsupportedMediaType
from PIL import Image

from tests.service import media_tools
from tests.service.test_decode import decode, image_model, sound_model, video_model

MUTATIONS = 100  # of each kind
RATE_HZ = 8_000
RECORDINGS = {
    "m4a of a phone": ("ipod", "aac", 44_100, "mono"),
    "m4a without loss": ("ipod", "alac", 44_100, "stereo"),
    "mp4 with nothing but sound": ("mp4", "aac", 48_000, "stereo"),
    "opus": ("ogg", "libopus", 48_000, "mono"),
    "webm of a browser": ("webm", "libopus", 48_000, "mono"),
}
FILMS = {"vp8": "libvpx", "vp9": "libvpx-vp9", "av1": "libsvtav1"}

__all__ = ["decode"]  # a fixture


def recording(form, codec, rate_hz, layout, length_s=1.0):
    """A tone of 440 Hz, 0.3 of 1 in every channel."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        tone = np.sin(2 * np.pi * 440 * np.arange(int(length_s * rate_hz)) / rate_hz) * 0.3
        channels = 2 if layout == "stereo" else 1
        frame = av.AudioFrame.from_ndarray(np.tile(tone.astype(np.float32), (channels, 1)), "fltp", layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate_hz)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return out.getvalue()


def film(codec, frames=12):
    """As media_tools.video."""
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(frames):
            grey = np.full((64, 64, 3), 255 * number // frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def avif(size=(2, 2)):
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, "AVIF", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("made", RECORDINGS.values(), ids=RECORDINGS)
def test_a_recording_of_a_phone_or_a_browser_is_read(decode, made):
    media = decode([recording(*made)], sound_model())

    [found] = media.files
    assert found["length_s"] == pytest.approx(1.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(media.items[3, 0]))
    assert spectrum.argmax() * RATE_HZ / 2_000 == pytest.approx(440, abs=5)
    assert np.abs(media.items[3]).max() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("codec", FILMS.values(), ids=FILMS)
def test_a_webm_is_a_video(decode, codec):
    media = decode([film(codec)], video_model(4))

    assert media.files[0]["items"] == 4
    assert media.items.mean(axis=(1, 2, 3)) == pytest.approx(np.array([1, 4, 7, 10]) / 12, abs=0.05)


def test_an_avif_is_a_picture(decode):
    media = decode([avif()], image_model())

    assert media.items[0, 0] == pytest.approx(np.array([[0, 85], [170, 255]]) / 255, abs=0.1)
    assert media.files == [{"items": 1, "width": 2, "height": 2}]


def test_their_limits_are_those_of_the_other_kinds(decode):
    for made in RECORDINGS.values():
        with pytest.raises(MediaTooLong):
            decode([recording(*made, length_s=3)], sound_model(), max_media_s=2)
    with pytest.raises(MediaTooLong):
        decode([film("libvpx", 30)], video_model(), max_media_s=2)
    with pytest.raises(TooManyPixels):
        decode([film("libvpx", 2)], video_model(), max_pixels=3_000)
    with pytest.raises(TooManyPixels):
        decode([avif((100, 100))], image_model(), max_pixels=3_000)


@pytest.mark.parametrize(
    ("content", "model", "kinds"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), image_model(), FORMATS),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), video_model(), VIDEOS),
        (avif(), video_model(), VIDEOS),
        (film("libvpx", 2), sound_model(), SOUNDS),
        (recording(*RECORDINGS["webm of a browser"]), video_model(), VIDEOS),
        (recording(*RECORDINGS["m4a of a phone"]), video_model(), VIDEOS),
        (recording(*RECORDINGS["opus"]), image_model(), FORMATS),
        (media_tools.video("mp4", 2), sound_model(), SOUNDS),
    ],
    ids=[
        "heic",
        "heic for a film",
        "avif for a film",
        "no sound",
        "no film",
        "nor here",
        "no picture",
        "no sound here",
    ],
)
def test_what_a_model_does_not_take_is_refused_with_what_it_takes(decode, content, model, kinds):
    with pytest.raises(UnsupportedMediaType) as refused:
        decode([content], model)

    assert refused.value.limit == ", ".join(kinds)


@pytest.mark.parametrize(
    ("content", "model"),
    [
        (avif((24, 16)), image_model()),
        (film("libvpx"), video_model()),
        (recording(*RECORDINGS["opus"]), sound_model()),
        (recording(*RECORDINGS["m4a of a phone"]), sound_model()),
    ],
    ids=["avif", "webm", "ogg", "m4a"],
)
def test_damaged_ones_are_refused_or_decoded(decode, content, model):
    chance, refusals = Random("damaged"), []
    for _ in range(MUTATIONS):
        try:
            assert np.isfinite(decode([media_tools.damaged(content, chance)], model).items).all()
        except InvalidRequest as refusal:
            refusals.append(str(refusal))

    assert 0 < len(refusals) < MUTATIONS
    assert not [said for said in refusals if "the end of the process" in said]
