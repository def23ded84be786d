"""What the exporters are told, and how they and Prometheus are fenced in."""

from __future__ import annotations

import json
import re

import pytest
from exposure import assert_exposure, needs_systemd

PROGRAMS = {
    "prometheus-node-exporter": "exporters",
    "prometheus-nginx-exporter": "exporters",
    "prometheus-redis-exporter": "exporters",
    "mtail": "exporters",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus",
    "prometheus-blackbox-exporter": "prometheus",
}
METAL = {"distribution_release": "bookworm", "virtualization_tech_guest": []}
CONTAINER = {"distribution_release": "bookworm", "virtualization_tech_guest": ["container", "systemd-nspawn"]}


@pytest.fixture
def arguments(render):
    return lambda name, **overrides: render(
        "exporters", f"etc/default/prometheus-{name}-exporter.j2", **{"ansible_facts": METAL} | overrides
    )


@pytest.fixture
def drop_in(render):
    return lambda name: render(PROGRAMS[name], f"etc/systemd/system/{name}.service.d/bedplate.conf.j2")


@pytest.mark.parametrize(("name", "port"), [("node", 9100), ("nginx", 9113), ("redis", 9121)])
def test_an_exporter_listens_on_its_private_address_alone(arguments, name, port):
    assert re.findall(r"--web.listen-address=(\S+)", arguments(name)) == [f"192.0.2.1:{port}"]


def test_nginx_is_asked_where_the_fleet_says(arguments):
    declared = {"port": 18080, "hosts": ["lb"], "from": []}

    assert "--nginx.scrape-uri=http://127.0.0.1:18080/nginx_status" in arguments("nginx", fleet_nginx_status=declared)


@pytest.mark.parametrize(("facts", "asked"), [(METAL, True), (CONTAINER, False)])
def test_the_clock_is_read_where_there_is_one(arguments, facts, asked):
    assert ("--collector.timex " in arguments("node", ansible_facts=facts)) is asked


def test_collectors_keep_their_order(arguments):
    """One that changes from run to run would restart the exporter each time."""
    asked = re.findall(r"--collector[.](\w+) ", arguments("node", exporters_collectors=["vmstat", "cpu", "stat"]))

    assert asked == ["vmstat", "cpu", "stat"]


def test_what_systemd_splits_and_unquotes_arrives_whole(arguments):
    value = re.search(r'^ARGS="(.*)"$', arguments("node"), re.MULTILINE | re.DOTALL)

    # The only backslashes are those that join lines; no quote or dollar ends the value early.
    assert value
    assert set(re.findall(r"\\(.)", value[1], re.DOTALL)) == {"\n"}
    assert not set(value[1]) & set("\"'$`")


def test_redis_passwords_stand_under_both_names_and_in_no_argument(render, arguments, tmp_path):
    template = tmp_path / "passwords.j2"
    template.write_text("{{ __exporters_redis_passwords | to_json }}")

    text = render("exporters", str(template), secret_redis_cache_exporter="canary")

    assert json.loads(text) == {"redis://192.0.2.1:6379": "canary", "redis://exporter@192.0.2.1:6379": "canary"}
    assert "canary" not in arguments("redis", secret_redis_cache_exporter="canary")


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_restarted_for_ever(drop_in, name):
    settings = dict(line.split("=", 1) for line in drop_in(name).splitlines() if re.match(r"\w+=", line))

    assert settings["Restart"] == "always"
    assert settings["StartLimitIntervalSec"] == "0"
    assert int(settings["RestartSec"].removesuffix("s")) <= 5


@needs_systemd
@pytest.mark.parametrize("name", PROGRAMS)
def test_exposure_stays_below_its_bar(drop_in, name, tmp_path):
    # The node exporter sees other processes and reads the clock, mtail what administrators may read.
    most = {"prometheus-node-exporter": 20, "mtail": 13}.get(name, 12)
    path = tmp_path / f"{name}.service"
    path.write_text(f"[Service]\nUser=prometheus\nExecStart=/usr/bin/{name}\n{drop_in(name)}")

    assert_exposure(path, most)
