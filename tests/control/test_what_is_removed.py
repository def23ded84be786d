"""What the project's own programs remove: only what they made themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import trial

REPOSITORY = Path(__file__).resolve().parents[2]
# In place of an interpreter: its virtualenvs have programs that do nothing.
PYTHON = """#!/bin/sh
[ "$1" = -m ] || exit 0
mkdir -p "$3/bin"
touch "$3/pyvenv.cfg"
ln -s /bin/true "$3/bin/python"
ln -s /bin/true "$3/bin/bedplate"
"""


def install(release: Path, keep: str) -> subprocess.CompletedProcess[str]:
    """As the role does, but for the interpreter."""
    stand_in = release.parent.parent / "python3"
    stand_in.write_text(PYTHON)
    stand_in.chmod(0o755)
    script = (REPOSITORY / "roles/bedplate/files/install-release").read_text()
    script = script.replace("/usr/bin/python3", str(stand_in))
    arguments = ["sh", "-s", str(release), str(release.parent.parent), keep]
    return subprocess.run(arguments, input=script, capture_output=True, text=True, check=False)


@pytest.fixture
def releases(tmp_path):
    """Three older releases, and what somebody else left among them."""
    folder = tmp_path / "releases"
    for age, name in enumerate(("third", "second", "first"), 1):
        (folder / name).mkdir(parents=True)
        for each in (folder / name / "pyvenv.cfg", folder / name):
            each.touch()
            os.utime(each, (1e9 - age, 1e9 - age))
    (folder / "notes of the operator").mkdir()
    os.utime(folder / "notes of the operator", (1, 1))
    return folder


def test_old_releases_go_and_what_is_none_stays(releases):
    done = install(releases / "new", "2")

    assert done.returncode == 0, done.stderr
    assert {path.name for path in releases.iterdir()} == {"new", "third", "notes of the operator"}


@pytest.mark.parametrize("keep", ["0", "", "-1", "many"])
def test_no_release_is_made_that_would_not_be_kept(releases, keep):
    before = {path.name for path in releases.iterdir()}

    refused = install(releases / "new", keep)

    assert refused.returncode == 1
    assert f"bedplate_releases_kept is '{keep}'" in refused.stderr
    assert {path.name for path in releases.iterdir()} == before


@pytest.mark.parametrize("name", ["thesis", "pyvenv.cfg"])
def test_setup_leaves_a_folder_alone_that_it_did_not_make(tmp_path, name):
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\necho installed\n")
    for each in ("python", "dpkg-query"):
        (tmp_path / each).chmod(0o755)
    precious = tmp_path / "home" / name
    precious.parent.mkdir()
    precious.write_text("of somebody else")

    refused = subprocess.run(
        [REPOSITORY / "tools/setup", tmp_path / "python", precious.parent],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert refused.returncode == 1
    assert precious.exists()
    assert f"{precious.parent} was not made by this" in refused.stderr


@pytest.mark.parametrize("fleet", ["..", "../elsewhere", "a/b", "/tmp", ""])
def test_a_trial_is_for_a_fleet_and_not_for_any_folder(monkeypatch, capsys, fleet):
    monkeypatch.setattr(trial, "copy", lambda *_: pytest.fail("copied"))
    monkeypatch.setattr(sys, "argv", ["trial", "inventory/staging", fleet])

    with pytest.raises(SystemExit, match="2"):
        trial.main()

    assert "want a lower-case letter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("playbook", "host"), [("restore", "localhost"), ("restore", "gpu1:gpu2"), ("restore", ""), ("rebuild", None)]
)
def test_one_host_of_the_fleet_is_asked_for_before_anything_else(control, playbook, host):
    nowhere = {"ansible_connection": "local", "ansible_python_interpreter": "/nonexistent"}
    listed = yaml.safe_load((control.inventory / "hosts.yml").read_text())
    listed["all"]["hosts"] |= {"stranger": nowhere}
    listed["all"]["children"] = {"inference": {"hosts": {"gpu1": nowhere, "gpu2": nowhere}}}
    (control.inventory / "hosts.yml").write_text(yaml.safe_dump(listed))
    options = [] if host is None else ["-e", f"host={host}"]

    refused = control.run("ansible-playbook", f"--inventory={control.inventory}", f"playbooks/{playbook}.yml", *options)

    assert refused.returncode != 0
    assert "is no host of the fleet" in " ".join(refused.stdout.split()), refused.stdout
    assert refused.stdout.count("PLAY [") == 1
