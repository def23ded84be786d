"""Where a setting stands in an inventory, or where it would go."""

from __future__ import annotations

import re
from pathlib import Path

from tools.preflight.hosts import CONTROL, Host

# Whose settings go by group; what is not here is of all hosts.
GROUPS = {"bedplate": "inference", "nginx": "lb", "redis": "data", "prometheus": "ops"}
OF_A_HOST = {"private_address", "ansible_host", "ansible_port", "ansible_user"}


def place(setting: str, host: Host, inventory: Path) -> str:
    """`group_vars/inference.yml:3` of the inventory, or the file that wants the line; as a path for people.

    The closest one to the host that names the setting at the start of a line, since that is the one that Ansible takes.
    """
    if setting == host.name:
        return _named(host, inventory)
    for path in _candidates(host, inventory):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.match(rf"[\s-]*{re.escape(setting)}\s*:", line) and _is_for(host, path, number):
                return f"{path}:{number}"
    return f"{_home(setting, inventory)} (a new line)"


def _named(host: Host, inventory: Path) -> str:
    """Where the host has its name."""
    for path in (inventory / "hosts.yml", inventory):
        for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
            if re.match(rf"\s*['\"]?{re.escape(host.name)}['\"]?\s*(:|\s|$)", line):
                return f"{path}:{number}"
    return str(inventory / "hosts.yml")


def _candidates(host: Host, inventory: Path) -> list[Path]:
    hosts = [path for path in (inventory / "hosts.yml", inventory) if path.is_file()]
    groups = [*sorted(host.groups), "all"] if host.name != CONTROL else ["inference", "lb", "data", "ops", "all"]
    named = [*_files(inventory / "host_vars", host.name), *hosts]
    return [*named, *(path for group in groups for path in _files(inventory / "group_vars", group))]


def _files(folder: Path, name: str) -> list[Path]:
    single = [folder / f"{name}{end}" for end in ("", ".yml", ".yaml")]
    return [*(path for path in single if path.is_file()), *sorted((folder / name).glob("*.y*ml"))]


def _is_for(host: Host, path: Path, number: int) -> bool:
    """In a list of hosts each host has lines of its own: those below its name, that are indented further."""
    if path.name != "hosts.yml" or host.name == CONTROL:
        return True
    lines = path.read_text().splitlines()[:number]
    depth = _depth(lines[-1])
    for line in reversed(lines[:-1]):
        if line.strip() and not line.lstrip().startswith("#") and _depth(line) < depth:
            return line.strip().rstrip(":") in (host.name, "vars")
    return False


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _home(setting: str, inventory: Path) -> Path:
    if setting in OF_A_HOST:
        return inventory / "hosts.yml"
    return inventory / "group_vars" / f"{GROUPS.get(setting.split('_', 1)[0], 'all')}.yml"
