"""An engine that stands still (SIGSTOP): noticed by its watchdog, and nobody waits for it past a deadline."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from benchmarks.engine.bundles import write_lamp
from benchmarks.engine.killed import RATE_PER_S
from benchmarks.engine.load import DEADLINE_S, fates, is_good, normal_after_s, under_load
from benchmarks.engine.report import Row, at_most, exactly
from benchmarks.engine.stack import scratch, stack
from benchmarks.engine.supervisor import Life
from tools.load.ledger import Record
from tools.load.plan import constant_arrivals

WATCHDOG_S = 10.0
NOTICED_BEYOND_WATCHDOG_S = 5.0
# A clock that ends a wait is not exact, and the answer has to come back.
PAST_DEADLINE_S = 0.05
BACK_WITHIN_S = 30.0
CALM_S = 5.0


def measure(quick: bool) -> list[Row]:
    return [row for engines in (2, 1) for _ in range(1 if quick else 2) for row in _stop(engines)]


def _stop(engines: int) -> list[Row]:
    seconds = CALM_S + WATCHDOG_S + NOTICED_BEYOND_WATCHDOG_S + BACK_WITHIN_S
    with scratch() as folder, stack([write_lamp(folder)], folder=folder, engines=engines, watchdog_s=WATCHDOG_S) as run:
        engine = run.engines[0]
        with under_load(run, constant_arrivals(RATE_PER_S, seconds)) as load:
            time.sleep(CALM_S)
            stopped = engine.signal(signal.SIGSTOP)
            engine.wait_until_ready(lives=2)
            back = engine.lives[1].ready
        return _rows(engines, load.all, stopped - load.started, (back or 0) - load.started, stopped, engine.lives[0])


def _rows(
    engines: int, records: Sequence[Record], stopped_s: float, back_s: float, stopped: float, life: Life
) -> list[Row]:
    noticed_s = life.watchdog_at and life.watchdog_at - stopped
    stray = [record for record in records if record.failed and record.status not in (503, 504)]
    slowest_s = max(record.latency_s for record in records)
    during = [record for record in records if stopped_s <= record.intended < back_s]
    normal_s = normal_after_s(records, back_s)
    return [
        at_most(f"{engines} engine(s): noticed after", noticed_s, WATCHDOG_S + NOTICED_BEYOND_WATCHDOG_S, "s"),
        exactly("  answered neither rightly nor by 503 or 504", len(stray), 0),
        at_most("  slowest answer", slowest_s * 1000, (DEADLINE_S + PAST_DEADLINE_S) * 1000, "ms"),
        at_most("  normal after it was ready again", normal_s, 5, "s"),
        Row("  answers while it stood", f"{fates(during)}; good {sum(map(is_good, during))} of {len(during)}"),
    ]
