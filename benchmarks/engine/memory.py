"""What every process holds, over half an hour at 80 % of what the stack can do with a real bundle."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from bedplate.bundle.bundle import read_bundle

from benchmarks.engine.bundles import write_lamp
from benchmarks.engine.load import raw_request
from benchmarks.engine.report import Row, at_most, exactly
from benchmarks.engine.stack import ROOT, Stack, scratch, stack
from tools.load.connections import Pool
from tools.load.ledger import summarise
from tools.load.plan import Plan, constant_arrivals, read_target
from tools.load.run import run

DIGITS = ROOT / "build" / "bundles" / "digits" / "1"
SHARE = 0.8
CLIENTS = 16
WEB_LIMIT_MB = 80.0
GROWTH_LIMIT_MB = 20.0
# By then torch has its buffers and Python its caches.
WARM_S = 120.0
SAMPLE_S = 5.0
# A load's records are kept until it ends.
LOAD_S = 30.0
DEADLINE_S = 5.0


@dataclass(frozen=True)
class Sample:
    at_s: float
    rss_mb: dict[str, float]
    pss_mb: dict[str, float]


def measure(quick: bool, minutes: float) -> list[Row]:
    seconds, warm_s = (60.0, 20.0) if quick else (minutes * 60, WARM_S)
    with scratch() as folder:
        bundle = DIGITS if DIGITS.is_dir() else write_lamp(folder)
        settings = {"request_timeout_s": DEADLINE_S}
        with stack([bundle], ("bundle",), folder=folder, web_settings=settings) as running:
            request = _request(running, bundle)
            rate_per_s = SHARE * uvloop.run(_capacity_per_s(running, request, 3 if quick else 15))
            sampler = Sampler(processes(running))
            failed, became = _load(running, request, rate_per_s, seconds, sampler)
            restarts = sum(len(unit.lives) - 1 for unit in (*running.engines, *running.webs))
    what = f"{read_bundle(bundle).name if bundle == DIGITS else 'lamp'}, {rate_per_s:.0f}/s for {seconds / 60:.0f} min"
    return [
        exactly(f"{what}: failed of {became.total()}", failed, 0),
        Row("  answers", ", ".join(f"{word}: {count}" for word, count in sorted(became.items()))),
        exactly("restarts", restarts, 0),
        *_rows(sampler, warm_s),
    ]


def processes(running: Stack) -> dict[str, int]:
    """Every process of the stack by a name for it; gunicorn's arbiter and its worker apart."""
    found = {unit.name: unit.pid or 0 for unit in running.engines}
    for web in running.webs:
        found[f"{web.name} arbiter"] = web.pid or 0
        found |= {f"{web.name} worker": child for child in children_of(web.pid or 0)}
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rollup_mb(pid: int) -> tuple[float, float]:
    """Resident memory, and the same with shared pages divided among those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in lines}
    return kilobytes["Rss:"] / 1024, kilobytes["Pss:"] / 1024


class Sampler:
    """Looks at processes again and again, in a thread."""

    def __init__(self, pids: dict[str, int], every_s: float = SAMPLE_S):
        self.samples: list[Sample] = []
        self._pids = pids
        self._every_s = every_s
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(self._every_s):
            self.look()

    def look(self) -> None:
        seen = {name: rollup_mb(pid) for name, pid in self._pids.items() if os.path.exists(f"/proc/{pid}/smaps_rollup")}
        rss = {name: rss for name, (rss, _) in seen.items()}
        pss = {name: pss for name, (_, pss) in seen.items()}
        self.samples.append(Sample(time.monotonic() - self._started, rss, pss))


def growth_mb(samples: Sequence[Sample], name: str, warm_s: float) -> float | None:
    """From the first sample after `warm_s` to the largest one after it; None where the process went away."""
    sizes = [sample.rss_mb.get(name) for sample in samples if sample.at_s >= warm_s]
    if not sizes or None in sizes:
        return None
    return max(size for size in sizes if size is not None) - (sizes[0] or 0)


def _rows(sampler: Sampler, warm_s: float) -> list[Row]:
    last = sampler.samples[-1]
    webs = [name for name in last.rss_mb if name.startswith("web")]
    web_mb = [sum(sample.pss_mb.get(name, 0.0) for name in webs) for sample in sampler.samples]
    rows = [at_most(f"{name}: resident", _largest(sampler, name), WEB_LIMIT_MB, "MB") for name in webs]
    rows.append(at_most("web, arbiter and worker, shared pages once", max(web_mb), WEB_LIMIT_MB, "MB"))
    rows.append(Row("web, sum of resident", f"{sum(last.rss_mb[name] for name in webs):.1f} MB"))
    for name in sampler.samples[0].rss_mb:
        grown = growth_mb(sampler.samples, name, warm_s)
        row = at_most(f"{name}: growth after {warm_s:.0f} s", grown, GROWTH_LIMIT_MB, "MB")
        shown = [f"{sample.rss_mb.get(name, 0):.0f}" for sample in _spread(sampler.samples)]
        rows.append(Row(row.what, f"{row.seen} ({' '.join(shown)})", row.wanted, row.met))
    return rows


def _largest(sampler: Sampler, name: str) -> float:
    return max(sample.rss_mb.get(name, 0.0) for sample in sampler.samples)


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Seven of them, evenly."""
    return [samples[round(turn * (len(samples) - 1) / 6)] for turn in range(7)]


def _request(running: Stack, bundle: Path) -> bytes:
    spec = read_bundle(bundle)
    item = np.random.default_rng(seed=0).uniform(-1, 1, spec.input.shape).astype("<f4")
    return raw_request(running.key, f"/v1/models/{spec.name}/predict", item.tobytes(), DEADLINE_S)


def _load(
    running: Stack, request: bytes, rate_per_s: float, seconds: float, sampler: Sampler
) -> tuple[int, Counter[str]]:
    """How many failed, and what became of all."""
    failed = 0
    became = Counter[str]()
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0.1:
        arrivals = constant_arrivals(rate_per_s, min(LOAD_S, left_s))
        target = read_target(f"http://127.0.0.1:{running.ports[0]}", None, None)
        records = uvloop.run(run(Plan(target, [request], arrivals, {})))
        failed += summarise(records)["failed"]
        became.update(str(record.status or record.error) for record in records)
    sampler.stop()
    return failed, became


async def _capacity_per_s(running: Stack, request: bytes, seconds: float) -> float:
    """Of clients that ask again as soon as they have an answer."""
    pool = Pool(("127.0.0.1", running.ports[0]), None, "", CLIENTS)
    started = time.monotonic()

    async def client() -> int:
        connection, answers = await pool.take(), 0
        while time.monotonic() - started < seconds:
            await connection.exchange(request)
            answers += 1
        connection.abort()
        return answers

    return sum(await asyncio.gather(*(client() for _ in range(CLIENTS)))) / (time.monotonic() - started)
