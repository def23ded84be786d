"""The bare torch loop: what the processor can do at all. No HTTP, no queue, one process of one thread for each core."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.peers import environment, processes
from benchmarks.peers.cases import FOLDER, Case, WrongAnswer
from benchmarks.peers.figures import in_classes, merged
from benchmarks.peers.processes import Tree
from benchmarks.peers.results import Measured
from benchmarks.peers.visit import Times

TITLE = "bare torch loop"
CHANNELS_LAST = "bare torch loop, channels last"
# How long each size of batch is tried before the best one is measured.
_TRY_S = 0.25


@dataclass(frozen=True)
class Loop:
    """One process that computes on demand."""

    process: subprocess.Popen[str]

    def start(self, batch: int, seconds: float) -> None:
        assert self.process.stdin
        print(batch, seconds, file=self.process.stdin, flush=True)

    def result(self) -> tuple[float, float, dict[int, int]]:
        """Items per second, processor milliseconds per item, and how long batches took."""
        assert self.process.stdout
        per_s, cpu_ms, *pairs = self.process.stdout.readline().split()
        split = (pair.partition(":") for pair in pairs)
        return float(per_s), float(cpu_ms), {int(value): int(count) for value, _, count in split}


def labels_of(case: Case) -> list[str]:
    """As the module was made, and where there are convolutions also as Bedplate computes those."""
    return [TITLE, CHANNELS_LAST] if case.model.convolves else [TITLE]


def visit(case: Case, label: str, turn: int, clients: Sequence[int], times: Times) -> list[Measured]:
    """One process and single items for one client; as many as there are cores, and the best batch, for more."""
    cores = os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(_loop(case, label == CHANNELS_LAST)) for _ in range(cores)]
        return [_measure(case, label, turn, count, times, loops[: min(cores, count)]) for count in clients]


def _measure(case: Case, label: str, turn: int, clients: int, times: Times, loops: Sequence[Loop]) -> Measured:
    most = min(case.model.most_per_batch, max(1, clients // len(loops)))
    sizes = sorted({1} | {1 << power for power in range(most.bit_length())})
    size = max(sizes, key=lambda batch: _run(loops, batch, _TRY_S)[0])
    per_s, cpu_ms, histogram = _run(loops, size, times.seconds)
    says = f"{len(loops)} process{'es' if len(loops) > 1 else ''} of one thread, batches of {size}"
    pss_mb = Tree([loop.process.pid for loop in loops]).pss_mb()
    return Measured("bare", label, says, case.model.name, turn, clients, per_s, cpu_ms, pss_mb, in_classes(histogram))


def _run(loops: Sequence[Loop], batch: int, seconds: float) -> tuple[float, float, dict[int, int]]:
    for loop in loops:
        loop.start(batch, seconds)
    results = [loop.result() for loop in loops]
    per_s = sum(result[0] for result in results)
    cpu_ms = sum(result[0] * result[1] for result in results) / per_s
    return per_s, cpu_ms, merged(result[2] for result in results)


@contextlib.contextmanager
def _loop(case: Case, channels_last: bool) -> Iterator[Loop]:
    python = environment.python_of(environment.SHARED)
    variables = environment.isolated(BENCH_MODEL=case.model.name, BENCH_WEIGHTS=str(FOLDER))
    if channels_last:
        variables["BENCH_CHANNELS_LAST"] = "1"
    command = ["setpriv", "--pdeathsig", "KILL", str(python), "-m", "benchmarks.peers.bare.loop"]
    processes.LOGS.mkdir(parents=True, exist_ok=True)
    with (
        (processes.LOGS / f"bare-{case.model.name}.log").open("w") as log,
        subprocess.Popen(
            command, cwd=environment.ROOT, env=variables, stdin=-1, stdout=-1, stderr=log, text=True
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "right\n":
            raise WrongAnswer(f"the bare loop does not answer as torch did; see {log.name}")
        yield Loop(process)
        process.stdin.close()
