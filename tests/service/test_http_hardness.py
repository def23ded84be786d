"""Hostile bytes, slow bytes and many bytes, sent to the front end itself."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tests.raw_http.corpus import Service, cases
from tests.raw_http.talk import ask, complaints, talk
from tests.service.engine_tools import GatedLamp, running_engine
from tests.service.flood_http import (
    CHUNKS_GROWTH_BYTES,
    GZIP_GROWTH_BYTES,
    flood_of_chunks,
    flood_of_gzip,
    flood_of_refused,
)
from tests.service.running_service import KEY, running_web

LAMP = Service(
    host="127.0.0.1",
    key=KEY,
    model="lamp",
    tensor={"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 1, 1, 1]},
)
CASES = cases(LAMP)


@pytest.fixture
def connect(service):
    return lambda: socket.create_connection(("127.0.0.1", service.port), 10)


def test_the_corpus_is_as_large_as_it_is_said_to_be():
    assert len({case.name for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_request_gets_one_answer_or_none_and_the_next_one_its_own(connect, case):
    with connect() as bystander:
        assert ask(bystander, LAMP, "before")

        told = talk(connect, LAMP, case)

        assert not complaints(case, told, strict=True)
        assert ask(bystander, LAMP, "after")


def test_a_flood_of_tiny_chunks_leaves_nothing_behind(service):
    assert flood_of_chunks(service, chunks=50_000, times=20) < CHUNKS_GROWTH_BYTES


def test_a_refused_body_is_let_go_at_once(service):
    body_bytes = 8 << 20

    # One that comes, one that goes, and what else grows meanwhile: ten that stay would be far more.
    assert flood_of_refused(service, body_bytes, times=10) < 3 * body_bytes


def test_broken_gzip_costs_little_memory(service):
    assert flood_of_gzip(service) < GZIP_GROWTH_BYTES


def post(*fields, target=b"/v2/models/lamp/infer"):
    lines = [b"POST %b HTTP/1.1" % target, b"Host: x", b"Authorization: Bearer " + KEY.encode(), *fields]
    return b"\r\n".join([*lines, b"", b""])


SLOW = 50


def is_ended(sock, more):
    """Whether the server has hung up, or has said that it will, after a little more was sent."""
    try:
        sock.sendall(more)
        return b"HTTP/1.1 408" in (said := sock.recv(65536)) or not said
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def hasty(tmp_path):
    """A front end that allows a request 1 s."""
    with running_engine(tmp_path / "cpu0.sock", GatedLamp()), running_web(tmp_path, request_timeout_s=1) as port:
        yield port


@pytest.mark.parametrize(
    ("sent", "more"),
    [
        (b"POST /v2/models/lamp/infer HTTP/1.1\r\nHost: x\r\n", b"X-Slow: 1\r\n"),
        (post(b"Content-Length: 1000"), b"{"),
        (post(b"Transfer-Encoding: chunked"), b"1\r\n{\r\n"),
    ],
    ids=["head", "body", "chunks"],
)
def test_requests_that_never_end_are_ended_and_hold_up_nobody(hasty, sent, more):
    def connect():
        return socket.create_connection(("127.0.0.1", hasty), 10)

    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect()) for _ in range(SLOW)]
        for sock in slow:
            sock.sendall(sent)
            sock.settimeout(0.01)

        deadline = time.monotonic() + 20
        while slow and time.monotonic() < deadline:
            slow = [sock for sock in slow if not is_ended(sock, more)]
            with connect() as bystander:
                assert ask(bystander, LAMP, "bystander")

    assert not slow


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"X: " + b"a" * 40_000), 431),
        (post(*[b"X: y"] * 200), 431),
        (post(target=b"/" + b"a" * 10_000), 414),
        (post(b"Content-Length: 60000000") + b"{", 413),
        (post(b"Transfer-Encoding: chunked") + (b"10000\r\n%b\r\n" % bytes(65536)) * 801 + b"0\r\n\r\n", 413),
        (post(b"Content-Length: 0"), 400),
    ],
    ids=["long head", "many fields", "long target", "long body", "long body in chunks", "no body"],
)
def test_more_than_is_allowed_is_refused_with_its_status(connect, sent, status):
    with connect() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(sent)

        assert sock.recv(65536).split(b" ")[1] == b"%d" % status
