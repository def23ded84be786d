"""One sound in every form that a WAV file may have, right and not quite right: one answer, and levels from -1 to 1."""

import struct
from itertools import product

import numpy as np
import pytest
from bedplate.decode.settings import DecodeSettings
from bedplate.decode.sound import samples_of
from bedplate.errors import UnreadableMedia

RATE_HZ = 8_000
# Numbers of eight bits, so that every form but the two laws holds them exactly.
SOUND = np.rint(100 * np.sin(np.arange(2_000) ** 1.3 / 40)).astype(np.int64)
LEVELS = (SOUND / 128).astype(np.float32)
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
GUID = "00001000800000aa00389b71"


def pcm(width, order="<"):
    """In the highest bits of `width` bytes."""
    if width == 1:
        return (SOUND + 128).astype(np.uint8).tobytes()
    wide = (SOUND << 8 * (width - 1)).astype(f"{order}i8").view(np.uint8).reshape(-1, 8)
    return (wide[:, :width] if order == "<" else wide[:, -width:]).tobytes()


def floats(width, order="<"):
    return LEVELS.astype(f"{order}f{width}").tobytes()


def form(bits, tag=PCM, channels=1, order="<", taken=None, byte_rate=None, frame_bytes=None):
    """The chunk `fmt `; `taken` bytes for a sample, if not as many as the bits need."""
    frame = channels * (taken or -(-bits // 8)) if frame_bytes is None else frame_bytes
    a_second = RATE_HZ * frame if byte_rate is None else byte_rate
    return struct.pack(f"{order}HHIIHH", tag, channels, RATE_HZ, a_second, frame, bits)


def extensible(container, valid, tag=PCM, channels=1, order="<", taken=None):
    head = form(container, EXTENSIBLE, channels, order, taken)
    return head + struct.pack(f"{order}HHII", 22, valid, 0, tag) + bytes.fromhex(GUID)


def chunk(name, content, order="<", size=None):
    return struct.pack(f"{order}4sI", name, len(content) if size is None else size) + content + bytes(len(content) % 2)


def wav(fmt, sound, *, before=b"", between=b"", after=b"", kind=b"RIFF", order="<", size=None, whole=None):
    body = b"WAVE" + before + chunk(b"fmt ", fmt, order) + between + chunk(b"data", sound, order, size) + after
    return struct.pack(f"{order}4sI", kind, len(body) if whole is None else whole) + body


def rf64(kind=b"RF64"):
    sound = pcm(2)
    sizes = chunk(b"ds64", struct.pack("<QQQI", 0, len(sound), len(SOUND), 0))
    return wav(form(16), sound, before=sizes, kind=kind, size=0xFFFFFFFF, whole=0xFFFFFFFF, after=NOTES)


NOTES = chunk(b"LIST", b"INFOINAM\5\0\0\0song\0")
TWICE = (np.repeat(SOUND, 2) << 8).astype("<i2").tobytes()
FORMS = {
    "8 bits": wav(form(8), pcm(1)),
    "16 bits": wav(form(16), pcm(2)),
    "24 bits": wav(form(24), pcm(3)),
    "32 bits": wav(form(32), pcm(4)),
    "12 bits in 16": wav(form(12), pcm(2)),
    "16 bits in 32": wav(form(16, taken=4), pcm(4)),
    "20 bits in 24": wav(form(20), pcm(3)),
    "20 bits in 32": wav(form(20, taken=4), pcm(4)),
    "24 bits in 32": wav(form(24, taken=4), pcm(4)),
    "float": wav(form(32, FLOAT), floats(4)),
    "double": wav(form(64, FLOAT), floats(8)),
    "float with a longer format": wav(form(32, FLOAT) + b"\0\0", floats(4), between=chunk(b"fact", b"\xd0\7\0\0")),
    "stereo": wav(form(16, channels=2), TWICE),
    **{
        f"extensible, {valid} bits in {container}": wav(extensible(container, valid), pcm(container // 8))
        for container, valid in [(8, 8), (16, 16), (16, 12), (24, 20), (24, 24), (32, 16), (32, 20), (32, 24), (32, 32)]
    },
    "extensible, 24 bits that take 4 bytes": wav(extensible(24, 24, taken=4), pcm(4)),
    "extensible, no valid bits": wav(extensible(32, 0), pcm(4)),
    "extensible, more bits than there are": wav(extensible(16, 32), pcm(2)),
    "extensible float": wav(extensible(32, 32, FLOAT), floats(4)),
    "extensible double": wav(extensible(64, 64, FLOAT), floats(8)),
    "extensible stereo": wav(extensible(16, 16, channels=2), TWICE),
    **{
        f"high byte first, {8 * width} bits": wav(form(8 * width, order=">"), pcm(width, ">"), kind=b"RIFX", order=">")
        for width in (1, 2, 3, 4)
    },
    "high byte first, float": wav(form(32, FLOAT, order=">"), floats(4, ">"), kind=b"RIFX", order=">"),
    "high byte first, extensible": wav(extensible(32, 20, order=">"), pcm(4, ">"), kind=b"RIFX", order=">"),
    "for large files": rf64(),
    "for large broadcasts": rf64(b"BW64"),
    "with other chunks": wav(form(16), pcm(2), before=NOTES, between=NOTES, after=NOTES),
    "sound before its format": b"RIFF\0\0\0\0WAVE" + chunk(b"data", pcm(2)) + chunk(b"fmt ", form(16)),
    "no size": wav(form(16), pcm(2), size=0),
    "the largest size": wav(form(16), pcm(2), size=0xFFFFFFFF),
    "a size beyond the end": wav(form(16), pcm(2), size=1 << 20),
    "a wrong size of the whole": wav(form(16), pcm(2), whole=7),
    "no byte rate": wav(form(16, byte_rate=0), pcm(2)),
    "a wrong byte rate": wav(form(16, byte_rate=123), pcm(2)),
    "a low byte rate, which would make it long": wav(form(16, byte_rate=1), pcm(2)),
    "frames of no bytes": wav(form(16, frame_bytes=0), pcm(2)),
    "frames that are too short": wav(form(16, frame_bytes=1), pcm(2)),
    "frames that are too long": wav(form(16, frame_bytes=4, byte_rate=2 * RATE_HZ), pcm(2)),
    "half a frame at the end": wav(form(24), pcm(3) + b"\1\2"),
}


def samples(content, rate_hz=RATE_HZ):
    return samples_of(content, rate_hz, DecodeSettings.max_media_s)


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_one_sound_is_one_answer_in_every_form(content):
    assert samples(content) == pytest.approx(LEVELS, abs=1e-6)


@pytest.mark.parametrize("name", ["16 bits in 32", "float", "high byte first, 16 bits"])
def test_and_at_another_rate(name):
    wanted = samples(FORMS["16 bits"], 5_000)

    assert len(wanted) == pytest.approx(len(SOUND) * 5 / 8, abs=8)
    assert samples(FORMS[name], 5_000) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("tag", "is_extensible"), list(product((A_LAW, MU_LAW), (False, True))))
def test_the_laws_of_telephones_are_read(tag, is_extensible):
    """All 256 of their samples against what they are defined as."""
    codes = bytes(range(256)) * 4
    fmt = extensible(8, 8, tag) if is_extensible else form(8, tag)

    found = samples(wav(fmt, codes))

    assert found == pytest.approx(np.array([law(tag, code) for code in codes]), abs=1e-6)


def law(tag, code):
    """G.711."""
    code ^= 0x55 if tag == A_LAW else 0xFF
    exponent, mantissa = code >> 4 & 7, code & 15
    if tag == A_LAW:
        size = (mantissa << 4) + 8 if not exponent else ((mantissa << 4) + 0x108) << exponent - 1
        return (size if code & 0x80 else -size) / 32768
    size = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return (-size if code & 0x80 else size) / 32768


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("rate_hz", [RATE_HZ, 5_000])
def test_what_is_louder_than_full_is_cut_off_there(width, rate_hz):
    loud = np.array([1e30, -1e30, 1.5, -1.5, 3e38, -3e38] * 200, f"<f{width}").tobytes()

    found = samples(wav(form(8 * width, FLOAT), loud), rate_hz)

    assert np.abs(found).max() <= 1
    if rate_hz == RATE_HZ:
        assert found[:4].tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("level", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_no_numbers_are_refused(level):
    with pytest.raises(UnreadableMedia, match="no numbers"):
        samples(wav(form(32, FLOAT), np.array([0, level, 0], "<f4").tobytes()))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (wav(form(64), bytes(800)), 64),
        (wav(form(16, FLOAT), bytes(800)), 16),
        (wav(form(16, 0x9999), bytes(800)), 0x9999),
        (wav(extensible(16, 16, 0x9999), bytes(800)), 0x9999),
        (wav(form(16, channels=0), bytes(800)), 0),
        (wav(form(16, channels=9), bytes(1800)), 9),
        (wav(form(16, channels=0xFFFF, frame_bytes=2), bytes(800)), 0xFFFF),
        (wav(form(16)[:8], bytes(800)), None),
        (b"RIFF\0\0\0\0WAVE" + NOTES, None),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"data", bytes(800)), None),
        (wav(form(16), b""), None),
    ],
    ids=[
        "64 bits",
        "half floats",
        "unknown",
        "unknown within",
        "no channels",
        "nine",
        "all",
        "short",
        "nothing",
        "no format",
        "empty",
    ],
)
def test_a_form_that_is_not_known_is_refused_with_what_to_do(content, value):
    with pytest.raises(UnreadableMedia) as refused:
        samples(content)

    assert refused.value.next_step
    assert value is None or refused.value.value == value


def test_a_file_of_nothing_but_chunks_is_given_up():
    with pytest.raises(UnreadableMedia):
        samples(b"RIFF\0\0\0\0WAVE" + chunk(b"junk", b"") * 1_000_000)
