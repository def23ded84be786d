"""Engines killed with SIGKILL at random moments under load.

The load is 80 % of what one engine can do, also where there are two: the one that is left has to carry it.
"""

from __future__ import annotations

import bisect
import math
import random
import signal
import time
from collections.abc import Sequence

from benchmarks.engine.bundles import write_lamp
from benchmarks.engine.load import Load, fates, under_load
from benchmarks.engine.overload import CAPACITY_PER_S
from benchmarks.engine.report import Row, at_most, exactly
from benchmarks.engine.stack import Stack, scratch, stack
from benchmarks.engine.supervisor import Life
from tools.load.ledger import Record
from tools.load.plan import constant_arrivals

KILLS = 20
RATE_PER_S = 0.8 * CAPACITY_PER_S
READY_BEYOND_TORCH_S = 10.0
# From one kill to the next: until the engine is back and has served for a while.
CYCLE_S = 10.0


def measure(quick: bool) -> list[Row]:
    kills = 3 if quick else KILLS
    return [*_two_engines(kills), *_one_engine(kills)]


def _two_engines(kills: int) -> list[Row]:
    load, lives = _kill(2, kills)
    return [
        exactly("two engines: kills", len(lives), kills),
        exactly("  failed", sum(record.failed for record in load.all), 0),
        Row("  answers", fates(load.all)),
        *_back(lives),
    ]


def _one_engine(kills: int) -> list[Row]:
    load, lives = _kill(1, kills)
    failed = [record for record in load.all if record.failed]
    unexpected = [record for record in failed if record.status != 503 or record.retry_after is None]
    return [
        exactly("one engine: kills", len(lives), kills),
        exactly("  failed, but not by 503 with Retry-After", len(unexpected), 0),
        exactly("  wrong bodies", sum(record.error == "wrong-body" for record in failed), 0),
        Row("  answers", fates(load.all)),
        exactly("  Retry-After that ended before the outage", too_short(failed, load.all), 0),
        *_back(lives),
    ]


def _back(lives: Sequence[tuple[float, Life]]) -> list[Row]:
    """How long engines took from the kill to READY, less what importing torch took that very time."""
    beyond = [life.ready - killed - life.torch_import_s for killed, life in lives if life.ready and life.torch_import_s]
    imports = [life.torch_import_s for _, life in lives if life.torch_import_s]
    complete = len(beyond) == len(lives) and bool(lives)
    return [
        at_most("  ready again, beyond the import", max(beyond) if complete else None, READY_BEYOND_TORCH_S, "s"),
        Row("  import of torch", f"{min(imports):.1f} to {max(imports):.1f} s" if imports else "never"),
    ]


def too_short(failed: Sequence[Record], records: Sequence[Record]) -> int:
    """Refusals whose client, coming back when told, would still have met the outage that refused it."""
    good = sorted(record.intended for record in records if not record.failed)
    count = 0
    for record in failed:
        if record.retry_after is not None:
            after = bisect.bisect(good, record.intended)
            over = good[after] if after < len(good) else math.inf
            count += record.done + float(record.retry_after) < over
    return count


def _kill(engines: int, kills: int) -> tuple[Load, list[tuple[float, Life]]]:
    """The load, and of each kill its moment and the life that came after."""
    chance = random.Random(5)
    lives: list[tuple[float, Life]] = []
    with scratch() as folder, stack([write_lamp(folder)], folder=folder, engines=engines) as running:
        seconds = kills * CYCLE_S
        with under_load(running, constant_arrivals(RATE_PER_S, seconds)) as load:
            give_up = time.monotonic() + seconds - CYCLE_S
            time.sleep(2)
            while len(lives) < kills and time.monotonic() < give_up:
                lives.append(_kill_one(running, len(lives) % engines))
                time.sleep(chance.uniform(0.5, 2.5))
    return load, lives


def _kill_one(running: Stack, number: int) -> tuple[float, Life]:
    engine = running.engines[number]
    lives = len(engine.lives)
    killed = engine.signal(signal.SIGKILL)
    engine.wait_until_ready(lives=lives + 1)
    return killed, engine.lives[-1]
