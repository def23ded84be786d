"""Tokenizers on their way to who uses them: how large they may be, who has read which, and who is to blame."""

import asyncio
import hashlib
import itertools
import socket
import threading
from dataclasses import replace

import pytest
from bedplate import wire
from bedplate.bundle.bundle import MAX_TOKENIZER_BYTES, Bundle, describe, files_beside, read_bundle, write_manifest
from bedplate.decode.tokenizers import Tokenizers
from bedplate.errors import DecoderUnavailable, Internal
from bedplate.web.items.decoders import Decoders
from bedplate.web.options import within
from bedplate.wire import Frame, FrameReader, Type

from tests.service import text_tools
from tests.service.decoder_tools import running_decoder
from tests.service.engine_tools import write_bundle

# Blanks behind it mean nothing.
LARGEST = text_tools.TOKENIZER.ljust(MAX_TOKENIZER_BYTES)


def mood_model(content=text_tools.TOKENIZER):
    return replace(Bundle.from_description(text_tools.moods(), text_tools.TOKENIZERS), tokenizer=content)


def ids(path, text=b"good day", content=text_tools.TOKENIZER):
    media = asyncio.run(Decoders([path]).decode([text], mood_model(content), within(60)))
    return media.items.tolist()


def large(pieces):
    """It takes some 16 bytes for each of its own."""
    return text_tools.tokenizer("[UNK]", *(f"{number:x}" for number in range(pieces)))


def test_the_largest_gets_from_the_bundle_through_a_description_to_a_decoder(tmp_path, decoder_of):
    write_bundle(tmp_path / "1", text_tools.WEIGHTS, text_tools.moods())
    (tmp_path / "1" / "tokenizer.json").write_bytes(LARGEST)
    write_manifest(tmp_path / "1")
    bundle = read_bundle(tmp_path / "1")

    description = Frame(Type.DESCRIPTION, 0, describe(bundle), files_beside(bundle)[bundle.tokenizer_sha256])
    [told] = FrameReader().feed(b"".join(wire.encode(description)))
    known = Bundle.from_description(told.meta, {bundle.tokenizer_sha256: bytes(told.tensors)})

    assert known.tokenizer == LARGEST
    assert ids(decoder_of(), content=known.tokenizer) == [[1, 5]]


@pytest.fixture
def scripted(tmp_path):
    """A decoder that says what it is told to, and keeps what it was asked: (metadata, bytes)."""
    asked = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "decode.sock"))
        listener.listen()
        listener.settimeout(30)

        def answer(*metas):
            for meta in metas:
                connection, _ = listener.accept()
                with connection:
                    reader, frames = FrameReader(), []
                    while not frames:
                        frames = reader.feed(connection.recv(1 << 20))
                    asked.append((frames[0].meta, bytes(frames[0].tensors)))
                    connection.sendall(b"".join(wire.encode(Frame(Type.RESULT, 1, meta, meta.pop("ids", b"")))))

        def begin(*metas):
            thread = threading.Thread(target=answer, args=metas, daemon=True)
            thread.start()
            return tmp_path / "decode.sock", asked

        yield begin


KNOWN = {
    "outputs": [{"name": "tokens", "dtype": "int64", "shape": [1, 2]}],
    "files": [{"items": 1}],
    "ids": (1).to_bytes(8, "little") + (5).to_bytes(8, "little"),
}
WANTED = {"wanted": text_tools.SHA256}
READ = {"outputs": [], "files": []}


def test_a_tokenizer_that_is_known_does_not_travel(scripted):
    path, asked = scripted(dict(KNOWN))

    assert ids(path) == [[1, 5]]
    assert [(meta["tokenizer"], sent) for meta, sent in asked] == [(text_tools.SHA256, b"good day")]


def test_a_tokenizer_that_is_not_known_travels_by_itself_and_the_text_after_it(scripted):
    path, asked = scripted(dict(WANTED), dict(READ), dict(KNOWN))

    assert ids(path) == [[1, 5]]
    assert [sent for _, sent in asked] == [b"good day", text_tools.TOKENIZER, b"good day"]


def test_who_is_replaced_again_and_again_is_given_up(scripted):
    path, asked = scripted(*(dict(one) for one in (WANTED, READ) * 4))

    with pytest.raises(DecoderUnavailable, match="replaced faster than they read"):
        ids(path)

    assert len(asked) == 8


def test_a_tokenizer_that_is_too_large_for_the_decoder_is_our_fault_and_breaks_nothing():
    with running_decoder(max_memory_bytes=64 << 20) as decoder:
        with pytest.raises(Internal, match="the model's tokenizer cannot be read"):
            ids(decoder.path, b"35b5f", large(400_000))

        assert ids(decoder.path) == [[1, 5]]


def test_two_that_do_not_fit_side_by_side_are_read_in_turn():
    first, second = large(150_000), large(150_001)
    with running_decoder(max_memory_bytes=96 << 20) as decoder:
        found = [ids(decoder.path, b"249ef", content) for content in (first, second) * 2]

    assert found == [[[150_000]]] * 4


def test_so_many_are_kept_as_there_is_memory_for():
    contents = [text_tools.tokenizer("[UNK]", f"word{number}") for number in range(6)]
    sums = [hashlib.sha256(content).hexdigest() for content in contents]
    each_bytes = 48 * len(contents[0])
    taken = itertools.count(0, each_bytes)  # asked before and after each
    few, plenty = Tokenizers(3 * each_bytes, lambda: next(taken)), Tokenizers(1 << 30, lambda: 0)

    for content, name in zip(contents, sums, strict=True):
        few.read(content, name)
        plenty.read(content, name)

    assert [few.find(name) is not None for name in sums] == [False, False, False, True, True, True]
    assert [plenty.find(name) is not None for name in sums] == [False, False, True, True, True, True]


def test_one_that_is_another_than_was_told_is_refused():
    with pytest.raises(Internal, match="another tokenizer than it was told of"):
        Tokenizers(1 << 30, lambda: 0).read(text_tools.TOKENIZER, "0" * 64)
