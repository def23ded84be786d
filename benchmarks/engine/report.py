"""Figures against bars: printed, kept as JSON, and one answer to whether all were met."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "benchmarks"


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    seen: str
    wanted: str = ""
    met: bool | None = None  # None: told, but no bar


def publish(name: str, rows: Sequence[Row], quick: bool, folder: Path = FOLDER) -> bool:
    """Print and keep the figures; True if every bar was met."""
    met = all_met(rows)
    width = max(len(row.what) for row in rows)
    for row in rows:
        print(f"{name:9} {row.what:{width}}  {row.seen:38} {_verdict(row):7} {row.wanted}", flush=True)
    document = {
        "name": name,
        "met": met,
        "quick": quick,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "rows": [asdict(row) for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"engine-{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return met


def all_met(rows: Sequence[Row]) -> bool:
    """False without a single bar: a measurement that decided nothing must not look like a success."""
    bars = [row.met for row in rows if row.met is not None]
    return bool(bars) and all(bars)


def at_most(what: str, seen: float | None, limit: float, unit: str) -> Row:
    """A figure that may not exceed `limit`; None is a figure that never came."""
    shown = "never" if seen is None else f"{seen:.4g} {unit}"
    return Row(what, shown, f"≤ {limit:g} {unit}", seen is not None and seen <= limit)


def at_least(what: str, seen: float, limit: float, unit: str) -> Row:
    return Row(what, f"{seen:.4g} {unit}", f"≥ {limit:g} {unit}", seen >= limit)


def exactly(what: str, seen: object, wanted: object) -> Row:
    return Row(what, str(seen), str(wanted), seen == wanted)


def _verdict(row: Row) -> str:
    return "" if row.met is None else "met" if row.met else "MISSED"
