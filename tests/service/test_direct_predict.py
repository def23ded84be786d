"""/v1 without Falcon: predictions of what is no file, from the cache or computed, as Falcon's route gives them."""

import asyncio
import gzip
import json
import re
import struct

import pytest
import uvloop
from bedplate.errors import DeadlineExceeded, EngineBusy, UnknownModel
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings
from bedplate.wire import Frame, Type

from tests.service.conftest import API_KEY
from tests.service.direct_tools import left_to_the_collector, parsed, request_of, sent, served, whole_answer
from tests.service.lamp import DIGEST, ROW, FakeEngines, png_of, tabular
from tests.service.scripted_engines import draining, run, silence, vanish

PREDICT = "/v1/models/lamp/predict"
KEY = {"Authorization": f"Bearer {API_KEY}"}
JSON = {**KEY, "Content-Type": "application/json"}
ITEM = [[[1, 1], [1, 0.5]]]
PLAIN = json.dumps({"inputs": ITEM}).encode()
RAW = struct.pack("<4f", 1, 1, 1, 0)
# What a way took of its own: the only thing in which the two may differ.
DECODE = re.compile(rb"decode;dur=[0-9.]+")
LINE = ("model", "version", "status", "problem", "items", "request_id", "bytes_in", "queue_ms", "compute_ms", "cache")


class Way:
    """An application of its own, so that neither way finds in its cache what the other computed."""

    def __init__(self, keys, is_direct, engines=None, **settings):
        self.engines = engines or FakeEngines()
        self.metrics = WebMetrics()
        self.app = create_app(WebSettings(engines=(), **settings), self.engines, keys, self.metrics)
        self.taken = []
        self._is_direct = is_direct

    def _direct(self, exchange):
        self.taken.append(self._is_direct and self.app.direct(exchange))
        return self.taken[-1]

    def ask(self, body=PLAIN, headers=JSON, path=PREDICT, method="POST"):
        answer = uvloop.run(sent(self.app, self._direct, request_of(body, path, headers, method)))
        status, fields, found = parsed(answer, (b"date",))
        return status, [(name, DECODE.sub(b"decode", value)) for name, value in fields], found

    def figures(self):
        """All that is counted, but for times."""
        samples = (sample for family in self.metrics.registry.collect() for sample in family.samples)
        ours = (sample for sample in samples if sample.name.startswith("bedplate_") and sample.name.endswith("_total"))
        return sorted((sample.name, sorted(sample.labels.items()), sample.value) for sample in ours)

    def counted(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def both(keys):
    """both(...) → Falcon's way and the direct one, alike in all else."""

    def make(engines=FakeEngines, **settings):
        return Way(keys, False, engines(), **settings), Way(keys, True, engines(), **settings)

    return make


@pytest.mark.parametrize("ttl_s", [0, 60])
@pytest.mark.parametrize(
    ("body", "headers", "path"),
    [
        (PLAIN, JSON, PREDICT),
        (PLAIN, {**KEY, "Content-Type": "Application/JSON; charset=UTF-8"}, PREDICT),
        (PLAIN, {"X-API-Key": API_KEY, "Content-Type": "application/json"}, PREDICT),
        (PLAIN, JSON, "/v1/models/lamp/versions/1/predict"),
        (PLAIN, JSON, "/v1/models/lamp/versions/default/predict"),
        (PLAIN, JSON, f"{PREDICT}?x=y"),
        (PLAIN, {**JSON, "Accept-Encoding": "gzip"}, PREDICT),
        (PLAIN, {**JSON, "X-Request-Timeout-Ms": "5000", "X-Request-Priority": "batch"}, PREDICT),
        (PLAIN, {**JSON, "Cache-Control": "no-cache"}, PREDICT),
        (json.dumps({"inputs": [ITEM, ITEM]}).encode(), JSON, PREDICT),
        (b'{"inputs": [[[-0, 1e-40], [123456789123456789123, 0.1]]]}', JSON, PREDICT),
        (b"\xef\xbb\xbf" + PLAIN, JSON, PREDICT),
        (RAW, {**KEY, "Content-Type": "application/octet-stream"}, PREDICT),
    ],
)
def test_what_is_no_file_is_answered_directly_and_as_falcon_does(both, caplog, body, headers, path, ttl_s):
    caplog.set_level("INFO", logger="bedplate.performance")
    ways = both(cache_ttl_s=ttl_s)

    # The second time from the cache, where there is one and the client does not mind.
    theirs, ours = ([way.ask(body, headers, path) for _ in range(2)] for way in ways)

    assert ways[1].taken == [True, True]
    assert ours == theirs
    assert [answer[0].split()[1] for answer in ours] == [b"200"] * 2
    assert ways[1].figures() == ways[0].figures()
    told = [record for record in caplog.records if record.name == "bedplate.performance"]
    lines = [{key: vars(record)[key] for key in LINE} for record in told]
    assert lines[:2] == lines[2:]
    options = [
        [(each.priority, each.engine_deadline_ns < each.deadline_ns) for each in way.engines.options] for way in ways
    ]
    assert options[1] == options[0]
    assert [items.tolist() for items in ways[1].engines.asked] == [items.tolist() for items in ways[0].engines.asked]


@pytest.mark.parametrize("document", [{"inputs": [ROW]}, {"inputs": [{**ROW, "age": 200}]}])
def test_rows_of_a_table_are_answered_directly_unless_they_are_wrong(both, document):
    ways = both(lambda: FakeEngines(**tabular()))

    theirs, ours = (way.ask(json.dumps(document).encode()) for way in ways)

    assert ours == theirs
    assert ways[1].taken == [ours[0].split()[1] == b"200"]


@pytest.mark.parametrize(
    ("body", "headers", "path", "method"),
    [
        (PLAIN, {"Content-Type": "application/json"}, PREDICT, "POST"),
        (PLAIN, {**JSON, "Authorization": "Bearer bp_wrong"}, PREDICT, "POST"),
        (PLAIN, JSON, "/v1/models/nobody/predict", "POST"),
        (PLAIN, JSON, "/v1/models/lamp/versions/9/predict", "POST"),
        (PLAIN, JSON, "/v1/models/lamp/infer", "POST"),
        (PLAIN, JSON, PREDICT, "PUT"),
        (b"{", JSON, PREDICT, "POST"),
        (b"", JSON, PREDICT, "POST"),
        (b'{"inputs": [[[1, 1], [1, NaN]]]}', JSON, PREDICT, "POST"),
        (b'{"inputs": [[[1, 1], [1, 1e39]]]}', JSON, PREDICT, "POST"),
        (b'{"inputs": [[[1, 1], [1, true]]]}', JSON, PREDICT, "POST"),
        (b'{"inputs": [[[1, 1], [1]]]}', JSON, PREDICT, "POST"),
        (b'{"inputs": [[[1, 1], 1]]}', JSON, PREDICT, "POST"),
        (b'{"inputs": [[[1, 1], [1, "1"]]]}', JSON, PREDICT, "POST"),
        (b'{"inputs": []}', JSON, PREDICT, "POST"),
        (b'{"inputs": [[1, 1, 1, 1]]}', JSON, PREDICT, "POST"),
        (json.dumps({"inputs": [ITEM] * 9}).encode(), JSON, PREDICT, "POST"),
        (PLAIN, KEY, PREDICT, "POST"),
        (PLAIN, {**JSON, "Content-Type": "application/json; charset=latin-1"}, PREDICT, "POST"),
        (gzip.compress(PLAIN, mtime=0), {**JSON, "Content-Encoding": "gzip"}, PREDICT, "POST"),
        (PLAIN, {**JSON, "X-Request-Timeout-Ms": "never"}, PREDICT, "POST"),
        (RAW[:-1], {**KEY, "Content-Type": "application/octet-stream"}, PREDICT, "POST"),
    ],
)
def test_what_is_odd_is_left_to_falcon(both, body, headers, path, method):
    ways = both()

    theirs, ours = (way.ask(body, headers, path, method) for way in ways)

    assert ours == theirs
    assert ways[1].taken == [False]
    assert ways[1].figures() == ways[0].figures()
    assert ways[1].counted("bedplate_requests_in_flight") == 0


def test_a_picture_is_left_to_falcon_and_its_decoders(both):
    ways = both(decoders=())

    theirs, ours = (way.ask(png_of([[0, 0], [0, 0]]), {**KEY, "Content-Type": "image/png"}) for way in ways)

    assert ours == theirs
    assert ways[1].taken == [False]


@pytest.mark.parametrize("error", [EngineBusy("busy", retry_after_s=3), DeadlineExceeded("late")])
def test_what_an_engine_refuses_is_told_and_counted_as_falcon_does_and_not_kept(both, error):
    ways = both()
    for way in ways:
        way.engines.error = error

    theirs, ours = ([way.ask() for _ in range(2)] for way in ways)

    assert ways[1].taken == [True, True]
    assert ours == theirs
    assert ways[1].figures() == ways[0].figures()
    assert ways[1].counted("bedplate_errors_total", type=error.code) == 2


class Vanishing(FakeEngines):
    """Every first attempt finds its version gone."""

    def __init__(self):
        super().__init__()
        self.attempts = []

    def frame(self, meta, tensors, options):
        self.attempts.append(options)
        if len(self.attempts) % 2:
            raise UnknownModel("unloaded")
        return super().frame(meta, tensors, options)


@pytest.mark.parametrize("ttl_s", [0, 60])
def test_a_version_that_is_gone_by_then_is_looked_up_once_more(both, ttl_s):
    ways = both(Vanishing, cache_ttl_s=ttl_s)
    headers = {**JSON, "X-Request-Timeout-Ms": "5000", "X-Request-Priority": "batch"}

    theirs, ours = (way.ask(headers=headers) for way in ways)

    assert ways[1].taken == [True]
    assert ours == theirs
    assert ours[0].split()[1] == b"200"
    assert ways[1].figures() == ways[0].figures()
    for way in ways:
        first, second = way.engines.attempts
        assert (first.deadline_ns, first.priority) == (second.deadline_ns, second.priority)
        assert way.counted("bedplate_engine_retries_total", reason="stale") == 1


def test_who_names_a_version_that_is_gone_by_then_is_told_so_and_asked_once(both):
    ways = both(Vanishing)

    theirs, ours = (way.ask(path="/v1/models/lamp/versions/1/predict") for way in ways)

    assert (ours, ways[1].taken) == (theirs, [True])
    assert ours[0].split()[1] == b"404"
    assert [len(way.engines.attempts) for way in ways] == [1, 1]


def test_a_bundle_of_other_content_than_described_is_answered_and_not_kept(both):
    ways = both()
    for way in ways:
        way.engines.digest = "e" * 64

    theirs, ours = ([way.ask() for _ in range(2)] for way in ways)

    assert ours == theirs
    assert len(ways[1].engines.asked) == 2


def test_what_one_way_keeps_the_other_finds(keys):
    way = Way(keys, True)
    way.ask()
    way._is_direct = False

    _, fields, _ = way.ask()

    assert dict(fields)[b"cache-status"] == b"bedplate; hit; detail=memory"


async def logits(peer, frame):
    items = frame.meta["inputs"][0]["shape"][0]
    outputs = {"outputs": [{"name": "logits", "dtype": "float32", "shape": [items, 2]}]}
    times = {"queue_ns": 1, "batch_ns": 1, "compute_ns": items, "batch_items": items, "digest": DIGEST}
    peer.send(Frame(Type.RESULT, frame.id, {"model": "lamp", "version": "1", **outputs, **times}, bytes(8 * items)))


class Held:
    """An engine that answers what it was asked once it is let go, by `then`."""

    def __init__(self, then=logits):
        self.then = then
        self.asked = []

    async def __call__(self, peer, frame):
        self.asked.append((peer, frame))

    async def let_go(self):
        for peer, frame in self.asked:
            await self.then(peer, frame)

    @property
    def kinds(self):
        return [frame.type for frame in self.asked[0][0].seen]


class Clients:
    """Connections to one application that send the same request."""

    def __init__(self, address):
        self._address = address
        self.all = []

    async def ask(self, timeout_ms=8000):
        reader, writer = await asyncio.open_connection(*self._address)
        writer.write(request_of(PLAIN, PREDICT, {**JSON, "X-Request-Timeout-Ms": str(timeout_ms)}))
        self.all.append((reader, writer))

    async def answers(self):
        return [await whole_answer(reader) for reader, writer in self.all if not writer.is_closing()]

    def leave(self, number):
        self.all[number][1].close()

    def close(self):
        for _, writer in self.all:
            writer.close()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def together(tmp_path, engines, act):
    """What `act(clients, waiting)` gives, with an application before `engines`.

    waiting(n) returns once n requests wait for the same answer.
    """
    found = []

    async def check(pool, peers):
        metrics = WebMetrics()
        app = create_app(
            WebSettings(engines=(), cache_shared_min_ms=0), pool, ApiKeys.read(tmp_path / "api-keys"), metrics
        )
        await pool.served()

        flights = app.direct._handlers["predict"].cache._flights

        async def waiting(count):
            await until(lambda: sum(flight.waiting for flight in flights._by_key.values()) == count)

        async with served(app, app.direct) as address:
            clients = Clients(address)
            found.append(await act(clients, waiting))
            clients.close()
            await until(lambda: metrics.in_flight == 0)
        found.append(metrics.registry)

    run(tmp_path, engines, check)
    return found


async def two_ask_and_the_first_leaves(engine, clients, waiting):
    """For the same, after the engine was asked for the first."""
    await clients.ask()
    await until(lambda: engine.asked)
    await clients.ask()
    await waiting(2)
    clients.leave(0)
    await waiting(1)


def test_the_same_at_the_same_time_is_computed_once_for_both_ways(tmp_path, keys):
    engine = Held()

    async def act(clients, waiting):
        for _ in range(3):
            await clients.ask()
        await waiting(3)
        await until(lambda: engine.asked)
        await engine.let_go()
        return await clients.answers()

    answers, metrics = together(tmp_path, [engine], act)

    assert len(engine.asked) == 1
    collapsed = [b"collapsed" in head for head, _ in answers]
    assert sorted(collapsed) == [False, True, True]
    assert metrics.get_sample_value("bedplate_cache_requests_total", {"result": "miss"}) == 3


def test_the_first_who_leaves_takes_nobody_along(tmp_path, keys):
    engine = Held()

    async def act(clients, waiting):
        await two_ask_and_the_first_leaves(engine, clients, waiting)
        await engine.let_go()
        return await clients.answers()

    [(head, _)], _ = together(tmp_path, [engine], act)

    assert head.split()[1] == b"200"
    assert len(engine.asked) == 1
    assert Type.CANCEL not in engine.kinds


def test_the_engine_is_told_once_the_last_has_left(tmp_path, keys):
    engine = Held()

    async def act(clients, waiting):
        await two_ask_and_the_first_leaves(engine, clients, waiting)
        clients.leave(1)
        await waiting(0)
        await until(lambda: Type.CANCEL in engine.kinds)

    _, metrics = together(tmp_path, [engine], act)

    assert metrics.get_sample_value("bedplate_cancelled_total", {"stage": "engine"}) == 1


def test_the_engine_is_told_when_the_only_one_leaves(tmp_path, keys):
    engine = Held()

    async def act(clients, waiting):
        await clients.ask()
        await until(lambda: engine.asked)
        clients.leave(0)
        await until(lambda: Type.CANCEL in engine.kinds)

    _, metrics = together(tmp_path, [engine], act)

    assert metrics.get_sample_value("bedplate_cancelled_total", {"stage": "engine"}) == 1


@pytest.mark.parametrize("fault", [vanish, draining])
def test_an_engine_that_is_lost_costs_none_of_them_an_answer_and_is_asked_once_more(tmp_path, keys, fault):
    first, second = Held(fault), Held()

    async def act(clients, waiting):
        await clients.ask()
        await until(lambda: first.asked)
        await clients.ask()
        await waiting(2)
        await first.let_go()
        await until(lambda: second.asked)
        await second.let_go()
        return await clients.answers()

    answers, _ = together(tmp_path, [first, second], act)

    assert [head.split()[1] for head, _ in answers] == [b"200"] * 2
    assert len(second.asked) == 1


def test_who_waits_for_one_with_less_time_is_answered_all_the_same(tmp_path, keys):
    engine = Held()

    async def act(clients, waiting):
        await clients.ask(timeout_ms=300)
        await until(lambda: engine.asked)
        await clients.ask()
        await waiting(2)
        await until(lambda: len(engine.asked) == 2)  # the first has given up
        await engine.let_go()
        return await clients.answers()

    answers, _ = together(tmp_path, [engine], act)

    assert [head.split()[1] for head, _ in answers] == [b"504", b"200"]


async def of_another_version(peer, frame):
    outputs = {"outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 2]}]}
    times = {"queue_ns": 1, "batch_ns": 1, "compute_ns": 1, "batch_items": 1, "digest": DIGEST}
    peer.send(Frame(Type.RESULT, frame.id, {"model": "lamp", "version": "9", **outputs, **times}, bytes(8)))


def test_an_answer_that_cannot_be_told_to_the_first_keeps_nobody_waiting(tmp_path, keys):
    engine = Held(of_another_version)

    async def act(clients, waiting):
        for _ in range(2):
            await clients.ask()
        await waiting(2)
        await engine.let_go()
        await until(lambda: len(engine.asked) == 2)  # the other asks for itself
        engine.then = logits
        await engine.let_go()
        return await clients.answers()

    answers, _ = together(tmp_path, [engine], act)

    assert sorted(head.split()[1] for head, _ in answers) == [b"200", b"500"]


def test_silence_ends_with_the_deadline(tmp_path, keys):
    async def act(clients, waiting):
        await clients.ask(timeout_ms=200)
        return await clients.answers()

    [(head, _)], _ = together(tmp_path, [silence], act)

    assert head.split()[1] == b"504"


@pytest.mark.parametrize("ttl_s", [0, 60])
def test_what_was_answered_leaves_nothing_to_the_collector(tmp_path, keys, ttl_s):
    """Or its rounds, each of tens of milliseconds, would hold up whoever waits then."""
    found = []

    async def check(pool, peers):
        app = create_app(WebSettings((), cache_ttl_s=ttl_s, cache_memory_bytes=0), pool, keys, WebMetrics())
        await pool.served()

        requests = [request_of(PLAIN + b" " * number, PREDICT, JSON) for number in range(4)]
        found.append(await left_to_the_collector(app, app.direct, requests))

    run(tmp_path, [logits], check)
    assert found == [set()]
