"""What an operator does with backups: back up, list, rehearse, restore."""

from __future__ import annotations

import grp
import json
import os
import time

import pytest
from conftest import ruin, tree

from roles.backup.files.bedplate_backup import Repository, State

INSTEAD = 'mount --bind "$0" /etc/group && exec "$@"'


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


@pytest.fixture
def with_new_secret(own):
    """As after backup.yml of an inventory whose secret_backup was changed."""
    (own.folder / "password-wanted").write_text("new-password")
    return own


def test_a_new_secret_opens_the_store_from_now_on_and_the_old_one_no_longer(with_new_secret):
    own = with_new_secret

    assert "the store has the new password" in own.succeed("init")
    assert own.succeed("init") == "known\n"
    own.succeed("backup")

    assert own.password.read_text() == "new-password"
    assert len(own.snapshots()) == 2
    own.password.write_text("right-password")
    assert own.take("list").returncode == 1


def test_a_change_of_the_secret_that_was_cut_off_is_taken_up(with_new_secret):
    own = with_new_secret
    own.restic("key", "passwd", f"--new-password-file={own.folder}/password-wanted")

    own.succeed("init")

    assert own.password.read_text() == "new-password"


def test_a_new_secret_that_the_store_cannot_be_told_is_refused_with_the_way(with_new_secret):
    own = with_new_secret
    own.store.rename(own.folder / "away")

    refused = own.take("init")

    assert refused.returncode == 1
    assert "docs/backups.md" in refused.stderr
    assert own.password.read_text() == "right-password"


def test_a_restore_leaves_todays_password(with_new_secret):
    own = with_new_secret
    settings = json.loads((own.folder / "backup.json").read_text()) | {"password_file": str(own.files / "etc/key")}
    (own.folder / "backup.json").write_text(json.dumps(settings))
    (own.files / "etc/key").write_text("right-password")
    own.succeed("backup")
    (own.files / "etc/key-wanted").write_text("new-password")
    own.succeed("init")

    own.succeed("restore", "--only", "configuration")

    assert (own.files / "etc/key").read_text() == "new-password"


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


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@pytest.fixture
def refused(own):
    """As of a host over its quota: it reads at the store, and its note there says why it may not write."""
    (own.folder / "quota.json").write_text('{"refused": "this host keeps 12.1 GiB there, its quota is 10.0"}')
    own.settings(quota_file=str(own.folder / "quota.json"))
    return own


@pytest.fixture
def read_only(own):
    """The store in a mount namespace of its own, where nobody writes to it."""
    return ["unshare", "--mount", "sh", "-c", READ_ONLY, str(own.store)]


@pytest.mark.parametrize("step", ["backup", "check"])
def test_a_step_that_the_store_would_refuse_says_why_at_once(refused, step):
    done = refused.take(step)

    assert done.returncode == 1
    assert f"bedplate-backup: {step}: the store takes nothing more: this host keeps 12.1 GiB there" in done.stderr
    assert refused.told()[f'bedplate_backup_ok{{step="{step}"}}'] == 0
    assert len(refused.snapshots()) == 1


def test_what_lies_at_a_store_that_takes_nothing_more_is_rehearsed_and_restored(refused, read_only):
    assert "equal byte for byte" in refused.succeed("rehearse", within=read_only)
    before = tree(refused.files)
    refused.forget_everything()
    ruin(refused)

    assert "taken up" in refused.succeed("init", within=read_only)
    refused.succeed("restore", within=read_only)

    assert tree(refused.files) == before


def test_a_new_secret_waits_until_the_store_takes_it(refused):
    (refused.folder / "password-wanted").write_text("new-password")

    done = refused.take("init")

    assert "the store takes nothing more" in done.stderr
    assert refused.password.read_text() == "right-password"
    assert len(refused.snapshots()) == 1


@pytest.mark.parametrize("note", [None, '{"refused": ""}', "", "{", "[]", "{}", "\udcff"])
def test_a_store_that_says_nothing_is_written_to(tmp_path, note):
    if note is not None:
        (tmp_path / "quota.json").write_text(note, errors="surrogateescape")
    settings = {"quota_file": str(tmp_path / "quota.json"), "ssh_config": ""}

    Repository(settings, State(tmp_path / "state")).require_room()
