"""A control group for each host. Without systemd outside nobody else gives it one, and two hosts would share one:
stopping a service in one host would then reach for its namesake in the other."""

from __future__ import annotations

import contextlib
import signal
from functools import partial
from pathlib import Path

from tools.disposable.processes import process_of
from tools.disposable.system import wait_until


def paths(name: str) -> list[Path]:
    """In every hierarchy that systemd uses: one with cgroup v2, two where v1 controllers are mixed in."""
    root = Path("/sys/fs/cgroup")
    hierarchies = [root] if (root / "cgroup.procs").exists() else [root / "systemd", root / "unified"]
    return [path / name for path in hierarchies if (path / "cgroup.procs").exists()]


def make(groups: list[Path]) -> list[Path]:
    for group in groups:
        group.mkdir(exist_ok=True)
    return groups


def empty(groups: list[Path]) -> None:
    """Kill what is left in the groups, wait until it is gone, remove them."""
    for group in groups:
        for pid in _members(group):
            process = process_of(pid)
            if process:
                process.signal(signal.SIGKILL)
    for group in groups:
        wait_until(partial(_removed, group), f"processes are left in {group}")


def _members(group: Path) -> list[int]:
    return [int(pid) for procs in group.rglob("cgroup.procs") for pid in procs.read_text().split()]


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):  # busy: the kernel still buries the dead
        for path in sorted(group.glob("**/"), reverse=True):
            path.rmdir()
    return not group.exists()
