"""Quotas of the backup store: real folders, accounts in files of the test's own, processes of another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roles.backup.files.bedplate_store import Host, Quota, Usage

PROGRAM = Path(__file__).resolve().parents[2] / "roles/backup/files/bedplate_store.py"
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
# Of nobody on this machine.
GPU1_NUMBER, GPU2_NUMBER = 64901, 64902
GROUP = "bedplate-backup-full"
# The real programs, on accounts of the test's own: this machine's stay as they are.
GETENT = 'line=$(grep "^$2:" "$ROOT/etc/$1") && echo "$line" || exit 2'
GPASSWD = 'exec /usr/bin/gpasswd --root "$ROOT" "$@"'


class Store:
    def __init__(self, folder: Path):
        self.folder, self.directory = folder, folder / "store"
        self.settings = {
            "directory": str(self.directory),
            "group": GROUP,
            "hosts": {
                "store-gpu1": {"name": "gpu1", "gib": 1, "files": 1000},
                "store-gpu2": {"name": "gpu2", "gib": 1, "files": 1000},
            },
            "reserve_percent": 0,
            "state_dir": str(folder / "state"),
            "metrics_dir": str(folder / "metrics"),
        }
        for name in ("etc", "bin", "state", "metrics"):
            (folder / name).mkdir()
        users = [f"store-gpu{n}:x:{number}:{number}::/:/bin/sh\n"
                 for n, number in ((1, GPU1_NUMBER), (2, GPU2_NUMBER))]  # fmt: skip
        (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n" + "".join(users))
        (folder / "etc/group").write_text(f"root:x:0:\n{GROUP}:x:990:\n")
        (folder / "etc/gshadow").write_text(f"{GROUP}:!::\n")
        for name, text in (("getent", GETENT), ("gpasswd", GPASSWD)):
            (folder / "bin" / name).write_text(f"#!/bin/sh\nROOT={folder}\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        for host in ("gpu1", "gpu2"):
            self.repository(host).mkdir(parents=True)

    def repository(self, host: str) -> Path:
        return self.directory / f"store-{host}/repository"

    def fill(self, host: str, mebibytes: int) -> Path:
        """With blocks that are reserved, not written."""
        path = self.repository(host) / f"data/of-{mebibytes}"
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, mebibytes * MEBIBYTE)
        return path

    def quota(self, host: str, **changes: int) -> None:
        self.settings["hosts"][f"store-{host}"] |= changes

    def run(self) -> str:
        (self.folder / "store.json").write_text(json.dumps(self.settings))
        done = subprocess.run(
            [sys.executable, PROGRAM, f"--settings={self.folder}/store.json"],
            env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def readers(self) -> set[str]:
        """Who reads only, as sshd will see it."""
        line = (self.folder / "etc/group").read_text().splitlines()[1]
        return set(line.split(":")[3].split(",")) - {""}

    def refused(self, host: str) -> str:
        return str(json.loads((self.directory / f"store-{host}/quota.json").read_text())["refused"])

    def told(self) -> dict[str, float]:
        lines = (self.folder / "metrics/bedplate_store.prom").read_text().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def set_back(store: Store) -> None:
    """As if hosts had been refused for a while."""
    path = store.folder / "state/hosts.json"
    memory = json.loads(path.read_text())
    for each in memory.values():
        each["refused_since"] -= 60 if each["refused_since"] else 0
    path.write_text(json.dumps(memory))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def session():
    """Starts what a session of a host's is: a process of its user."""
    began = []

    def start(number):
        process = subprocess.Popen(["sleep", "300"], user=number, group=number, extra_groups=[])
        began.append(process)
        return process

    yield start
    for process in began:
        process.kill()
        process.wait()


def test_hosts_below_their_quota_write(store):
    store.fill("gpu1", 3)

    assert store.run() == ""

    assert store.readers() == set()
    assert store.refused("gpu1") == ""
    assert 3 * MEBIBYTE <= store.told()['bedplate_store_used_bytes{host="gpu1"}'] < 4 * MEBIBYTE
    assert store.told()['bedplate_store_over_quota{host="gpu1"}'] == 0


def test_a_host_over_its_quota_reads_only_and_is_told_why_and_the_other_writes(store):
    store.quota("gpu1", gib=0.003)
    store.fill("gpu1", 5)

    said = store.run()

    assert store.readers() == {"store-gpu1"}
    assert "its quota is" in store.refused("gpu1")
    assert "raise backup_quota_gib" in store.refused("gpu1")
    assert said == f"gpu1 may write no more: {store.refused('gpu1')}\n"
    assert store.refused("gpu2") == ""
    assert store.told()['bedplate_store_over_quota{host="gpu1"}'] == 1
    assert store.told()['bedplate_store_over_quota{host="gpu2"}'] == 0
    assert store.run() == "", "the journal hears of it once"


@pytest.mark.parametrize("how", ["the quota is raised", "it is pruned"])
def test_a_host_writes_again_when(store, how):
    store.quota("gpu1", gib=0.003)
    path = store.fill("gpu1", 5)
    store.run()

    if how == "it is pruned":
        path.unlink()
    else:
        store.quota("gpu1", gib=1)

    assert store.run() == "gpu1 may write again\n"
    assert store.readers() == set()
    assert store.refused("gpu1") == ""


def test_files_are_counted_too(store):
    store.quota("gpu1", files=10)
    for name in range(11):
        (store.repository("gpu1") / str(name)).touch()

    store.run()

    assert "more than 10 files" in store.refused("gpu1")
    assert store.told()['bedplate_store_quota_used_ratio{host="gpu1"}'] == pytest.approx(1.1)


def test_a_sparse_file_counts_as_what_it_takes_and_a_link_as_itself(store):
    with open(store.repository("gpu1") / "sparse", "wb") as file:
        file.truncate(5 * GIBIBYTE)
    (store.repository("gpu1") / "link").symlink_to("/usr")

    store.run()

    assert store.readers() == set()
    assert store.told()['bedplate_store_files{host="gpu1"}'] == 2


def test_what_cannot_be_counted_is_no_zero(store):
    """Over SFTP a host can make a path that is too long once the store's folder comes before it."""
    where = store.repository("gpu1")
    here = os.open(where, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)

    store.run()

    assert "cannot be measured: File name too long" in store.refused("gpu1")
    assert store.readers() == {"store-gpu1"}


def test_half_of_the_disk_is_the_quota_where_none_is_said(store):
    store.quota("gpu1", gib=0)

    store.run()

    disk = os.statvfs(store.directory)
    assert store.told()['bedplate_store_quota_bytes{host="gpu1"}'] == disk.f_blocks * disk.f_frsize // 2


def test_on_a_disk_that_is_nearly_full_nobody_writes(store):
    # More than any disk has free.
    store.settings["reserve_percent"] = 100

    store.run()

    assert store.readers() == {"store-gpu1", "store-gpu2"}
    assert "backup_reserve_percent" in store.refused("gpu2")
    assert store.told()["bedplate_store_reserve_reached"] == 1
    assert store.told()['bedplate_store_over_quota{host="gpu2"}'] == 0

    store.settings["reserve_percent"] = 0
    store.run()
    assert store.readers() == set()


def test_a_session_from_before_ends_and_one_that_begins_later_reads_on(store, session):
    writing, other = session(GPU1_NUMBER), session(GPU2_NUMBER)
    store.quota("gpu1", gib=0.003)
    store.fill("gpu1", 5)

    store.run()

    assert writing.wait(10) == -9
    assert other.poll() is None
    set_back(store)
    reading = session(GPU1_NUMBER)
    store.run()
    assert reading.poll() is None


def test_a_host_that_nobody_has_made_a_user_for_yet_stops_nothing(store):
    store.settings["hosts"]["store-ops1"] = {"name": "ops1", "gib": 0.001, "files": 1000}
    store.repository("ops1").mkdir(parents=True)
    store.fill("ops1", 2)
    store.settings["hosts"]["store-new"] = {"name": "new", "gib": 1, "files": 1000}

    store.run()

    assert store.readers() == set()
    assert "its quota is" in store.refused("ops1"), "the store's own step asks by itself"


def test_a_count_that_was_not_finished_changes_nothing_unless_it_is_too_much_already(tmp_path):
    (tmp_path / "repository").mkdir()
    for name in range(5):
        (tmp_path / "repository" / str(name)).write_bytes(b"x" * 4096)
    before, long_ago = Usage(bytes=7, files=7), time.monotonic() - 1
    host = Host("gpu1", "store-gpu1", tmp_path, Quota(GIBIBYTE, 9), before, measured=1, refused_since=0)

    host.measure(long_ago)
    assert (host.usage, host.measured) == (before, 1)

    host.quota = Quota(100, 9)
    host.measure(long_ago)
    assert host.usage.in_part
    assert host.over


def test_what_a_power_cut_left_is_forgotten(store):
    (store.folder / "state/hosts.json").write_text('{"store-gpu1": {"usa')

    store.run()

    assert store.told()['bedplate_store_measured_timestamp_seconds{host="gpu1"}'] > time.time() - 60
