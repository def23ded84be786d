"""draw.py RESULTS.json FOLDER: throughput.{png,svg}, latency.{png,svg}, goodput.{png,svg}."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.peers.plots import series
from benchmarks.peers.results import BUSY, TITLES

_OURS = "Bedplate"
_BARE = {"bare torch loop": "grey", "bare torch loop, channels last": "silver"}


def main(results: Path, folder: Path) -> None:
    document = json.loads(results.read_text())
    runs, levels = document["measured"], document["offered"]
    models = [model for model in TITLES if any(run["model"] == model for run in runs)]
    mpl.rcParams.update({"svg.hashsalt": "bedplate", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    folder.mkdir(parents=True, exist_ok=True)
    colours = _colours(list(dict.fromkeys(run["label"] for run in runs)))
    if models:
        _throughput(runs, models, colours, folder)
        _latency(runs, models, colours, folder)
    if levels:
        _goodput(levels, colours, folder)


def _throughput(runs: list[Any], models: list[str], colours: dict[str, Any], folder: Path) -> None:
    figure, axes = _panels(len(models))
    for axis, model in zip(axes, models, strict=True):
        for line in series.throughput(runs, model):
            below = [middle - low for middle, low in zip(line.y, line.low, strict=True)]
            above = [high - middle for high, middle in zip(line.high, line.y, strict=True)]
            axis.errorbar(line.x, line.y, yerr=[below, above], capsize=2, **_style(line.label, colours))
        counts = sorted({run["clients"] for run in runs if run["model"] == model})
        axis.set(xscale="log", yscale="log", title=TITLES[model], xlabel="clients", ylabel="requests/s")
        axis.set_xticks(counts, list(map(str, counts)))
        axis.minorticks_off()
    _keep(figure, axes, folder / "throughput")


def _latency(runs: list[Any], models: list[str], colours: dict[str, Any], folder: Path) -> None:
    figure, axes = _panels(len(models))
    for axis, model in zip(axes, models, strict=True):
        for line in series.latencies(runs, model, BUSY[model]):
            # The tail gets as much room as the rest: nines on the axis.
            axis.plot([1 / (1 - share) for share in line.x], line.y, **{**_style(line.label, colours), "marker": None})
        ticks = [0.5, 0.9, 0.99, 0.999]
        axis.set(xscale="log", yscale="log", xlabel="share of requests answered", ylabel="within ms")
        axis.set_title(f"{TITLES[model].partition(':')[0]}, {BUSY[model]} clients")
        axis.set_xticks([1 / (1 - share) for share in ticks], [f"{share:.1%}" for share in ticks])
        axis.minorticks_off()
    _keep(figure, axes, folder / "latency")


def _goodput(levels: list[Any], colours: dict[str, Any], folder: Path) -> None:
    figure, [axis] = _panels(1)
    for line in series.goodput(levels):
        axis.plot(line.x, line.y, **_style(line.label, colours))
    most = max(level["offered_per_s"] for level in levels)
    best = max(level["good_per_s"] for level in levels)
    axis.plot([0, best], [0, best], color="grey", linestyle=":", linewidth=1)
    axis.set(xlim=(0, most * 1.02), ylim=(0, None), xlabel="requests offered/s", ylabel="right answers within 500 ms/s")
    axis.set_title("Transformer, open loop")
    _keep(figure, [axis], folder / "goodput")


def _panels(count: int) -> tuple[Any, list[Any]]:
    figure, axes = plt.subplots(1, count, figsize=(1.5 + 4.8 * count, 4.6), squeeze=False, layout="constrained")
    return figure, list(axes[0])


def _keep(figure: Any, axes: list[Any], path: Path) -> None:
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    figure.savefig(path.with_suffix(".png"), dpi=130)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def _colours(labels: list[str]) -> dict[str, Any]:
    others = [label for label in labels if label != _OURS and label not in _BARE]
    palette = plt.get_cmap("tab20")
    return {_OURS: "black", **_BARE} | {label: palette(number % 20) for number, label in enumerate(others)}


def _style(label: str, colours: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": label,
        "color": colours.get(label, "black"),
        "linewidth": 2.2 if label == _OURS else 1.2,
        "linestyle": "--" if label in _BARE else "-",
        "marker": "o",
        "markersize": 3,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
