"""The firewalls of a finished fleet, asked from outside and from each member."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from tools.deployment import ROOT

PLAY = ("base.yml", "--tags=ufw", "--limit=lb1")
SERVICES = {
    name.removeprefix("fleet_"): service
    for name, service in yaml.safe_load((ROOT / "roles/fleet/defaults/main.yml").read_text()).items()
}
# How connections from this host end: open, refused (let in, but nobody listens) or dropped.
# Takes [[host, address, port]].
ASK = r"""
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def ask(target):
    try:
        socket.create_connection(target[1:], timeout=3).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
    except socket.timeout:
        return "dropped"

targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(64) as pool:
    print(json.dumps([[*target, outcome] for target, outcome in zip(targets, pool.map(ask, targets))]))
"""


@pytest.fixture(scope="module")
def members(fleet):
    """{host: {"addresses": {4: …, 6: …}, "groups": {…}}}"""
    command = [Path(sys.executable).parent / "ansible-inventory", "-i", fleet.inventory, "--list"]
    listed = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    hosts = json.loads((ROOT / ".bedplate" / fleet.fleet / "hosts.json").read_text())["hosts"]
    return {
        host["name"]: {
            "addresses": {ip_address(host[key]).version: host[key] for key in ("address", "address6")},
            "groups": {group for group in listed if host["name"] in listed[group].get("hosts", [])},
        }
        for host in hosts
        # The host of another scenario is no member.
        if host["name"] in listed["_meta"]["hostvars"]
    }


def logs_in(fleet, host):
    """Over a new connection, within 3 s."""
    config = ROOT / ".bedplate" / fleet.fleet / "ssh_config"
    options = ["-F", config, "-o", "ControlPath=none", "-o", "ConnectTimeout=3"]
    return subprocess.run(["ssh", *options, host, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def scans(fleet, testhosts, members):
    """{version: (what nmap says of all hosts from outside, {address: host})}; both at once, since each mostly waits."""

    def scan(version):
        # As nmap writes them: a random prefix may have a part that begins with 0.
        addresses = {str(ip_address(member["addresses"][version])): name for name, member in members.items()}
        family = ["-6"] if version == 6 else []
        scan = ["nmap", *family, "-n", "-Pn", "-p-", "-T5", "--min-rate=15000", "--max-retries=2", "-oG", "-"]
        return testhosts("outside", "--", *scan, *addresses), addresses

    # Logins a moment ago count, and the scan would find port 22 refused.
    for host in members:
        fleet.ssh(host, "echo / > /proc/net/xt_recent/DEFAULT")
    with ThreadPoolExecutor(2) as pool:
        return dict(zip((4, 6), pool.map(scan, (4, 6)), strict=True))


@pytest.mark.parametrize("version", [4, 6])
def test_from_outside_only_what_is_for_the_world_is_open(scans, members, version):
    said, addresses = scans[version]
    answering = {}
    for line in said.splitlines():
        if "Ports: " in line:
            ports = [port.split("/") for port in line.split("Ports: ")[1].split("\t")[0].split(", ")]
            answering[addresses[line.split()[1]]] = {int(port[0]) for port in ports if port[1] != "filtered"}
    world = {
        name: {
            service["port"]
            for service in SERVICES.values()
            if "anyone" in service["from"] and member["groups"] & {*service["hosts"]}
        }
        for name, member in members.items()
    }
    assert answering == world
    # Whatever is declared.
    for name, member in members.items():
        assert world[name] == ({22, 80, 443} if "lb" in member["groups"] else {22})
    # And not closed, which would be an answer of the host itself.
    assert said.count("Ignored State: filtered") == len(members)


def test_members_reach_what_is_declared_for_them_and_nothing_else(fleet, members):
    reached, declared = {}, {}
    for caller, calling in members.items():
        targets = []
        for host, called in members.items():
            for service in SERVICES.values():
                if host != caller and called["groups"] & {*service["hosts"]}:
                    targets.append([host, called["addresses"][4], service["port"]])
                    invited = {*service["from"]} & {*calling["groups"], "anyone"}
                    declared[caller, host, service["port"]] = bool(invited)
        said = fleet.ssh(caller, f"python3 -c '{ASK}' '{json.dumps(targets)}'")
        reached |= {(caller, host, port): outcome != "dropped" for host, _, port, outcome in json.loads(said)}

    assert reached == declared
    # Whatever is declared: no connection that was open before can hide it.
    assert all(reached["ops1", host, 9100] for host in members if host != "ops1")
    assert all(reached["lb1", host, 8001] for host in ("gpu1", "gpu2"))


def test_what_was_opened_by_hand_is_closed_by_the_next_run(fleet, members):
    fleet.ssh("lb1", "ufw allow 7/tcp")
    fleet.ssh("lb1", "iptables -I ufw-user-input -p tcp --dport 9 -j ACCEPT")

    dry = fleet.playbook(*PLAY, "--check", "--diff")
    done, again = fleet.playbook(*PLAY), fleet.playbook(*PLAY)

    assert "-### tuple ### allow tcp 7 " in dry.stdout
    assert done.returncode == 0, done.stdout
    assert "changed=0" in next(line for line in again.stdout.splitlines() if line.startswith("lb1 "))
    assert "--dport 7 " not in fleet.ssh("lb1", "iptables -S ufw-user-input; ip6tables -S ufw6-user-input")
    assert "--dport 9 " not in fleet.ssh("lb1", "iptables -S ufw-user-input")


def test_a_firewall_that_lets_no_new_login_in_is_taken_back_by_the_host(fleet, wait_until):
    """What closes SSH here is not one of our files, so no preflight can see it."""
    good = fleet.ssh("lb1", "md5sum /etc/ufw/before.rules")
    closing = "-I ufw-before-input -p tcp --dport 22 -m conntrack --ctstate NEW -j DROP"
    fleet.ssh("lb1", f"sed -i 's/^COMMIT$/{closing}\\nCOMMIT/' /etc/ufw/before.rules")

    # Long enough for the run to end before the host goes back, on a busy machine, too.
    done = fleet.playbook(*PLAY, "--extra-vars=ufw_rollback_s=60")

    assert not logs_in(fleet, "lb1")
    assert done.returncode != 0
    assert "takes the firewall back 60 s after the change" in " ".join(done.stdout.split())
    wait_until(lambda: logs_in(fleet, "lb1"), 70)
    # It has just begun to go back.
    wait_until(lambda: "same" in fleet.ssh("lb1", "bedplate-firewall compare && echo same || true"), 10)
    assert fleet.ssh("lb1", "md5sum /etc/ufw/before.rules") == good
