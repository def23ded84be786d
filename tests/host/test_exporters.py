"""The exporters of a host, as Prometheus asks them."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request

import pytest

testinfra_hosts = ["ssh://ops1", "ssh://lb1"]

PORTS = {"node": 9100, "nginx": 9113, "redis": 9121, "mtail": 3903}
UNITS = {name: f"prometheus-{name}-exporter" for name in ("node", "nginx", "redis")} | {"mtail": "mtail"}
EXPORTERS = pytest.mark.parametrize("name", PORTS)


@pytest.fixture
def figures(host, address):
    """Ask an exporter from outside the host, as Prometheus does; {line without its value: value}."""

    def ask(name):
        _require(host, name)
        with urllib.request.urlopen(f"http://{address}:{PORTS[name]}/metrics", timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}

    return ask


def _require(host, name):
    """By its package: one that is not enabled, or does not run, is no reason to ask nothing."""
    if not host.package(UNITS[name]).is_installed:
        pytest.skip(f"{host.backend.host.name} has no {name} exporter")
    assert host.service(UNITS[name]).is_enabled


@EXPORTERS
def test_an_exporter_listens_on_the_private_address_alone(host, address, name):
    _require(host, name)
    listening = {line.split()[3] for line in host.check_output("ss -Hltn").splitlines()}

    assert {place for place in listening if place.endswith(f":{PORTS[name]}")} == {f"{address}:{PORTS[name]}"}


def test_the_hosts_figures_are_sane(figures):
    node = figures("node")

    assert 0 < node["node_memory_MemAvailable_bytes"] < node["node_memory_MemTotal_bytes"]
    assert abs(node["node_time_seconds"] - time.time()) < 10
    assert {value for series, value in node.items() if series.startswith("node_scrape_collector_success")} == {1}


def test_units_are_watched_with_their_restarts(host, figures):
    node = figures("node")

    unit = "prometheus-node-exporter.service"
    assert any(
        value == 1 and f'name="{unit}",state="active"' in series
        for series, value in node.items()
        if series.startswith("node_systemd_unit_state")
    )
    assert f'node_systemd_service_restart_total{{name="{unit}"}}' in node
    # Whatever the roles declared for this host, but for what systemd has of its own.
    services = host.check_output("ls /var/lib/host-units | sed 's/.*://' | grep '[.]service$'").split()
    watched = set(re.findall(r'node_systemd_unit_state{name="([^"]+)"', "\n".join(node)))
    assert {name for name in services if not name.startswith("systemd-")} <= watched
    # Only what the kit runs.
    assert not [series for series in node if "systemd-journald" in series]


def test_mounts_are_seen_as_the_host_has_them(host):
    """In the exporter's own view all of them are read-only, and those never count as full."""
    pid = host.check_output("systemctl show prometheus-node-exporter --property=MainPID --value")
    as_exporter = f"nsenter --mount --target={pid} setpriv --reuid=prometheus --regid=prometheus --clear-groups"

    assert host.check_output(f"{as_exporter} cat /proc/1/mounts") == host.check_output("cat /proc/1/mounts")


@pytest.mark.parametrize("name", ["nginx", "redis"])
def test_a_running_server_is_seen_by_its_exporter(host, figures, name):
    _require(host, name)
    unit = {"nginx": "nginx.service", "redis": "redis-server@cache.service"}[name]
    if not host.service(unit).is_running:
        pytest.skip(f"{unit} does not run here")

    assert figures(name)[f"{name}_up"] == 1


@EXPORTERS
def test_a_killed_exporter_is_back_within_ten_seconds(host, figures, name):
    _require(host, name)
    host.check_output(f"systemctl kill --signal=KILL {UNITS[name]}")

    deadline = time.monotonic() + 10
    while not _answers(figures, name):
        assert time.monotonic() < deadline, "waited 10 s"
        time.sleep(0.3)


def _answers(figures, name):
    try:
        return bool(figures(name))
    except (urllib.error.URLError, ConnectionError):
        return False


LINE = (
    r'{"time":"t","path":"/\"route\":\"predict\",\"status\":503,","protocol":"HTTP/1.1","route":"%s","status":%d,'
    r'"request_bytes":1,"response_bytes":1,"request_time_s":%.3f,"upstream":"192.0.2.1:8001"}'
)


def test_an_answer_5xx_and_a_client_that_had_waited_are_failures_and_nothing_else_is(host):
    _require(host, "mtail")
    seen = [
        ("predict", 200, 31),
        ("predict", 429, 0),
        ("predict", 422, 0),
        ("predict", 499, 0.5),
        ("predict", 499, 2.5),
    ]
    seen += [("predict", 503, 0), ("predict", 504, 30), ("other", 500, 0)]
    lines = "\n".join(LINE % line for line in seen)

    host.check_output(f"cat > /run/bedplate-counted.log <<'END'\n{lines}\nEND")
    told = host.check_output(
        "mtail --progs /etc/mtail/requests.mtail --logs /run/bedplate-counted.log --one_shot"
        " --one_shot_format prometheus --emit_prog_label=false --port 0 2>/dev/null"
    )
    host.check_output("rm /run/bedplate-counted.log")

    counted = {line for line in told.splitlines() if line.startswith("bedplate_client_failures_total")}
    assert counted == {
        'bedplate_client_failures_total{reason="answered",route="other"} 1',
        'bedplate_client_failures_total{reason="answered",route="predict"} 2',
        'bedplate_client_failures_total{reason="left",route="other"} 0',
        'bedplate_client_failures_total{reason="left",route="predict"} 1',
    }


def test_every_request_is_counted_once_while_logs_are_turned(host, figures, address):
    _require(host, "mtail")
    requests = 600
    before = _counted(figures)
    url = f"https://bedplate.test/v1/models/nothing/predict?[1-{requests}]"
    command = ["curl", "--silent", "--insecure", "--rate", "100/s", "--resolve", f"bedplate.test:443:{address}"]

    with subprocess.Popen([*command, "--data", "x", "--output", "/dev/null", url]) as asking:
        for _ in range(4):
            host.check_output("logrotate --force --state /run/bedplate-logrotate.state /etc/logrotate.d/nginx")
    host.check_output("rm /run/bedplate-logrotate.state")

    assert asking.returncode == 0
    deadline = time.monotonic() + 10
    while _counted(figures) - before < requests and time.monotonic() < deadline:
        time.sleep(0.3)
    assert _counted(figures) - before == requests


def _counted(figures):
    return sum(
        value for series, value in figures("mtail").items() if series.startswith("bedplate_client_requests_total")
    )


def test_the_password_for_redis_is_in_no_unit_environment_argument_or_journal(host):
    _require(host, "redis")
    (password,) = set(json.loads(host.file("/etc/bedplate/credentials/redis-exporter").content_string).values())
    pid = host.check_output("systemctl show prometheus-redis-exporter --property=MainPID --value")

    places = [
        "systemctl show prometheus-redis-exporter",
        "systemctl cat prometheus-redis-exporter",
        "cat /etc/default/prometheus-redis-exporter",
        f"cat /proc/{pid}/environ /proc/{pid}/cmdline",
        "journalctl --no-pager --output=cat --lines=2000",
    ]

    for place in places:
        text = host.check_output(place)
        assert text
        assert password not in text, place
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", password)
    assert host.file("/etc/bedplate/credentials/redis-exporter").mode == 0o600
