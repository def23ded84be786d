"""Restores: what comes back, and what is refused because it would destroy more than was asked for.

What would reach beyond the test's own folder is asked of the functions that refuse it, never of the program.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import time

import pytest
from conftest import PROGRAM, ruin, tree

PARTS = {"configuration": ["/etc/bedplate", "/etc/nginx"], "bundles": ["/var/lib/bedplate/models"], "more": []}
SETTINGS = {"parts": PARTS, "state_dir": "/var/lib/bedplate-backup", "directory": "/srv/bedplate-backup"}
SNAPSHOT = {"id": "1a2b3c4d5e", "paths": ["/etc/bedplate", "/srv/reports", "/etc/passwd", "/etc/group"]}


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("bedplate_backup", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize("thing", ["/etc", "/etc/", "//etc", "/./etc/.", "/", "/.", "//", "/var", "/var/lib/bedplate"])
def test_a_path_above_what_is_backed_up_is_refused_and_what_lies_below_is_named(program, thing):
    with pytest.raises(program.Failed, match=r"holds more than was backed up.*name /"):
        program.expand(SETTINGS, thing)


@pytest.mark.parametrize("thing", ["", ".", "etc/bedplate", "nothing", "/etc/bedplate/..", "/etc/bedplate/../.."])
def test_a_thing_that_is_no_part_and_no_whole_path_is_refused(program, thing):
    with pytest.raises(program.Failed):
        program.expand(SETTINGS, thing)


@pytest.mark.parametrize("thing", ["/etc/bedplate", "//etc/bedplate/", "/etc/./bedplate/.", "/./etc//bedplate"])
def test_a_path_is_the_same_however_it_is_written(program, thing):
    assert program.expand(SETTINGS, thing) == ["/etc/bedplate"]


@pytest.mark.parametrize("thing", ["/", "/etc", "/etc/passwd", "/etc/group", "/etc/bedplate-more", "/usr", "/srv"])
def test_only_what_the_snapshot_was_made_of_or_what_lies_below_is_restored(program, thing):
    program.require_held(SNAPSHOT, ["/etc/bedplate", "/etc/bedplate/web.yaml", "/srv/reports/2026"])

    with pytest.raises(program.Failed, match="does not hold"):
        program.require_held(SNAPSHOT, ["/etc/bedplate", thing])


@pytest.mark.parametrize("path", ["/", "/var/lib", "/srv/bedplate-backup", "/srv/bedplate-backup/store-gpu2",
                                  "/var/lib/bedplate-backup/scratch/", "//srv"])  # fmt: skip
def test_what_holds_the_backups_themselves_is_no_thing_to_back_up_or_restore(program, path):
    """A restore would delete every backup that came after the snapshot."""
    program.require_apart(SETTINGS, ["/srv/bedplate-backup-2", "/srv/reports"])

    with pytest.raises(program.Failed, match="backup_more_paths"):
        program.require_apart(SETTINGS, ["/srv/reports", path])


def test_a_path_is_refused_before_restic_runs(own):
    own.store.rename(own.folder / "away")
    ruin(own)
    before = tree(own.files)

    refused = own.take("restore", "--only", str(own.files))

    assert refused.returncode == 1
    assert f"name {own.files}/models or {own.files}/etc" in refused.stderr
    assert tree(own.files) == before


def test_neither_step_takes_in_the_backups_themselves(own):
    settings = json.loads((own.folder / "backup.json").read_text())
    settings["parts"]["more"] = [str(own.folder)]
    (own.folder / "backup.json").write_text(json.dumps(settings))

    for step in ("backup", "restore"):
        refused = own.take(step)

        assert refused.returncode == 1
        assert "backup_more_paths" in refused.stderr


def test_a_path_is_taken_as_it_is_written_and_never_as_a_pattern(own):
    names = ["[a-z]*?", "back\\slash", "ümläut", "with space", "-x", "!no", "a:b"]
    for each in (*names, "b"):
        (own.files / "models" / each).write_text("backed up")
    own.succeed("backup")
    for each in (*names, "b"):
        (own.files / "models" / each).write_text("changed")

    own.succeed("restore", *(f"--only={own.files}/models/{name}" for name in names))

    assert {(own.files / "models" / name).read_text() for name in names} == {"backed up"}
    assert (own.files / "models/b").read_text() == "changed"


def test_a_link_that_came_since_is_replaced_and_not_followed(own, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("of somebody else")
    before = tree(own.files)
    (own.files / "models/digits").rename(tmp_path / "kept")
    (own.files / "models/digits").symlink_to(elsewhere)

    refused = own.take("restore", "--only", f"{own.files}/models/digits/2")

    assert refused.returncode == 1
    assert f"{own.files}/models/digits is a link to {elsewhere}" in refused.stderr
    own.succeed("restore", "--only", f"{own.files}/models/digits")
    assert tree(own.files) == before
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_a_folder_in_place_of_a_file_is_replaced(own):
    before = tree(own.files)
    (own.files / "etc/key").unlink()
    (own.files / "etc/key").mkdir()
    (own.files / "etc/key/stray").write_text("")

    own.succeed("restore", "--only", f"{own.files}/etc/key")

    assert tree(own.files) == before


def test_what_lies_in_a_folder_that_is_gone_comes_back(own):
    before = tree(own.files / "models/digits/2")
    shutil.rmtree(own.files / "models")

    own.succeed("restore", "--only", f"{own.files}/models/digits/2")

    assert tree(own.files / "models/digits/2") == before


def test_a_dry_run_shows_what_would_be_deleted_and_changes_nothing(own):
    ruin(own)
    shutil.rmtree(own.files / "models")
    before = tree(own.files)

    said = own.succeed("restore", "--dry-run").splitlines()

    assert f"*deleting   {own.files}/etc/stray" in said
    assert f"{own.files}/models/digits/2/weights" in "\n".join(said)
    assert said[-1].startswith("would be restored")
    assert said[-1].endswith("1 of them deletions")
    assert tree(own.files) == before


def test_many_deletions_want_a_word(own):
    before = tree(own.files)
    (own.files / "models/new").mkdir()
    for number in range(60):
        (own.files / "models/new" / f"{number}\n.txt").write_text("made since")

    refused = own.take("restore")
    agreed = own.take("restore", "--may-delete=60")

    for done in (refused, agreed):
        assert done.returncode == 1
        assert "would delete 61 files and folders" in done.stderr
        assert "--may-delete 61" in done.stderr
    assert len(list((own.files / "models/new").iterdir())) == 60
    own.succeed("restore", "--may-delete=61")
    assert tree(own.files) == before


def test_rsync_itself_deletes_no_more_than_was_agreed_to(program, own, tmp_path):
    """What comes between the plan and the deed."""
    ruin(own)
    copy = tmp_path / "scratch"
    shutil.copytree(own.files / "models", copy / str(own.files / "models").lstrip("/"))

    (own.files / "models/one").write_text("")
    with pytest.raises(program.Failed, match="in part only"):
        program.put(copy, str(own.files / "models"), "--max-delete=0")

    assert (own.files / "models/one").exists()


@pytest.mark.parametrize("wanted", ["", "fff"])
def test_a_snapshot_is_named_or_the_latest(program, wanted):
    class One:
        def snapshots(self):
            return [SNAPSHOT]

    assert program.choose(One(), "1a2b") == SNAPSHOT
    with pytest.raises(program.Failed):
        program.choose(One(), wanted)


def test_forgetting_leaves_the_snapshots_of_other_hosts_alone(own):
    # By this host's policy one of the first two would go.
    for days, clock in ((40, "12:00:00"), (40, "12:30:00"), (20, "12:00:00")):
        day = time.strftime("%Y-%m-%d", time.localtime(time.time() - days * 86400))
        own.restic("backup", "--host=gpu2", f"--time={day} {clock}", str(own.files / "etc"))

    own.succeed("check")

    assert len(json.loads(own.restic("snapshots", "--json", "--host=gpu2"))) == 3
