"""Backups damaged in more than 50 ways: each is noticed and told, and takes no good backup with it.

`make test` tries one of each kind, `make acceptance` all of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Host

Damage = Callable[[Host], object]


def files(host: Host, kind: str) -> list[Path]:
    """Of the repository, the largest first: config, keys, index, snapshots or data."""
    place = host.store / kind
    found = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (-path.stat().st_size, path.name))


def flip(kind: str, number: int, where: float) -> Damage:
    """Turn one bit over, `where` from 0 (the first byte) to 1 (the last)."""

    def damage(host: Host) -> None:
        path = files(host, kind)[number]
        content = bytearray(path.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1
        overwrite(path, bytes(content))

    return damage


def truncate(kind: str, number: int, keep: float) -> Damage:
    def damage(host: Host) -> None:
        path = files(host, kind)[number]
        content = path.read_bytes()
        overwrite(path, content[: min(int(keep * len(content)), len(content) - 1)])

    return damage


def delete(kind: str, number: int) -> Damage:
    return lambda host: files(host, kind)[number].unlink()


def delete_all(kind: str) -> Damage:
    return lambda host: [path.unlink() for path in files(host, kind)]


def swap(kind: str, other_kind: str, number: int, other_number: int) -> Damage:
    """Exchange the contents of two files."""

    def damage(host: Host) -> None:
        one, other = files(host, kind)[number], files(host, other_kind)[other_number]
        content = one.read_bytes()
        overwrite(one, other.read_bytes())
        overwrite(other, content)

    return damage


def copy_over(kind: str, number: int, other_number: int) -> Damage:
    return lambda host: overwrite(files(host, kind)[number], files(host, kind)[other_number].read_bytes())


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


def another_repository(host: Host) -> None:
    """With the right password and nothing wrong in it, but not ours."""
    shutil.rmtree(host.store)
    host.restic("init")


def an_older_copy(host: Host) -> None:
    """All is well in it, but the newest backup is missing: as if the store's disk had been put back."""
    newest = host.snapshots()[-1]["snapshot"]
    host.restic("forget", newest, "--prune")


def no_store(host: Host) -> None:
    shutil.rmtree(host.store)


def an_empty_store(host: Host) -> None:
    """Its disk is not mounted."""
    no_store(host)
    host.store.mkdir()


def a_file_for_a_store(host: Host) -> None:
    no_store(host)
    host.store.write_text("")


DAMAGES: dict[str, Damage] = {
    "flip the first byte of the configuration": flip("config", 0, 0),
    "flip the middle of the configuration": flip("config", 0, 0.5),
    "flip the key's data": flip("keys", 0, 0.7),
    "flip the index's first byte": flip("index", 0, 0),
    "flip the index's middle": flip("index", 0, 0.5),
    "flip the second index's last byte": flip("index", 1, 1),
    "flip the larger snapshot": flip("snapshots", 0, 0.5),
    "flip the smaller snapshot": flip("snapshots", 1, 0.5),
    "flip the first byte of a pack": flip("data", 0, 0),
    "flip the middle of a pack": flip("data", 0, 0.5),
    "flip the last byte of a pack": flip("data", 0, 1),
    "flip the middle of another pack": flip("data", 1, 0.3),
    "flip the last byte of another pack": flip("data", 1, 1),
    "flip the smallest pack": flip("data", -1, 0.5),
    "flip the smallest pack's header": flip("data", -1, 0.95),
    "truncate the configuration": truncate("config", 0, 0.5),
    "empty the configuration": truncate("config", 0, 0),
    "truncate the key": truncate("keys", 0, 0.5),
    "empty the key": truncate("keys", 0, 0),
    "truncate an index": truncate("index", 0, 0.5),
    "empty an index": truncate("index", 1, 0),
    "cut a byte off a snapshot": truncate("snapshots", 0, 1),
    "empty a snapshot": truncate("snapshots", 1, 0),
    "cut a byte off a pack": truncate("data", 0, 1),
    "truncate a pack": truncate("data", 0, 0.5),
    "empty a pack": truncate("data", 1, 0),
    "empty the smallest pack": truncate("data", -1, 0),
    "delete the configuration": delete("config", 0),
    "delete the key": delete("keys", 0),
    "delete an index": delete("index", 0),
    "delete the other index": delete("index", 1),
    "delete every index": delete_all("index"),
    "delete a snapshot": delete("snapshots", 0),
    "delete another snapshot": delete("snapshots", 1),
    "delete every snapshot": delete_all("snapshots"),
    "delete a pack": delete("data", 0),
    "delete another pack": delete("data", 1),
    "delete the smallest pack": delete("data", -1),
    "swap two packs": swap("data", "data", 0, 1),
    "swap two small packs": swap("data", "data", -1, -2),
    "swap the indexes": swap("index", "index", 0, 1),
    "swap the snapshots": swap("snapshots", "snapshots", 0, 1),
    "swap a pack and an index": swap("data", "index", 0, 0),
    "overwrite a snapshot with the other": copy_over("snapshots", 0, 1),
    "another repository in its place": another_repository,
    "an older copy in its place": an_older_copy,
    "another password": lambda host: host.password.write_text("wrong-password"),
    "no password": lambda host: host.password.unlink(),
    "the store is away": no_store,
    "the store is empty": an_empty_store,
    "the store is a file": a_file_for_a_store,
}

GUARDS = {
    "flip the middle of the configuration",
    "empty the key",
    "flip the index's middle",
    "truncate an index",
    "delete every index",
    "flip the larger snapshot",
    "delete every snapshot",
    "flip the middle of a pack",
    "flip the last byte of another pack",
    "cut a byte off a pack",
    "delete the smallest pack",
    "swap two packs",
    "overwrite a snapshot with the other",
    "another repository in its place",
    "an older copy in its place",
    "another password",
    "the store is away",
    "the store is empty",
}
TRIED = [pytest.param(name, marks=[] if name in GUARDS else pytest.mark.acceptance) for name in DAMAGES]


def content(host: Host) -> dict[str, int]:
    """Every file of the store with its size; locks come and go."""
    found = host.store.rglob("*") if host.store.is_dir() else []
    return {str(p): p.stat().st_size for p in found if p.is_file() and p.parent.name != "locks"}


def test_an_undamaged_store_is_found_well_and_forgets_what_is_too_much(host):
    """What the tests below rest on: had they not noticed, a file would be gone."""
    before = host.snapshots()

    host.succeed("check")

    assert len(host.snapshots()) == len(before) - 1


def test_what_is_tried_each_time_is_a_damage():
    assert DAMAGES.keys() >= GUARDS


@pytest.mark.parametrize("name", TRIED)
def test_damage_is_noticed_told_and_takes_nothing_with_it(host, name):
    DAMAGES[name](host)
    damaged = content(host)

    done = host.take("check")

    assert done.returncode == 1
    assert done.stderr.startswith("bedplate-backup: check: ")
    assert host.told()['bedplate_backup_ok{step="check"}'] == 0
    assert content(host) == damaged


@pytest.fixture
def full(backed_up, tmp_path):
    """A copy of the host with its store on a disk that has 4 MB left, and 8 MB more to be backed up."""
    host = backed_up.copied(tmp_path / "disk")
    content = [path for path in host.store.rglob("*") if path.is_file()]
    size_kib = sum(path.stat().st_size for path in content) // 1024 + 4 * len(content) + 4096
    shutil.move(host.store, tmp_path / "moved")
    host.store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "none", str(host.store)], check=True)
    shutil.copytree(tmp_path / "moved", host.store, dirs_exist_ok=True)
    more = host.files / "models/more"
    more.write_bytes(os.urandom(8 << 20))
    yield host
    more.unlink()
    subprocess.run(["umount", str(host.store)], check=True)
    shutil.rmtree(tmp_path / "disk")
    shutil.rmtree(tmp_path / "moved")


def test_a_full_disk_is_noticed_told_and_costs_no_backup(full):
    before = full.snapshots()

    done = full.take("backup")

    assert done.returncode == 1
    assert "no space left on device" in done.stderr
    assert full.told()['bedplate_backup_ok{step="backup"}'] == 0
    assert full.snapshots() == before
    # And nothing is forgotten as long as the last backup failed.
    full.succeed("check")
    assert full.snapshots() == before


def fill(host: Host) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), open(host.store / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_without_any_room_is_noticed_by_the_check_too(full):
    before = full.snapshots()
    fill(full)

    done = full.take("check")

    assert done.returncode == 1
    assert full.told()['bedplate_backup_ok{step="check"}'] == 0
    (full.store / "filler").unlink()
    assert full.snapshots() == before
