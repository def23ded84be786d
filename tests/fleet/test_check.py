"""playbooks/check.yml: says yes about a fleet that is well, and what is wrong about one that is not."""

import json

import pytest
import yaml

from tools.deployment import INVENTORIES

# host, what breaks it, what mends it, what the report says
BROKEN = [
    (
        "lb1",
        "touch /etc/nginx/nginx.conf",
        "systemctl restart nginx",
        "reload nginx.service: older than /etc/nginx/nginx.conf",
    ),
    ("ops1", "systemctl stop prometheus", "systemctl start prometheus", "start prometheus.service: it was inactive"),
    (
        "gpu1",
        "touch /etc/bedplate/web.yaml",
        "systemctl restart bedplate-web@1 bedplate-web@2",
        "restart bedplate-web@1.service: older than /etc/bedplate/web.yaml",
    ),
    ("ops1", "iptables -A ufw-user-input -p tcp --dport 81 -j ACCEPT", "bedplate-firewall load", "--dport 81"),
    (
        "gpu2",
        "systemctl stop bedplate-engine@cpu0",
        "systemctl start bedplate-engine@cpu0",
        "no answer: HTTP Error 503",
    ),
]


@pytest.fixture
def check(fleet, tmp_path):
    def check(*options):
        run = fleet.playbook("check.yml", "-e", f"check_report={tmp_path}/report.json", *options)
        return run, json.loads((tmp_path / "report.json").read_text())

    return check


def test_a_fleet_that_is_well_is_said_to_be(check):
    run, report = check()

    assert run.returncode == 0, run.stdout
    assert report["ok"]
    assert "certificate /etc/nginx/tls.crt" in [one["check"] for one in report["hosts"]["lb1"]["findings"]]
    predictions = [one for one in report["hosts"]["gpu1"]["findings"] if one["check"].startswith("prediction ")]
    assert [one["ok"] for one in predictions] == [True, True]


@pytest.mark.parametrize(("host", "harm", "mend", "said"), BROKEN)
def test_what_is_wrong_is_named_and_the_exit_code_tells(fleet, check, host, harm, mend, said):
    fleet.ssh(host, harm)
    try:
        run, report = check()
    finally:
        fleet.ssh(host, mend)

    assert run.returncode != 0
    assert not report["hosts"][host]["ok"]
    assert said in str([one["found"] for one in report["hosts"][host]["findings"]])
    assert {name for name, one in report["hosts"].items() if not one["ok"]} == {host}


def test_a_host_that_is_not_reached_is_named_beside_the_others(check, tmp_path):
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "private_address": "10.255.0.2"}
    (tmp_path / "away.yml").write_text(yaml.safe_dump({"lb": {"hosts": {"away": away}}}))

    run, report = check(f"--inventory={INVENTORIES['molecule']}", f"--inventory={tmp_path}/away.yml")

    assert run.returncode != 0
    assert [name for name, host in report["hosts"].items() if not host["ok"]] == ["away"]


def test_what_a_cut_off_run_left_undone_the_next_one_does(fleet, check):
    fleet.ssh("lb1", "touch /etc/nginx/nginx.conf")

    run = fleet.playbook("balancer.yml")

    assert run.returncode == 0, run.stdout
    assert "changed=1" in run.stdout
    assert check()[1]["ok"]
