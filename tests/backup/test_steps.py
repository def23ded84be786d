"""What an operator does with backups: back up, list, rehearse, restore."""

from __future__ import annotations

import grp
import json
import os
import time

import pytest
from conftest import Host, write_files

INSTEAD = 'mount --bind "$0" /etc/group && exec "$@"'


@pytest.fixture
def own(tmp_path):
    """A host with one backup whose files are the test's own."""
    write_files(tmp_path / "files")
    host = Host(tmp_path / "disk", tmp_path / "files")
    host.make()
    host.succeed("init")
    host.succeed("backup")
    return host


def tree(folder):
    """Everything below the folder: {path: (mode, owner, content or target)}."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(folder)] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


def ruin(host):
    (host.files / "etc/engine.yaml").write_text("threads: 99\n")
    (host.files / "etc/key").unlink()
    (host.files / "etc/stray").write_text("not in the backup")
    (host.files / "models/digits/2/weights").write_bytes(b"")


def test_a_restore_brings_everything_back_byte_for_byte(own):
    before = tree(own.files)
    ruin(own)

    own.succeed("restore")

    assert tree(own.files) == before


@pytest.mark.parametrize(("thing", "back"), [("bundles", "models"), ("{files}/models/digits/2", "models")])
def test_a_restore_of_one_thing_leaves_the_others_as_they_are(own, thing, back):
    before = tree(own.files / back)
    ruin(own)

    own.succeed("restore", "--only", thing.format(files=own.files))

    assert tree(own.files / back) == before
    assert (own.files / "etc/stray").exists()


def test_what_changed_is_dated_now_so_that_its_programs_are_restarted(own):
    unchanged = (own.files / "etc/key").stat().st_mtime
    (own.files / "etc/engine.yaml").write_text("threads: 99\n")
    began = time.time()

    own.succeed("restore", "--only", "configuration")

    assert (own.files / "etc/engine.yaml").stat().st_mtime >= began - 1
    assert (own.files / "etc/key").stat().st_mtime == unchanged


@pytest.mark.parametrize("unknown", [["--only", "/nowhere"], ["--only", "nothing"], ["--snapshot", "ffff"]])
def test_what_no_snapshot_holds_is_refused_before_anything_is_touched(own, unknown):
    ruin(own)
    before = tree(own.files)

    assert own.take("restore", *unknown).returncode == 1
    assert tree(own.files) == before


def test_a_damaged_backup_is_refused_before_anything_is_touched(own):
    ruin(own)
    before = tree(own.files)
    pack = max((own.store / "data").rglob("*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    with open(pack, "r+b") as file:
        file.seek(1000)
        file.write(b"damage")

    assert own.take("restore").returncode == 1
    assert tree(own.files) == before


def test_files_go_to_the_account_of_the_same_name(own, tmp_path):
    """The host was built anew, and there the group has another number."""
    (own.files / "etc/key").chmod(0o640)
    os.chown(own.files / "etc/key", 0, grp.getgrnam("daemon").gr_gid)
    own.succeed("backup")
    groups = tmp_path / "group"
    groups.write_text("root:x:0:\ndaemon:x:4242:\n")

    # In a mount namespace of its own, where the host's list of groups is another one.
    own.succeed("restore", "--only", "configuration", within=["unshare", "--mount", "sh", "-c", INSTEAD, str(groups)])

    status = (own.files / "etc/key").stat()
    assert (status.st_gid, status.st_mode & 0o777) == (4242, 0o640)


def test_a_rehearsal_proves_the_newest_snapshot(own):
    assert own.snapshots()[-1]["proven"] is None
    began = time.time()

    said = own.succeed("rehearse")

    assert "equal byte for byte" in said
    assert own.snapshots()[-1]["proven"] >= began
    assert own.told()['bedplate_backup_success_timestamp_seconds{step="rehearse"}'] >= began


def test_a_rehearsal_leaves_out_what_changed_since(own):
    (own.files / "etc/engine.yaml").write_text("threads: 99\n")

    assert " 0 changed" not in own.succeed("rehearse")


@pytest.mark.parametrize("change", ["etc/engine.yaml", "etc/stray", "models/digits/2/weights"])
def test_a_rehearsal_finds_what_the_snapshot_holds_wrongly(own, change):
    """The snapshot says that it was made in a minute, so that what changes now ought to be in it."""
    later = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + 60))
    paths = [str(own.files / "models"), str(own.files / "etc"), "/etc/passwd", "/etc/group"]
    own.restic("backup", "--host=gpu1", f"--time={later}", *paths)
    with open(own.files / change, "a") as file:
        file.write("x")

    done = own.take("rehearse")

    assert done.returncode == 1
    assert change in done.stderr
    assert own.told()['bedplate_backup_ok{step="rehearse"}'] == 0


def test_a_file_that_is_not_there_fails_the_backup(own):
    (own.files / "etc").rename(own.files / "elsewhere")

    done = own.take("backup")

    assert done.returncode == 1
    assert f"{own.files}/etc should be backed up and is not there" in done.stderr
    assert len(own.snapshots()) == 1


def test_a_host_that_was_built_anew_takes_up_its_repository_and_restores(own):
    before = tree(own.files)
    own.forget_everything()
    ruin(own)

    assert "taken up" in own.succeed("init")
    own.succeed("restore")

    assert tree(own.files) == before
    assert own.told()['bedplate_backup_success_timestamp_seconds{step="backup"}'] > 0
    assert own.told()['bedplate_backup_success_timestamp_seconds{step="check"}'] == 0


def test_a_repository_that_does_not_open_is_never_made_anew(own):
    own.forget_everything()
    own.password.write_text("another")

    assert own.take("init").returncode == 1
    own.password.write_text("right-password")
    assert len(json.loads(own.restic("snapshots", "--json"))) == 1


def test_a_step_that_was_cut_off_does_not_lock_out_the_next(own):
    lock = own.restic("list", "locks")
    assert lock == ""
    own.leave_a_lock()

    own.succeed("check")


def test_old_snapshots_go_by_the_policy_and_young_ones_stay(own):
    for day in range(1, 21):
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 86400 * (20 + day)))
        own.restic("backup", "--host=gpu1", f"--time={made}", str(own.files / "etc"))
    own.succeed("backup")

    own.succeed("check")

    # Both of today; of the twenty older ones the days and weeks of the policy.
    kept = own.snapshots()
    assert 2 + 6 <= len(kept) < 2 + 20
    assert sum(time.time() - each["made"] < 86400 for each in kept) == 2


def test_the_list_is_read_by_people_too(own):
    own.succeed("rehearse")

    lines = own.succeed("list").splitlines()

    assert lines[0].split()[0] == "snapshot"
    assert "never" not in lines[1]
    assert "things: bundles:" in lines[-1]
