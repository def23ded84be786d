"""What the repository gets at .bedplate/FLEET/, so that ssh, Ansible and testinfra reach the hosts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.disposable.system import run, write_file

KEY = "id_ed25519"
FILES = (KEY, "known_hosts", "ssh_config", "hosts.json", "addresses.json")


@dataclass(frozen=True)
class Reachable:
    name: str
    address: str
    host_key: str


def make_key(folder: Path, fleet: str) -> None:
    """The fleet's key lives in the state folder; the repository holds a copy that may be cleaned away."""
    if (folder / f"{KEY}.pub").exists():
        return
    (folder / KEY).unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"deploy@{fleet}", "-f", str(folder / KEY))


def write_access(target: Path, key: Path, hosts: list[Reachable], summary: dict[str, Any]) -> None:
    owner = _owner()
    for folder in (target.parent, target):
        folder.mkdir(exist_ok=True)
        os.chown(folder, *owner)
    write_file(target / KEY, key.read_text(), 0o600, owner)
    known = "".join(f"{host.name},{host.address} {host.host_key}\n" for host in hosts)
    write_file(target / "known_hosts", known, 0o644, owner)
    write_file(target / "ssh_config", _ssh_config(target, hosts), 0o644, owner)
    write_file(target / "hosts.json", json.dumps(summary, indent=2) + "\n", 0o644, owner)
    addresses = {host.name: host.address for host in hosts}
    write_file(target / "addresses.json", json.dumps(addresses, indent=2) + "\n", 0o644, owner)


def remove_access(target: Path) -> None:
    """Only what this tool writes: others keep things there too."""
    for name in FILES:
        for path in (target / name, target / f".{name}.new"):
            path.unlink(missing_ok=True)
    for folder in (target, target.parent):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _ssh_config(target: Path, hosts: list[Reachable]) -> str:
    blocks = [f"Host {host.name}\n  HostName {host.address}\n" for host in hosts]
    names = " ".join(name for host in hosts for name in (host.name, host.address))
    common = (
        f"Host {names}\n"
        "  User deploy\n"
        f'  IdentityFile "{target / KEY}"\n'
        "  IdentitiesOnly yes\n"
        f'  UserKnownHostsFile "{target / "known_hosts"}"\n'
        "  StrictHostKeyChecking yes\n"
    )
    return "\n".join([*blocks, common] if hosts else [])


def _owner() -> tuple[int, int]:
    """Whoever called sudo: the files are for them."""
    return int(os.environ.get("SUDO_UID", "0")), int(os.environ.get("SUDO_GID", "0"))
