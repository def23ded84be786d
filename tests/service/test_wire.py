"""Frames survive whatever a socket does to them; what breaks the protocol is refused."""

import struct

import pytest
from bedplate import wire
from bedplate.wire import Frame, FrameError, FrameReader, Type
from hypothesis import given
from hypothesis import strategies as st

texts = st.text(max_size=20)
frames = st.builds(
    Frame,
    type=st.sampled_from(Type),
    id=st.integers(0, 2**64 - 1),
    meta=st.dictionaries(texts, st.one_of(texts, st.integers(), st.none(), st.lists(texts, max_size=3)), max_size=4),
    tensors=st.binary(max_size=300),
    deadline_ns=st.integers(0, 2**64 - 1),
    priority=st.sampled_from([wire.INTERACTIVE, wire.BATCH, wire.PROBE]),
)


def raw(frame):
    return b"".join(bytes(piece) for piece in wire.encode(frame))


@given(st.lists(frames, max_size=4), st.lists(st.integers(1, 400), max_size=30))
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent, cuts):
    stream = b"".join(map(raw, sent))
    reader = FrameReader()
    received = []

    for cut in cuts:
        received += reader.feed(stream[:cut])
        stream = stream[cut:]
    received += reader.feed(stream)

    assert received == sent
    assert reader.idle


def test_a_peer_that_leaves_in_the_middle_leaves_no_frame():
    reader = FrameReader()

    frames = reader.feed(raw(Frame(Type.PREDICT, 1, {"a": 1}, b"12345678"))[:-1])

    assert frames == []
    assert not reader.idle


def header(magic=b"BEDP", version=1, kind=1, priority=0, reserved=0, meta=2, tensors=0):
    return struct.pack("<4sBBBBQQII", magic, version, kind, priority, reserved, 1, 0, meta, tensors)


@pytest.mark.parametrize(
    "broken",
    [
        header(magic=b"HTTP"),
        header(version=2),
        header(kind=0),
        header(kind=99),
        header(priority=3),
        header(reserved=1),
        header(meta=wire.MAX_META_BYTES + 1),
        header(tensors=wire.MAX_TENSOR_BYTES + 1),
        header(meta=2) + b"[]",
        header(meta=2) + b"{]",
        header(meta=4) + b"\xff\xfe{}",
    ],
)
def test_a_broken_frame_is_refused_before_anything_is_believed(broken):
    with pytest.raises(FrameError):
        FrameReader().feed(broken)


def test_metadata_beyond_the_limit_is_not_sent():
    with pytest.raises(FrameError, match="metadata"):
        wire.encode(Frame(Type.PREDICT, 1, {"a": "x" * wire.MAX_META_BYTES}))
