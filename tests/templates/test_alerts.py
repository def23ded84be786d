"""Each alert fires and stays silent, by Prometheus' own promtool; tests/rules has the cases."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from promtools import promtool

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = sorted(path.name.removesuffix(".j2") for path in (REPOSITORY / "templates/etc/prometheus/rules").glob("*.j2"))
CASES = sorted((REPOSITORY / "tests/rules").glob("*.yml"))


@pytest.fixture
def rules(render, tmp_path):
    """The rendered rules, beside each other as on a host."""
    for name in RULES:
        (tmp_path / name).write_text(render("prometheus", f"etc/prometheus/rules/{name}.j2"))
    return tmp_path


@pytest.fixture
def alerts(rules):
    groups = [group for name in RULES for group in yaml.safe_load((rules / name).read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_promtool_accepts_the_rules(rules):
    promtool("check", "rules", *(rules / name for name in RULES))


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent(rules, cases):
    # Beside the rules, because it names them by their file.
    shutil.copy(cases, rules / f"cases-{cases.name}")

    promtool("test", "rules", rules / f"cases-{cases.name}")


@pytest.mark.parametrize("silent", [False, True], ids=["to fire", "to stay silent"])
def test_no_alert_lacks_a_case(alerts, silent):
    tested = [
        expectation["alertname"]
        for cases in CASES
        for case in yaml.safe_load(cases.read_text())["tests"]
        for expectation in case["alert_rule_test"]
        if (expectation["exp_alerts"] == []) is silent
    ]

    assert set(tested) == set(alerts)


def test_every_alert_says_how_bad_what_and_what_to_do(alerts):
    text = (REPOSITORY / "docs/runbooks.md").read_text()
    # GitHub makes anchors of headings in small letters.
    anchors = [heading.lower() for heading in re.findall(r"^## (\w+)$", text, re.MULTILINE)]

    assert sorted(anchors) == sorted(name.lower() for name in alerts)
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"


def test_what_looks_back_at_a_host_ends_with_it(alerts):
    """A rate of the last minutes is there for minutes after the host has left the inventory."""
    looks_back = {
        name for name, rule in alerts.items() if re.search(r"\[\d+[mh]\]|_rate\d+m", rule["expr"]) and of_host(rule)
    }
    bound = {name for name, rule in alerts.items() if 'and on (instance) up{job="node"}' in rule["expr"]}

    # What is about the monitoring itself lives on the host that judges it.
    assert looks_back - bound == {"RuleFails", "AlertsNotSent", "NobodyIsTold", "StorageFails"}


def of_host(rule):
    return "$labels.instance" in rule["annotations"]["summary"]


@pytest.mark.parametrize(("hosts", "budget"), [(["gpu1"], "0.001"), (["gpu1", "gpu2"], "0.0005")])
def test_the_error_budget_is_smaller_on_two_inference_hosts(render, hosts, budget):
    text = render("prometheus", "etc/prometheus/rules/service.yml.j2", groups={"inference": hosts})

    assert f"ratio_rate1h > 14.4 * {budget}\n" in text


def test_the_latency_objective_is_the_operators(render):
    text = render("prometheus", "etc/prometheus/rules/service.yml.j2", prometheus_latency_objective_s=0.5)

    assert "bedplate:client_request_seconds:p95_rate5m > 0.5\n" in text
