"""A decoder that a file took over: how long it reads others' files, what it can answer, and who notices the change."""

import asyncio
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from bedplate import wire
from bedplate.decode.supervisor import supervise
from bedplate.errors import Internal, UnreadableMedia
from bedplate.web.items.decoders import Decoders
from bedplate.web.options import within
from bedplate.wire import Frame, FrameReader, Type

from tests.service import media_tools
from tests.service.decoder_tools import running_decoder
from tests.service.test_decode import image_model, mood_model, sound_model, video_model

DEADLINE_S = 30
PNG = media_tools.picture("png")


def decode(path, *files, model=None):
    return asyncio.run(Decoders([path]).decode(files, model or image_model(), within(DEADLINE_S)))


def children_of(decoder, until):
    """The processes that decode, one after another, until there were so many."""
    seen, deadline = [], time.monotonic() + DEADLINE_S
    while len(seen) < until and time.monotonic() < deadline:
        child = decoder.child()
        if child not in seen:
            seen.append(child)
    return seen


def test_the_process_that_decodes_is_replaced_after_so_many_files():
    with running_decoder(max_files=4) as decoder:
        first = decoder.child()
        decode(decoder.path, *[PNG] * 3)
        assert decoder.child() == first

        decode(decoder.path, PNG)

        assert decode(decoder.path, PNG).files
        assert decoder.child() != first
        assert "ended" not in decoder.log


def test_texts_do_not_count_as_their_tokenizer_would_be_read_anew():
    with running_decoder(max_files=2) as decoder:
        first = decoder.child()

        for _ in range(5):
            decode(decoder.path, b"good", model=mood_model())

        assert decoder.child() == first


def test_no_request_fails_while_processes_are_replaced():
    async def ask_all(path):
        decoders = Decoders([path])

        async def client():
            return [await decoders.decode([PNG], image_model(), within(DEADLINE_S)) for _ in range(20)]

        return await asyncio.gather(*(client() for _ in range(8)))

    with running_decoder(max_files=5) as decoder:
        before = decoder.child()
        answers = [media for of_client in asyncio.run(ask_all(decoder.path)) for media in of_client]

        assert len(answers) == 160
        assert all(np.array_equal(media.items, answers[0].items) for media in answers)
        assert decoder.child() != before
        assert "ended" not in decoder.log


def test_the_process_that_decodes_is_replaced_after_a_time_though_nobody_asks():
    with running_decoder(max_age_s=0.1) as decoder:
        assert len(children_of(decoder, until=3)) == 3
        assert "ended" not in decoder.log


def test_one_that_does_not_leave_is_ended():
    """As one would that runs what a file brought."""
    told, telling = os.pipe()

    def stay(kept):
        os.write(telling, os.getpid().to_bytes(4, "big"))
        signal.pause()

    keeper = os.fork()
    if keeper == 0:
        supervise(stay, longest_s=0.05)
        os._exit(0)
    try:
        pids = {os.read(told, 4) for _ in range(3)}
    finally:
        os.kill(keeper, signal.SIGTERM)
        os.waitpid(keeper, 0)

    assert len(pids) == 3


def answer_of(frames, model, tmp_path, files=1):
    """What a front end makes of a decoder that sends this, and how many bytes it read of it."""
    path = tmp_path / "taken-over.sock"

    async def taken_over(reader, writer):
        while not FrameReader().feed(await reader.read(1 << 20)):
            pass
        writer.writelines(frames)
        writer.close()

    async def scenario():
        server = await asyncio.start_unix_server(taken_over, path)
        async with server:
            return await Decoders([path], max_media_s=10).decode([PNG] * files, model, within(DEADLINE_S))

    return asyncio.run(scenario())


def result(shape, size, dtype="float32", items=None, files=1):
    told = [{"items": shape[0] if items is None else items}] * files
    meta = {"outputs": [{"name": "x", "dtype": dtype, "shape": shape}], "files": told}
    return wire.encode(Frame(Type.RESULT, 1, meta, bytes(size)))


# Of one file: a picture; ten seconds in windows of a quarter that begin each eighth; four pictures in colours.
MOST = {"image": (image_model(), 16), "sound": (sound_model(), 82 * 8_000), "video": (video_model(4), 4 * 48)}


@pytest.mark.parametrize(("model", "most"), MOST.values(), ids=MOST)
def test_more_than_a_model_can_take_is_not_read_from_a_decoder(model, most, tmp_path):
    [head, *_] = wire.assemble(Type.RESULT, 1, b"{}", bytes(most + 1))

    with pytest.raises(UnreadableMedia):
        answer_of([bytes(head)[: wire.HEADER_BYTES]], model, tmp_path)


@pytest.mark.parametrize(("model", "most"), MOST.values(), ids=MOST)
def test_and_as_much_as_it_can_take_is(model, most, tmp_path):
    items = most // model.input.item_bytes_of(model.input.largest)

    media = answer_of(result([items, *model.input.largest], most), model, tmp_path)

    assert len(media.items) == items


@pytest.mark.parametrize(
    "frame",
    [
        result([1, 1, 2, 2], 8),
        result([1, 1, 2, 2], 16, dtype="int32"),
        result([1, 1, 2, 2], 16, items=7),
        result([1, 1, 4, 1], 16),
        result([-1, 1, 2, -2], 16),
        wire.encode(Frame(Type.RESULT, 1, {"outputs": [], "files": []})),
        wire.encode(Frame(Type.RESULT, 1, {"outputs": 7})),
        wire.encode(Frame(Type.RESULT, 1, {})),
    ],
    ids=["short", "datatype", "items", "shape", "negative", "none", "odd", "empty"],
)
def test_an_answer_that_is_not_for_the_model_is_our_fault_and_no_crash(frame, tmp_path):
    with pytest.raises(Internal):
        answer_of(frame, image_model(), tmp_path)


def test_a_program_cannot_answer_more_than_two_batches(tmp_path):
    model = replace(image_model(), codec="codec.py", codec_source=b"x", max_cost=2)
    most = 2 * model.input.batch_bytes_of(2)

    assert len(answer_of(result([4, 1, 2, 2], most), model, tmp_path).items) == 4
    with pytest.raises(UnreadableMedia):
        answer_of(result([5, 1, 2, 2], most + 16), model, tmp_path)
