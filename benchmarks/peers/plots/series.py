"""What the plots show, without matplotlib: lines from the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.figures import merged, percentile, spread

# Of a latency distribution: close together where the tail is.
SHARES = (*(number / 100 for number in range(1, 100)), 0.995, 0.999)


@dataclass(frozen=True)
class Line:
    label: str
    x: list[float]
    y: list[float]
    low: list[float]  # the lowest round; same as y where there was one
    high: list[float]


Run = Mapping[str, Any]


def throughput(runs: Sequence[Run], model: str) -> list[Line]:
    """Requests per second by clients."""
    lines = []
    for label, own in _by_label(runs, model).items():
        clients = sorted({run["clients"] for run in own})
        spreads = [spread(run["per_s"] for run in own if run["clients"] == count) for count in clients]
        lines.append(
            Line(
                label,
                [float(count) for count in clients],
                [one.median for one in spreads],
                [one.low for one in spreads],
                [one.high for one in spreads],
            )
        )
    return lines


def latencies(runs: Sequence[Run], model: str, clients: int) -> list[Line]:
    """Milliseconds by the share of requests that took no longer."""
    lines = []
    for label, own in _by_label(runs, model).items():
        histograms = [
            {int(value): count for value, count in run["latencies_us"].items()}
            for run in own
            if run["clients"] == clients
        ]
        if histograms:
            whole = merged(histograms)
            took_ms = [percentile(whole, share) / 1e3 for share in SHARES]
            lines.append(Line(label, list(SHARES), took_ms, took_ms, took_ms))
    return lines


def goodput(levels: Sequence[Run]) -> list[Line]:
    """Good answers by offered load, both as shares of the server's own capacity."""
    lines = []
    for label in dict.fromkeys(level["label"] for level in levels):
        own = sorted((level for level in levels if level["label"] == label), key=lambda level: level["share"])
        good = [level["good_per_s"] for level in own]
        lines.append(Line(label, [level["offered_per_s"] for level in own], good, good, good))
    return lines


def _by_label(runs: Sequence[Run], model: str) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run["model"] == model:
            found.setdefault(run["label"], []).append(run)
    return found
