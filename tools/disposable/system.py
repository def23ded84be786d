"""The machine the hosts run on: commands, locks, mounts, files."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The package that brings each command, on Debian and Ubuntu alike.
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}


class Refused(Exception):
    """Something the operator must change; the message says what and how."""


def require_commands(needed: dict[str, str] = NEEDED) -> None:
    missing = [command for command in needed if shutil.which(command) is None]
    if missing:
        packages = " ".join(sorted({needed[command] for command in missing}))
        raise Refused(f"missing on this machine: {', '.join(missing)}. Run: apt-get install {packages}")


def run(*command: str, stdin: str = "") -> str:
    """Output of a command that must work."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def succeeds(*command: str) -> bool:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0


def systemd_outside() -> bool:
    """Whether the machine itself runs systemd; containers and small virtual machines often do not."""
    return Path("/run/systemd/system").is_dir()


def wait_until(condition: Callable[[], bool], otherwise: str, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Refused(f"{otherwise} after {timeout_s:.0f} s")
        time.sleep(0.02)


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[int]:
    """Hold an exclusive lock; the kernel gives it back however the holder ends. Yields its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def mounts_below(path: Path) -> list[str]:
    """Mount points at or below a path, innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [point for point in points if point == str(path) or point.startswith(f"{path}/")]
    return found[::-1]


def remove_tree(path: Path) -> None:
    """Unmount what is mounted below a path, then remove it: nothing behind a mount is ever deleted."""
    for point in mounts_below(path):
        run("umount", point)
    if path.exists():
        shutil.rmtree(path)


def write_file(path: Path, text: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
    """Replace a file in one step, so that a run cut off here leaves the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        os.fchown(file.fileno(), *owner)
    new.replace(path)
