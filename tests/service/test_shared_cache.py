"""Redis as second tier, and as trouble: away, silent, slow, killed, wrong. Answers stay right and in time."""

import asyncio
import contextlib
import functools
import json
import signal
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import redis
import uvloop
from bedplate.web.cache.response import ResponseCache
from bedplate.web.cache.shared import MAX_VALUE_BYTES, PREFIX, SharedCache, _unpack
from bedplate.web.items.limits import Limits
from bedplate.web.options import within
from bedplate.web.predictor import Predictor

from tests.service.lamp import FakeEngines
from tests.service.redis_tools import PASSWORD, PrivateRedis, Proxy

TIMEOUT_S = 0.05
# What a request may take that is not to wait for Redis; 1 ms is usual, the rest is for a busy machine.
QUICK_S = 0.03
LIMITS = Limits(body_bytes=8192, items=64)
RAW = "application/octet-stream"


@pytest.fixture
def server(tmp_path):
    server = PrivateRedis(tmp_path)
    server.start()
    yield server
    server.kill()


class Bench:
    """One web's cache, before engines of its own."""

    def __init__(self, decoders, socket, password=PASSWORD, shared_min_ms=0.0):
        self.errors = []
        self.lookups = []
        self.engines = FakeEngines()
        self.shared = SharedCache(socket, password, 60, TIMEOUT_S, self.errors.append)
        predictor = Predictor(self.engines, decoders, LIMITS)
        self.cache = ResponseCache(predictor, LIMITS, 60, 1 << 20, self.shared, shared_min_ms, self.lookups.append)
        self._asked = 0

    async def ask(self, body=None):
        """One prediction, of an item never seen before if no other is given; checked. Seconds it took."""
        if body is None:
            self._asked += 1
            body = item(self._asked)
        model = await self.engines.model("lamp")
        began = time.perf_counter()
        answer = await self.cache.predict(model, RAW, body, within(5))
        took_s = time.perf_counter() - began
        assert answer.prediction.predictions[0]["label"] == "bright"
        return took_s

    async def asked(self, count):
        return [await self.ask() for _ in range(count)]


def item(number):
    """A bright one, and different for each number, as a raw tensor: what decoding takes is not of interest here."""
    return np.array([1, 1, 1, 1 - number / 10_000], np.float32).tobytes()


@contextlib.asynccontextmanager
async def _running(decoders, *arguments, wait=True, **settings):
    bench = Bench(decoders, *arguments, **settings)
    await bench.shared.process_startup({}, {})
    try:
        if wait:
            await until(lambda: bench.cache.available)
        yield bench
    finally:
        await bench.shared.process_shutdown({}, {})


@pytest.fixture
def running(decoders):
    return functools.partial(_running, decoders)


async def until(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        await asyncio.sleep(0.005)


def stored(server):
    return {key: server.admin.get(key) for key in server.admin.scan_iter()}


def test_what_one_web_computed_another_does_not(running, server):
    async def scenario():
        async with running(server.socket) as one, running(server.socket) as other:
            await one.ask(item(1))
            await until(lambda: stored(server))
            await other.ask(item(1))
            await other.ask(item(1))
            return one, other

    one, other = uvloop.run(scenario())

    assert (one.lookups, other.lookups) == (["miss"], ["shared", "memory"])
    assert other.engines.asked == []
    assert one.errors + other.errors == []


def test_what_is_kept_is_json_under_our_prefix_and_ends(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await bench.ask()
            await until(lambda: stored(server))

    uvloop.run(scenario())

    [(key, value)] = stored(server).items()
    assert key.startswith(PREFIX.encode())
    assert json.loads(value).keys() == {"model", "version", "predictions"}
    assert 0 < server.admin.ttl(key) <= 60


def test_a_text_may_have_a_time_of_its_own(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            bench.shared.put("short", b"{}", 30)
            await until(lambda: stored(server))

    uvloop.run(scenario())

    [key] = stored(server)
    assert 0 < server.admin.ttl(key) <= 30


def test_large_texts_are_compressed(running, server):
    text = json.dumps({"text": "x" * 5000}).encode()

    async def scenario():
        async with running(server.socket) as bench:
            bench.shared.put("large", text)
            await until(lambda: stored(server))
            return await bench.shared.get("large")

    assert uvloop.run(scenario()) == text
    [value] = stored(server).values()
    assert len(value) < 100


def test_texts_without_end_are_not_kept(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            bench.shared.put("huge", b"{" * 300_000)
            bench.shared.put("small", b"{}")
            await until(lambda: stored(server))

    uvloop.run(scenario())

    assert list(stored(server)) == [f"{PREFIX}small".encode()]


def test_a_small_value_cannot_fill_the_memory():
    bomb = zlib.compress(bytes(50_000_000))

    tracemalloc.start()
    with pytest.raises(ValueError, match="too large"):
        _unpack(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * MAX_VALUE_BYTES


PREDICTION = {"label": "bright", "score": 0.9, "scores": {"bright": 0.9}}


def document(**changes):
    return json.dumps({"model": "lamp", "version": "1", "predictions": [PREDICTION], **changes}).encode()


GARBAGE = {
    "nothing": b"",
    "a pickle": b"\x80\x04\x95\x10\x00.",
    "no JSON": b"{not json",
    "no object": zlib.compress(b"[1]"),
    "of another model": document(model="other"),
    "of another version": document(version="2"),
    "no list": document(predictions={"label": "dark"}),
    "no prediction": document(predictions=[]),
    "a field too many": document(predictions=[{**PREDICTION, "note": "x"}]),
    "no number": document(predictions=[{**PREDICTION, "score": float("nan")}]),
    "text for a number": document(predictions=[{**PREDICTION, "score": "0.9"}]),
    "more than a number": document(predictions=[{**PREDICTION, "score": 1e999}]),
    "a label that the model lacks": document(predictions=[{**PREDICTION, "label": "purple"}]),
    "a score for a label that the model lacks": document(predictions=[{**PREDICTION, "scores": {"purple": 0.9}}]),
    "text for a score": document(predictions=[{**PREDICTION, "scores": {"dark": "0.9"}}]),
    "deep": b'{"a":' * 100_000,
    "cut off": zlib.compress(document() * 100)[:40],
    "a bomb": zlib.compress(bytes(50_000_000)),
}


@pytest.mark.parametrize("value", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_stored_value_that_is_not_ours_is_a_miss_and_goes(running, server, value):
    async def scenario():
        async with running(server.socket) as bench:
            model = await bench.engines.model("lamp")
            key = await bench.cache._key(model, RAW, item(1))
            server.admin.set(PREFIX + key, value)
            await bench.ask(item(1))
            await until(lambda: stored(server).get((PREFIX + key).encode(), b"").startswith(b'{"model":"lamp"'))
            return bench

    bench = uvloop.run(scenario())

    assert (bench.lookups, bench.errors) == (["miss"], ["value"])
    assert len(bench.engines.asked) == 1


def test_an_engine_faster_than_redis_is_not_shared(running, server):
    async def scenario():
        async with running(server.socket, shared_min_ms=5.0) as bench:
            await bench.asked(3)
            await asyncio.sleep(0.05)
            return server.admin.info("commandstats")

    calls = uvloop.run(scenario())

    # How fast the engine is nobody knew at the first request.
    assert calls["cmdstat_get"]["calls"] == 1
    assert "cmdstat_set" not in calls


def test_a_redis_that_is_not_there_costs_no_request_anything(running, tmp_path):
    async def scenario():
        async with running(tmp_path / "nothing.sock", wait=False) as bench:
            return await bench.asked(20), bench

    took_s, bench = uvloop.run(scenario())

    assert sorted(took_s)[-2] < QUICK_S
    assert bench.errors == ["connection"]  # of the probe
    assert not bench.cache.available


def test_a_wrong_password_costs_no_request_anything(running, server):
    async def scenario():
        async with running(server.socket, "wrong", wait=False) as bench:
            await until(lambda: bench.errors)
            return await bench.asked(20), bench

    took_s, bench = uvloop.run(scenario())

    assert sorted(took_s)[-2] < QUICK_S
    assert bench.errors == ["authentication"]
    assert not bench.cache.available


def check_onset_and_return(took_s, bench):
    """Five failures in a row open the circuit, so no more than five requests felt anything, and none much."""
    assert max(took_s) < 2 * TIMEOUT_S + QUICK_S
    assert sum(second > TIMEOUT_S * 0.9 for second in took_s) <= 5
    assert sorted(took_s[8:])[-2] < QUICK_S


def test_a_redis_that_falls_silent_is_left_alone_until_it_speaks_again(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await bench.asked(3)
            server.send(signal.SIGSTOP)
            took_s = await bench.asked(40)
            failed_at_onset = bench.errors.count("timeout")
            away = bench.cache.available
            server.send(signal.SIGCONT)
            await until(lambda: bench.cache.available)
            await bench.asked(3)
            return took_s, bench, failed_at_onset, away

    took_s, bench, failed_at_onset, available = uvloop.run(scenario())

    check_onset_and_return(took_s, bench)
    assert not available
    assert 5 <= failed_at_onset <= 7  # the requests, a write, a probe
    assert set(bench.errors) == {"timeout"}


def test_a_redis_two_seconds_away_is_left_alone_until_it_is_near_again(running, server, tmp_path):
    async def scenario():
        async with Proxy(tmp_path / "proxy.sock", server.socket) as proxy, running(proxy.socket) as bench:
            await bench.asked(3)
            proxy.delay_s = 2.0
            took_s = await bench.asked(40)
            connections = proxy.connections
            await bench.asked(40)
            quiet = proxy.connections - connections
            proxy.delay_s = 0.0
            await until(lambda: bench.cache.available)
            return took_s, bench, quiet

    took_s, bench, connections_while_open = uvloop.run(scenario())

    check_onset_and_return(took_s, bench)
    assert connections_while_open <= 1  # a probe's


def test_a_redis_that_is_killed_and_comes_back_is_used_again(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await bench.asked(3)
            server.kill()
            took_s = await bench.asked(40)
            server.start()
            await until(lambda: bench.cache.available)
            await bench.ask(item(3000))
            await until(lambda: stored(server))
            return took_s, bench

    took_s, bench = uvloop.run(scenario())

    check_onset_and_return(took_s, bench)
    assert set(bench.errors) == {"connection"}


def test_a_redis_that_was_restarted_between_two_requests_is_felt_by_none(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await bench.asked(3)
            await asyncio.sleep(0.02)
            server.kill()
            server.start()
            await bench.asked(3)
            return bench

    assert uvloop.run(scenario()).errors == []


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b":abc\r\n", b"$abc\r\n", b""])
@pytest.mark.parametrize("to_the_password", [b"", b"+OK\r\n"])
def test_a_server_that_is_no_redis_is_left_alone(running, tmp_path, said, to_the_password):
    async def answer(reader, writer):
        if to_the_password:
            await reader.read(100)
            writer.write(to_the_password)
        await reader.read(100)
        writer.write(said)
        writer.close()

    async def scenario():
        listener = await asyncio.start_unix_server(answer, str(tmp_path / "other.sock"))
        async with running(tmp_path / "other.sock", wait=False) as bench:
            await until(lambda: bench.errors)
            took_s = await bench.asked(5)
            listener.close()
            return bench, took_s

    bench, took_s = uvloop.run(scenario())

    assert bench.errors == ["connection"]
    assert sorted(took_s)[-2] < QUICK_S


def test_writes_that_redis_cannot_take_are_dropped_and_nobody_waits(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            server.send(signal.SIGSTOP)
            began = time.perf_counter()
            for number in range(300):
                bench.shared.put(str(number), b"{}")
            return time.perf_counter() - began, bench.errors.copy()

    took_s, errors = uvloop.run(scenario())

    assert errors == ["dropped"] * (300 - 256)
    assert took_s < QUICK_S


def test_more_readers_than_connections_do_without(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await asyncio.gather(*(bench.ask(item(number)) for number in range(50)))
            return bench

    bench = uvloop.run(scenario())

    assert bench.lookups == ["miss"] * 50
    # On a busy machine some take too long, as if Redis were away.
    assert "busy" in bench.errors
    assert set(bench.errors) <= {"busy", "timeout"}


def test_a_stop_waits_for_no_silent_redis(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await bench.asked(3)
            server.send(signal.SIGSTOP)
            began = time.perf_counter()
        return time.perf_counter() - began

    assert uvloop.run(scenario()) < 1


def test_the_users_rights_are_enough_and_no_more(running, server):
    async def scenario():
        async with running(server.socket) as bench:
            await bench.ask()
            bench.shared.discard("x")
            await until(lambda: stored(server))
            return bench

    assert uvloop.run(scenario()).errors == ["value"]
    with contextlib.closing(server.client("bedplate-web")) as web:
        with pytest.raises(redis.exceptions.NoPermissionError):
            web.get("other:key")
        with pytest.raises(redis.exceptions.NoPermissionError):
            web.flushall()
