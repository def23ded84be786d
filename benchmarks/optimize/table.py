"""The figures as Markdown, and whether the bar was met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.optimize.forms import LOSS_POINTS
from benchmarks.peers.figures import Spread, merged, percentile, spread
from benchmarks.peers.results import Measured

# Times the peer's rate.
BAR = 2.0
_HEAD = ("model", "server", "form", "accuracy", "requests/s", "times the peer", "p50 / p99 ms")


@dataclass(frozen=True)
class Compared:
    """One model on all sides, the peer first and what was optimized last."""

    model: str
    forms: Mapping[str, str]  # by label, as the rest
    accuracy: Mapping[str, float]
    runs: Sequence[Measured]

    def times(self, label: str) -> Spread:
        """The peer's rate in the same round."""
        peer = next(iter(self.accuracy))
        rates = {(run.label, run.round): run.per_s for run in self.runs}
        return spread(rate / rates[peer, turn] for (whose, turn), rate in rates.items() if whose == label)

    @property
    def missed(self) -> str:
        """What of the bar, if anything."""
        peer, *_, ours = self.accuracy
        lost = round(100 * (self.accuracy[peer] - self.accuracy[ours]), 6)
        if lost > LOSS_POINTS:
            return f"loses {lost:.2f} points of accuracy, {LOSS_POINTS:g} are allowed"
        times = self.times(ours).median
        return f"{times:.2f} times the peer, wanted {BAR:g}" if times < BAR else ""

    @property
    def document(self) -> dict[str, Any]:
        sides = [self._side(label) for label in self.accuracy]
        return {"model": self.model, "missed": self.missed, "sides": sides}

    def _side(self, label: str) -> dict[str, Any]:
        return {
            "server": label,
            "form": self.forms[label],
            "accuracy": self.accuracy[label],
            "times_the_peer": asdict(self.times(label)),
            "rounds": [_round(run) for run in self.runs if run.label == label],
        }

    @property
    def rows(self) -> list[tuple[str, ...]]:
        return [self._row(label) for label in self.accuracy]

    def _row(self, label: str) -> tuple[str, ...]:
        runs = [run for run in self.runs if run.label == label]
        took_us = merged(run.latencies_us for run in runs)
        p50, p99 = (f"{percentile(took_us, share) / 1e3:.0f}" for share in (0.5, 0.99))
        per_s, times = _shown(spread(run.per_s for run in runs), 1), _shown(self.times(label), 2)
        return (self.model, label, self.forms[label], f"{self.accuracy[label]:.4f}", per_s, times, f"{p50} / {p99}")


def _round(run: Measured) -> dict[str, Any]:
    p50, p99 = (percentile(run.latencies_us, share) / 1e3 for share in (0.5, 0.99))
    return {
        "round": run.round,
        "says": run.says,
        "per_s": run.per_s,
        "cpu_ms": run.cpu_ms,
        "pss_mb": run.pss_mb,
        "p50_ms": p50,
        "p99_ms": p99,
    }


def _shown(found: Spread, digits: int) -> str:
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def markdown(compared: Sequence[Compared], machine: Mapping[str, str], how: str) -> str:
    rows = [_HEAD, ("---",) * len(_HEAD), *(row for one in compared for row in one.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    verdicts = [f"- {one.model}: {'missed: ' + one.missed if one.missed else 'the bar is met'}" for one in compared]
    told = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = [
        "# Optimized models beside a peer",
        "",
        "Written by `python -m benchmarks.optimize`.",
        "",
        how,
        "",
        told,
        "",
    ]
    return "\n".join([*parts, *lines, "", *verdicts, ""])
