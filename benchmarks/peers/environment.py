"""An environment for each peer, made on first use: none of their packages meets another's, nor Bedplate's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "benchmarks" / "peers"
# Torch, which all of them lean on: one copy, for the disk's and the time's sake.
SHARED = "torch"
# The distribution's: what hosts run, and built with optimizations, which one that a user compiled often is not (then it
# takes a third longer for the same). nvidia-pytriton goes with no other.
PYTHON = Path("/usr/bin/python3")


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there yet."""
    directory = FOLDER / name
    wanted = _requirements(name)
    stamp = directory / "complete"
    digest = hashlib.sha256(f"{PYTHON.resolve()}\n{wanted.read_text()}".encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        _make(name, directory, wanted)
        stamp.write_text(digest)
    return directory / "bin" / "python"


def isolated(**more: str) -> dict[str, str]:
    """Environment variables of a server: one torch thread, our code importable, nothing of the caller's Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **more}


def cores() -> int:
    return os.cpu_count() or 1


def require_tools(names: Sequence[str]) -> None:
    """Programs of the distribution; those that are missing are installed if we may.

    Raises:
        SystemExit: with what to type.
    """
    packages = {"wrk": "wrk", "java": "openjdk-17-jre-headless"}
    missing = [packages[name] for name in names if not shutil.which(name)]
    if not _can_make_environments():
        missing.append("python3-venv")
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise SystemExit(f"missing: {', '.join(missing)}; run: sudo {' '.join(command)}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _can_make_environments() -> bool:
    command = [str(PYTHON), "-c", "import ensurepip"]
    return PYTHON.exists() and not subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


def _make(name: str, directory: Path, requirements: Path) -> None:
    print(f"makes the environment of {name} in {directory.relative_to(ROOT)}", flush=True)
    _run([str(PYTHON), "-m", "venv", "--clear", str(directory)])
    pip = [str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if name in (SHARED, "plots"):
        _run([*pip, "-r", str(requirements)])
        return
    shared = python_of(SHARED).parents[1]
    # Behind the peer's own packages, which win.
    [packages] = directory.glob("lib/python3*/site-packages")
    (packages / "shared.pth").write_text(f"{next(shared.glob('lib/python3*/site-packages'))}\n")
    _run([*pip, *_packages(requirements)])


def _packages(requirements: Path) -> list[str]:
    """All but torch, which is there already; pip would bring another one, or the CUDA build."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("torch==")]


def _requirements(name: str) -> Path:
    # Ours are what hosts get.
    return (
        ROOT / "service" / "requirements.txt"
        if name == "bedplate"
        else Path(__file__).parent / name / "requirements.txt"
    )


def _run(command: Sequence[str]) -> None:
    # As a caller's virtualenv would have it: PYTHONPATH must not lead pip astray.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
