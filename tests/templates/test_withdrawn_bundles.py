"""Bundles that the inventory names no longer leave a host; what an engine has loaded stays."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ON_HOST = ["digits/1", "digits/2", "old/1", "tones/3", ".partial/1"]


@pytest.fixture
def judged(evaluate):
    """judged("…withdrawn", loaded) of a host that is to serve digits/2 and has ON_HOST."""

    def judged(name, loaded, status=0):
        models = [{"directory": f"/var/lib/bedplate/models/{each}"} for each in loaded]
        return evaluate(
            "bedplate",
            "{{ __bedplate_" + name + " }}",
            __bedplate_served=["digits/2"],
            __bedplate_on_host={"stdout_lines": ON_HOST},
            __bedplate_loaded={"rc": status, "stdout": json.dumps({"models": models}) if status == 0 else ""},
        )

    return judged


def test_what_is_neither_declared_nor_loaded_is_removed(judged):
    assert judged("withdrawn", ["digits/2"]) == ["digits/1", "old/1", "tones/3"]
    assert judged("by_hand", ["digits/2"]) == []


def test_what_was_loaded_by_hand_stays_and_is_told(judged):
    assert judged("withdrawn", ["digits/2", "tones/3", "tones/3"]) == ["digits/1", "old/1"]
    assert judged("by_hand", ["digits/2", "tones/3", "tones/3"]) == ["tones/3"]


@pytest.mark.parametrize("status", [1, 2])
def test_nothing_is_removed_while_an_engine_cannot_be_asked(judged, status):
    assert judged("withdrawn", [], status) == []
    assert judged("by_hand", [], status) == []


def test_removing_one_asks_no_engine_for_a_restart(evaluate, tmp_path):
    """Engines are compared with the times of the directories that they read."""
    tasks = yaml.safe_load((REPOSITORY / "roles/bedplate/tasks/withdraw.yml").read_text())
    [script] = [task["ansible.builtin.shell"] for task in tasks if "ansible.builtin.shell" in task]
    for name in ("digits/1", "digits/2", "old name/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "SHA256SUMS").write_text(name)
    for folder in (tmp_path / "digits", tmp_path):
        subprocess.run(["touch", "--date=2020-01-01 12:00:00.5", folder], check=True)
    before = [folder.stat().st_mtime_ns for folder in (tmp_path, tmp_path / "digits")]

    for name in ("digits/1", "old name/1"):
        subprocess.run(["sh", "-c", evaluate("bedplate", script, item=name)], cwd=tmp_path, check=True)

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == ["digits/2"]
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert [folder.stat().st_mtime_ns for folder in (tmp_path, tmp_path / "digits")] == before
