"""A host's backups in a folder: the real program, the real restic. Needs root, as the program does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/backup/files/bedplate_backup.py"
MEBIBYTE = 1 << 20


class Host:
    """What one host has on its disk for its backups, below one folder. Files that are backed up are not copied."""

    def __init__(self, folder: Path, files: Path):
        self.folder = folder
        self.files = files
        self.store = folder / "store"
        self.password = folder / "password"
        self.metrics = folder / "metrics"

    def make(self) -> None:
        self.metrics.mkdir(parents=True)
        self.password.write_text("right-password")
        self.settings()

    def settings(self, **more: str) -> None:
        (self.folder / "backup.json").write_text(
            json.dumps(
                {
                    "host": "gpu1",
                    "repository": str(self.store),
                    "options": {},
                    "environment": {},
                    "ssh_config": "",
                    "password_file": str(self.password),
                    "parts": {"bundles": [str(self.files / "models")], "configuration": [str(self.files / "etc")]},
                    "keep": {"daily": 7, "weekly": 4, "monthly": 6},
                    "state_dir": str(self.folder / "state"),
                    "directory": str(self.store),
                    "metrics_dir": str(self.metrics),
                    "quota_file": "",
                }
                | more
            )
        )

    def copied(self, folder: Path) -> Host:
        shutil.copytree(self.folder, folder)
        copy = Host(folder, self.files)
        copy.settings()
        return copy

    def take(self, step: str, *arguments: str, within: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        command = [*within, sys.executable, str(PROGRAM), step, f"--settings={self.folder}/backup.json", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def succeed(self, step: str, *arguments: str, within: Sequence[str] = ()) -> str:
        done = self.take(step, *arguments, within=within)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restic(self, *arguments: str) -> str:
        command = ["restic", f"--repo={self.store}", f"--password-file={self.password}", "--no-cache", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def forget_everything(self) -> None:
        """As on a host that was built anew: the store is all that is left."""
        shutil.rmtree(self.folder / "state")
        (self.metrics / "bedplate_backup.prom").unlink()

    def leave_a_lock(self) -> None:
        """As restic does when it is killed in the middle of a check."""
        command = ["restic", f"--repo={self.store}", f"--password-file={self.password}", "check", "--read-data"]
        locks = self.store / "locks"
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not any(locks.iterdir()) and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        assert any(locks.iterdir())

    def snapshots(self) -> list[dict[str, Any]]:
        found = json.loads(self.succeed("list", "--json"))["snapshots"]
        return list(found)

    def told(self) -> dict[str, float]:
        """What Prometheus would read, by the name of the series."""
        lines = (self.metrics / "bedplate_backup.prom").read_text().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def write_files(folder: Path) -> None:
    random = Random(4)
    for name in ("digits/1", "digits/2"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "weights").write_bytes(random.randbytes(9 * MEBIBYTE))
    (folder / "etc").mkdir()
    (folder / "etc/engine.yaml").write_text("threads: 1\n")
    (folder / "etc/key").write_text("secret")
    (folder / "etc/key").chmod(0o600)
    (folder / "etc/link").symlink_to("engine.yaml")


def tree(folder: Path) -> dict[Path, tuple[object, ...]]:
    """Everything below the folder: {path: (mode, owner, content or target)}."""
    found: dict[Path, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(folder)] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


def ruin(host: Host) -> None:
    (host.files / "etc/engine.yaml").write_text("threads: 99\n")
    (host.files / "etc/key").unlink()
    (host.files / "etc/stray").write_text("not in the backup")
    (host.files / "models/digits/2/weights").write_bytes(b"")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with one backup, made once. A snapshot knows its files by their place: every test gets them there."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "now").mkdir()
    write_files(folder / "now/files")
    host = Host(folder / "now/disk", folder / "now/files")
    host.make()
    host.succeed("init")
    host.succeed("backup")
    shutil.copytree(folder / "now", folder / "kept", symlinks=True)
    return host


@pytest.fixture
def own(once: Host) -> Host:
    """A host with one backup whose files are the test's own."""
    now = once.folder.parent
    shutil.rmtree(now)
    shutil.copytree(now.with_name("kept"), now, symlinks=True)
    return once


@pytest.fixture(scope="session")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with four backups; one of the two old ones would be forgotten if all were well. Tests copy it."""
    folder = tmp_path_factory.mktemp("host")
    write_files(folder / "files")
    host = Host(folder / "disk", folder / "files")
    host.make()
    host.succeed("init")
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 40 * 86400))
    for clock in ("12:00:00", "12:30:00"):
        host.restic("backup", "--host=gpu1", f"--time={day} {clock}", str(host.files / "etc"))
    host.succeed("backup")
    (host.files / "etc/engine.yaml").write_text("threads: 2\n")
    host.succeed("backup")
    return host


@pytest.fixture
def host(backed_up: Host, tmp_path: Path) -> Iterator[Host]:
    """A copy of it to damage; the files that are backed up are shared, leave them as they are."""
    yield backed_up.copied(tmp_path / "disk")
    # pytest keeps what tests wrote, and these are 20 MB each.
    shutil.rmtree(tmp_path / "disk")
