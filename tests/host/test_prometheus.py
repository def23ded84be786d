"""Prometheus, Alertmanager and the blackbox exporter on a host of the group ops."""

from __future__ import annotations

import json
import time

import pytest

testinfra_hosts = ["ssh://ops1"]

PORTS = {"prometheus": 9090, "prometheus-alertmanager": 9093, "prometheus-blackbox-exporter": 9115}
UNITS = pytest.mark.parametrize("unit", PORTS)
# Hosts have no curl. Prints the status, then the body.
ASK = r"""
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[2], method=sys.argv[1], data=b"" if sys.argv[1] == "POST" else None)
try:
    answer = urllib.request.urlopen(request, timeout=5)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
"""


@pytest.fixture
def ask(host):
    """Send a request from the host to itself; returns (status, body)."""

    def send(url, method="GET"):
        done = host.run("python3 -c %s %s %s", ASK, method, url)
        status, _, body = done.stdout.partition("\n")
        return (int(status), body) if done.rc == 0 else (0, done.stderr)

    return send


@pytest.fixture
def api(ask):
    def call(path):
        return json.loads(ask(f"http://127.0.0.1:9090/api/v1/{path}")[1])["data"]

    return call


def wait_for(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s"
        time.sleep(0.3)


def test_nothing_listens_for_others(host):
    listening = {line.split()[3] for line in host.check_output("ss -Hltn").splitlines()}

    assert {place for place in listening if place.endswith((":9090", ":9093", ":9094", ":9115"))} == {
        "127.0.0.1:9090",
        "127.0.0.1:9093",
        "127.0.0.1:9115",
    }


@pytest.mark.parametrize(
    "path", ["/-/quit", "/-/reload", "/api/v1/admin/tsdb/snapshot", "/api/v1/admin/tsdb/delete_series?match[]=up"]
)
def test_prometheus_is_not_administered_over_http(ask, path):
    status, body = ask(f"http://127.0.0.1:9090{path}", "POST")

    # Older ones answer that with 500.
    assert status in (403, 404, 500, 503)
    assert "is not enabled" in body or "disabled" in body


def test_prometheus_finds_itself_and_the_exporters_of_hosts(api):
    def seen():
        targets = api("targets?state=active")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    # After a start the first look at each target takes up to a scrape interval.
    wait_for(lambda: {"node", "prometheus", "alertmanager", "blackbox", "probe"} <= seen(), timeout_s=40)


def test_targets_are_named_as_in_the_inventory(host, api):
    targets = api("targets?state=active")["activeTargets"]

    assert host.backend.host.name in {each["labels"]["instance"] for each in targets if each["labels"]["job"] == "node"}


def test_figures_are_kept_as_long_as_declared(api):
    assert api("status/runtimeinfo")["storageRetention"].split() == ["30d", "or", "8GiB"]


def test_every_rule_can_be_judged(api):
    def judged():
        return all(rule["health"] == "ok" for group in api("rules")["groups"] for rule in group["rules"])

    assert len(api("rules")["groups"]) >= 7
    wait_for(judged, timeout_s=40)


def test_a_failed_unit_reaches_alertmanager_as_an_alert(host, ask):
    """The whole way of an alert, on a unit that the node exporter watches by name."""

    def told():
        alerts = json.loads(ask("http://127.0.0.1:9093/api/v2/alerts")[1])
        return "bedplate-test-fails.service" in {alert["labels"].get("name") for alert in alerts}

    host.run("systemd-run --quiet --unit=bedplate-test-fails false")
    try:
        # A look, a minute that the alert waits, and a judgement.
        wait_for(told, timeout_s=120)
    finally:
        host.check_output("systemctl reset-failed bedplate-test-fails")


@UNITS
def test_a_killed_program_is_back_within_ten_seconds(host, ask, unit):
    host.check_output(f"systemctl kill --signal=KILL {unit}")

    wait_for(lambda: ask(f"http://127.0.0.1:{PORTS[unit]}/-/healthy")[0] == 200, timeout_s=10)


def test_receivers_are_read_by_alertmanager_alone(host):
    configuration = host.file("/etc/prometheus/alertmanager.yml")

    assert (configuration.user, configuration.group, configuration.mode) == ("root", "prometheus", 0o640)
