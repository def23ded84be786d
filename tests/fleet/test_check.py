"""playbooks/check.yml: says yes about a fleet that is well, and what is wrong about one that is not."""

import json

import pytest
import yaml

# host, what breaks it, what mends it, what the report says
BROKEN = [
    (
        "lb1",
        # Read by nobody yet, and with the time that it had.
        "cp -p /etc/nginx/nginx.conf /root/kept; sed -i 's/server_tokens off/server_tokens on/' /etc/nginx/nginx.conf; "
        "touch -r /root/kept /etc/nginx/nginx.conf",
        "cp -p /root/kept /etc/nginx/nginx.conf",
        "reload nginx.service: it has not read /etc/nginx/nginx.conf",
    ),
    (
        "lb1",
        "mv /etc/nginx/nginx.conf /root/kept",
        "mv /root/kept /etc/nginx/nginx.conf",
        "/etc/nginx/nginx.conf is gone",
    ),
    ("ops1", "systemctl stop prometheus", "systemctl start prometheus", "start prometheus.service: it was inactive"),
    (
        "gpu1",
        # One more finding each, for a key that is not the vault's, a unit that failed and a backup that did.
        "cp -p /etc/bedplate/credentials/api-keys /root/kept; echo '[]' > /etc/bedplate/credentials/api-keys; "
        "cp -p /var/lib/bedplate-backup/backup.json /root/backup.json; "
        'sed -i \'s/"ok": true/"ok": false/\' /var/lib/bedplate-backup/backup.json; '
        "systemd-run --quiet --wait --unit=nightly false || true",
        "cp -p /root/kept /etc/bedplate/credentials/api-keys; systemctl reset-failed nightly; "
        "cp -p /root/backup.json /var/lib/bedplate-backup/backup.json",
        ["/etc/bedplate/credentials/api-keys has other content", "failed (exit-code)", "the last try failed"],
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
    found = str([one["found"] for one in report["hosts"][host]["findings"]])
    assert [each for each in ([said] if isinstance(said, str) else said) if each not in found] == []
    assert {name for name, one in report["hosts"].items() if [*_wrong(one)]} == {host}


def _wrong(one):
    """What is wrong with a host itself: Prometheus on ops1 may notice another's harm, too."""
    return (each for each in one["findings"] if not each["ok"] and not each["check"].startswith("probe of "))


def test_a_host_that_is_not_reached_is_named_beside_the_others(fleet, check, tmp_path):
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "private_address": "10.255.0.2"}
    (tmp_path / "away.yml").write_text(yaml.safe_dump({"lb": {"hosts": {"away": away}}}))

    run, report = check(f"--inventory={fleet.inventory}", f"--inventory={tmp_path}/away.yml")

    assert run.returncode != 0
    assert [name for name, host in report["hosts"].items() if [*_wrong(host)]] == ["away"]


def test_what_a_cut_off_run_left_undone_the_next_one_does(fleet, check):
    fleet.ssh("lb1", r"sed -i 's/[0-9a-f]\{64\}/another content/' /run/host-units/nginx.service")

    run = fleet.playbook("balancer.yml")

    assert run.returncode == 0, run.stdout
    assert "changed=1" in run.stdout
    assert check()[1]["ok"]
