"""Goodput at three and ten times of what the engine can do, and how soon all is well afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engine.bundles import write_lamp
from benchmarks.engine.load import DEADLINE_S, fates, is_good, normal_after_s, under_load
from benchmarks.engine.report import Row, at_least, at_most
from benchmarks.engine.stack import Stack, scratch, stack
from tools.load.ledger import Record, percentile, summarise
from tools.load.plan import constant_arrivals

MAX_ITEMS = 8
# 20 ms + 10 ms * n, asleep.
CAPACITY_PER_S = MAX_ITEMS / 0.1
BARS = {3: 0.95, 10: 0.90}  # share of the peak that has to be left
NORMAL_WITHIN_S = 30.0
# Later than this the machine was too busy to say anything about the engine.
LATE_MS = 20.0


def measure(quick: bool) -> list[Row]:
    seconds, calm_s = (5, 5) if quick else (25, NORMAL_WITHIN_S + 2)
    with scratch() as folder, stack([write_lamp(folder, max_items=MAX_ITEMS)], folder=folder) as running:
        at_capacity = _load(running, 1, seconds)
        peak_per_s = goodput_per_s(at_capacity, seconds)
        rows = [Row("goodput at 1x", f"{peak_per_s:.1f}/s of {CAPACITY_PER_S:.0f}/s; {fates(at_capacity)}")]
        for factor, share in BARS.items():
            rows += _overload(running, factor, share, peak_per_s, seconds, calm_s)
    return rows


def goodput_per_s(records: Sequence[Record], seconds: float) -> float:
    """Good answers that came while the load lasted; what was queued at its end is not counted."""
    return sum(is_good(record) and record.done <= seconds for record in records) / seconds


def _load(running: Stack, factor: float, seconds: float, calm_s: float = 0) -> list[Record]:
    """`factor` times the capacity for `seconds`, then half of it."""
    arrivals = constant_arrivals(factor * CAPACITY_PER_S, seconds)
    calm = [seconds + moment for moment in constant_arrivals(CAPACITY_PER_S / 2, calm_s)]
    with under_load(running, arrivals + calm) as load:
        pass
    return load.all


def _overload(running: Stack, factor: int, share: float, peak_per_s: float, seconds: float, calm_s: float) -> list[Row]:
    records = _load(running, factor, seconds, calm_s)
    during = [record for record in records if record.intended < seconds]
    accepted = sorted(record.latency_s for record in during if record.status == 200)
    p99_s = percentile(accepted, 0.99)
    lag_ms = summarise(during)["schedule_lag_p99_ms"]
    return [
        at_least(f"goodput at {factor}x", goodput_per_s(during, seconds) / peak_per_s * 100, share * 100, "% of peak"),
        at_most("  p99 of accepted", p99_s and p99_s * 1000, DEADLINE_S * 1000, "ms"),
        at_most("  normal again after", normal_after_s(records, seconds), NORMAL_WITHIN_S, "s"),
        Row("  answers", fates(during)),
        at_most(f"  the load's own lateness at {len(during) / seconds:.0f}/s, p99", lag_ms, LATE_MS, "ms"),
    ]
