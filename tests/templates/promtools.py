"""Prometheus' own checking programs, where tools/setup puts them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def promtool(*arguments: str | Path) -> None:
    _check("promtool", *arguments)


def amtool(*arguments: str | Path) -> None:
    _check("amtool", *arguments)


def _check(name: str, *arguments: str | Path) -> None:
    program = shutil.which(name, path=PATH)
    assert program, f"{name} is not there; run: make setup"
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
