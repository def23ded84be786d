"""The decoder as the front end meets it: the real program, files of every kind, and what they may do to it."""

import asyncio
import functools
import io
import json
import os
import socket
import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from bedplate import wire
from bedplate.bundle.bundle import MAX_TOKENIZER_BYTES, Bundle
from bedplate.decode.settings import DecodeSettings
from bedplate.decode.worker import Worker
from bedplate.errors import (
    DeadlineExceeded,
    DecoderBusy,
    DecoderUnavailable,
    Internal,
    InvalidRequest,
    MediaTooLong,
    TooManyPixels,
    TooMuchMemory,
    UnreadableMedia,
    UnsupportedMediaType,
)
from bedplate.process import endpoint
from bedplate.web.items.decoders import Decoders
from bedplate.web.options import within
from bedplate.wire import Type
from PIL import Image

from tests.service import media_tools, text_tools
from tests.service.decoder_tools import running_decoder
from tests.service.lamp import description
from tests.service.running_service import rss_bytes

RATE_HZ = 8_000
MUTATIONS = 1_000  # of each kind
BOMBS_OF_A_KIND = 100
GROWTH_BYTES = 32 << 20
PICTURE = {"items": 1, "width": 24, "height": 16}


def image_model():
    picture = {"mode": "L", "height": 2, "width": 2, "scale": 1 / 255, "mean": [0.0], "std": [1.0]}
    return Bundle.from_description(
        description(inputs=[{"name": "x", "dtype": "float32", "shape": [1, 2, 2], "image": picture}])
    )


def sound_model():
    """Windows of a quarter of a second, each half a window after the other."""
    audio = {"sample_rate": RATE_HZ, "hop": 1_000}
    return Bundle.from_description(
        description(
            task="audio-classification",
            inputs=[{"name": "x", "dtype": "float32", "shape": [1, 2_000], "audio": audio}],
        )
    )


def video_model(frames=4):
    clip = {
        "frames": frames,
        "mode": "RGB",
        "height": 2,
        "width": 2,
        "scale": 1 / 255,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    return Bundle.from_description(
        description(
            task="video-classification", inputs=[{"name": "x", "dtype": "float32", "shape": [3, 2, 2], "video": clip}]
        )
    )


def model_of(kind):
    if kind in media_tools.PICTURES:
        return image_model()
    return sound_model() if kind in media_tools.SOUNDS else video_model()


@pytest.fixture
def decode(decoder_of):
    """What a decoder with these settings makes of files for a model."""

    def ask(files, model, timeout_s=30, **settings):
        return asyncio.run(Decoders([decoder_of(**settings)]).decode(files, model, within(timeout_s)))

    return ask


@pytest.fixture
def decoder():
    with running_decoder() as running:
        yield running


def ask(decoder, *files, model=None, timeout_s=30):
    return asyncio.run(Decoders([decoder.path]).decode(files, model or image_model(), within(timeout_s)))


@pytest.mark.parametrize("kind", media_tools.PICTURES)
def test_a_picture_is_one_item(decode, kind):
    media = decode([media_tools.picture(kind, size=(2, 2))], image_model())

    assert media.items[0, 0] == pytest.approx(np.array([[0, 85], [170, 255]]) / 255, abs=0.1)
    assert media.files == [{"items": 1, "width": 2, "height": 2}]


def test_a_picture_has_the_size_that_is_seen(decode):
    """As its EXIF turns it, and the item with it."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(np.array([[0, 255]], np.uint8)).resize((40, 20)).save(out, "PNG", exif=exif)

    media = decode([out.getvalue()], image_model())

    assert media.files == [{"items": 1, "width": 20, "height": 40}]
    assert (media.items[0, 0].argmax(axis=0) == 1).all()


@pytest.mark.parametrize("kind", media_tools.SOUNDS)
@pytest.mark.parametrize(("rate_hz", "channels"), [(RATE_HZ, 1), (44_100, 2)])
def test_a_recording_becomes_windows_of_one_channel_at_the_models_rate(decode, kind, rate_hz, channels):
    media = decode([media_tools.recording(kind, 1.0, rate_hz, channels=channels)], sound_model())

    [found] = media.files
    assert media.items.shape == (found["items"], 1, 2_000)
    assert found["at_s"][:3] == [0.0, 0.125, 0.25]
    assert found["length_s"] == pytest.approx(1.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(media.items[3, 0]))
    assert spectrum.argmax() * RATE_HZ / 2_000 == pytest.approx(440, abs=5)
    assert np.abs(media.items[3]).max() == pytest.approx(0.3, abs=0.03)


def test_the_last_window_is_filled_up_with_silence(decode):
    media = decode([media_tools.recording("wav", 0.3, RATE_HZ)], sound_model())

    assert media.files == [{"items": 2, "at_s": [0.0, 0.125], "length_s": 0.3}]
    assert media.items[1, 0, 1399] != 0
    assert (media.items[1, 0, 1400:] == 0).all()


@pytest.mark.parametrize("kind", media_tools.VIDEOS)
def test_pictures_of_a_video_are_spread_evenly(decode, kind):
    media = decode([media_tools.video(kind, frames=12)], video_model(4))

    assert media.files == [{"items": 4, "at_s": [0.1, 0.4, 0.7, 1.0]}]
    assert media.items.mean(axis=(1, 2, 3)) == pytest.approx(np.array([1, 4, 7, 10]) / 12, abs=0.03)


def test_a_video_with_fewer_pictures_than_wanted_gives_what_it_has(decode):
    media = decode([media_tools.video("mp4", frames=3)], video_model(8))

    assert media.files[0]["items"] == 3


def test_items_of_several_files_follow_one_another(decode):
    media = decode(
        [media_tools.recording("wav", 0.25, RATE_HZ), media_tools.recording("flac", 0.5, RATE_HZ)], sound_model()
    )

    assert [found["items"] for found in media.files] == [1, 3]
    assert len(media.items) == 4


@pytest.mark.parametrize("kind", media_tools.KINDS)
def test_content_of_another_kind_is_refused_whatever_its_name(decode, kind):
    others = {"png": sound_model(), "wav": video_model(), "mp4": image_model()}
    model = next(model for name, model in others.items() if model_of(kind).task != model.task)

    with pytest.raises(UnsupportedMediaType) as refused:
        decode([media_tools.sample(kind)], model)

    assert refused.value.limit


@pytest.mark.parametrize(
    ("content", "model"),
    [
        (b"", sound_model()),
        (b"RIFF", sound_model()),
        (b"#EXTM3U\nfile:///etc/passwd", video_model()),
        (b"\xff" * 64, sound_model()),
    ],
    ids=["empty", "a beginning", "a playlist", "noise"],
)
def test_content_of_no_known_kind_is_refused(decode, content, model):
    with pytest.raises((UnsupportedMediaType, UnreadableMedia)):
        decode([content], model)


def test_a_longer_recording_than_allowed_is_refused_with_the_limit(decode):
    with pytest.raises(MediaTooLong) as refused:
        decode([media_tools.recording("flac", 3, RATE_HZ)], sound_model(), max_media_s=2)

    assert (refused.value.value, refused.value.limit) == (3.0, 2)


def test_recordings_that_are_too_long_together_are_refused(decode):
    half = media_tools.recording("flac", 1.5, RATE_HZ)

    with pytest.raises(MediaTooLong):
        decode([half, half], sound_model(), max_media_s=2)


def test_a_longer_video_than_allowed_is_refused(decode):
    with pytest.raises(MediaTooLong):
        decode([media_tools.video("mp4", frames=30, rate=10)], video_model(), max_media_s=2)


def test_a_video_with_larger_pictures_than_allowed_is_refused(decode):
    with pytest.raises(TooManyPixels):
        decode([media_tools.video("mp4", frames=2)], video_model(), max_pixels=3_000)


def test_a_picture_that_needs_more_memory_than_allowed_is_refused_and_the_decoder_lives(decode):
    with pytest.raises(TooMuchMemory) as refused:
        decode([media_tools.picture("png", (7_000, 7_000))], image_model(), max_memory_bytes=64 << 20)

    assert refused.value.limit == 64 << 20
    assert decode([media_tools.picture("png")], image_model(), max_memory_bytes=64 << 20).files == [PICTURE]


def test_what_takes_too_long_ends_the_process_and_the_next_file_is_decoded():
    large = media_tools.picture("png", (7_000, 7_000))
    with running_decoder(max_cpu_s=0.1) as decoder:
        with pytest.raises(UnreadableMedia):
            ask(decoder, large)

        assert ask(decoder, media_tools.picture("png")).files == [PICTURE]
        assert "SIGPROF" in decoder.log


def test_a_process_that_dies_is_replaced(decoder):
    before = decoder.child()

    os.kill(before, 9)

    assert ask(decoder, media_tools.picture("png")).files == [PICTURE]
    assert decoder.child() != before


def test_memory_that_a_file_took_is_given_back(decoder):
    ask(decoder, media_tools.picture("png", (7_000, 7_000)))
    ask(decoder, media_tools.picture("png"))

    assert rss_bytes(decoder.child()) - rss_bytes(decoder.program.pid) < GROWTH_BYTES


def test_a_process_that_has_grown_leaves_after_its_answer(tmp_path):
    told, _telling = os.pipe()
    with endpoint.bind(tmp_path / "1.sock") as listener:
        child = os.fork()
        if child == 0:
            Worker(listener, DecodeSettings(tmp_path), told, max_growth_bytes=-1).run()
            os._exit(0)

        media = asyncio.run(
            Decoders([tmp_path / "1.sock"]).decode([media_tools.picture("png")], image_model(), within(30))
        )

    assert media.files == [PICTURE]
    assert os.waitpid(child, 0) == (child, 0)


def test_what_is_being_decoded_is_answered_before_a_stop(decoder):
    async def scenario():
        decoders = Decoders([decoder.path])
        slow = asyncio.create_task(
            decoders.decode([media_tools.picture("png", (7_000, 7_000))], image_model(), within(30))
        )
        await until(lambda: cpu_ticks(decoder.child()) > 2)
        decoder.program.terminate()
        return await slow

    assert asyncio.run(scenario()).files == [{"items": 1, "width": 7_000, "height": 7_000}]
    assert decoder.program.wait(10) == 0
    assert not decoder.path.exists()


def test_the_process_that_decodes_leaves_with_its_parent(decoder):
    child = decoder.child()

    decoder.program.kill()

    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()


def mood_model(content=text_tools.TOKENIZER):
    return replace(Bundle.from_description(text_tools.moods(), text_tools.TOKENIZERS), tokenizer=content)


def test_texts_become_ids_each_for_itself(decode):
    media = decode([b"A very GOOD day", b"\xef\xbb\xbfbad"], mood_model())

    assert [part.tolist() for part in media.parts] == [[[6, 3, 1, 5]], [[2]]]
    assert {part.dtype for part in media.parts} == {np.dtype("int64")}
    assert media.files == [{"items": 1}] * 2


def test_each_model_has_its_own_tokenizer(decode):
    other = mood_model(text_tools.tokenizer("[UNK]", "day", "good"))

    found = [decode([b"good day"], model).items.tolist() for model in (mood_model(), other) * 3]

    assert found == [[[1, 5]], [[2, 1]]] * 3


def test_a_large_tokenizer_stays_in_the_process(decoder):
    """Else every text would wait for a new process to read it."""
    model = mood_model(text_tools.tokenizer("[UNK]", *(f"{number:x}" for number in range(220_000))))
    assert len(model.tokenizer) < MAX_TOKENIZER_BYTES
    child = decoder.child()

    for _ in range(3):
        assert ask(decoder, b"35b5f", model=model).items.tolist() == [[220_000]]

    assert rss_bytes(child) - rss_bytes(decoder.program.pid) > GROWTH_BYTES
    assert decoder.child() == child


@pytest.mark.parametrize("content", [b"", b"{}", text_tools.TOKENIZER[:-1], b"\xff"])
def test_what_is_no_tokenizer_is_our_fault_and_breaks_nothing(decoder, content):
    with pytest.raises(Internal):
        ask(decoder, b"good", model=mood_model(content))

    assert ask(decoder, b"good", model=mood_model()).items.tolist() == [[1]]


def test_a_pattern_that_never_ends_takes_the_time_that_is_allowed_and_no_more():
    """The tokenizer is the team's, what it is applied to is not."""
    slow = json.loads(text_tools.TOKENIZER)
    slow["normalizer"] = {"type": "Replace", "pattern": {"Regex": r"(a|aa)+$"}, "content": ""}
    model = mood_model(json.dumps(slow).encode())
    with running_decoder(max_cpu_s=0.3) as decoder:
        with pytest.raises(InvalidRequest):
            ask(decoder, b"a" * 60 + b"b", model=model)

        assert ask(decoder, b"good", model=model).items.tolist() == [[1]]


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"".join(wire.assemble(Type.DECODE, 1, b"{}", b"x" * 100))[:-1]],
    ids=["nothing", "another protocol", "half a frame"],
)
def test_who_does_not_speak_the_protocol_holds_up_nobody(decoder, sent):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(decoder.path))
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)

        assert ask(decoder, media_tools.picture("png"), timeout_s=5).files == [PICTURE]


def test_another_decoder_is_asked_where_one_is_gone(decoder, tmp_path):
    decoders = Decoders([tmp_path / "gone.sock", decoder.path])

    media = asyncio.run(decoders.decode([media_tools.picture("png")], image_model(), within(30)))

    assert media.files == [PICTURE]


def test_without_any_decoder_a_client_is_told_to_come_back(tmp_path):
    with pytest.raises(DecoderUnavailable) as refused:
        asyncio.run(Decoders([tmp_path / "gone.sock"]).decode([b"x"], image_model(), within(30)))

    assert refused.value.retry_after_s


def test_more_files_than_may_wait_are_refused_at_once(tmp_path):
    async def scenario(path):
        decoders = Decoders([path])
        asked = [asyncio.create_task(decoders.decode([b"x"], image_model(), within(0.5))) for _ in range(8)]
        await asyncio.wait(asked)
        return [type(one.exception()) for one in asked]

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "slow.sock"))
        listener.listen(2)
        outcomes = asyncio.run(scenario(tmp_path / "slow.sock"))

    assert set(outcomes) == {DeadlineExceeded, DecoderBusy}


def test_files_whose_clients_left_are_not_decoded(decoder):
    """They waited behind another one; the processor's time they would have taken is not spent."""
    small, large = media_tools.picture("png"), media_tools.picture("png", (7_000, 7_000))
    before = spent_ticks(decoder)

    async def scenario():
        decoders = Decoders([decoder.path])

        async def decode(file):
            await decoders.decode([file], image_model(), within(30))

        await decode(large)
        one = spent_ticks(decoder) - before
        first = asyncio.create_task(decode(large))
        await asyncio.sleep(0.05)
        left = [asyncio.create_task(decode(large)) for _ in range(6)]
        await asyncio.sleep(0.05)
        for each in left:
            each.cancel()
        await first
        await decode(small)
        return one

    one = asyncio.run(scenario())

    # Two large ones were decoded, a third may have been begun before its client left; all would be eight.
    assert spent_ticks(decoder) - before < 4 * one


@pytest.mark.parametrize("kind", media_tools.KINDS)
def test_damaged_files_are_refused_or_decoded_and_break_nothing(kind):
    """No answer but items or a refusal that is the client's business, no time cap reached, no memory kept."""
    whole, model, chance = media_tools.sample(kind), model_of(kind), Random(f"damaged {kind}")

    async def scenario(decoders):
        refused = 0
        for _ in range(MUTATIONS):
            try:
                media = await decoders.decode([media_tools.damaged(whole, chance)], model, within(30))
                assert np.isfinite(media.items).all()
            except InvalidRequest:
                refused += 1
        return refused

    with running_decoder() as decoder:
        asyncio.run(Decoders([decoder.path]).decode([whole], model, within(30)))
        before = rss_bytes(decoder.program.pid)
        refused = asyncio.run(scenario(Decoders([decoder.path])))
        grown = rss_bytes(decoder.program.pid) - before
        child = rss_bytes(decoder.child()) - before

    assert 0 < refused < MUTATIONS
    assert "SIGPROF" not in decoder.log
    assert max(grown, child) < GROWTH_BYTES


def pixel_bomb(chance):
    """A picture of some KB with hundreds of millions of pixels."""
    side = chance.randrange(10_000, 16_000)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@functools.cache
def silence():
    """A minute and a half of nothing, in some KB."""
    return media_tools.recording("flac", 90, RATE_HZ, loud=0)


def sound_bomb(chance):
    """Silence whose header says nothing, or little, of how long it is."""
    data = bytearray(silence())
    samples = chance.choice([0, RATE_HZ])
    # In STREAMINFO, 36 bits after rate, channels and depth.
    data[21] &= 0xF0
    data[22:26] = samples.to_bytes(4, "big")
    return bytes(data)


@functools.cache
def still(rate):
    return media_tools.video("mp4", frames=90 * rate, size=(16, 16), rate=rate)


def video_bomb(chance):
    """A grey picture for a minute and a half."""
    return still(chance.choice([1, 2]))


BOMBS = {
    "pixels": (pixel_bomb, image_model(), TooManyPixels),
    "sound": (sound_bomb, sound_model(), MediaTooLong),
    "video": (video_bomb, video_model(), MediaTooLong),
}


@pytest.mark.parametrize(("make", "model", "refusal"), BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_with_the_limit_and_leave_no_trace(make, model, refusal):
    chance = Random("bombs")

    async def scenario(decoders):
        limits = set()
        for _ in range(BOMBS_OF_A_KIND):
            with pytest.raises(refusal) as refused:
                await decoders.decode([make(chance)], model, within(30))
            limits.add(refused.value.limit)
        return limits

    with running_decoder(max_media_s=60) as decoder:
        before = rss_bytes(decoder.program.pid)
        limits = asyncio.run(scenario(Decoders([decoder.path])))
        grown = [rss_bytes(pid) - before for pid in (decoder.program.pid, decoder.child())]

    assert all(limits)
    assert "SIG" not in decoder.log
    assert max(grown) < GROWTH_BYTES


def cpu_ticks(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11])


def spent_ticks(decoder):
    """Of the process that decodes, and of those before it."""
    gone = int(Path(f"/proc/{decoder.program.pid}/stat").read_text().rsplit(")", 1)[1].split()[13])
    return gone + cpu_ticks(decoder.child())


async def until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
