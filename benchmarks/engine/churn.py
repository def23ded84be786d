"""32 operators at once, each loading and unloading a version of its own 500 times, under load: nothing may grow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.engine.bundles import write_lamp
from benchmarks.engine.load import fates, under_load
from benchmarks.engine.memory import rollup_mb
from benchmarks.engine.peer import Operator
from benchmarks.engine.report import Row, at_most, exactly
from benchmarks.engine.stack import Stack, admin_settings, scratch, stack
from tools.load.ledger import Record
from tools.load.plan import constant_arrivals

THREADS = 32
CYCLES = 500
WARM_SHARE = 0.1
GROWTH_LIMIT_MB = 20.0
RATE_PER_S = 20.0
DEADLINE_S = 5.0  # what counts here is whether, not when
# The load goes on until the operators are done.
LOAD_S = 10.0


def measure(quick: bool) -> list[Row]:
    cycles = 10 if quick else CYCLES
    with scratch() as folder:
        served = write_lamp(folder)
        own = [write_lamp(folder, version=2 + turn) for turn in range(THREADS)]
        with stack(
            [served],
            ("bundle",),
            folder=folder,
            web_settings={"request_timeout_s": DEADLINE_S},
            engine_settings=admin_settings(folder),
        ) as running:
            churn = Churn(running, own, cycles)
            records = _under_load(running, churn)
            alive = len(running.engines[0].lives) == 1 and running.engines[0].ready
            ready = running.is_ready(running.ports[0])
            return _rows(churn, records, alive, ready)


class Churn:
    """The operators' work, counted."""

    def __init__(self, running: Stack, bundles: list[Path], cycles: int):
        self.done = 0
        self.sizes_mb: list[float] = []  # of the engine, in the order of cycles
        self.wanted = len(bundles) * cycles
        self._running = running
        self._bundles = bundles
        self._cycles = cycles
        self._counting = threading.Lock()

    def run(self) -> None:
        with ThreadPoolExecutor(len(self._bundles)) as operators:
            list(operators.map(self._operate, self._bundles))

    def _operate(self, directory: Path) -> None:
        name, _, version = directory.name.rpartition("-")
        operator = Operator(self._running.admin_socket())
        for _ in range(self._cycles):
            operator.load(directory)
            operator.unload(name, version)
            self._count()
        operator.close()

    def _count(self) -> None:
        with self._counting:
            self.done += 1
            if self.done % max(1, self.wanted // 100) == 0:
                self.sizes_mb.append(rollup_mb(self._running.engines[0].pid or 0)[0])


def _under_load(running: Stack, churn: Churn) -> list[Record]:
    records: list[Record] = []
    with ThreadPoolExecutor(1) as background:
        churning = background.submit(churn.run)
        while not churning.done():
            with under_load(running, constant_arrivals(RATE_PER_S, LOAD_S), DEADLINE_S) as load:
                pass
            records += load.all
        churning.result()
    return records


def _rows(churn: Churn, records: list[Record], alive: bool, ready: bool) -> list[Row]:
    sizes_mb = churn.sizes_mb
    warm_mb = sizes_mb[int(len(sizes_mb) * WARM_SHARE)]
    return [
        exactly("load/unload cycles", churn.done, churn.wanted),
        exactly("the same process all along, ready", (alive, ready), (True, True)),
        at_most("growth after the first tenth", max(sizes_mb) - warm_mb, GROWTH_LIMIT_MB, "MB"),
        Row("resident", f"{sizes_mb[0]:.0f}, {warm_mb:.0f} warm, {sizes_mb[-1]:.0f} MB at the end"),
        exactly("wrong answers", sum(record.error == "wrong-body" for record in records), 0),
        exactly(f"failed of {len(records)}", sum(record.failed for record in records), 0),
        Row("answers", fates(records)),
    ]
