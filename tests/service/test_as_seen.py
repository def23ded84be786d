"""A model is given what a person sees: pictures turned as the file says, and on a ground where they are transparent."""

import io

import av
import numpy as np
import pytest
from bedplate.bundle.strict_yaml import BundleError, Section
from bedplate.bundle.tensor import read_input
from bedplate.decode.media import decode
from bedplate.decode.settings import DecodeSettings
from bedplate.errors import UnreadableMedia
from PIL import Image

from tests.service import media_tools

# Four corners that differ, so that no turn looks like another.
CORNERS = np.array([[0, 80], [160, 240]], np.uint8)
# a, b, c and d of a QuickTime matrix, and what it makes of the corners.
TURNS = {
    "as it is": ((1, 0, 0, 1), CORNERS),
    "a quarter to the right": ((0, 1, -1, 0), np.rot90(CORNERS, -1)),
    "upside down": ((-1, 0, 0, -1), np.rot90(CORNERS, 2)),
    "a quarter to the left": ((0, -1, 1, 0), np.rot90(CORNERS)),
    "left is right": ((-1, 0, 0, 1), np.fliplr(CORNERS)),
    "top is bottom": ((1, 0, 0, -1), np.flipud(CORNERS)),
    "along one diagonal": ((0, 1, 1, 0), CORNERS.T),
    "along the other": ((0, -1, -1, 0), np.rot90(CORNERS, 2).T),
}
EXIF_TURNS = {
    1: "as it is",
    2: "left is right",
    3: "upside down",
    4: "top is bottom",
    5: "along one diagonal",
    6: "a quarter to the right",
    7: "along the other",
    8: "a quarter to the left",
}


def spec_of(mode="L", size=(2, 2), media="image", **keys):
    """Height and width in pixels; values are those of the pixels."""
    channels = len(mode)
    picture = {"mode": mode, "height": size[0], "width": size[1], "scale": 1.0, "mean": [0.0] * channels}
    document = {"name": "x", "dtype": "float32", "shape": [channels, *size]}
    document[media] = {**picture, "std": [1.0] * channels, **({"frames": 1} if media == "video" else {}), **keys}
    return read_input(Section("input", document), media)


def seen(content, spec, tmp_path):
    """(channels, height, width) of the only item."""
    [items] = decode([content], spec, DecodeSettings(socket_dir=tmp_path)).parts
    return items[0]


def large(corners, side=32):
    return np.kron(corners, np.ones((side, side), np.uint8))


def corners_of(found):
    return found[0][np.ix_([0, -1], [0, -1])]


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def video_of(picture, codec="libx264", pixels="yuv420p", kind="mp4", mode="rgb24"):
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixels
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=mode)))
        container.mux(stream.encode(None))
    return out.getvalue()


def turned(mp4, matrix):
    """The file with this matrix in its track's header, as phones write it."""
    at = mp4.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    numbers = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    return mp4[:at] + b"".join(number.to_bytes(4, "big", signed=True) for number in numbers) + mp4[at + 36 :]


@pytest.mark.parametrize(("matrix", "wanted"), TURNS.values(), ids=TURNS)
def test_a_video_is_turned_as_a_player_shows_it(matrix, wanted, tmp_path):
    content = turned(video_of(np.stack([large(CORNERS)] * 3, axis=2)), matrix)

    found = seen(content, spec_of(size=(8, 8), media="video"), tmp_path)

    assert corners_of(found) == pytest.approx(wanted, abs=12)


def test_a_turned_video_that_is_no_square_fills_the_picture(tmp_path):
    """Upright on the phone: 96 x 48 pixels in the file, 48 x 96 on the screen."""
    top_and_bottom = np.kron(np.array([[0, 240]], np.uint8), np.ones((48, 48), np.uint8))
    content = turned(video_of(np.stack([top_and_bottom] * 3, axis=2)), TURNS["a quarter to the right"][0])

    found = seen(content, spec_of("RGB", (16, 4), "video"), tmp_path)

    assert found.shape == (3, 16, 4)
    assert found[0][[0, 6, 9, 15]] == pytest.approx(np.array([[0] * 4, [0] * 4, [240] * 4, [240] * 4]), abs=12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", EXIF_TURNS)
def test_a_picture_is_turned_as_its_exif_says(orientation, kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation

    found = seen(saved(Image.fromarray(large(CORNERS)), kind, exif=exif), spec_of(size=(8, 8)), tmp_path)

    assert corners_of(found) == pytest.approx(TURNS[EXIF_TURNS[orientation]][1], abs=12)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_an_exif_that_nobody_can_read_turns_nothing(exif, tmp_path):
    found = seen(saved(Image.fromarray(large(CORNERS)), "JPEG", exif=exif), spec_of(size=(8, 8)), tmp_path)

    assert corners_of(found) == pytest.approx(CORNERS, abs=12)


# A shape that is in the alpha alone: where it is opaque, and how much.
ALPHA = np.array([[0, 255], [128, 255]], np.uint8)


def transparent(kind, ink=255):
    """The shape in one ink, which is everywhere."""
    flat = Image.fromarray(np.full((2, 2), ink, np.uint8))
    flat.putalpha(Image.fromarray(ALPHA))
    if kind == "palette":
        return saved(flat.convert("RGBA").quantize(), "PNG")
    if kind == "one colour":
        return saved(Image.fromarray((ALPHA // 255) * np.uint8(ink)), "PNG", transparency=0)
    return saved(flat if kind == "grey" else flat.convert("RGBA"), *(["WEBP"] if kind == "webp" else ["PNG"]), **(
        {"lossless": True, "exact": True} if kind == "webp" else {}
    ))  # fmt: skip


@pytest.mark.parametrize("kind", ["grey", "colours", "palette", "webp"])
@pytest.mark.parametrize(
    ("keys", "ink", "wanted"),
    [
        ({}, 255, [[0, 255], [128, 255]]),
        ({"background": "#000000"}, 255, [[0, 255], [128, 255]]),
        ({"background": "#FFffff"}, 0, [[255, 0], [127, 0]]),
        ({"background": "#ffffff"}, 255, [[255, 255], [255, 255]]),
        ({"background": "drop"}, 200, [[200, 200], [200, 200]]),
    ],
    ids=["by default on black", "on black", "ink on paper", "white on white", "dropped"],
)
def test_a_transparent_picture_is_put_on_the_bundles_ground(kind, keys, ink, wanted, tmp_path):
    found = seen(transparent(kind, ink), spec_of(**keys), tmp_path)

    assert found[0] == pytest.approx(np.array(wanted), abs=1)


def test_a_ground_has_its_colour(tmp_path):
    found = seen(transparent("colours", 0), spec_of("RGB", background="#ff8000"), tmp_path)

    assert found[:, 0, 0] == pytest.approx([255, 128, 0])
    assert found[:, 1, 0] == pytest.approx([127, 64, 0], abs=1)


def test_a_colour_that_stands_for_nothing_is_no_colour(tmp_path):
    found = seen(transparent("one colour"), spec_of(background="#404040"), tmp_path)

    assert found[0] == pytest.approx(np.array([[64, 255], [64, 255]]))


def test_pixels_that_are_not_seen_do_not_bleed_into_those_that_are(tmp_path):
    """What lies under transparency is anything; making a picture smaller must not mix it in."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 255, 255, 0)
    pixels[:, 4:] = (0, 0, 0, 255)

    found = seen(saved(Image.fromarray(pixels), "PNG"), spec_of(size=(4, 4), background="#000000"), tmp_path)

    assert (found == 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_whose_alpha_hides_nothing_is_the_one_without_it(mode, tmp_path):
    plain = Image.open(io.BytesIO(media_tools.picture("png"))).convert(mode)
    spec = spec_of(mode, (5, 7), background="refuse")

    with_alpha = seen(saved(plain.convert("RGBA"), "PNG"), spec, tmp_path)

    assert np.array_equal(with_alpha, seen(saved(plain, "PNG"), spec, tmp_path))


def test_a_bundle_may_refuse_what_is_transparent(tmp_path):
    with pytest.raises(UnreadableMedia) as refused:
        seen(transparent("grey"), spec_of(background="refuse"), tmp_path)

    assert (refused.value.value, refused.value.limit) == (0, 255)
    assert refused.value.next_step


def test_a_transparent_video_is_put_on_the_bundles_ground(tmp_path):
    picture = np.full((32, 32, 4), 255, np.uint8)
    picture[:, :16, 3] = 0
    content = video_of(picture, "png", "rgba", "mov", "rgba")

    found = seen(content, spec_of("RGB", (8, 8), "video", background="#400000"), tmp_path)

    assert found[:, 0, 0] == pytest.approx([64, 0, 0], abs=2)
    assert found[:, 0, 7] == pytest.approx([255, 255, 255], abs=2)


@pytest.mark.parametrize("background", ["white", "#fff", "#12345g", "", 0, None])
def test_a_ground_that_is_none_is_refused(background):
    with pytest.raises(BundleError, match="background"):
        spec_of(background=background)


def test_of_a_moving_picture_the_first_is_seen(tmp_path):
    first, second = Image.fromarray(large(CORNERS)), Image.new("L", (64, 64), 255)

    for kind in ("PNG", "WEBP"):
        found = seen(saved(first, kind, save_all=True, append_images=[second]), spec_of(size=(8, 8)), tmp_path)
        assert corners_of(found) == pytest.approx(CORNERS, abs=12)
