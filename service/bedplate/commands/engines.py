"""`bedplate engines BUNDLE`: measure how many engines with how many threads give this host the highest throughput."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.bundle.bundle import BundleError, read_bundle
from bedplate.process.settings import SettingsError

# Rates this near each other are the same: rounds differ by as much.
_ALIKE = 0.97
_HEAD_START_S = 0.1  # for the line that asks to reach every engine before the first begins


@dataclass(frozen=True)
class Split:
    """One way to divide the cores among engines."""

    engines: int
    threads: int


@dataclass(frozen=True)
class SplitFigures:
    """The combined throughput and latency of all engines of a split."""

    requests_per_s: float  # of one item each, one after the other
    full_items_per_s: float  # in full batches
    p50_ms: float  # of one item


def run(bundles: Sequence[Path], cores: int | None, rounds: int, seconds: float, allow_code: bool = False) -> int:
    """Measure every split of the cores; print a table and the lines for the inventory.

    Raises:
        SettingsError: a bundle cannot be used, there are fewer cores than asked for, or an engine ended by itself.
    """
    if rounds < 1 or not seconds > 0:
        raise SettingsError(f"--rounds {rounds} --seconds {seconds}: does not do, wanted at least 1, and more than 0")
    for directory in bundles:
        try:
            programs = read_bundle(directory).code_files
        except BundleError as error:
            raise SettingsError(str(error)) from None
        if programs and not allow_code:
            raise SettingsError(f"{directory / programs[0]}: is a program; read it, then add --allow-code")
    shared = _chosen(cores)
    found: dict[Split, list[SplitFigures]] = {split: [] for split in splits_of(len(shared))}
    # Every split in every round: what else the host does meets them all.
    for number in range(rounds):
        for split, figures in found.items():
            print(f"round {number + 1} of {rounds}: {_shown(split)}", file=sys.stderr)
            figures.append(_measure(split, shared, bundles, seconds))
    medians = {split: _median(figures) for split, figures in found.items()}
    print("\n".join(_report(medians, best_of(medians))))
    return 0


def splits_of(cores: int) -> list[Split]:
    return [Split(engines, cores // engines) for engines in range(1, cores + 1) if cores % engines == 0]


def best_of(medians: dict[Split, SplitFigures]) -> Split:
    """Return the split with the highest throughput under load; of those that are close, that with the least latency."""
    most = max(figures.full_items_per_s for figures in medians.values())
    alike = [split for split, figures in medians.items() if figures.full_items_per_s >= _ALIKE * most]
    return min(alike, key=lambda split: medians[split].p50_ms)


def _chosen(cores: int | None) -> list[int]:
    available = sorted(os.sched_getaffinity(0))
    if cores is not None and not 1 <= cores <= len(available):
        raise SettingsError(f"--cores: {cores} does not do, wanted a number from 1 to {len(available)}")
    # From the last, as engines take them.
    return available[-cores:] if cores else available


def _measure(split: Split, cores: list[int], bundles: Sequence[Path], seconds: float) -> SplitFigures:
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(_engine(number, split, cores, bundles)) for number in range(split.engines)]
        for engine in engines:
            _answer(engine)  # that it is warm
        single = _together(engines, {"full": False, "seconds": seconds})
        full = _together(engines, {"full": True, "seconds": seconds})
    return SplitFigures(
        requests_per_s=sum(answer["items_per_s"] for answer in single),
        full_items_per_s=sum(answer["items_per_s"] for answer in full),
        p50_ms=statistics.median(answer["p50_ms"] for answer in single),
    )


@contextlib.contextmanager
def _engine(number: int, split: Split, cores: list[int], bundles: Sequence[Path]) -> Iterator[subprocess.Popen[str]]:
    arguments = [f"cpu{number}", str(split.threads), json.dumps(cores), *map(str, bundles)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bedplate.engine.trial", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _together(engines: Sequence[subprocess.Popen[str]], asked: dict[str, Any]) -> list[dict[str, float]]:
    line = json.dumps({**asked, "begin_s": time.monotonic() + _HEAD_START_S})
    for engine in engines:
        print(line, file=engine.stdin, flush=True)
    return [_answer(engine) for engine in engines]


def _answer(engine: subprocess.Popen[str]) -> dict[str, float]:
    assert engine.stdout
    line = engine.stdout.readline()
    if not line:
        raise SettingsError("an engine of the trial ended by itself; its last lines above say why")
    answer: dict[str, float] = json.loads(line)
    return answer


def _median(rounds: Sequence[SplitFigures]) -> SplitFigures:
    return SplitFigures(
        statistics.median(one.requests_per_s for one in rounds),
        statistics.median(one.full_items_per_s for one in rounds),
        statistics.median(one.p50_ms for one in rounds),
    )


def _report(medians: dict[Split, SplitFigures], best: Split) -> list[str]:
    lines = ["engines  threads  requests/s at batch 1  items/s at full batch  p50 ms at batch 1"]
    for split, one in medians.items():
        lines.append(
            f"{split.engines:7}  {split.threads:7}  {one.requests_per_s:21.1f}  {one.full_items_per_s:21.1f}"
            f"  {one.p50_ms:17.2f}"
        )
    devices = ", ".join(f"cpu{number}" for number in range(best.engines))
    return [
        *lines,
        "",
        f"{_shown(best)} did best; for the inventory:",
        f"bedplate_engines: [{devices}]",
        f"bedplate_engine_threads: {best.threads}",
    ]


def _shown(split: Split) -> str:
    return f"{split.engines} x {split.threads} {'thread' if split.threads == 1 else 'threads'}"
