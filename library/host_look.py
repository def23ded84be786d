#!/usr/bin/python
"""Ansible module: looks at what a host should be doing and says what it found. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = """
module: host_look
short_description: Compares what a host does with what it should be doing
options:
  services:
    description: By name, each with the C(port) on which it listens and the groups C(hosts) that run it.
    type: dict
    default: {}
  groups:
    description: The groups of this host.
    type: list
    elements: str
    default: []
  certificates:
    description: Files with a certificate each.
    type: list
    elements: str
    default: []
  certificate_days:
    description: Days that a certificate has to be good for.
    type: int
    default: 14
  commands:
    description: By name, command lines that say nothing and end with status 0 where all is well.
    type: dict
    default: {}
  disk_percent:
    description: How full a disk may be.
    type: int
    default: 90
  backup_state:
    description: The folder in which backups write down how they went.
    type: str
  backup_hours:
    description: By step, how many hours may have passed since it succeeded.
    type: dict
    default: {}
  prometheus:
    description: Where Prometheus answers on this host, as http://ADDRESS:PORT; its probes have to succeed.
    type: str
  release_link:
    description: The link to the release that the units in C(release_units) have to run.
    type: str
  release_units:
    description: Patterns of units.
    type: list
    elements: str
    default: []
"""

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from ansible.module_utils.basic import AnsibleModule

LISTEN = "0A"  # the kernel's word for it in /proc/net/tcp


TIMEOUT_S = 10
# What holds files of ours; others, as a medium that is only read, are full by nature.
DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay")
PROBES = "probe_success"


def finding(check, ok, found, wanted):
    return {"check": check, "ok": ok, "found": found, "wanted": wanted}


def run(*command):
    """Exit status and output; a program that is not there has status 127."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def output(*command):
    return run(*command)[1]


def listening_ports():
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.path.exists(table):
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
            ports |= {int(row[1].rsplit(":", 1)[1], 16) for row in rows if row[3] == LISTEN}
    return ports


def look_at_listeners(services, groups):
    """Of a service with several ports the first."""
    ports = listening_ports()
    for name, service in services.items():
        if set(service["hosts"]) & set(groups):
            port = int(service["port"])
            found = "listens" if port in ports else "nobody listens"
            yield finding(f"port of {name}", port in ports, found, f"a listener on {port}")


def look_at_certificates(paths, days):
    for path in paths:
        status, said = run("openssl", "x509", "-in", path, "-noout", "-enddate")
        end = said.partition("=")[2] if status == 0 else ""
        left = (ssl.cert_time_to_seconds(end) - time.time()) / 86400 if end else 0
        found = f"{left:.0f} days left" if end else "no certificate"
        yield finding(f"certificate {path}", left >= days, found, f"{days} days left")


def look_by_commands(commands):
    for name, line in commands.items():
        status, said = run(*line.split())
        found = "as declared" if status == 0 else "; ".join(said.splitlines())[:500]
        yield finding(name, status == 0, found, f"silence of '{line}'")


def look_at_disks(most_percent):
    """Each once, where it is mounted first."""
    seen = set()
    with open("/proc/mounts") as lines:
        mounts = [line.split()[:4] for line in lines]
    for device, where, kind, options in mounts:
        if kind not in DISKS or device in seen or "ro" in options.split(","):
            continue
        seen.add(device)
        status = os.statvfs(where.replace("\\040", " "))
        for what, free, total in (
            ("disk", status.f_bavail, status.f_blocks),
            ("files of disk", status.f_favail, status.f_files),
        ):
            # Some file systems do not count files.
            if total:
                used = 100 - 100 * free / total
                yield finding(f"{what} {where}", used < most_percent, f"{used:.0f} % used", f"under {most_percent} %")


def look_at_failed_units():
    """Of systemd's own list, whoever made them: a timer is well while what it starts fails every night."""
    listed = output("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--all")
    failed = sorted(line.split()[0] for line in listed.splitlines() if line.split())
    for unit in failed:
        result = output("systemctl", "show", "--property=Result", "--value", unit)
        yield finding(f"unit {unit}", False, f"failed ({result}); see: journalctl -u {unit}", "not failed")
    if not failed:
        yield finding("failed units", True, "none", "none")


def look_at_backups(folder, most_hours):
    for step, hours in most_hours.items():
        try:
            with open(os.path.join(folder, f"{step}.json")) as file:
                state = json.load(file)
        except (OSError, ValueError):
            state = {}
        age = (time.time() - state.get("success", 0)) / 3600 if state.get("success") else None
        found = f"succeeded {age:.0f} hours ago" if age is not None else "never succeeded"
        if not state.get("ok"):
            found += f"; the last try failed: {state.get('said') or 'see journalctl -u bedplate-backup@' + step}"[:300]
        well = bool(state.get("ok")) and age is not None and age <= hours
        yield finding(f"backup: {step}", well, found, f"success in the last {hours} hours")


def look_at_probes(prometheus):
    question = urllib.parse.urlencode({"query": PROBES})
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{prometheus}/api/v1/query?{question}", timeout=TIMEOUT_S) as answer:
            series = json.load(answer)["data"]["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield finding("probes", False, f"Prometheus does not answer: {error}", "an answer")
        return
    for one in series:
        succeeds = one["value"][1] == "1"
        name = one["metric"].get("instance", "?")
        yield finding(f"probe of {name}", succeeds, "succeeds" if succeeds else "fails", "a prediction through it")


def look_at_releases(link, patterns):
    wanted = os.path.realpath(link)
    listed = output("systemctl", "list-units", "--plain", "--no-legend", "--state=active", *patterns)
    for unit in sorted(line.split()[0] for line in listed.splitlines() if line.split()):
        pid = output("systemctl", "show", "--property=MainPID", "--value", unit)
        # It may just have ended; that the unit is not up is told elsewhere.
        if pid in ("", "0") or not os.path.exists(f"/proc/{pid}"):
            continue
        with open(f"/proc/{pid}/cmdline") as file:
            program = file.read().split("\0")[0]
        # The interpreter's path, as the release's own scripts name it.
        release = os.path.dirname(os.path.dirname(program))
        yield finding(f"release of {unit}", release == wanted, os.path.basename(release), os.path.basename(wanted))


def main():
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "dict", "default": {}},
            "groups": {"type": "list", "elements": "str", "default": []},
            "certificates": {"type": "list", "elements": "str", "default": []},
            "certificate_days": {"type": "int", "default": 14},
            "commands": {"type": "dict", "default": {}},
            "disk_percent": {"type": "int", "default": 90},
            "backup_state": {"type": "str"},
            "backup_hours": {"type": "dict", "default": {}},
            "prometheus": {"type": "str"},
            "release_link": {"type": "str"},
            "release_units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    findings = [*look_at_listeners(given["services"], given["groups"])]
    findings += look_at_certificates(given["certificates"], given["certificate_days"])
    findings += look_by_commands(given["commands"])
    findings += look_at_disks(given["disk_percent"])
    findings += look_at_failed_units()
    if given["backup_state"]:
        findings += look_at_backups(given["backup_state"], given["backup_hours"])
    if given["prometheus"]:
        findings += look_at_probes(given["prometheus"])
    if given["release_link"]:
        findings += look_at_releases(given["release_link"], given["release_units"])
    module.exit_json(changed=False, findings=findings)


if __name__ == "__main__":
    main()
