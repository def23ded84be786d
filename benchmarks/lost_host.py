"""An inference host is destroyed and comes back by one command: how long, and byte for byte?

    python -m benchmarks.lost_host FLEET HOST     of a fleet of tools/testhosts that site.yml built: molecule gpu2

Prints the seconds from the bare host to a right prediction of its own, and whether what was backed up is equal.
"""

from __future__ import annotations

import subprocess
import sys
import time

from tools.deployment import ROOT, Deployment

LIMIT_S = 900
# Contents, owners and modes of what was backed up, without what each host has of its own from birth.
BACKED_UP = (
    "cd / && find etc/bedplate var/lib/bedplate/models -type f -exec sha256sum {} + | sort; "
    "find etc/bedplate var/lib/bedplate/models -printf '%p %m %u %g %l\\n' | sort"
)
CANARY = "/opt/bedplate/current/bin/bedplate canary --settings /etc/bedplate/engine.yaml --timeout 30 {url}"


def main() -> None:
    name, host = sys.argv[1:]
    fleet = Deployment(name)
    before = fleet.ssh(host, BACKED_UP)
    fleet.hang_up(host)
    testhosts("down", name, host)
    testhosts("up", name, host)
    began = time.monotonic()
    run = fleet.playbook("rebuild.yml", "-e", f"host={host}")
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    after = fleet.ssh(host, BACKED_UP)
    url = f"http://{fleet.address_of(host)}:8001"
    fleet.ssh(host, CANARY.format(url=url), stdin=fleet.api_key)
    took_s = time.monotonic() - began
    print(f"{host}: serving again after {took_s:.0f} s, limit {LIMIT_S}; {len(after.splitlines())} lines compared")
    print("byte-equal" if after == before else "DIFFERENT")
    sys.exit(after != before or took_s > LIMIT_S)


def testhosts(verb: str, *arguments: str) -> None:
    subprocess.run([ROOT / "tools/testhosts", verb, *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
