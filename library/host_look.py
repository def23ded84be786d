#!/usr/bin/python
"""Ansible module: looks at what a host should be doing and says what it found. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = """
module: host_look
short_description: Compares listeners, certificates and running releases of a host with what they should be
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
  release_link:
    description: The link to the release that the units in C(release_units) have to run.
    type: str
  release_units:
    description: Patterns of units.
    type: list
    elements: str
    default: []
"""

import os
import ssl
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

LISTEN = "0A"  # the kernel's word for it in /proc/net/tcp


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
            "release_link": {"type": "str"},
            "release_units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    findings = [*look_at_listeners(given["services"], given["groups"])]
    findings += look_at_certificates(given["certificates"], given["certificate_days"])
    findings += look_by_commands(given["commands"])
    if given["release_link"]:
        findings += look_at_releases(given["release_link"], given["release_units"])
    module.exit_json(changed=False, findings=findings)


if __name__ == "__main__":
    main()
