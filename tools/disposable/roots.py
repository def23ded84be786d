"""One cached root per suite, under all hosts of that suite and never changed once it is complete."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

from tools.disposable.suites import CUSTOMIZE, PACKAGES, Suite
from tools.disposable.system import Refused, locked, remove_tree


def root_path(suite: Suite) -> Path:
    cache = Path(os.environ.get("BEDPLATE_CACHE") or "/var/cache/bedplate")
    return cache / "roots" / f"{suite.name}-{suite.recipe_hash(_mirror())}"


def ensure_root(suite: Suite) -> Path:
    root = root_path(suite)
    if root.exists():
        return root
    with locked(root.parent / ".lock", f"{suite.name}: waiting for another build of a root") as lock_fd:
        for left_over in root.parent.glob("*.partial"):
            remove_tree(left_over)
        if not root.exists():
            _build(suite, root, lock_fd)
    return root


def _build(suite: Suite, root: Path, lock_fd: int) -> None:
    if not Path(suite.keyring).exists():
        raise Refused(
            f"missing {suite.keyring}, the keys of {suite.name}. Run: apt-get install {suite.keyring_package}"
        )
    print(f"{suite.name}: building its root, once, about a minute: {root}", flush=True)
    started = time.monotonic()
    partial = root.with_name(f"{root.name}.partial")

    # The builder inherits the lock: if this tool is killed, nobody builds beside what it left running.
    done = subprocess.run(_command(suite, partial), check=False, stdin=subprocess.DEVNULL, pass_fds=(lock_fd,))

    if done.returncode != 0:
        # A builder that was killed may leave children that still write; the next build clears up after them.
        with contextlib.suppress(OSError):
            remove_tree(partial)
        raise Refused(f"mmdebstrap ended with {done.returncode} for {suite.name}; its last lines above say why")
    partial.rename(root)
    print(f"{suite.name}: root built in {time.monotonic() - started:.0f} s", flush=True)


def _command(suite: Suite, target: Path) -> list[str]:
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--components={suite.components}",
        f"--keyring={suite.keyring}",
        f"--include={','.join(PACKAGES)}",
        *(f"--customize-hook={hook}" for hook in CUSTOMIZE),
        f'--customize-hook=systemctl --root="$1" enable systemd-networkd.service {suite.ssh_unit}',
        suite.name,
        str(target),
        *filter(None, [_mirror()]),
    ]


def _mirror() -> str:
    """Empty: the one mmdebstrap knows for the suite."""
    return os.environ.get("BEDPLATE_MIRROR", "")
