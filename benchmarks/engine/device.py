"""What is left of the bare torch loop's speed when the same network is asked through an engine's socket.

Engine and bare loop keep to the same core, one thread each, and take turns; the asking side has a core of its own.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.engine.bundles import Array, write_network
from benchmarks.engine.peer import keep_busy
from benchmarks.engine.report import Row, at_least
from benchmarks.engine.stack import ROOT, cores_for_programs, scratch, stack

SHARE = 0.95
SHAPES = {"cnn": [3, 224, 224], "transformer": [1, 1, 128]}
BATCHES = (1, 4, 8)
LABELS = 1000


def measure(quick: bool) -> list[Row]:
    rounds, seconds = (2, 1.0) if quick else (7, 4.0)
    core = max(cores_for_programs())
    names = [(kind, batch) for kind in SHAPES for batch in BATCHES]
    with scratch() as folder, _bare_loop(core) as bare:
        bundles = [write_network(folder, f"{kind}-{batch}", SHAPES[kind], LABELS, batch) for kind, batch in names]
        # No web: its canaries would meet a network that nobody trained.
        with stack(bundles, ("network",), folder=folder, webs=0, cores={core}) as running:
            return [_compare(running.socket(), bare, *name, rounds, seconds) for name in names]


def _compare(
    path: Path, bare: Callable[[str, int, float], float], kind: str, batch: int, rounds: int, seconds: float
) -> Row:
    item = np.zeros((1, *SHAPES[kind]), np.float32)
    pairs, sizes = [], Counter[int]()
    for _ in range(rounds):
        alone = bare(kind, batch, seconds)
        served, seen = _served(path, f"{kind}-{batch}", item, batch, seconds)
        pairs.append((served, alone))
        sizes += seen
    share = statistics.median(served / alone for served, alone in pairs)
    served, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    row = at_least(f"{kind}, batch {batch}", share * 100, SHARE * 100, "% of bare")
    return Row(row.what, f"{row.seen}, {served:.1f} of {alone:.1f}/s, {_shown(sizes)}", row.wanted, row.met)


def _served(path: Path, model: str, item: Array, batch: int, seconds: float) -> tuple[float, Counter[int]]:
    # Three batches: one on the device, one ready to follow, one on its way.
    return keep_busy(path, model, item, max(4, 3 * batch), seconds)


def _shown(sizes: Counter[int]) -> str:
    batches = {size: answers / size for size, answers in sizes.items()}
    total = sum(batches.values())
    return "batches of " + ", ".join(f"{size} ({batches[size] / total:.0%})" for size in sorted(batches))


@contextlib.contextmanager
def _bare_loop(core: int) -> Iterator[Callable[[str, int, float], float]]:
    command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), sys.executable, "-m"]
    environment = {"PYTHONPATH": f"{ROOT / 'service'}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [*command, "benchmarks.engine.bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout

        def items_per_s(kind: str, batch: int, seconds: float) -> float:
            print(kind, batch, seconds, file=process.stdin, flush=True)
            return float(process.stdout.readline())  # type: ignore[union-attr]  # piped

        for kind in SHAPES:
            items_per_s(kind, max(BATCHES), 1.0)
        yield items_per_s
        process.stdin.close()
