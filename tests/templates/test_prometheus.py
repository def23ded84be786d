"""What Prometheus, Alertmanager and the blackbox exporter are told."""

from __future__ import annotations

import pytest
import yaml
from promtools import amtool, promtool

HERE = {"inventory_hostname": "ops1", "private_address": "192.0.2.21"}
RECEIVERS = [
    {
        "name": "mail",
        "email_configs": [
            {
                "to": "ops@example.org",
                "from": "bedplate@example.org",
                "smarthost": "mail.example.org:587",
                "auth_username": "bedplate",
                "auth_password": "secret",
            }
        ],
    },
    {"name": "duty", "webhook_configs": [{"url": "https://duty.example.org/hook"}]},
]
ROUTES = [{"receiver": "duty", "matchers": ['severity = "critical"']}]


@pytest.fixture
def prometheus(render):
    return lambda **overrides: render("prometheus", "etc/prometheus/prometheus.yml.j2", **HERE | overrides)


def targets(text):
    """Job to {instance: target}."""
    return {
        job["job_name"]: {each["labels"]["instance"]: each["targets"][0] for each in job["static_configs"]}
        for job in yaml.safe_load(text)["scrape_configs"]
    }


def test_targets_follow_from_inventory_and_declarations(prometheus):
    assert targets(prometheus()) == {
        "node": {
            "gpu1": "192.0.2.11:9100",
            "gpu2": "192.0.2.12:9100",
            "lb1": "192.0.2.1:9100",
            "ops1": "192.0.2.21:9100",
        },
        "nginx": {"lb1": "192.0.2.1:9113"},
        "requests": {"lb1": "192.0.2.1:3903"},
        "redis": {"ops1": "192.0.2.21:9121"},
        "bedplate": {"gpu1": "192.0.2.11:9180", "gpu2": "192.0.2.12:9180"},
        "prometheus": {"ops1": "127.0.0.1:9090"},
        "alertmanager": {"ops1": "127.0.0.1:9093"},
        "blackbox": {"ops1": "127.0.0.1:9115"},
        "probe": {"lb1": "https://192.0.2.1:443/health/ready"},
    }


def test_promtool_accepts_the_configuration_without_any_other_host(prometheus, tmp_path):
    path = tmp_path / "prometheus.yml"

    for groups in ({"lb": [], "inference": [], "data": [], "ops": ["ops1"]}, {"ops": ["ops1"]}):
        path.write_text(prometheus(groups=groups))
        promtool("check", "config", path)


def test_a_removed_host_leaves_nothing_behind(prometheus, render):
    groups = {"lb": [], "inference": ["gpu1"], "data": [], "ops": ["ops1"]}

    text = prometheus(groups=groups) + render("prometheus", "etc/prometheus/blackbox.yml.j2", groups=groups)

    assert "gpu1" in text
    for trace in ("gpu2", "192.0.2.12", "lb1", "192.0.2.1:"):
        assert trace not in text


@pytest.mark.parametrize(("visitors", "address"), [([], "127.0.0.1"), (["198.51.100.0/24"], "192.0.2.21")])
def test_prometheus_listens_for_others_only_when_somebody_may_come(prometheus, render, visitors, address):
    declared = {"fleet_prometheus": {"port": 19090, "hosts": ["ops"], "from": visitors}}

    arguments = render("prometheus", "etc/default/prometheus.j2", **HERE | declared)

    assert f"--web.listen-address={address}:19090 " in arguments
    assert targets(prometheus(**declared))["prometheus"] == {"ops1": f"{address}:19090"}


def test_nothing_is_administered_over_http(render):
    arguments = render("prometheus", "etc/default/prometheus.j2")

    assert "--web.enable" not in arguments


def test_alertmanager_looks_for_no_peers(render):
    assert '--cluster.listen-address="' in render("prometheus", "etc/default/prometheus-alertmanager.j2")


def test_a_probe_goes_to_a_balancer_by_its_own_name(render):
    hosts = {"lb1": {"private_address": "x", "nginx_server_name": "api.example.org"}, "lb2": {"private_address": "y"}}

    text = render("prometheus", "etc/prometheus/blackbox.yml.j2", groups={"lb": ["lb1", "lb2"]}, hostvars=hosts)

    probes = {name: module["http"] for name, module in yaml.safe_load(text)["modules"].items()}
    assert probes["lb1"]["headers"] == {"Host": "api.example.org"}
    assert probes["lb1"]["tls_config"]["server_name"] == "api.example.org"
    assert probes["lb2"]["tls_config"] == {"server_name": "bedplate.test", "ca_file": "/etc/prometheus/authority.crt"}


def test_a_probe_trusts_public_authorities_when_told_so(render):
    text = render("prometheus", "etc/prometheus/blackbox.yml.j2", prometheus_probe_authority="")

    assert "ca_file" not in text


@pytest.mark.parametrize(("receivers", "routes", "first"), [([], [], "nobody"), (RECEIVERS, ROUTES, "mail")])
def test_amtool_accepts_who_is_told(render, tmp_path, receivers, routes, first):
    declared = {"prometheus_alert_receivers": receivers, "prometheus_alert_routes": routes}
    path = tmp_path / "alertmanager.yml"

    path.write_text(render("prometheus", "etc/prometheus/alertmanager.yml.j2", **declared))

    amtool("check-config", path)
    assert yaml.safe_load(path.read_text())["route"]["receiver"] == first
