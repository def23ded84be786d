"""What gets into a log line, and above all what does not."""

import asyncio
import io
import json
import logging
import os

import falcon.testing
import pytest
from bedplate.errors import EngineBusy
from bedplate.process import log
from bedplate.process.log import JsonFormatter

from tests.service.lamp import png_of

BRIGHT = png_of([[255, 255], [255, 255]])
PREDICT = "/v1/models/lamp/predict"
SECRET = "canary-4d1f"
FORM = f'--b\r\nContent-Disposition: form-data; name="{SECRET}"\r\n\r\n1\r\n--b--\r\n'


@pytest.fixture
def lines():
    """What the process would write, down to the last level, line by line."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter("bedplate-web@1"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: out.getvalue().splitlines()
    root.setLevel(level)
    root.removeHandler(handler)


def of_stream(lines, stream):
    return [line for line in map(json.loads, lines) if line["stream"] == stream]


def test_a_prediction_is_one_line_of_the_performance_stream(client, lines):
    headers = {"Content-Type": "image/png", "X-Request-ID": "abc-1"}

    client.simulate_post(PREDICT, body=BRIGHT, headers=headers)

    [line] = of_stream(lines(), "performance")
    assert line.pop("total_ms") > 0
    assert line.pop("time")
    assert line.pop("decode_ms") > 0
    assert line == {
        "level": "info",
        "stream": "performance",
        "unit": "bedplate-web@1",
        "event": "prediction",
        "request_id": "abc-1",
        "model": "lamp",
        "version": "1",
        "status": 200,
        "problem": None,
        "items": 1,
        "queue_ms": 0.001,
        "batch_ms": 0.003,
        "compute_ms": 0.002,
        "cache": "miss",
        "bytes_in": len(BRIGHT),
    }


def test_a_prediction_that_failed_says_why(client, engines, lines):
    engines.error = EngineBusy("queue holds 64 of 64 requests", retry_after_s=2)

    client.simulate_post(PREDICT, body=BRIGHT, headers={"Content-Type": "image/png"})

    [line] = of_stream(lines(), "performance")
    assert (line["status"], line["problem"]) == (429, "engine-busy")
    assert "queue_ms" not in line


@pytest.mark.parametrize("path", ["/ping", "/v1/models", "/health/ready", f"/v1/models/{SECRET}/predict"])
def test_what_is_no_prediction_of_a_model_here_is_not_in_it(client, lines, path):
    client.simulate_post(path, body=BRIGHT)
    client.simulate_get(path)

    assert of_stream(lines(), "performance") == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"inputs": SECRET})),
        ("application/json", json.dumps({SECRET: 1})),
        ("application/json", f'{{"inputs": {SECRET}'),
        ("application/octet-stream", SECRET * 40),
        ("image/png", SECRET * 10),
        ("image/png", BRIGHT[:30] + SECRET.encode()),
        ("multipart/form-data; boundary=b", FORM),
        ("multipart/form-data; boundary=b", f"--b\r\n{SECRET}"),
        (f"text/{SECRET}", "x"),
    ],
)
def test_no_key_query_or_body_gets_into_a_line(client, lines, content_type, body):
    for key in ("bp_test-key", SECRET):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": content_type, "X-API-Key": SECRET}
        client.simulate_post(PREDICT, body=body, headers=headers, query_string=f"key={SECRET}&a={SECRET}")
        client.simulate_get("/health/ready", headers=headers, query_string=SECRET)

    assert of_stream(lines(), "performance")
    assert of_stream(lines(), "security")
    assert not [line for line in lines() if SECRET in line or "bp_test-key" in line]


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r", "\x85", "\x1b[2J", "\x00"])
def test_nothing_from_outside_begins_a_second_line_or_moves_a_cursor(client, lines, break_):
    forged = f'x{break_}{{"stream": "security", "event": "forged"}}'
    headers = {"Authorization": "", "X-Request-ID": forged, "X-Forwarded-For": forged}

    client.simulate_get(f"/v1/{forged}", headers=headers)

    written = "\n".join(lines())
    assert [line["event"] for line in of_stream(lines(), "security")] == ["missing credential"]
    assert written.isascii()
    assert written.replace("\n", "").isprintable()


@pytest.mark.parametrize(("is_journal", "begins"), [(True, "<4>{"), (False, "{")])
def test_the_journal_is_told_how_grave_a_line_is(monkeypatch, capsys, is_journal, begins):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}" if is_journal else "8:123")

    log.start("web")
    logging.getLogger("bedplate.web").warning("careful")
    root.handlers[:], root.level = handlers, level

    assert capsys.readouterr().err.startswith(begins)


def test_more_predictions_than_lines_are_allowed_are_counted_in_the_next_line(client_of, engines, lines, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("bedplate.web.observer.time.monotonic", lambda: now_s[0])
    client = client_of(engines, performance_lines_per_s=2)
    headers = {"Content-Type": "image/png"}

    for _ in range(5):
        client.simulate_post(PREDICT, body=BRIGHT, headers=headers)
    for _ in range(3):
        client.simulate_post(PREDICT, body=b"no picture", headers=headers)
    now_s[0] += 1
    client.simulate_post(PREDICT, body=BRIGHT, headers=headers)

    told = of_stream(lines(), "performance")
    assert [line["status"] for line in told] == [200, 200, 415, 415, 200]
    assert [line.get("untold") for line in told] == [None, None, None, None, 3]


def test_a_flood_of_wrong_keys_is_told_in_few_lines_and_one_number(client_of, engines, metrics, lines):
    client = client_of(engines, security_lines_per_s=3)
    wrong = {"Authorization": "Bearer wrong"}

    async def flood():
        async with falcon.testing.ASGIConductor(client.app) as conductor:
            answers = [await conductor.simulate_get("/v1/models", headers=wrong) for _ in range(200)]
            for _ in range(200):
                if any(line["event"] == "more refused credentials" for line in of_stream(lines(), "security")):
                    break
                await asyncio.sleep(0.02)
            return {answer.status_code for answer in answers}

    assert asyncio.run(flood()) == {401}

    told = of_stream(lines(), "security")
    untold = sum(line.get("untold", 0) for line in told)
    refused = [line for line in told if line["event"] == "wrong credential"]
    assert len(told) < 40
    assert len(refused) + untold == 200
    assert metrics.registry.get_sample_value("bedplate_security_untold_total", {"kind": "wrong"}) == untold
