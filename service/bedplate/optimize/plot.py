"""Plots the measurements of one bundle: accuracy and speed of each form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bedplate.bundle.bundle import Bundle
from bedplate.optimize.candidates import Figures, best_of
from bedplate.process.settings import SettingsError


def draw(bundle: Bundle, figures: Sequence[Figures], path: Path) -> None:
    """Write the plot.

    Raises:
        SettingsError: matplotlib is missing, or does not know this kind of file.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise SettingsError("--plot: needs matplotlib; pip install matplotlib") from None
    ran = [one for one in figures if one.items_per_s]
    best = best_of(figures).name
    picture = Figure(figsize=(9, 0.7 + 0.5 * len(ran)), layout="constrained")
    speed, worth = picture.subplots(1, 2, sharey=True)
    names = [one.name for one in ran]
    colours = ["tab:green" if one.name == best else "tab:grey" if one.refused else "tab:blue" for one in ran]
    speed.barh(names, [one.items_per_s for one in ran], color=colours)
    speed.invert_yaxis()
    speed.set_xlabel("items/s, full batches")
    measured = all(one.accuracy is not None for one in ran)
    shown = [(one.accuracy or 0.0) * 100 if measured else one.difference * 100 for one in ran]
    worth.plot(shown, range(len(ran)), "o", color="black")
    worth.set_xlabel("accuracy, %" if measured else "difference from float32, %")
    worth.grid(axis="x")
    picture.suptitle(f"{bundle.name} {bundle.version}: {best} serves")
    try:
        picture.savefig(path, dpi=120)
    except ValueError as error:
        raise SettingsError(f"--plot {path}: {error}") from None
