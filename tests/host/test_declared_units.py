"""Every unit that a role has declared for this host, whichever role: fenced in, there after a boot, never given up."""

from __future__ import annotations

import json
import re

import pytest

testinfra_hosts = ["ssh://lb1", "ssh://gpu1", "ssh://gpu2", "ssh://ops1", "ssh://trixie1"]

# How exposed each service is at most, as measured; systemd-analyze counts in tenths here.
EXPOSURE = {
    "bedplate-backup@": 22,
    "bedplate-decode@": 5,
    "bedplate-engine@": 3,
    # Those of hosts with GPUs by systemd-analyze --offline; no such host was there.
    "bedplate-engine@gpu": 10,
    "bedplate-gpu-metrics": 10,
    "nvidia-devices": 96,
    "nvidia-persistenced": 96,
    "bedplate-metrics": 2,
    "bedplate-optimize@": 3,
    "bedplate-redis-cache": 10,
    # By systemd-analyze --offline. Kills other users' processes and writes /etc/group.
    "bedplate-store": 18,
    "bedplate-web@": 4,
    "mtail": 13,
    "nginx": 24,
    "prometheus": 11,
    "prometheus-alertmanager": 11,
    "prometheus-blackbox-exporter": 11,
    "prometheus-nginx-exporter": 11,
    # Sees other processes and reads the clock.
    "prometheus-node-exporter": 17,
    "prometheus-redis-exporter": 11,
    "redis-server@": 11,
    # The distribution's, which begins as root and reads the kernel's log.
    "rsyslog": 80,
}


@pytest.fixture
def declared(host):
    """Units that have to run, by what host_units recorded."""
    records = host.check_output("cat /var/lib/host-units/*").replace("}{", "}\n{").splitlines()
    return [unit["name"] for unit in map(json.loads, records) if unit.get("state") != "stopped"]


def kind(name):
    """An instance counts as its template, but for engines on GPUs."""
    return re.sub("@(gpu)?.*", r"@\1", name)


@pytest.fixture
def services(host):
    """{unit: its name in EXPOSURE} of services that we wrote, or wrote a drop-in for; of a template one."""
    # Not links: these are what `systemctl enable` leaves.
    look = r"find /etc/systemd/system -maxdepth 1 -not -type l -regex '.*\.service\(\.d\)?' -printf '%f\n'"
    found = host.check_output(look).split()
    names = {name.removesuffix(".d").removesuffix(".service") for name in found}
    loaded = host.check_output("systemctl list-units --plain --no-legend --all '*@*.service'").split()
    instances = {kind(unit): unit for unit in loaded if unit.endswith(".service")}
    # Where no instance was ever started, the step of the backups that is daily.
    defaults = {name: f"{name}backup.service" if name.endswith("@") else f"{name}.service" for name in names}
    units = {instances.get(kind(name), defaults[name]): kind(name) for name in names}
    assert units
    return units


def test_every_service_is_less_exposed_than_its_bar(host, services):
    ask = [
        f"systemd-analyze security --no-pager --threshold={EXPOSURE[name]} {unit} >/dev/null || echo {unit}"
        for unit, name in services.items()
    ]

    assert host.check_output("; ".join([*ask, "true"])).split() == []


def test_no_service_is_ever_given_up(host, services):
    shown = host.check_output(f"systemctl show --property=Id,Type,Restart,StartLimitIntervalUSec {' '.join(services)}")

    units = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")]
    assert len(units) == len(services)
    # A step that ends is started again by its timer.
    running = [unit for unit in units if unit["Type"] != "oneshot"]
    assert [unit for unit in running if unit["Restart"] == "no" or unit["StartLimitIntervalUSec"] != "0"] == []


def test_whatever_runs_is_there_after_a_boot(host, declared):
    at_boot = host.check_output("systemctl list-dependencies --plain --all --no-pager default.target").split()

    assert [unit for unit in declared if unit not in at_boot] == []
