"""What is left of the bare torch loop's speed when the same network is asked through an engine's socket.

Engine and bare loop keep to the same core, one thread each, and take turns; the asking side has a core of its own.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engine.bundles import write_network
from benchmarks.engine.peer import keep_busy
from benchmarks.engine.report import Row, at_least
from benchmarks.engine.stack import ROOT, Stack, cores_for_programs, scratch, stack

SHARE = 0.95
SHAPES = {"cnn": [3, 224, 224], "transformer": [1, 1, 128]}
BATCHES = (1, 4, 8)
LABELS = 1000


@dataclass(frozen=True)
class Speed:
    """How fast one side was in one turn."""

    per_s: float
    per_processor_s: float  # items for a second of the process's own computing: other work on the core does not count


Bare = Callable[[str, int, float], Speed]


def measure(quick: bool) -> list[Row]:
    rounds, seconds = (2, 1.0) if quick else (7, 4.0)
    core = max(cores_for_programs())
    names = [(kind, batch) for kind in SHAPES for batch in BATCHES]
    with scratch() as folder, _bare_loop(core) as bare:
        bundles = [write_network(folder, f"{kind}-{batch}", SHAPES[kind], LABELS, batch) for kind, batch in names]
        # No web: its canaries would meet a network that nobody trained.
        with stack(bundles, ("network",), folder=folder, webs=0, cores={core}) as running:
            return [_compare(running, bare, *name, rounds, seconds) for name in names]


def _compare(running: Stack, bare: Bare, kind: str, batch: int, rounds: int, seconds: float) -> Row:
    pairs: list[tuple[Speed, Speed]] = []
    sizes = Counter[int]()
    for _ in range(rounds):
        alone = bare(kind, batch, seconds)
        served, seen = _served(running, kind, batch, seconds)
        pairs.append((served, alone))
        sizes += seen
    share = statistics.median(served.per_s / alone.per_s for served, alone in pairs)
    by_processor = statistics.median(served.per_processor_s / alone.per_processor_s for served, alone in pairs)
    served_per_s, alone_per_s = (
        statistics.median(speed.per_s for speed in column) for column in zip(*pairs, strict=True)
    )
    row = at_least(f"{kind}, batch {batch}", share * 100, SHARE * 100, "% of bare")
    told = f"{served_per_s:.1f} of {alone_per_s:.1f}/s, {by_processor:.1%} by processor time, {_shown(sizes)}"
    return Row(row.what, f"{row.seen}, {told}", row.wanted, row.met)


def _served(running: Stack, kind: str, batch: int, seconds: float) -> tuple[Speed, Counter[int]]:
    pid = running.engines[0].pid or 0
    item = np.zeros((1, *SHAPES[kind]), np.float32)
    before_s, started = processor_s(pid), time.perf_counter()
    # Three batches: one on the device, one ready to follow, one on its way.
    per_s, sizes = keep_busy(running.socket(), f"{kind}-{batch}", item, max(4, 3 * batch), seconds)
    share_of_core = (processor_s(pid) - before_s) / (time.perf_counter() - started)
    return Speed(per_s, per_s / share_of_core), sizes


def processor_s(pid: int) -> float:
    """What a process has computed so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _shown(sizes: Counter[int]) -> str:
    total = sizes.total()
    return "batches of " + ", ".join(f"{size} ({count / total:.0%})" for size, count in sorted(sizes.items()))


@contextlib.contextmanager
def _bare_loop(core: int) -> Iterator[Bare]:
    command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), sys.executable, "-m"]
    environment = {"PYTHONPATH": f"{ROOT / 'service'}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [*command, "benchmarks.engine.bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout

        def speed(kind: str, batch: int, seconds: float) -> Speed:
            before_s, started = processor_s(process.pid), time.perf_counter()
            print(kind, batch, seconds, file=process.stdin, flush=True)
            per_s = float(process.stdout.readline())  # type: ignore[union-attr]  # piped
            share_of_core = (processor_s(process.pid) - before_s) / (time.perf_counter() - started)
            return Speed(per_s, per_s / share_of_core)

        for kind in SHAPES:
            speed(kind, max(BATCHES), 1.0)
        yield speed
        process.stdin.close()
