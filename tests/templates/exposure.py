"""How exposed a unit is, as systemd judges it without starting it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze of systemd 252 or later"
)


def assert_exposure(unit: Path, most: int) -> None:
    """`most` is in tenths, as systemd-analyze counts them here."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager", str(unit)]
    analysis = subprocess.run(command, capture_output=True, check=False, text=True)

    assert analysis.returncode == 0, analysis.stdout
    # Where systemd says which keys it does not know.
    assert analysis.stderr == "", analysis.stderr
