"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.figures import Spread, merged, percentile, spread
from benchmarks.peers.results import BUSY, TITLES, Measured, Offered


@dataclass(frozen=True)
class Row:
    """One server with one model, all rounds together."""

    label: str
    says: str
    per_s: dict[int, Spread]  # by clients
    cpu_ms: dict[int, Spread]
    pss_mb: dict[int, Spread]
    latencies_us: dict[int, dict[int, int]]

    def latency_ms(self, clients: int, share: float) -> float:
        return percentile(self.latencies_us.get(clients, {}), share) / 1e3


def rows(measured: Sequence[Measured], model: str) -> list[Row]:
    """In the order in which servers were measured first."""
    of_model = [run for run in measured if run.model == model]
    labels = list(dict.fromkeys(run.label for run in of_model))
    return [_row(label, [run for run in of_model if run.label == label]) for label in labels]


def _row(label: str, runs: Sequence[Measured]) -> Row:
    by_clients: dict[int, list[Measured]] = {}
    for run in sorted(runs, key=lambda run: run.clients):
        by_clients.setdefault(run.clients, []).append(run)
    return Row(
        label,
        runs[-1].says,
        {clients: spread(run.per_s for run in some) for clients, some in by_clients.items()},
        {clients: spread(run.cpu_ms for run in some) for clients, some in by_clients.items()},
        {clients: spread(run.pss_mb for run in some) for clients, some in by_clients.items()},
        {clients: merged(run.latencies_us for run in some) for clients, some in by_clients.items()},
    )


def markdown(
    measured: Sequence[Measured],
    offered: Sequence[Offered],
    machine: Mapping[str, str],
    failures: Sequence[str],
    how: str,
) -> str:
    models = [model for model in TITLES if any(run.model == model for run in measured)]
    parts = ["# Figures", "", "Written by `python -m benchmarks.peers`; see README.md for what they mean.", ""]
    parts += [
        f"{how} Requests per second are medians, ± half of the distance from the lowest to the highest round.",
        "",
    ]
    parts += [*_machine(machine), ""]
    for model in models:
        parts += [f"## {TITLES[model]}", "", *_throughput(rows(measured, model), BUSY[model]), ""]
        parts += [*_configurations(rows(measured, model)), ""]
    if offered:
        parts += [*_goodput(offered), ""]
    if failures:
        parts += ["## Without figures", "", *(f"- {_one_line(failure)}" for failure in failures), ""]
    return "\n".join(parts)


def _machine(machine: Mapping[str, str]) -> list[str]:
    return ["| machine | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items())]


def _throughput(table: Sequence[Row], busy: int) -> list[str]:
    counts = sorted({clients for row in table for clients in row.per_s})
    busy = busy if busy in counts else counts[-1]
    columns = ["", *(f"{clients} client{'s' if clients > 1 else ''}" for clients in counts)]
    columns += ["p50 / p99 ms, 1 client", f"p50 / p99 ms, {busy}", f"CPU ms a request, {busy}", f"memory MB, {busy}"]
    lines = [_line(columns), "|---" + "|---:" * (len(columns) - 1) + "|"]
    for row in table:
        cells = [row.label, *(_rate(row.per_s.get(clients)) for clients in counts)]
        cells += [_latency(row, 1), _latency(row, busy)]
        cells += [_number(row.cpu_ms.get(busy)), _number(row.pss_mb.get(busy))]
        lines.append(_line(cells))
    return lines


def _configurations(table: Sequence[Row]) -> list[str]:
    return ["Configurations:", "", *(f"- {row.label}: {row.says}" for row in table)]


def _goodput(offered: Sequence[Offered]) -> list[str]:
    shares = sorted({level.share for level in offered})
    lines = [
        "## Goodput against offered load",
        "",
        "Transformer; right answers within 500 ms, requests per second.",
        "",
    ]
    lines += [
        _line(["", "capacity", *(f"{share:g} x" for share in shares)]),
        "|---" + "|---:" * (len(shares) + 1) + "|",
    ]
    for label in dict.fromkeys(level.label for level in offered):
        levels = {level.share: level for level in offered if level.label == label}
        capacity = next(iter(levels.values())).capacity_per_s
        lines.append(_line([label, f"{capacity:.0f}", *(f"{levels[share].good_per_s:.0f}" for share in shares)]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rate(rate: Spread | None) -> str:
    if rate is None:
        return "-"
    digits = 0 if rate.median >= 100 else 1
    around = f" ± {(rate.high - rate.low) / 2:,.{digits}f}" if rate.high > rate.low else ""
    return f"{rate.median:,.{digits}f}{around}"


def _latency(row: Row, clients: int) -> str:
    if clients not in row.latencies_us:
        return "-"
    return " / ".join(_significant(row.latency_ms(clients, share)) for share in (0.5, 0.99))


def _number(figure: Spread | None) -> str:
    return "-" if figure is None else _significant(figure.median)


def _significant(number: float) -> str:
    """Three digits are more than the measurement can know."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
