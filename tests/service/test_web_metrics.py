"""What a web counts, asked as Prometheus would ask."""

import asyncio

import falcon.testing
import pytest
from bedplate.bundle.bundle import Bundle
from bedplate.errors import EngineBusy
from bedplate.web.bodies import BodyBudget
from bedplate.web.cache.response import Answer
from bedplate.web.items.limits import Limits
from bedplate.web.observer import ObservedApp, Observer, observation, route_of
from bedplate.web.options import within
from bedplate.web.predictor import Prediction, Predictor

from tests.service.lamp import description, png_of

BRIGHT = png_of([[255, 255], [255, 255]])
PREDICT = "/v1/models/lamp/predict"
LAMP = {"model": "lamp", "version": "1"}
PICTURE = {"Content-Type": "image/png"}


@pytest.fixture
def value(metrics):
    return lambda name, **labels: metrics.registry.get_sample_value(name, labels)


def test_a_prediction_is_counted_by_label_and_timed_in_its_parts(client, value):
    client.simulate_post(PREDICT, body=BRIGHT, headers=PICTURE)

    assert value("bedplate_predictions_total", label="bright", **LAMP) == 1
    assert value("bedplate_predictions_total", label="dark", **LAMP) == 0
    assert value("bedplate_requests_total", route="predict", status="200") == 1
    assert value("bedplate_request_seconds_count", route="predict") == 1
    assert 0 < value("bedplate_prediction_seconds_sum", **LAMP) < 5
    assert value("bedplate_prediction_queue_seconds_sum", **LAMP) == pytest.approx(1e-6)
    assert value("bedplate_prediction_compute_seconds_sum", **LAMP) == pytest.approx(2e-6)
    assert value("bedplate_prediction_batch_seconds_sum", **LAMP) == pytest.approx(3e-6)
    assert 0 < value("bedplate_prediction_decode_seconds_sum", **LAMP) < 5


def test_every_item_of_a_request_is_a_prediction(client, value):
    client.simulate_post(PREDICT, json={"inputs": [[[[1, 1], [1, 1]]], [[[-1, -1], [-1, -1]]], [[[1, 1], [1, 1]]]]})

    assert value("bedplate_predictions_total", label="bright", **LAMP) == 2
    assert value("bedplate_predictions_total", label="dark", **LAMP) == 1
    assert value("bedplate_prediction_seconds_count", **LAMP) == 1


def test_health_asks_the_model_and_is_no_prediction(client, value):
    client.simulate_get("/health/ready")

    assert value("bedplate_requests_total", route="health", status="200") == 1
    assert value("bedplate_prediction_seconds_count", **LAMP) is None


def test_an_error_is_counted_by_its_code_and_is_no_prediction(client, engines, value):
    engines.error = EngineBusy("queue holds 64 of 64 requests", retry_after_s=2)

    client.simulate_post(PREDICT, body=BRIGHT, headers=PICTURE)

    assert value("bedplate_errors_total", type="engine-busy") == 1
    assert value("bedplate_requests_total", route="predict", status="429") == 1
    assert value("bedplate_prediction_seconds_count", **LAMP) is None


def test_every_code_is_told_as_zero_before_it_happens(value):
    assert value("bedplate_errors_total", type="internal") == 0


@pytest.mark.parametrize(("labels", "shown"), [(100, "7"), (101, "*")])
def test_a_model_of_many_labels_is_counted_as_a_whole(metrics, value, labels, shown):
    model = Bundle.from_description(
        description(
            labels=[str(n) for n in range(labels)],
            outputs=[{"name": "logits", "dtype": "float32", "shape": [labels]}],
            canary={"file": "canary.png", "label": "7"},
        )
    )

    metrics.prediction(model, ["7", "7"], 0.01)

    assert value("bedplate_predictions_total", label=shown, **LAMP) == 2


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/models/lamp/predict", "predict"),
        ("/v1/models/lamp/versions/fast/predict", "predict"),
        ("/v1/models/../predict", "predict"),
        ("/v1/models", "models"),
        ("/v2/models/lamp/infer", "infer"),
        ("/v2/models/lamp/versions/fast/infer", "infer"),
        ("/v2/models/lamp", "v2"),
        ("/v2", "v2"),
        ("/v2x", "other"),
        ("/ping", "health"),
        ("/health", "health"),
        ("/health/ready", "health"),
        ("/healthy", "other"),
        ("/v1/models/", "other"),
        ("/", "other"),
        ("", "other"),
    ],
)
def test_a_route_is_one_of_six_words(path, route):
    assert route_of(path) == route


def test_strangers_cannot_add_series_by_asking(client, metrics):
    before = len(list(series(metrics)))

    for n in range(50):
        client.simulate_post(f"/v1/models/model-{n}/predict", body=BRIGHT, headers=PICTURE)
        client.simulate_get(f"/no/such/{n}")

    statuses_and_buckets = 2 * 20
    assert len(list(series(metrics))) <= before + statuses_and_buckets


def series(metrics):
    return (sample for family in metrics.registry.collect() for sample in family.samples)


def test_a_client_that_leaves_is_counted_and_no_longer_in_flight(client, engines, metrics, value):
    async def ask_and_leave():
        asked = asyncio.Event()

        async def never(*_):
            asked.set()
            await asyncio.Event().wait()

        engines.predict = never
        scope = falcon.testing.create_scope(method="POST", path=PREDICT, headers={**PICTURE, **client_headers})
        events = iter([{"type": "http.request", "body": BRIGHT, "more_body": False}])

        async def receive():
            return next(events)

        async def send(event):
            raise AssertionError("nobody is there")

        request = asyncio.create_task(client.app(scope, receive, send))
        await asked.wait()
        in_flight = value("bedplate_requests_in_flight")
        request.cancel()
        await asyncio.wait([request])
        return in_flight

    client_headers = {"Authorization": "Bearer bp_test-key"}

    during = asyncio.run(ask_and_leave())

    assert during == 1
    assert value("bedplate_requests_in_flight") == 0
    assert value("bedplate_requests_total", route="predict", status="499") == 1
    assert value("bedplate_cancelled_total", stage="engine") == 1


def given_up(metrics, engines, decoders, until, timeout_s):
    """Ask for a prediction that takes for ever, and leave when it has come as far as `until` says."""

    async def scenario():
        asked = asyncio.Event()

        async def never(*_):
            asked.set()
            await asyncio.Event().wait()

        engines.predict = never
        predictor = Predictor(engines, decoders, Limits(1 << 20, 64), metrics.cancelled)
        options = within(timeout_s)
        request = asyncio.create_task(predictor.predict(await engines.model("lamp"), "image/png", BRIGHT, options))
        await (asyncio.sleep(0) if until == "decode" else asked.wait())
        while until == "deadline" and options.left_s > 0:
            await asyncio.sleep(0.001)
        request.cancel()
        await asyncio.wait([request])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("until", "timeout_s", "counted"), [("decode", 5, [1, 0]), ("engine", 5, [0, 1]), ("deadline", 0.3, [0, 0])]
)
def test_what_nobody_waits_for_any_more_is_counted_by_where_it_was(
    metrics, engines, decoders, silent_decoders, value, until, timeout_s, counted
):
    given_up(metrics, engines, silent_decoders if until == "decode" else decoders, until, timeout_s)

    assert [value("bedplate_cancelled_total", stage=stage) for stage in ("decode", "engine")] == counted


@pytest.mark.parametrize("reason", ["lost", "draining", "busy", "stale"])
def test_second_attempts_are_told_as_zero_before_there_is_one(metrics, value, reason):
    before = value("bedplate_engine_retries_total", reason=reason)

    metrics.engine_retry(reason)

    assert (before, value("bedplate_engine_retries_total", reason=reason)) == (0, 1)


@pytest.mark.parametrize(
    ("lookup", "collapsed", "computed"),
    [("memory", False, 0), ("shared", False, 0), ("miss", False, 1), ("miss", True, 0), ("bypass", False, 1)],
)
def test_only_what_an_engine_computed_has_time_in_queue_and_on_the_device(metrics, value, lookup, collapsed, computed):
    class Answering:
        async def on_post(self, req, resp):
            observation(req).model = Bundle.from_description(description())
            prediction = Prediction("lamp", "1", "digest", [{"label": "dark"}], 0, 0)
            observation(req).answer = Answer(prediction, lookup, collapsed)

    app = ObservedApp(Observer(metrics, lines_per_s=1, bodies=BodyBudget(1)), checks=[])
    app.add_route("/", Answering())

    falcon.testing.TestClient(app).simulate_post("/")

    assert value("bedplate_prediction_seconds_count", **LAMP) == 1
    assert value("bedplate_predictions_total", label="dark", **LAMP) == 1
    assert value("bedplate_prediction_queue_seconds_count", **LAMP) == computed


def test_what_the_cache_did_for_each_prediction_is_counted(client, value):
    for control in ("", "", "no-cache"):
        client.simulate_post(PREDICT, body=BRIGHT, headers={**PICTURE, "Cache-Control": control})

    assert [value("bedplate_cache_requests_total", result=result) for result in ("miss", "memory", "bypass")] == [1] * 3
    assert value("bedplate_prediction_queue_seconds_count", **LAMP) == 2


def test_a_shared_cache_that_is_away_is_told(client_of, engines, tmp_path, value):
    client = client_of(engines, cache_socket=tmp_path / "nothing.sock")

    client.simulate_post(PREDICT, body=BRIGHT, headers=PICTURE)

    assert value("bedplate_cache_available") == 0
    assert value("bedplate_cache_errors_total", kind="connection") == 1


def test_the_cache_is_told_only_by_a_web_that_has_one(metrics, value):
    assert value("bedplate_cache_available") is None

    metrics.cache_available(lambda: 0)
    metrics.cache_lookup("shared")
    metrics.cache_error("timeout")

    assert value("bedplate_cache_available") == 0
    assert value("bedplate_cache_requests_total", result="shared") == 1
    assert value("bedplate_cache_errors_total", kind="timeout") == 1
