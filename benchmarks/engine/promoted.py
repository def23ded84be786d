"""Ten versions loaded and promoted under load, each old one unloaded after: nobody may notice but by the version."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engine.bundles import write_lamp
from benchmarks.engine.load import Load, fates, under_load
from benchmarks.engine.peer import Operator
from benchmarks.engine.report import Row, exactly
from benchmarks.engine.stack import Stack, admin_settings, scratch, stack
from tools.load.ledger import Record
from tools.load.plan import constant_arrivals

PROMOTIONS = 10
RATE_PER_S = 100.0
WEBS = 2


@dataclass(frozen=True)
class Promotion:
    version: int
    returned: float  # on the monotonic clock


def measure(quick: bool) -> list[Row]:
    seconds = 30.0 if quick else 300.0
    with scratch() as folder:
        versions = [write_lamp(folder, version) for version in range(1, PROMOTIONS + 2)]
        # Quick, so that the load leaves the engine idle half of the time, as a batch of eight at 100/s would not.
        model = ("sleeping", "--base-ms", "2", "--item-ms", "2")
        settings = admin_settings(folder)
        with stack(versions[:1], model, folder=folder, webs=WEBS, engine_settings=settings) as running:
            with under_load(running, constant_arrivals(RATE_PER_S, seconds)) as load:
                promotions = _promote(running, versions, pause_s=seconds / (PROMOTIONS + 2))
            return _rows(load, promotions)


def _promote(running: Stack, versions: Sequence, pause_s: float) -> list[Promotion]:
    operator = Operator(running.admin_socket())
    promotions = []
    for version, directory in enumerate(versions[1:], 2):
        time.sleep(pause_s)
        operator.load(directory)
        operator.promote("lamp", str(version))
        promotions.append(Promotion(version, time.monotonic()))
        operator.unload("lamp", str(version - 1))
    operator.close()
    return promotions


def _rows(load: Load, promotions: Sequence[Promotion]) -> list[Row]:
    failed = sum(record.failed for record in load.all)
    seen = sorted({version for versions in load.versions for version in versions.values()})
    backwards = sum(went_back(records, versions) for records, versions in zip(load.records, load.versions, strict=True))
    return [
        exactly("promotions", len(promotions), PROMOTIONS),
        exactly(f"failed of {len(load.all)}", failed, 0),
        # Numbers that are not those of the version that the answer names.
        exactly("  answers that mix versions, or are wrong", sum(r.error == "wrong-body" for r in load.all), 0),
        exactly("  answers of an older version than one before them", backwards, 0),
        exactly("  versions seen", seen, list(range(1, PROMOTIONS + 2))),
        Row("  old version sent for after promote returned", f"for {_lag_s(load, promotions) * 1000:.0f} ms at most"),
        Row("  answers", fates(load.all)),
    ]


def went_back(records: Sequence[Record], versions: dict[int, int]) -> int:
    """Answers of one web whose version is older than that of an answer which was complete before they were sent."""
    sent = sorted((record for record in records if record.id in versions), key=lambda record: record.sent)
    done = sorted(sent, key=lambda record: record.done)
    newest, complete, backwards = 0, 0, 0
    for record in sent:
        while done[complete].done < record.sent:
            newest = max(newest, versions[done[complete].id])
            complete += 1
        backwards += versions[record.id] < newest
    return backwards


def _lag_s(load: Load, promotions: Sequence[Promotion]) -> float:
    lags = [0.0]
    for records, versions in zip(load.records, load.versions, strict=True):
        for record, promotion in itertools.product(records, promotions):
            if versions.get(record.id, promotion.version) < promotion.version:
                lags.append(record.sent - (promotion.returned - load.started))
    return max(lags)
