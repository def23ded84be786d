"""What hosts install: the pins, and the tool that turns them into a set of wheels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PINS = REPOSITORY / "service/requirements.txt"


@pytest.fixture
def wheelhouse(tmp_path):
    """Run the tool where pip finds nothing."""
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_EXTRA_INDEX_URL": ""}
    command = [sys.executable, str(REPOSITORY / "tools/wheelhouse"), "--directory", str(tmp_path / "wheelhouse")]

    def run(name):
        return subprocess.run([*command, name], capture_output=True, check=False, env=environment, text=True)

    return run


def pins_in(path):
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return dict(re.split("[=><]+", line, maxsplit=1) for line in lines if re.search("[=><]", line))


def test_every_package_is_pinned():
    lines = [line for line in PINS.read_text().splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line)] == []


def test_hosts_get_the_versions_that_were_tested_here():
    tested = pins_in(REPOSITORY / "requirements.txt")
    deployed = {name: version.removesuffix("+cpu") for name, version in pins_in(PINS).items()}

    assert {name: deployed[name] for name in deployed.keys() & tested.keys()} == {
        name: tested[name] for name in deployed.keys() & tested.keys()
    }
    assert {"falcon", "gunicorn", "torch"} < deployed.keys() & tested.keys()


@pytest.mark.parametrize("name", ["cp311", "cp27-cpu", "../cp311-cpu", "cp311-tpu", "cp312-cudax"])
def test_a_name_of_no_set_is_refused_with_an_example(wheelhouse, name):
    refused = wheelhouse(name)

    assert refused.returncode == 1
    assert "such as cp311-cpu" in refused.stderr


@pytest.mark.parametrize("name", ["cp311-cpu", "cp312-cuda"])
def test_a_failed_download_leaves_no_set_behind(wheelhouse, tmp_path, name):
    failed = wheelhouse(name)

    assert failed.returncode == 1
    assert list((tmp_path / "wheelhouse").iterdir()) == []


@pytest.fixture
def pip_that_tells(tmp_path, monkeypatch):
    """A stand-in for pip that writes what it is asked to download, and downloads nothing."""
    (tmp_path / "stub/pip").mkdir(parents=True)
    (tmp_path / "stub/pip/__init__.py").write_text("")
    # As where pip's own places do not have torch.
    (tmp_path / "stub/pip/__main__.py").write_text(
        "import json, sys\n"
        "if 'download' in sys.argv:\n"
        f"    with open({str(tmp_path / 'asked')!r}, 'a') as asked:\n"
        "        print(json.dumps(sys.argv), file=asked)\n"
        "asked = ' '.join(sys.argv)\n"
        "sys.exit('wheel' in sys.argv or 'torch-cpu' in asked and 'pytorch.org' not in asked)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    return lambda: [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "files"),
    [("cp311-cpu", ["cp311", "torch-cpu", "torch-cpu"]), ("cp312-cuda", ["cp312", "torch-cuda"])],
)
def test_every_set_is_what_two_locks_name_and_nothing_else(pip_that_tells, wheelhouse, name, files):
    wheelhouse(name)

    asked = pip_that_tells()
    assert [command for command in asked if not {"--no-deps", "--require-hashes"} < set(command)] == []
    requirements = [option for command in asked for option in command if option.startswith("--requirement=")]
    assert requirements == [f"--requirement={REPOSITORY}/locks/{file}.txt" for file in files]


def test_pytorchs_index_is_asked_for_its_build_for_processors_alone(pip_that_tells, wheelhouse):
    wheelhouse("cp311-cpu")
    wheelhouse("cp312-cuda")

    [command] = [command for command in pip_that_tells() if "pytorch.org" in " ".join(command)]
    assert f"--requirement={REPOSITORY}/locks/torch-cpu.txt" in command
    assert "--index-url=https://download.pytorch.org/whl/cpu" in command


def test_every_tag_of_wheels_that_the_oldest_release_can_load_is_asked_for(pip_that_tells, wheelhouse):
    """pip takes each as it is: without 2_18 it found no NCCL, and no set for GPUs could be made."""
    wheelhouse("cp312-cuda")

    tags = {option for option in pip_that_tells()[0] if option.startswith("--platform=")}
    assert tags >= {f"--platform=manylinux_2_{minor}_x86_64" for minor in range(5, 29)}


def test_two_runs_at_once_make_their_sets_one_after_the_other(tmp_path, monkeypatch):
    (tmp_path / "stub/pip").mkdir(parents=True)
    (tmp_path / "stub/pip/__init__.py").write_text("")
    # Downloads nothing, but takes its time, and tells when it is not alone.
    (tmp_path / "stub/pip/__main__.py").write_text(
        "import pathlib, sys, time\n"
        f"busy = pathlib.Path({str(tmp_path / 'busy')!r})\n"
        "try:\n"
        "    busy.touch(exist_ok=False)\n"
        "except FileExistsError:\n"
        "    sys.exit('another run is at it')\n"
        "time.sleep(0.3)\n"
        "busy.unlink()\n"
        "sys.exit('wheel' in sys.argv)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    command = [sys.executable, str(REPOSITORY / "tools/wheelhouse"), f"--directory={tmp_path / 'wheelhouse'}"]

    runs = [subprocess.Popen([*command, "cp311-cpu"], stderr=subprocess.PIPE, text=True) for _ in range(3)]

    said = [run.communicate()[1] for run in runs]
    assert [text for text in said if "another run" in text] == []
