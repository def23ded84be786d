"""Nothing is installed or downloaded but what locks/ has a hash for, and the second index gives torch alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import lock, locks

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = {"archive_info": {"hashes": {"sha256": "0" * 64}}}
THIS_PYTHON = f"cp3{sys.version_info.minor}"
# Builds with a package of the set, as the real one does with setuptools.
BACKEND = """
import importlib.metadata, pathlib, shutil
def build_wheel(directory, *_):
    assert importlib.metadata.version("tiny") == "1.0"
    [wheel] = pathlib.Path().glob("*.whl")
    return pathlib.Path(shutil.copy(wheel, directory)).name
"""


def make_wheel(folder: Path, name: str, version: str, metadata: str = "") -> str:
    """Return its SHA-256."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Project:
    """A checkout with two small packages to install, one of them called torch, and an index that is a folder."""

    def __init__(self, folder: Path):
        self.folder, self.index = folder / "checkout", folder / "index"
        shutil.copytree(REPOSITORY / "tools", self.folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("service/bedplate", "locks", "../index"):
            (self.folder / name).mkdir(parents=True)
        backend = 'requires = ["tiny"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        (self.folder / "service/pyproject.toml").write_text(f"[build-system]\n{backend}")
        (self.folder / "service/backend.py").write_text(BACKEND)
        make_wheel(self.folder / "service", "bedplate", "1.0")
        for file in ("requirements.txt", "service/requirements.txt"):
            (self.folder / file).write_text("tiny==1.0\ntorch==2.0+cpu\n")
        (self.folder / "service/requirements-import.txt").write_text("reader==1.0\n")
        tiny, torch = make_wheel(self.index, "tiny", "1.0"), make_wheel(self.index, "torch", "2.0+cpu")
        self.lock("torch-cpu", "torch==2.0+cpu", torch)
        self.lock("cp311", "tiny==1.0", tiny)
        self.lock(f"control-{THIS_PYTHON}", "tiny==1.0", tiny)

    def lock(self, name: str, pin: str, sha256: str) -> None:
        (self.folder / f"locks/{name}.txt").write_text(f"{pin} \\\n    --hash=sha256:{sha256}\n")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        places = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index), "PIP_EXTRA_INDEX_URL": ""}
        return subprocess.run(
            command, cwd=self.folder, env=os.environ | places | environment, capture_output=True, text=True, check=False
        )

    def wheelhouse(self, name: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "tools/wheelhouse", name)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def setup(project, tmp_path):
    """Run tools/setup where pip installs nothing, and return what it was asked to install."""
    programs, asked = tmp_path / "venv/bin", tmp_path / "asked"
    programs.mkdir(parents=True)
    (tmp_path / "venv/.complete").touch()
    # As where pip's own places do not have torch.
    pip = f'echo "$@" >>{asked}; [[ "$*" != *torch-cpu* || "$*" == *pytorch.org* ]]'
    stubs = {"pip": pip, "python": "exit 1", "promtool": "", "amtool": "", "dpkg-query": "echo installed"}
    for name, does in (stubs | {"apt-get": "exit 1", "sudo": "exit 1"}).items():
        (programs / name).write_text(f"#!/bin/bash\n{does}\n")
        (programs / name).chmod(0o755)

    def run(machine="x86_64"):
        (programs / "uname").write_text(f"#!/bin/bash\necho {machine}\n")
        (programs / "uname").chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        ran = project.run("bash", "tools/setup", sys.executable, str(tmp_path / "venv"), PATH=path)
        return ran, asked.read_text().splitlines() if asked.exists() else []

    return run


@pytest.mark.parametrize("name", locks.every_name())
def test_every_pin_has_a_hash_at_its_version_for_each_python(name):
    text = locks.path_of(name).read_text()

    pins = {f"{locks.plain(pin)}=={version}" for pin, version in locks.pins_of(name).items()}

    assert [pin for pin in sorted(pins) if not re.search(rf"^{re.escape(pin)} \\\n +--hash=sha256:", text, re.M)] == []
    locks.require_fit(name)


def test_torch_and_what_it_brings_of_cuda_have_locks_of_their_own():
    pinned = [name for name in locks.every_name() if "torch" in locks.pins_of(name)]

    assert pinned == ["torch-cpu", "torch-cuda"]
    assert [name for name in locks.every_name() if "torch" in locks.read(locks.path_of(name))] == pinned
    assert locks.read(locks.path_of("torch-cuda")).keys() > {"torch", "triton", "nvidia-cudnn-cu13"}


@pytest.mark.parametrize("minor", locks.PYTHONS)
def test_who_imports_models_has_what_hosts_have_and_what_a_control_machine_has(minor):
    imports, control = (locks.read(locks.path_of(f"{kind}-cp3{minor}")) for kind in ("import", "control"))
    hosts = locks.read(locks.path_of(f"cp3{minor}"))

    assert {name: imports[name] for name in hosts} == hosts
    assert {name: imports[name] for name in imports.keys() & control.keys()} == {
        name: control[name] for name in imports.keys() & control.keys()
    }
    assert "transformers" in imports
    assert not [name for name in imports if name == "torch" or name.startswith(("nvidia-cu", "triton"))]


def test_a_wheelhouse_is_made_of_what_has_the_right_hash(project):
    made = project.wheelhouse("cp311-cpu")

    assert made.returncode == 0, made.stderr
    wheels = sorted(wheel.name.split("-")[0] for wheel in project.folder.glob("wheelhouse/cp311-cpu/*.whl"))
    assert wheels == ["bedplate", "tiny", "torch"]


def test_the_service_is_built_with_what_the_set_has_and_no_newer_package(project):
    make_wheel(project.index, "tiny", "9.0")

    made = project.wheelhouse("cp311-cpu")

    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(("name", "version"), [("tiny", "1.0"), ("torch", "2.0+cpu")])
def test_a_wheel_that_another_hand_changed_is_refused(project, name, version):
    make_wheel(project.index, name, version, metadata="Summary: changed\n")

    refused = project.wheelhouse("cp311-cpu")

    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert list(project.folder.glob("wheelhouse/*")) == []


@pytest.mark.parametrize(
    ("file", "pins", "said"),
    [
        ("cp311", "tiny==1.1\ntorch==2.0+cpu\n", "locks/cp311.txt has tiny 1.0, but the requirements pin 1.1"),
        ("cp311", "tiny==1.0\nnew==3\ntorch==2.0+cpu\n", "has new without a hash, but the requirements pin 3"),
        ("cp311", "torch==2.0+cpu\n", "has tiny 1.0, but the requirements do not name it"),
        ("torch-cpu", "tiny==1.0\ntorch==2.1+cpu\n", "has torch 2.0+cpu, but the requirements pin 2.1+cpu"),
    ],
)
def test_a_wheelhouse_whose_lock_does_not_fit_the_pins_says_what_to_run(project, file, pins, said):
    (project.folder / "service/requirements.txt").write_text(pins)

    refused = project.wheelhouse("cp311-cpu")

    assert refused.returncode == 1
    assert said in refused.stderr
    assert f"locks/{file}.txt" in refused.stderr
    assert "Run: make lock" in refused.stderr


def test_a_requirement_without_a_version_is_refused(project):
    (project.folder / "service/requirements.txt").write_text("tiny\ntorch==2.0+cpu\n")

    refused = project.wheelhouse("cp311-cpu")

    assert refused.returncode == 1
    assert "service/requirements.txt: 'tiny' is no pin" in refused.stderr


def test_a_python_without_a_lock_is_refused_with_those_that_have_one(project):
    refused = project.wheelhouse("cp315-cpu")

    assert refused.returncode == 1
    assert "locked for Python 3.11, 3.12, 3.13, 3.14" in refused.stderr


def test_setup_installs_by_hash_and_asks_the_second_index_for_torch_alone(setup):
    ran, asked = setup()

    assert ran.returncode == 0, ran.stderr
    *locked, service = [line for line in asked if " install " in line]
    assert "--no-deps --no-build-isolation --editable service" in service
    assert [line for line in locked if "--require-hashes" not in line] == []
    assert [re.findall(r"locks/\S+", line) for line in locked] == [
        ["locks/torch-cpu.txt"],
        ["locks/torch-cpu.txt"],
        [f"locks/control-{THIS_PYTHON}.txt"],
    ]
    [second] = [line for line in locked if "pytorch.org" in line]
    assert "locks/torch-cpu.txt" in second
    assert "--no-deps" in second


@pytest.mark.parametrize("file", ["torch-cpu", f"control-{THIS_PYTHON}"])
def test_setup_installs_nothing_while_a_lock_does_not_fit(project, setup, file):
    project.lock(file, "tiny==0.9", "0" * 64)

    ran, asked = setup()

    assert ran.returncode == 1
    assert f"locks/{file}.txt has" in ran.stderr
    assert "Run: make lock" in ran.stderr
    assert asked == []


def test_setup_refuses_a_processor_that_no_wheel_is_locked_for(setup):
    ran, asked = setup(machine="aarch64")

    assert ran.returncode == 1
    assert "this machine is aarch64, packages are locked for x86_64" in ran.stderr
    assert asked == []


def test_no_tool_adds_an_index_to_those_that_all_packages_come_from():
    tools = [path for path in (REPOSITORY / "tools").rglob("*") if path.is_file() and path.suffix in {"", ".py"}]

    assert [path.name for path in tools if re.search(r"extra-index", path.read_text())] == []


def test_make_lock_writes_the_hashes_of_what_changed_and_leaves_the_rest(project):
    for file in ("requirements.txt", "service/requirements.txt"):
        (project.folder / file).write_text("tiny==1.1\ntorch==2.0+cpu\n")
    sha256 = make_wheel(project.index, "tiny", "1.1", metadata="Requires-Dist: needed<2; python_version >= '3.13'\n")
    needed = make_wheel(project.index, "needed", "1")
    torch = make_wheel(project.index, "torch", "2.0")
    reader = make_wheel(project.index, "reader", "1.0", metadata="Requires-Dist: needed\n")
    make_wheel(project.index, "needed", "2")
    kept = (project.folder / "locks/torch-cpu.txt").read_text()
    module = project.folder / "tools/locks.py"
    module.write_text(module.read_text().replace("PYTHONS = (11, 12, 13, 14)", "PYTHONS = (11, 14)"))

    made = project.run(sys.executable, "-m", "tools.lock")

    assert made.returncode == 0, made.stderr
    written = {path.stem: path.read_text() for path in (project.folder / "locks").glob("*.txt")}
    assert {"cp311", "cp314", "control-cp311", "import-cp311", "torch-cpu", "torch-cuda"} <= written.keys()
    assert f"tiny==1.1 \\\n    --hash=sha256:{sha256}\n" in written["cp314"]
    assert f"needed==1 \\\n    --hash=sha256:{needed}\n" in written["control-cp314"]
    assert "needed" not in written["cp314"]
    assert f"reader==1.0 \\\n    --hash=sha256:{reader}\n" in written["import-cp314"]
    assert f"needed==1 \\\n    --hash=sha256:{needed}\n" in written["import-cp314"]
    assert "torch" not in written["import-cp314"]
    assert f"torch==2.0 \\\n    --hash=sha256:{torch}\n" in written["torch-cuda"]
    assert written["torch-cpu"] == kept


def test_pythons_that_would_get_different_versions_in_one_lock_are_refused():
    reports = [[{"metadata": {"name": "triton", "version": v}, "download_info": FILE}] for v in ("3.7.1", "3.8")]

    with pytest.raises(ValueError, match="different versions of triton"):
        lock.merge(reports)


def test_a_dependency_of_early_patch_releases_only_is_locked_too():
    asks = {"metadata": {"name": "redis", "requires_dist": ['async-timeout>=4; python_full_version < "3.11.3"']}}

    assert lock.missing_for(11, [asks]) == ["async-timeout>=4"]
    assert lock.missing_for(12, [asks]) == []


def test_a_dependency_of_an_extra_is_locked_where_the_extra_was_asked_for():
    asks = {"metadata": {"name": "client", "requires_dist": ['aiohttp; extra == "http"']}}

    assert lock.missing_for(12, [asks]) == []
    assert lock.missing_for(12, [asks | {"requested_extras": ["http"]}]) == ["aiohttp"]
    assert lock.missing_for(12, [asks | {"requested_extras": ["http"]}, {"metadata": {"name": "AioHTTP"}}]) == []
