"""Plots of a run, drawn in an environment of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.peers import environment


def draw(results: Path, folder: Path) -> None:
    """Throughput, latencies and goodput as PNG and SVG in `folder`."""
    python = environment.python_of("plots")
    command = [str(python), "-m", "benchmarks.peers.plots.draw", str(results), str(folder)]
    subprocess.run(command, check=True, cwd=environment.ROOT, env=environment.isolated())
