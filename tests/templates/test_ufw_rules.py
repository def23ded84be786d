"""Who may connect to whom, for a sample fleet: the role ufw's rules and the files that ufw reads."""

from __future__ import annotations

import copy

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from conftest import FLEET, REPOSITORY

from roles.ufw.filter_plugins.ufw_rules import ufw_admits, ufw_rules

RELEASES = ["bullseye", "jammy", "bookworm", "noble", "trixie", "resolute"]
SERVICES = {
    name.removeprefix("fleet_"): service
    for name, service in yaml.safe_load((REPOSITORY / "roles/fleet/defaults/main.yml").read_text()).items()
}
ADDRESSES = {host: variables["private_address"] for host, variables in FLEET["hostvars"].items()}
LB1, GPU1, GPU2, OPS1 = (ADDRESSES[host] for host in ("lb1", "gpu1", "gpu2", "ops1"))


def rules_of(host, services=None, groups=None, addresses=None, **more):
    return ufw_rules(services or SERVICES, host, groups or FLEET["groups"], addresses or ADDRESSES, **more)


def opened(host, **changes):
    """{source: {ports}} of the rules, IPv4 and IPv6 alike."""
    found = {}
    for rule in rules_of(host, **changes):
        found.setdefault(rule["source"], set()).add(rule["ports"])
    return found


def test_a_balancer_is_open_to_the_world_for_its_three_ports_over_both_protocols():
    everyone = opened("lb1")

    assert everyone["0.0.0.0/0"] == everyone["::/0"] == {"22", "80", "443"}


def test_an_inference_host_lets_the_balancer_in_and_monitoring_but_not_its_neighbour():
    assert opened("gpu1") == {
        "0.0.0.0/0": {"22"},
        "::/0": {"22"},
        LB1: {"8001:8009"},
        OPS1: {"9100", "9180"},
    }


def test_what_nobody_may_ask_has_no_rule():
    ports = set().union(*opened("ops1").values())

    assert ports == {"22", "6379"}
    assert opened("ops1")[GPU1] == opened("ops1")[GPU2] == {"6379"}


def test_a_host_in_several_groups_gets_one_rule_per_port_and_none_for_itself():
    groups = {group: ["one"] for group in FLEET["groups"]}

    assert opened("one", groups=groups, addresses={"one": LB1}) == {
        "0.0.0.0/0": {"22", "80", "443"},
        "::/0": {"22", "80", "443"},
    }


def test_a_caller_in_several_groups_gets_one_rule():
    services = {"redis_cache": {"port": 6379, "hosts": ["inference"], "from": ["data", "ops", OPS1]}}

    assert [rule["source"] for rule in rules_of("gpu1", services=services)] == [OPS1]


def test_a_host_that_left_the_inventory_is_in_no_rule_of_any_other():
    groups = {group: [host for host in hosts if host != "gpu2"] for group, hosts in FLEET["groups"].items()}

    assert GPU2 in opened("ops1")
    assert not any(GPU2 in opened(host, groups=groups) for host in ("lb1", "gpu1", "ops1"))


def test_ssh_is_limited_except_for_the_control_machine():
    ssh = [rule for rule in rules_of("gpu1", unlimited=["198.51.100.7", "2001:db8::/32"]) if rule["ports"] == "22"]

    assert [(rule["action"], rule["source"]) for rule in ssh] == [
        ("allow", "198.51.100.7"),
        ("allow", "2001:db8::/32"),
        ("limit", "0.0.0.0/0"),
        ("limit", "::/0"),
    ]


def test_extra_rules_take_the_same_words_as_declarations():
    extra = [{"port": 161, "protocol": "udp", "from": ["ops", "198.51.100.0/24"], "comment": "snmp"}]

    added = [rule for rule in rules_of("lb1", extra=extra) if rule["comment"] == "snmp"]

    assert [(rule["protocol"], rule["source"]) for rule in added] == [("udp", OPS1), ("udp", "198.51.100.0/24")]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"redis_cache": {"port": 6379, "hosts": ["data"], "from": ["gpus"]}}, "names 'gpus'"),
        ({"redis_cache": {"port": 6379, "hosts": ["data"], "from": ["10.0.0.300"]}}, "names '10.0.0.300'"),
        ({"redis_cache": {"port": 6379, "hosts": ["date"], "from": []}}, "no such group"),
        ({"redis_cache": {"port": 9100, "hosts": ["data"], "from": []}}, "both take port 9100 on ops1"),
        ({"redis_cache": {"port": 70000, "hosts": ["data"], "from": []}}, "ports are 1 to 65535"),
        ({"redis_cache": {"port": 6379, "count": 0, "hosts": ["data"], "from": []}}, "count is at least 1"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(change, complaint):
    with pytest.raises(AnsibleFilterError, match=complaint):
        rules_of("ops1", services=SERVICES | change)


def test_a_member_without_an_address_is_refused_by_name():
    with pytest.raises(
        AnsibleFilterError, match=r"gpu2 of the group 'inference' may connect, but has no private_address"
    ):
        rules_of("ops1", addresses=ADDRESSES | {"gpu2": ""})


@pytest.mark.parametrize(
    ("source", "address", "port", "let_in"),
    [
        ("anyone", "203.0.113.9", 22, True),
        ("anyone", "2001:db8::9", 22, True),
        ("anyone", "203.0.113.9", 2222, False),
        ("198.51.100.0/24", "198.51.100.7", 22, True),
        ("198.51.100.0/24", "203.0.113.9", 22, False),
        ("198.51.100.0/24", "::ffff:198.51.100.7", 22, True),
        ("ops", OPS1, 22, True),
    ],
)
def test_whether_ansible_would_be_let_in_is_told_from_the_rules(source, address, port, let_in):
    services = copy.deepcopy(SERVICES)
    services["ssh"]["from"] = [source]

    assert ufw_admits(rules_of("gpu1", services=services), address, port) is let_in


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("version", "chain", "anywhere"), [(4, "ufw", "0.0.0.0/0"), (6, "ufw6", "::/0")])
def test_the_rules_stand_in_ufws_own_form(render, release, version, chain, anywhere):
    text = render("ufw", "etc/ufw/user.rules.j2", release, __ufw_version=version)

    assert text.startswith(f"*filter\n:{chain}-user-input - [0:0]\n")
    assert text.endswith("COMMIT\n")
    assert (
        f"\n### tuple ### limit tcp 22 {anywhere} any {anywhere} in comment=737368\n"
        f"-A {chain}-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --set\n"
    ) in text
    assert f"\n-A {chain}-user-input -p tcp --dport 443 -j ACCEPT\n" in text
    assert (OPS1 in text) is (version == 4)


def test_a_range_of_ports_is_one_rule(render):
    text = render("ufw", "etc/ufw/user.rules.j2", __ufw_version=4, inventory_hostname="gpu1")

    assert f"-A ufw-user-input -p tcp -m multiport --dports 8001:8009 -s {LB1} -j ACCEPT\n" in text


def test_everything_else_is_denied_over_both_protocols(render):
    lines = render("ufw", "etc/default/ufw.j2").splitlines()

    assert {"IPV6=yes", 'DEFAULT_INPUT_POLICY="DROP"', 'DEFAULT_FORWARD_POLICY="DROP"'} <= set(lines)
    assert "ENABLED=yes" in render("ufw", "etc/ufw/ufw.conf.j2").splitlines()
