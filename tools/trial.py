"""Try an inventory of real hosts on test hosts: `python -m tools.trial inventory/staging FLEET`.

Writes a copy, .bedplate/FLEET/staging, in which test hosts have taken the places of the hosts of their names, and
prints where it is. What an example leaves to be written is written there; secrets are made anew.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml

from tools.deployment import ROOT, SERVER_NAME
from tools.disposable.cli import valid_name
from tools.preflight.placeholders import files

EXAMPLE_NAME = re.compile(r"[\w.-]*\bexample\.(?:com|net|org)\b")
# This machine, as the test hosts see it; it logs in often and all load comes from it.
GATEWAY = "{{ ansible_facts['default_ipv4']['gateway'] }}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.trial", description=__doc__)
    parser.add_argument("inventory", type=Path, help="its directory")
    parser.add_argument("fleet", type=valid_name, help="of tools/testhosts, with hosts of the inventory's names")
    given = parser.parse_args()
    print(copy(given.inventory, given.fleet))


def copy(inventory: Path, fleet: str) -> Path:
    access = ROOT / ".bedplate" / fleet
    target = access / inventory.resolve().name
    # Secrets of an earlier copy stay: the hosts know them.
    shutil.copytree(inventory, target, ignore=shutil.ignore_patterns("secrets.yml", "authority"), dirs_exist_ok=True)
    for path in files(target):
        path.write_text(EXAMPLE_NAME.sub(SERVER_NAME, path.read_text()))
    listed = yaml.safe_load((target / "hosts.yml").read_text())
    addresses = json.loads((access / "addresses.json").read_text())
    hosts = listed["all"]["hosts"]
    for name in hosts.keys() - {"localhost"}:
        hosts[name] = (hosts[name] or {}) | _place(addresses[name], access)
    (target / "hosts.yml").write_text(yaml.safe_dump(listed, sort_keys=False))
    return target


def _place(address: str, access: Path) -> dict[str, Any]:
    """What makes a test host take the place: the same that the demo's inventory says of its hosts."""
    return {
        "ansible_host": address,
        "ansible_ssh_common_args": f"-F {shlex.quote(str(access / 'ssh_config'))}",
        "private_address": address,
        "ufw_ssh_unlimited": [GATEWAY],
        "nginx_limit_exempt": [GATEWAY],
        "preflight_size": "demo",
        # One shows that native code is built and served; all of them take minutes.
        "bedplate_optimize_forms": ["float32-compiled"],
    }


if __name__ == "__main__":
    main()
