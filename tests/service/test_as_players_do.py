"""Files that players and browsers take, though something in them is odd: they are read here too, within bounds."""

import io
import struct
import zlib

import numpy as np
import pytest
from bedplate.bundle.tensor import Picture
from bedplate.decode.image import open_image, to_tensor, upright
from bedplate.decode.sound import samples_of
from bedplate.errors import UnreadableMedia, UnsupportedMediaType
from PIL import Image

from tests.service import media_tools

RATE_HZ = 8_000
MAX_PIXELS = 1_000_000
SPEC = Picture("L", 16, 24, 1.0, (0.0,), (1.0,))
PNG = media_tools.picture("png")
RAMP = np.linspace(0, 255, 24 * 16).reshape(1, 16, 24).astype(np.uint8)
JUNK = zlib.compress(bytes(3 << 20))


def id3(size, flags=0):
    sizes = bytes(size >> 7 * place & 0x7F for place in (3, 2, 1, 0))
    footer = b"3DI\4\0" + bytes([flags]) + sizes if flags & 0x10 else b""
    return b"ID3\4\0" + bytes([flags]) + sizes + b"\xff\xfb" + bytes(size - 2) + footer


def chunk(name, content, sum_off_by=0):
    total = zlib.crc32(name + content) + sum_off_by & 0xFFFFFFFF
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", total)


def png_with(*chunks, before=b"IDAT"):
    at = PNG.index(before) - 4
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def samples(content):
    return samples_of(content, RATE_HZ, 60)


def pixels(content):
    return to_tensor(upright(open_image(content, MAX_PIXELS)), SPEC)


def tone_hz(samples):
    return np.abs(np.fft.rfft(samples)).argmax() * RATE_HZ / len(samples)


@pytest.mark.parametrize("kind", media_tools.SOUNDS)
@pytest.mark.parametrize(
    "tags", [id3(300), id3(200_000), id3(300, 0x10), id3(10) + id3(20)], ids=["one", "with art", "with a foot", "two"]
)
def test_a_recording_is_read_after_the_tags_before_it(kind, tags):
    content = media_tools.recording(kind, 0.5)

    assert samples(tags + content) == pytest.approx(samples(content))


@pytest.mark.parametrize("tags", [id3(300), id3(300)[:50], b"ID3", id3(300)[:6] + b"\xff" * 4 + bytes(300)])
def test_tags_and_nothing_else_are_refused(tags):
    with pytest.raises((UnreadableMedia, UnsupportedMediaType)):
        samples(tags)


@pytest.mark.parametrize(
    "parts",
    [[(44_100, 1), (48_000, 1)], [(44_100, 2), (44_100, 1)], [(16_000, 1), (44_100, 2), (8_000, 1)]],
    ids=["rate", "channels", "both, twice"],
)
def test_a_recording_may_change_its_rate_and_channels_midway(parts):
    """Put together from several files, as radio stations do: tags and ends of files lie in between."""
    content = b"".join(media_tools.recording("mp3", 1.0, rate, channels=channels) for rate, channels in parts)

    found = samples(content)

    assert len(found) / RATE_HZ == pytest.approx(len(parts), abs=0.2 * len(parts))
    for part in np.array_split(found, len(parts)):
        middle = part[len(part) // 4 : -len(part) // 4]
        assert tone_hz(middle) == pytest.approx(440, abs=5)
        assert np.abs(middle).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"zTXt", b"Comment\0\0" + JUNK)],
        [chunk(b"iTXt", b"Comment\0\1\0\0\0" + JUNK)],
        [chunk(b"iCCP", b"profile\0\0" + JUNK)],
        [chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20))],
        [chunk(b"tEXt", b"Comment\0x", sum_off_by=1)],
        [chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0", sum_off_by=1)],
        [chunk(b"tRNS", b"\0\0", sum_off_by=1)],
        [chunk(b"pHYs", b"short")],
        [chunk(b"zTXt", b"Comment\0\0broken")],
        [chunk(b"zTXt", b"Comment\0\0" + JUNK)] * 30,
    ],
    ids=["comment", "text", "profile", "plain", "a sum", "exif", "colour", "short", "broken", "many"],
)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_png_is_read_whatever_is_said_beside_the_picture(chunks, before):
    assert np.array_equal(pixels(png_with(*chunks, before=before)), RAMP)


def test_what_follows_a_png_does_not_matter():
    assert np.array_equal(pixels(PNG + b"\0" * 1000), RAMP)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT"])
def test_a_sum_that_a_picture_hangs_on_has_to_be_right(name):
    at = PNG.index(name) + 4
    size = int.from_bytes(PNG[at - 8 : at - 4], "big")
    content = bytearray(PNG)
    content[at + size] ^= 1

    with pytest.raises(UnreadableMedia):
        pixels(bytes(content))


@pytest.mark.parametrize("kind", media_tools.PICTURES)
def test_the_beginning_of_a_picture_is_called_incomplete_and_not_unknown(kind):
    with pytest.raises(UnreadableMedia):
        pixels(media_tools.picture(kind)[:30])


def test_a_picture_has_its_transparency_and_its_turn_still():
    exif = Image.Exif()
    exif[0x0112] = 3
    out = io.BytesIO()
    Image.fromarray(RAMP[0]).save(out, "PNG", transparency=255, exif=exif)

    found = pixels(out.getvalue())

    assert found[0, 0, 0] == 0
    assert found[0, 0, 1] == RAMP[0, -1, -2]
