"""Files that a training never saw: with the truth, and with what the bundle says of each where it was made."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bedplate.commands.client import content_type_of
from bedplate.optimize import check


def write_held_out(directory: Path, files: Mapping[str, bytes], labels: Iterable[str]) -> None:
    """The files by name, and labels.csv, the truth, in their order."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    _write_csv(directory / "labels.csv", ["file", "label"], zip(files, labels, strict=True))


def write_predictions(directory: Path, bundle_directory: Path) -> float:
    """predictions-VERSION.csv: label and score of each, one file at a time, by the written bundle.

    Returns: the share that is right by labels.csv.
    """
    bundle, model = check.load(bundle_directory, "float32")
    rows, right = [], 0
    with (directory / "labels.csv").open() as file:
        truth = {row["file"]: row["label"] for row in csv.DictReader(file)}
    for name, label in truth.items():
        content_type = content_type_of(directory / name)
        [answer] = check.answer(bundle, model, content_type, (directory / name).read_bytes())
        found = label_of(answer)
        rows.append([name, found, f"{answer['score']:.6f}" if "score" in answer else ""])
        right += is_right(found, label)
    _write_csv(directory / f"predictions-{bundle.version}.csv", ["file", "label", "score"], rows)
    return right / len(truth)


def label_of(prediction: Mapping[str, Any]) -> str:
    """What an answer comes to: its label; of a recommendation all items, best first; of boxes the labels of all."""
    if "boxes" in prediction:
        return " ".join(sorted(box["label"] for box in prediction["boxes"]))
    return "|".join(one["item"] for one in prediction["items"]) if "items" in prediction else str(prediction["label"])


def is_right(found: str, truth: str) -> bool:
    """Of a recommendation, whether the truth is among the items."""
    return truth in found.split("|")


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
