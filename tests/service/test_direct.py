"""What is answered without Falcon is answered as Falcon answers it, and what is odd is left to it."""

import asyncio
import contextlib
import json
import struct

import pytest
import uvloop
from bedplate.errors import DeadlineExceeded, EngineBusy, ServerBusy, UnknownModel
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings
from bedplate.wire import Frame, Type

from tests.service.conftest import API_KEY
from tests.service.direct_tools import left_to_the_collector, no_direct, parsed, request_of, sent
from tests.service.lamp import DIGEST, FakeEngines
from tests.service.scripted_engines import draining, garbage, run, silence, vanish, vanish_in_the_middle

PLAIN = json.dumps(
    {"inputs": [{"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 1, 1, 0.5]}]}
).encode()
INFER = "/v2/models/lamp/infer"
KEY = {"Authorization": f"Bearer {API_KEY}"}


@pytest.fixture
def engines():
    return FakeEngines()


@pytest.fixture
def app(engines, keys, metrics):
    return create_app(WebSettings(engines=()), engines, keys, metrics)


@pytest.fixture
def ask(app):
    """ask(...) → what Falcon answers, and what is answered where direct answers are allowed; whether one was."""
    taken = []

    def direct(exchange):
        taken.append(app.direct(exchange))
        return taken[-1]

    def make(body=PLAIN, path=INFER, headers=KEY, method="POST", ignore=(b"date",)):
        request = request_of(body, path, headers, method)
        taken.clear()
        answers = [parsed(uvloop.run(sent(app, with_direct, request)), ignore) for with_direct in (no_direct, direct)]
        return *answers, taken == [True]

    return make


@pytest.fixture
def rule(app):
    """A check that refuses whoever names a forbidden animal; the requests that it was asked about."""
    asked_about = []

    def check(request):
        asked_about.append(request)
        if request.header("X-Animal") == "crocodile":
            raise ServerBusy("no crocodiles", retry_after_s=1)

    app.checks.append(check)
    return asked_about


@pytest.mark.parametrize("animal", ["crocodile", "duck"])
@pytest.mark.parametrize(
    "path", [INFER, "/v2/models/lamp/versions/1/infer", "/v1/models/lamp/predict", "/v1/models", "/v2", "/nowhere"]
)
def test_a_check_that_is_added_is_made_once_for_each_request_of_either_way(ask, rule, path, animal):
    theirs, ours, _ = ask(path=path, headers={**KEY, "X-Animal": animal})

    assert ours == theirs
    assert (ours[0].split()[1] == b"429") == (animal == "crocodile")
    assert [(request.path, request.client) for request in rule] == [(path, "tests")] * 2


def test_a_check_holds_for_what_is_answered_directly(ask, rule):
    *_, was_direct = ask(headers={**KEY, "X-Animal": "duck"})
    *_, refused_directly = ask(headers={**KEY, "X-Animal": "crocodile"})

    assert (was_direct, refused_directly) == (True, False)


def binary(output_is_binary=True):
    text = json.dumps(
        {
            "id": "7",
            "inputs": [
                {
                    "name": "image",
                    "shape": [1, 1, 2, 2],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 16},
                }
            ],
            "parameters": {"binary_data_output": output_is_binary},
        }
    ).encode()
    return text + struct.pack("<4f", 1, 1, 1, 0), {**KEY, "Inference-Header-Content-Length": str(len(text))}


@pytest.mark.parametrize(
    ("body", "headers", "path"),
    [
        (PLAIN, KEY, INFER),
        (PLAIN, {"X-API-Key": API_KEY}, INFER),
        (PLAIN, KEY, "/v2/models/lamp/versions/1/infer"),
        (PLAIN, KEY, "/v2/models/lamp/versions/default/infer"),
        (PLAIN, KEY, f"{INFER}?x=y"),
        (PLAIN, KEY, "/v2/models/l%61mp/infer"),
        (PLAIN, {**KEY, "Accept-Encoding": "gzip"}, INFER),
        (PLAIN, {**KEY, "X-Request-Timeout-Ms": "50", "X-Request-Priority": "batch"}, INFER),
        (*binary(), INFER),
        (*binary(output_is_binary=False), INFER),
    ],
)
def test_a_plain_request_is_answered_directly_and_as_falcon_does(ask, engines, body, headers, path):
    theirs, ours, was_direct = ask(body, path, headers)

    assert was_direct
    assert ours == theirs
    assert ours[0].split()[1] == b"200"
    assert engines.options[0].priority == engines.options[1].priority


def test_a_large_answer_is_compressed_as_falcon_does(ask):
    body = json.dumps({**json.loads(PLAIN), "id": "x" * 2000}).encode()

    theirs, ours, was_direct = ask(body, headers={**KEY, "Accept-Encoding": "gzip"})

    assert (was_direct, ours) == (True, theirs)
    assert (b"content-encoding", b"gzip") in ours[1]


@pytest.mark.parametrize("error", [EngineBusy("busy", retry_after_s=3), DeadlineExceeded("late")])
def test_what_an_engine_refuses_is_told_as_falcon_tells_it(ask, engines, error, metrics):
    engines.error = error

    theirs, ours, was_direct = ask()

    assert was_direct
    assert ours == theirs
    assert metrics.registry.get_sample_value("bedplate_errors_total", {"type": error.code}) == 2


@pytest.mark.parametrize(
    ("body", "headers", "path", "method"),
    [
        (PLAIN, {}, INFER, "POST"),
        (PLAIN, {"Authorization": "Bearer bp_wrong"}, INFER, "POST"),
        (PLAIN, KEY, "/v2/models/nobody/infer", "POST"),
        (PLAIN, KEY, "/v2/models/lamp/versions/9/infer", "POST"),
        (PLAIN, KEY, INFER, "PUT"),
        (b"{", KEY, INFER, "POST"),
        (b"", KEY, INFER, "POST"),
        (PLAIN, {**KEY, "Content-Encoding": "gzip"}, INFER, "POST"),
        (PLAIN, {**KEY, "X-Request-Timeout-Ms": "never"}, INFER, "POST"),
        (PLAIN, {**KEY, "Inference-Header-Content-Length": "x"}, INFER, "POST"),
        (PLAIN, KEY, "/v1/models/lamp/predict", "POST"),
    ],
)
def test_what_is_odd_is_left_to_falcon(ask, engines, body, headers, path, method):
    theirs, ours, was_direct = ask(body, path, headers, method)

    assert ours == theirs
    assert not was_direct


@pytest.fixture
def vanishing(engines):
    """Every first attempt finds its version gone; the options of all attempts."""
    frame, options_seen = engines.frame, []

    def gone_at_first(meta, tensors, options):
        options_seen.append(options)
        if len(options_seen) % 2:
            raise UnknownModel("unloaded")
        return frame(meta, tensors, options)

    engines.frame = gone_at_first
    return options_seen


def test_a_version_that_is_gone_by_then_is_looked_up_once_more(ask, vanishing, metrics):
    theirs, ours, was_direct = ask()

    assert (was_direct, len(vanishing)) == (True, 4)
    assert ours == theirs
    assert ours[0].split()[1] == b"200"
    # Told once for each request, however often it was begun.
    assert metrics.registry.get_sample_value("bedplate_requests_total", {"route": "infer", "status": "200"}) == 2
    assert metrics.registry.get_sample_value("bedplate_requests_in_flight") == 0


def test_a_version_that_is_gone_by_then_leaves_the_client_its_deadline_and_its_priority(ask, vanishing):
    theirs, ours, was_direct = ask(headers={**KEY, "X-Request-Timeout-Ms": "5000", "X-Request-Priority": "batch"})

    assert (was_direct, ours) == (True, theirs)
    for first, second in (vanishing[:2], vanishing[2:]):
        assert (first.deadline_ns, first.priority) == (second.deadline_ns, second.priority)


def test_a_version_that_is_gone_by_then_is_counted_as_a_retry(ask, vanishing, metrics):
    ask()

    assert metrics.registry.get_sample_value("bedplate_engine_retries_total", {"reason": "stale"}) == 2


def test_who_names_a_version_that_is_gone_by_then_is_told_so_and_asked_once(ask, engines):
    attempts = []

    def gone(meta, tensors, options):
        attempts.append(meta)
        raise UnknownModel("unloaded")

    engines.frame = gone

    theirs, ours, was_direct = ask(path="/v2/models/lamp/versions/1/infer")

    assert (was_direct, ours) == (True, theirs)
    assert ours[0].split()[1] == b"404"
    assert len(attempts) == 2  # of each way one


def test_a_prediction_is_counted_and_told_like_any_other(ask, metrics, caplog):
    caplog.set_level("INFO", logger="bedplate.performance")

    ask()

    first, second = (record for record in caplog.records if record.name == "bedplate.performance")
    same = {"model", "version", "status", "problem", "items", "request_id", "bytes_in", "queue_ms", "compute_ms"}
    assert {key: vars(first)[key] for key in same} == {key: vars(second)[key] for key in same}
    assert metrics.registry.get_sample_value("bedplate_requests_total", {"route": "infer", "status": "200"}) == 2
    assert (
        metrics.registry.get_sample_value("bedplate_prediction_seconds_count", {"model": "lamp", "version": "1"}) == 2
    )


def through_engines(tmp_path, faults, *requests, leave_after_s=None):
    """Answers to requests that reach engines which do `faults`, over real sockets; and what those engines were sent."""
    seen = []

    async def check(pool, peers):
        app = create_app(WebSettings(engines=()), pool, ApiKeys.read(tmp_path / "api-keys"), WebMetrics())
        await pool.served()
        if leave_after_s is None:
            for request in requests:
                seen.append(parsed(await sent(app, app.direct, request), (b"date",)))
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(sent(app, app.direct, *requests), leave_after_s)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(cancelled(peers[0]), 5)
        seen.extend(peers)

    run(tmp_path, faults, check)
    return seen


async def cancelled(peer):
    while peer.seen[-1].type is not Type.CANCEL:
        await asyncio.sleep(0.01)


def plain(**headers):
    lines = {"Host": "x", **KEY, "Content-Length": str(len(PLAIN)), **headers}
    return (f"POST {INFER} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n").encode() + PLAIN


async def logits(peer, frame):
    outputs = {"outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 2]}]}
    times = {"queue_ns": 1, "batch_ns": 1, "compute_ns": 1, "batch_items": 1, "digest": DIGEST}
    peer.send(Frame(Type.RESULT, frame.id, {"model": "lamp", "version": "1", **outputs, **times}, bytes(8)))


@pytest.mark.parametrize("fault", [vanish, vanish_in_the_middle, garbage, draining])
def test_an_engine_that_is_lost_costs_no_answer(tmp_path, keys, fault):
    answer, *_ = through_engines(tmp_path, [fault, logits], plain())

    assert answer[0].split()[1] == b"200"


def test_silence_ends_with_the_deadline(tmp_path, keys):
    answer, *_ = through_engines(tmp_path, [silence], plain(**{"X-Request-Timeout-Ms": "200"}))

    assert answer[0].split()[1] == b"504"


def test_an_engine_is_told_of_a_client_that_leaves(tmp_path, keys):
    [peer] = through_engines(tmp_path, [silence], plain(), leave_after_s=0.3)

    assert [frame.type for frame in peer.seen][-1] is Type.CANCEL


async def many_logits(peer, frame):
    items = frame.meta["inputs"][0]["shape"][0]
    outputs = {"outputs": [{"name": "logits", "dtype": "float32", "shape": [items, 2]}]}
    times = {"queue_ns": 1, "batch_ns": 1, "compute_ns": items, "batch_items": items, "digest": DIGEST}
    peer.send(Frame(Type.RESULT, frame.id, {"model": "lamp", "version": "1", **outputs, **times}, bytes(8 * items)))


@pytest.mark.parametrize("direct", [True, False])
def test_what_was_answered_leaves_nothing_to_the_collector(tmp_path, keys, direct):
    """Or its rounds, each of tens of milliseconds, would hold up whoever waits then."""
    found = []

    async def check(pool, peers):
        app = create_app(WebSettings(engines=()), pool, ApiKeys.read(tmp_path / "api-keys"), WebMetrics())
        await pool.served()

        ours = await left_to_the_collector(app, app.direct if direct else no_direct, [plain()] * 4)
        found.append((ours, peers[0].seen[-1].meta["inputs"][0]["shape"][0]))

    run(tmp_path, [many_logits], check)
    [(ours, asked_together)] = found
    assert ours == set()
    assert (asked_together > 1) == direct
