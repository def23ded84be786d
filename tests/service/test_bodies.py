"""What is judged before a body is read: the key, the length, and the room that other requests leave."""

import asyncio
import re

import pytest
import uvloop
from bedplate.bundle.bundle import Bundle
from bedplate.errors import ServerBusy
from bedplate.web.app import create_app
from bedplate.web.bodies import BodyBudget
from bedplate.web.http.connection import Connection, Listener
from bedplate.web.items.limits import Limits, json_limit, limits_of
from bedplate.web.settings import WebSettings

from tests.service.conftest import API_KEY
from tests.service.lamp import FakeEngines, custom, description, numbers

KEY = f"Authorization: Bearer {API_KEY}"
ROUTES = ("/v1/models/same/predict", "/v2/models/same/infer", "/v2/models/same/versions/1/infer")


@pytest.fixture
def app_of(keys, metrics):
    def make(**settings):
        engines = FakeEngines()
        engines.serve(numbers("float32", name="same"))
        return create_app(WebSettings(engines=(), **settings), engines, keys, metrics)

    return make


class Client:
    """One connection to `app`."""

    def __init__(self, app):
        self._app = app

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        listener = Listener(self._app, self._app.direct, idle_s=5, receive_s=5, max_connections=8)
        self._server = await loop.create_server(lambda: Connection(listener, loop), "127.0.0.1", 0)
        self._reader, self._writer = await asyncio.open_connection(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_):
        self._writer.close()
        self._server.close()

    def send(self, path, *fields, body=b""):
        head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *fields, "", ""])
        self._writer.write(head.encode() + body)

    async def answer(self):
        """The next one: its status and all of it."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await asyncio.wait_for(self._reader.readexactly(int(length[1])), 5) if length else b""
        return int(head.split()[1]), head + body

    async def asked(self, path, *fields, body=b""):
        self.send(path, *fields, body=body)
        return await self.answer()


def run(scenario):
    return uvloop.run(scenario)


async def asked(app, path, *fields, body=b""):
    async with Client(app) as client:
        return await client.asked(path, *fields, body=body)


@pytest.mark.parametrize("path", [*ROUTES, "/v1/models", "/v2/repository/index", "/nowhere"])
@pytest.mark.parametrize("length", ["Content-Length: 60", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
@pytest.mark.parametrize("key", [[], ["X-API-Key: wrong"]])
def test_a_request_without_a_key_is_refused_by_its_head_alone(app_of, path, length, expect, key):
    status, _ = run(asked(app_of(), path, length, *expect, *key))

    assert status == 401


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
def test_a_body_that_is_announced_too_long_is_refused_by_its_head_alone(app_of, path, expect):
    status, answer = run(asked(app_of(max_body_bytes=1024), path, KEY, "Content-Length: 1025", *expect))

    assert status == 413
    assert b"1025" in answer
    assert b"1024" in answer


def test_a_client_with_a_key_that_expects_to_be_told_is_told_to_go_on_and_answered(app_of):
    body = b'{"inputs": [[1, 2, 3], [4, 5, 6]]}'
    fields = (KEY, "Content-Type: application/json", f"Content-Length: {len(body)}", "Expect: 100-continue")

    async def scenario():
        async with Client(app_of()) as client:
            told, _ = await client.asked(ROUTES[0], *fields)
            client._writer.write(body)
            return told, (await client.answer())[0]

    assert run(scenario()) == (100, 200)


def test_what_would_be_too_much_together_is_refused_unread_and_taken_when_there_is_room(app_of):
    app = app_of(max_inflight_bytes=1024)
    large = (KEY, "Content-Length: 900", "Content-Type: application/json")
    small = b'{"inputs": [[1, 2, 3], [4, 5, 6]]}' + b" " * 200
    fits = (KEY, f"Content-Length: {len(small)}", "Content-Type: application/json")

    async def scenario():
        async with Client(app) as first, Client(app) as second, Client(app) as third:
            first.send(ROUTES[0], *large)
            while not app._observer.bodies.held_bytes:
                await asyncio.sleep(0)
            refused = await second.asked(ROUTES[1], *large)
            whole = await third.asked(ROUTES[0], *fits, body=small)
            first._writer.write(b"x" * 900)
            wrong, _ = await first.answer()
            return refused, whole, wrong, (await asked(app, ROUTES[0], *fits, body=small))[0]

    (refused, said), (whole, _), wrong, taken = run(scenario())

    assert (refused, whole, wrong, taken) == (429, 429, 400, 200)
    assert b"retry-after: 1" in said.lower()
    assert all(word in said for word in (b"1800", b"1024", b"Retry-After"))
    assert app._observer.bodies.held_bytes == 0


def test_a_chunked_body_takes_room_as_it_comes(app_of):
    app = app_of(max_inflight_bytes=1024)

    async def scenario():
        async with Client(app) as first, Client(app) as second:
            first.send(ROUTES[0], KEY, "Content-Length: 900", "Content-Type: application/json")
            while not app._observer.bodies.held_bytes:
                await asyncio.sleep(0)
            return await second.asked(ROUTES[0], KEY, "Transfer-Encoding: chunked", body=b"c8\r\n" + b"x" * 200)

    assert run(scenario())[0] == 429


@pytest.mark.parametrize("path", ROUTES[:2])
def test_a_body_that_comes_later_than_its_client_waits_is_not_waited_for(app_of, path):
    status, _ = run(asked(app_of(), path, KEY, "Content-Length: 60", "X-Request-Timeout-Ms: 50"))

    assert status == 504


def test_a_request_whose_client_leaves_gives_its_room_back(app_of):
    app = app_of()
    bodies = app._observer.bodies

    async def scenario():
        async with Client(app) as client:
            client.send(ROUTES[0], KEY, "Content-Length: 60")
            while not bodies.held_bytes:
                await asyncio.sleep(0)
        while bodies.held_bytes:
            await asyncio.sleep(0)

    run(asyncio.wait_for(scenario(), 5))


def test_one_body_alone_may_be_longer_than_all_together():
    bodies = BodyBudget(10)
    bodies.take(100)

    with pytest.raises(ServerBusy):
        bodies.take(1)

    bodies.give_back(100)
    bodies.take(10)
    bodies.take(0)


def test_who_is_refused_is_told_to_wait_for_what_is_in_flight_and_for_who_was_refused_before():
    now_s = [0.0]
    bodies = BodyBudget(100, clock=lambda: now_s[0])

    def retry_after_s():
        with pytest.raises(ServerBusy) as refused:
            bodies.take(50)
        return refused.value.retry_after_s

    bodies.take(100)
    found = [retry_after_s()]
    now_s[0] = 2.0
    bodies.give_back(100)
    bodies.take(100)
    found += [retry_after_s(), retry_after_s()]
    now_s[0] = 1_000.0
    bodies.give_back(100)
    bodies.take(100)
    found += [retry_after_s(), retry_after_s()]

    assert found == [1, 3, 4, 30, 30]


def test_time_without_a_request_says_nothing_of_how_fast_requests_end():
    now_s = [0.0]
    bodies = BodyBudget(100, clock=lambda: now_s[0])
    for idle_s in (0, 500, 500):
        now_s[0] += idle_s
        bodies.take(100)
        now_s[0] += 0.8
        bodies.give_back(100)

    now_s[0] += 500
    bodies.take(100)
    with pytest.raises(ServerBusy) as refused:
        bodies.take(100)

    assert refused.value.retry_after_s == 2


def test_a_model_of_tensors_takes_no_longer_body_than_its_input_needs():
    model = Bundle.from_description(numbers("float32"))
    limits = Limits(body_bytes=50 << 20, items=64)

    found = limits_of(model, limits).body_bytes

    assert json_limit(model, limits) < found < 64 << 10
    assert limits_of(model, Limits(body_bytes=100, items=64)).body_bytes == 100
    assert limits_of(model, limits).body_bytes == found


@pytest.mark.parametrize("document", [description(), custom()])
def test_a_model_that_takes_files_takes_what_the_operator_and_its_bundle_allow(document):
    limits = Limits(body_bytes=50 << 20, items=64)

    assert limits_of(Bundle.from_description(document), limits).body_bytes == 50 << 20

    small = Bundle.from_description({**document, "request": {"max_bytes": 1000}})
    assert limits_of(small, limits).body_bytes == 1000
