"""What a second run of site.yml costs: seconds, changes, and commands executed on each host over SSH.

    python -m benchmarks.site_again [--inventory inventory/demo]

Exit status 1 when anything changed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tools.deployment import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site_again")
    parser.add_argument("--inventory", default="inventory/demo")
    args = parser.parse_args()
    ansible = str(Path(sys.executable).parent / "ansible-playbook")
    started = time.monotonic()
    # At this verbosity Ansible says each command that it sends to a host.
    done = subprocess.run(
        [ansible, "-vvv", f"-i{args.inventory}", "site.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    executions = Counter(re.findall(r"<([^>]+)> SSH: EXEC", done.stdout))
    recap = dict(re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE))
    print(f"site.yml again: {time.monotonic() - started:.0f} s")
    for host, changed in sorted(recap.items()):
        print(f"{host:12} changed={changed}  remote executions={executions[host]}")
    return int(any(int(changed) for changed in recap.values()))


if __name__ == "__main__":
    sys.exit(main())
