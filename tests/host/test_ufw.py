"""The firewall as its host reports it; what it lets in is asked from outside, in tests/fleet/test_firewall.py."""

from __future__ import annotations

import re

import pytest

testinfra_hosts = ["ssh://lb1", "ssh://trixie1"]


def test_everything_is_denied_that_is_not_allowed(host):
    status = host.check_output("ufw status verbose")

    assert "Status: active" in status
    # Disabled where the kernel forwards nothing: a test host has that from the machine on which it runs.
    assert re.search(r"Default: deny \(incoming\), allow \(outgoing\), (deny|disabled) \(routed\)", status)
    assert "IPV6=yes" in host.check_output("grep ^IPV6 /etc/default/ufw")


def test_ufw_knows_the_rules_and_what_they_are_for(host):
    lines = host.check_output("ufw status").splitlines()

    rules = {tuple(re.split(r"\s{2,}", line.strip())) for line in lines if "ALLOW" in line or "LIMIT" in line}
    assert {
        ("22/tcp", "LIMIT", "Anywhere", "# ssh"),
        ("80/tcp", "ALLOW", "Anywhere", "# http"),
        ("443/tcp", "ALLOW", "Anywhere", "# https"),
        ("22/tcp (v6)", "LIMIT", "Anywhere (v6)", "# ssh"),
        ("80/tcp (v6)", "ALLOW", "Anywhere (v6)", "# http"),
        ("443/tcp (v6)", "ALLOW", "Anywhere (v6)", "# https"),
        ("161/udp", "ALLOW", "10.255.0.7", "# monitoring of the data centre"),
        ("161/udp", "ALLOW", "fd00:7::/32", "# monitoring of the data centre"),
    } <= rules


def test_ufw_would_write_the_same_file(host):
    """It does at each of its own commands; another byte would be a change at every run of Ansible."""
    before = host.check_output("md5sum /etc/ufw/user.rules /etc/ufw/user6.rules")
    host.check_output("ufw logging low")

    assert host.check_output("md5sum /etc/ufw/user.rules /etc/ufw/user6.rules") == before


def test_a_boot_loads_what_runs_now(host):
    assert host.check_output("bedplate-firewall compare") == ""
    assert host.service("ufw").is_enabled


@pytest.mark.parametrize(
    "by_hand",
    [
        "iptables --flush ufw-user-input",
        "ip6tables --append ufw6-user-input --protocol tcp --dport 7 --jump ACCEPT",
        "iptables --policy FORWARD ACCEPT",
        "/lib/ufw/ufw-init force-stop",
    ],
)
def test_what_was_done_by_hand_is_seen_and_undone(host, by_hand):
    # In one command: after the first of these no new connection would be let in.
    seen = host.run(f"{by_hand}; bedplate-firewall compare; echo status=$?; bedplate-firewall load")

    assert "status=1" in seen.stdout
    assert host.run("bedplate-firewall compare").rc == 0


def test_the_kept_firewall_comes_back_whole(host):
    host.check_output("sed -i '/dport 80 /d' /etc/ufw/user.rules && bedplate-firewall load")

    host.check_output("bedplate-firewall revert")

    assert host.run("bedplate-firewall compare").rc == 0
    assert "--dport 80 " in host.check_output("iptables --list-rules ufw-user-input")


def test_a_firewall_that_no_login_has_proved_does_not_count(host):
    host.check_output("systemd-run --quiet --unit=bedplate-ufw-rollback --on-active=60s true")

    unproved = host.run("bedplate-firewall compare")
    host.check_output("systemctl stop bedplate-ufw-rollback.timer")

    assert unproved.rc == 1
    assert "not proved" in unproved.stdout


def test_no_rollback_is_left_armed(host):
    assert "bedplate-ufw" not in host.check_output("systemctl list-units --all --no-legend 'bedplate-ufw*'")
