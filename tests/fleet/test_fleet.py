"""What users and operators of a finished fleet meet, faults included."""

import json
import time
from collections import Counter
from urllib.parse import quote

import pytest

from tools.heldout import PREDICT, load, read_cases
from tools.load.ledger import summarise

PUBLIC = ["/ping", "/health", "/health/live", "/health/ready"]
ENGINE = "bedplate-engine@cpu0.service"
PICTURE = read_cases()[0].file.read_bytes()


def test_every_held_out_picture_is_answered_as_offline_and_97_percent_rightly(ask):
    cases = read_cases()

    answers = [ask("POST", PREDICT, case.file.read_bytes(), Content_Type="image/png") for case in cases]

    labels = [answer.json["predictions"][0]["label"] for answer in answers]
    assert labels == [case.offline for case in cases]
    assert sum(label == case.truth for label, case in zip(labels, cases, strict=True)) >= 0.97 * len(cases)


@pytest.mark.parametrize("key", ["", "Bearer bp_wrong", "Basic YTpi"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("POST", PREDICT), ("POST", "/v1/models/other/predict"), ("GET", "/no/such/route")],
)
def test_without_the_key_every_other_route_is_401(ask, method, path, key):
    assert ask(method, path, Authorization=key).status == 401


@pytest.mark.parametrize("path", PUBLIC)
def test_health_needs_no_key_and_tells_nothing_but_health(ask, path):
    answer = ask("GET", path, Authorization="")

    assert answer.status == 200
    assert len(answer.body) < 40


@pytest.mark.parametrize("path", ["/health/detailed", "/metrics"])
def test_what_operators_see_is_not_let_out_even_with_the_key(ask, path):
    assert ask("GET", path).status == 404


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "image/png", 400, "empty-body"),
        (b"x" * (51 << 20), "image/png", 413, "body-too-large"),
        (b"%PDF-1.7 no picture", "image/png", 415, "unsupported-media-type"),
        (PICTURE[:-20], "image/png", 422, "unreadable-media"),
        (b"abc", "application/octet-stream", 422, "wrong-size"),
        (b'{"inputs": 1, "url": "http://x/"}', "application/json", 422, "unknown-field"),
    ],
)
def test_bad_input_gets_a_problem_and_the_next_request_its_answer(ask, body, content_type, status, code):
    refused = ask("POST", PREDICT, body, Content_Type=content_type)
    after = ask("POST", PREDICT, PICTURE, Content_Type="image/png")

    assert refused.status == status
    assert refused.json["type"] == f"urn:bedplate:problem:{code}"
    assert refused.json["request_id"] == refused.headers["x-request-id"]
    assert after.status == 200


def test_neither_payload_nor_key_reaches_a_log(fleet, ask):
    marker = b"S3CR3T-in-the-payload"
    ask("POST", PREDICT, marker, Content_Type="image/png")
    ask("POST", f"{PREDICT}?token=S3CR3T-in-the-query", marker, Content_Type="application/json")
    answer = ask("POST", PREDICT, marker, Content_Type="text/csv", Authorization="Bearer S3CR3T-key")

    searched = "journalctl --no-pager -o cat; cat /var/log/*.log /var/log/*/*.log 2>/dev/null || true"
    logs = fleet.ssh("lb1", searched) + fleet.ssh("gpu1", searched)
    assert answer.headers["x-request-id"] in logs
    assert "S3CR3T" not in logs
    assert fleet.api_key not in logs


def test_killed_engines_mean_503_with_retry_after_and_come_back_by_themselves(fleet, ask, wait_until):
    for host in ("gpu1", "gpu2"):
        fleet.ssh(host, f"systemctl kill --signal=KILL --kill-whom=main {ENGINE}")

    during = ask("POST", PREDICT, PICTURE, Content_Type="image/png")
    for host in ("gpu1", "gpu2"):
        # Active means warmed up; the balancer would say ready as soon as one of them is.
        wait_until(lambda host=host: fleet.ssh(host, f"systemctl is-active {ENGINE} || true").strip() == "active", 30)

    assert during.status == 503
    assert int(during.headers["retry-after"]) > 0
    assert ask("POST", PREDICT, PICTURE, Content_Type="image/png").status == 200


def test_a_killed_web_instance_fails_no_request(fleet):
    with load(fleet, rate=50, seconds=8) as records:
        time.sleep(2)
        fleet.ssh("gpu1", "systemctl kill --signal=KILL bedplate-web@1.service")

    assert not [record for record in records if record.failed], summarise(records)


def test_restarting_web_instances_fails_no_request(fleet):
    with load(fleet, rate=50, seconds=10) as records:
        for instance in (1, 2):
            time.sleep(2)
            fleet.ssh("gpu1", f"systemctl restart bedplate-web@{instance}.service")

    assert not [record for record in records if record.failed], summarise(records)


def test_the_restart_playbook_fails_no_request(fleet):
    started = fleet.ssh("gpu1", "systemctl show -P MainPID bedplate-web@1.service bedplate-web@2.service").split()

    with load(fleet, rate=50, seconds=30) as records:
        done = fleet.playbook("restart.yml")

    now = fleet.ssh("gpu1", "systemctl show -P MainPID bedplate-web@1.service bedplate-web@2.service").split()
    assert done.returncode == 0, done.stdout
    assert not set(started) & set(now)
    assert not [record for record in records if record.failed], summarise(records)


def test_prometheus_reaches_every_target_and_every_balancer_leads_to_a_prediction(fleet, wait_until):
    def told(expression):
        url = f"http://127.0.0.1:9090/api/v1/query?query={quote(expression)}"
        program = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"
        results = json.loads(fleet.ssh("ops1", "/usr/bin/python3 -", stdin=program))["data"]["result"]
        return {(one["metric"]["job"], one["metric"]["instance"]) for one in results}

    began = fleet.ssh("ops1", "date +%s").strip()

    assert {("probe", "lb1"), ("bedplate", "gpu2"), ("redis", "ops1")} < told("up")
    # Samples from before this test say nothing about now.
    wait_until(lambda: not told(f"timestamp(up) <= {began} or up == 0 or probe_success == 0"), 45)


def test_the_ledger_counts_every_request_once(fleet):
    with load(fleet, rate=50, seconds=2) as records:
        pass

    assert Counter(record.id for record in records) == Counter(range(100))
