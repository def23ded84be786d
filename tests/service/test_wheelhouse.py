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
    (tmp_path / "stub/pip/__main__.py").write_text(
        "import json, pathlib, sys\n"
        "if 'download' in sys.argv:\n"
        "    pins = pathlib.Path(sys.argv[sys.argv.index('--requirement') + 1]).read_text()\n"
        f"    with open({str(tmp_path / 'asked')!r}, 'a') as asked:\n"
        "        print(json.dumps([sys.argv, pins]), file=asked)\n"
        "sys.exit('wheel' in sys.argv)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    return lambda: [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]


@pytest.mark.parametrize(("name", "torch"), [("cp311-cpu", "+cpu"), ("cp312-cuda", "")])
def test_every_set_has_the_same_pins_and_nothing_else(pip_that_tells, wheelhouse, name, torch):
    wheelhouse(name)

    command, pins = pip_that_tells()[0]
    assert "--no-deps" in command
    assert f"torch=={pins_in(PINS)['torch'].removesuffix('+cpu')}{torch}" in pins.splitlines()
    assert "falcon==" in pins


def test_a_set_for_gpus_has_what_torch_names_of_cuda_too(pip_that_tells, wheelhouse):
    wheelhouse("cp312-cuda")

    _, (command, pins) = pip_that_tells()
    assert "--no-deps" not in command
    assert pins == f"torch=={pins_in(PINS)['torch'].removesuffix('+cpu')}\n"
    assert any(option.startswith("--constraint=") for option in command)


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
