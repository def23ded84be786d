#!/usr/bin/python3
"""bedplate-store: measures what each host keeps at the backup store, and stops the writing of those over their quota.

sshd gives members of one group a read-only SFTP; this program says who is a member, ends sessions from before, tells
each host why in a file that it can read, and tells Prometheus. A timer starts it every minute.

Needs the Python of every supported release (3.9 and later), getent and gpasswd.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/bedplate/store.json")
BLOCK_BYTES = 512  # st_blocks counts these, whatever the disk
GIB = 1 << 30
# All hosts together, each an equal part; one that is not counted by then keeps its verdict.
COUNTING_S = 120
# A login that began before a verdict may become a session this much later.
LOGIN_S = 10
COMMAND_S = 60


@dataclass(frozen=True)
class Usage:
    """What a host keeps. Counting ends one past its quota of files, or when time is over, and is in part then."""

    bytes: int = 0
    files: int = 0
    problem: str = ""
    in_part: bool = False


@dataclass(frozen=True)
class Quota:
    bytes: int
    files: int

    @classmethod
    def of(cls, wanted: dict[str, Any], disk: os.statvfs_result) -> Quota:
        """No host gets more than half of the disk's files; half of its bytes where the operator says none."""
        half_bytes, half_files = disk.f_blocks * disk.f_frsize // 2, disk.f_files // 2
        # Some file systems make room for files as they come, and say 0.
        files = min(wanted["files"], half_files or wanted["files"])
        return cls(int(wanted["gib"] * GIB) or half_bytes, files)


# --- Measuring ---


def measure(folder: Path, most_files: int, deadline: float) -> Usage:
    """Allocated bytes and number of all that is below, as `du` does.

    What cannot be counted is a problem and no zero: a host makes names that are too long on purpose.
    """
    used = files = 0
    waiting = [str(folder)]
    while waiting:
        try:
            for size, inner in sizes(waiting.pop()):
                used, files = used + size, files + 1
                waiting += [inner] if inner else []
                if files > most_files or time.monotonic() > deadline:
                    return Usage(used, files, in_part=True)
        except OSError as error:
            return Usage(used, files, f"cannot be measured: {error.strerror}")
    return Usage(used, files)


def sizes(folder: str) -> Iterator[tuple[int, str]]:
    """(allocated bytes, its path if it is a folder) of each entry; links are not followed."""
    # What is gone meanwhile takes no room.
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                yield status.st_blocks * BLOCK_BYTES, entry.path if stat.S_ISDIR(status.st_mode) else ""


def verdict(usage: Usage, quota: Quota) -> str:
    """Why the host may write no more, in words for its operator; empty while it may."""
    if usage.problem:
        return f"what this host keeps there {usage.problem}; look at its folder on the store"
    if usage.files > quota.files:
        return f"this host keeps more than {quota.files} files there; raise backup_quota_files or prune"
    if usage.bytes > quota.bytes:
        found, wanted = usage.bytes / GIB, quota.bytes / GIB
        return f"this host keeps {found:.1f} GiB there, its quota is {wanted:.1f}; raise backup_quota_gib or prune"
    return ""


def shortage(disk: os.statvfs_result, percent: int) -> str:
    """Why nobody may write any more, since the disk itself is nearly full; empty while there is room."""
    free_bytes, all_bytes = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free_bytes * 100 < all_bytes * percent:
        found, wanted = free_bytes / GIB, all_bytes * percent / 100 / GIB
        return f"the store's disk has {found:.1f} GiB free and keeps {wanted:.1f} (backup_reserve_percent); free some"
    if disk.f_favail * 100 < disk.f_files * percent:
        return (
            f"the store's disk has room for {disk.f_favail} of {disk.f_files} files and keeps {percent} % of them "
            "(backup_reserve_percent); free some"
        )
    return ""


# --- Stopping ---


def command(*words: str, nothing_found: int = 0) -> str:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_S
    )
    if done.returncode not in (0, nothing_found):
        sys.exit(f"bedplate-store: '{' '.join(words)}' ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def account(kind: str, name: str) -> list[str]:
    """Its line of /etc/passwd or /etc/group; empty where there is none."""
    found = command("getent", kind, name, nothing_found=2)
    return found.split(":") if found else []


def number_of(user: str) -> int:
    """0 where there is none, which is root's and so never a host's."""
    return int((account("passwd", user) or ["", "", "0"])[2])


def set_readers(group: str, users: set[str]) -> None:
    """Make these the members of the group: who logs in from now on, reads only."""
    members = set((account("group", group) or [""])[-1].split(",")) - {""}
    if members != users:
        command("gpasswd", "--members", ",".join(sorted(users)), group)


def end_sessions(user_number: int, begun_before: float) -> int:
    """Kill the user's processes of before that time: they may still write. Returns how many."""
    ended = 0
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if os.stat(f"/proc/{pid}").st_uid == user_number and started(pid) < begun_before:
                os.kill(pid, signal.SIGKILL)
                ended += 1
    return ended


def started(pid: int) -> float:
    """Seconds since 1970; the kernel counts from its boot."""
    # The name, in parentheses, may hold anything.
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


# --- One round ---


@dataclass
class Host:
    """One host's folder at the store, with what is remembered of it."""

    name: str
    user: str
    home: Path
    quota: Quota
    usage: Usage
    measured: float
    refused_since: float
    refused: str = ""

    def measure(self, deadline: float) -> None:
        """A count in part only counts where it is too much already."""
        found = measure(self.home / "repository", self.quota.files, deadline)
        if not found.in_part or verdict(found, self.quota):
            self.usage, self.measured = found, time.time()

    @property
    def over(self) -> str:
        return verdict(self.usage, self.quota)

    @property
    def used_ratio(self) -> float:
        return max(self.usage.bytes / max(self.quota.bytes, 1), self.usage.files / max(self.quota.files, 1))

    def remember(self) -> None:
        """Since when it is refused, with a line for the journal when that changes."""
        if self.refused and not self.refused_since:
            print(f"{self.name} may write no more: {self.refused}")
            self.refused_since = time.time()
        if not self.refused and self.refused_since:
            print(f"{self.name} may write again")
            self.refused_since = 0.0

    def memory(self) -> dict[str, Any]:
        return {"usage": asdict(self.usage), "measured": self.measured, "refused_since": self.refused_since}

    def tell(self) -> None:
        """The host reads this before it writes: its chroot is this folder."""
        if self.home.is_dir():
            replace(self.home / "quota.json", json.dumps({"refused": self.refused}) + "\n", 0o644)


def hosts_of(settings: dict[str, Any], memory: dict[str, Any], disk: os.statvfs_result) -> list[Host]:
    found = []
    for user, wanted in settings["hosts"].items():
        before = {"usage": {}, "measured": 0.0, "refused_since": 0.0} | memory.get(user, {})
        home, quota = Path(settings["directory"]) / user, Quota.of(wanted, disk)
        usage = Usage(**before["usage"])
        found.append(Host(wanted["name"], user, home, quota, usage, before["measured"], before["refused_since"]))
    return found


def round_of(settings: dict[str, Any], memory: dict[str, Any]) -> tuple[list[Host], str]:
    """Measure, and let write who may. Returns the hosts, and why none may."""
    disk = os.statvfs(settings["directory"])
    hosts = hosts_of(settings, memory, disk)
    short = shortage(disk, settings["reserve_percent"])
    if short:
        judge(hosts, short, settings["group"])  # counting takes time, and there is little room left
    for host in hosts:
        host.measure(time.monotonic() + COUNTING_S / len(hosts))
    judge(hosts, short, settings["group"])
    return hosts, short


def judge(hosts: list[Host], short: str, group: str) -> None:
    """The store's own host has no user: its step asks, as the others' do, and then writes nothing."""
    numbers = {host.user: number_of(host.user) for host in hosts}
    for host in hosts:
        host.refused = host.over or short
    set_readers(group, {host.user for host in hosts if host.refused and numbers[host.user]})
    for host in hosts:
        host.remember()
        if host.refused and numbers[host.user]:
            end_sessions(numbers[host.user], host.refused_since + LOGIN_S)


def metrics(hosts: list[Host], short: str, disk: os.statvfs_result) -> str:
    free_bytes = disk.f_bavail * disk.f_frsize
    lines = [
        *series("used_bytes", "Allocated below the host's folder", {h.name: h.usage.bytes for h in hosts}),
        *series("files", "Below the host's folder", {h.name: h.usage.files for h in hosts}),
        *series("quota_bytes", "What the host may keep", {h.name: h.quota.bytes for h in hosts}),
        *series("quota_used_ratio", "Of bytes or of files, the larger", {h.name: h.used_ratio for h in hosts}),
        *series("over_quota", "1 if the host may write no more", {h.name: int(bool(h.over)) for h in hosts}),
        *series("measured_timestamp_seconds", "When it was last counted", {h.name: h.measured for h in hosts}),
        *series("free_bytes", "On the store's disk", {"": free_bytes}),
        *series("reserve_reached", "1 if nobody may write, since the disk is nearly full", {"": int(bool(short))}),
    ]
    return "\n".join(lines) + "\n"


def series(name: str, words: str, values: dict[str, float]) -> list[str]:
    head = [f"# HELP bedplate_store_{name} {words}.", f"# TYPE bedplate_store_{name} gauge"]
    labels = {host: f'{{host="{host}"}}' if host else "" for host in values}
    return head + [f"bedplate_store_{name}{labels[host]} {value}" for host, value in values.items()]


def replace(path: Path, text: str, mode: int) -> None:
    if path.is_file() and path.read_text() == text:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    os.replace(temporary, path)


def remembered(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}  # of a power cut, at worst: all is counted anew
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="bedplate-store", description="Quotas of the backup store.")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    settings = json.loads(parser.parse_args().settings.read_text())
    memory = Path(settings["state_dir"]) / "hosts.json"
    hosts, short = round_of(settings, remembered(memory))
    replace(memory, json.dumps({host.user: host.memory() for host in hosts}, indent=1), 0o600)
    for host in hosts:
        host.tell()
    if Path(settings["metrics_dir"]).is_dir():
        text = metrics(hosts, short, os.statvfs(settings["directory"]))
        replace(Path(settings["metrics_dir"]) / "bedplate_store.prom", text, 0o644)


if __name__ == "__main__":
    main()
