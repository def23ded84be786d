"""Train a small network on scikit-learn's breast cancer measurements and write it out as a bundle that takes tables.

    PYTHONPATH=service python -m examples.batch.train

writes build/bundles/tumour/1 and build/examples/tumour/heldout: patients whom the training never saw, a file each;
measurements.csv, thousands of rows for one unit of work; and of both the truth and what the model says offline.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.bundle.columns import Column, width_of
from bedplate.optimize import check
from bedplate.web.items.rows import items_of_csv
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions

SEED = 20260614
NAME = "tumour/1"
HELD_OUT_SHARE, VALIDATION_SHARE = 0.3, 0.15
EPOCHS = 60
THRESHOLD = 0.95
MEASURED_TIMES = 30  # each held-out patient, in measurements.csv
MEASURING_ERROR = 0.01  # of the value
LABELS = ["malignant", "benign"]
NETWORK: list[Any] = [
    {"linear": {"in_features": 30, "out_features": 32}},
    "relu",
    {"dropout": {"p": 0.2}},
    {"linear": {"in_features": 32, "out_features": 2}},
]


def main() -> int:
    return run.run(__file__, [NAME], make)


def make(build: Path) -> None:
    data = load_breast_cancer()
    names, values, labels = list(map(str, data.feature_names)), data.data, data.target.astype(np.int64)
    learnt, chosen_by, held_out = split(labels)
    columns = columns_of(names, values[learnt])
    sets = [to_set(columns, values[part], labels[part]) for part in (learnt, chosen_by, held_out)]
    torch.manual_seed(SEED)
    module = training.build(NETWORK)
    training.train(module, *sets[:2], epochs=EPOCHS, learning_rate=5e-3, batch_items=32)
    _, accuracy = training.measure(module, sets[2])
    print(f"held out: {accuracy:.2%} of {len(held_out)} patients right")
    if accuracy < THRESHOLD:
        raise run.NotGoodEnough(f"that is below {THRESHOLD:.0%}")
    at = chosen_by[training.surest(module, sets[1])]
    canary = to_json(names, values[at])
    bundle = run.bundle_folder(build, NAME)
    write_bundle(bundle, document(columns, LABELS[labels[at]]), module, sets[2], {"canary.json": canary})
    folder = run.held_out_folder(build, NAME)
    files = {f"{n:03d}.json": to_json(names, values[at]) for n, at in enumerate(held_out)}
    write_held_out(folder, files, (LABELS[place] for place in labels[held_out]))
    write_predictions(folder, bundle)
    repeated, again = np.tile(held_out, MEASURED_TIMES), np.random.default_rng(SEED)
    measured = values[repeated] * (1 + MEASURING_ERROR * again.standard_normal((len(repeated), len(names))))
    write_work(folder, bundle, columns, measured, labels[repeated])


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of three sets with the same share of each label."""
    rest, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT_SHARE, stratify=labels, random_state=SEED
    )
    learnt, chosen_by = train_test_split(rest, test_size=VALIDATION_SHARE, stratify=labels[rest], random_state=SEED)
    return learnt, chosen_by, held_out


def columns_of(names: list[str], values: np.ndarray) -> list[Column]:
    """Scaled by what was learnt from; of twice the range that was seen there, anything further is no measurement."""
    return [
        Column(name, low=0, high=round(float(column.max() * 2), 4), mean=float(column.mean()), std=float(column.std()))
        for name, column in zip(names, values.T, strict=True)
    ]


def to_set(columns: list[Column], values: np.ndarray, labels: np.ndarray) -> training.Set:
    return torch.from_numpy(items_of_csv(to_csv(columns, values), columns)), torch.from_numpy(labels)


def to_csv(columns: list[Column], values: np.ndarray) -> bytes:
    return _csv([column.name for column in columns], values.tolist()).encode()


def to_json(names: list[str], values: np.ndarray) -> bytes:
    return json.dumps({"inputs": [dict(zip(names, values.tolist(), strict=True))]}).encode()


def document(columns: list[Column], canary: str) -> dict[str, Any]:
    described = [
        {"name": column.name, "range": [column.low, column.high], "mean": column.mean, "std": column.std}
        for column in columns
    ]
    features = {"name": "features", "dtype": "float32", "shape": [width_of(columns)], "columns": described}
    return {
        "format": 1,
        "name": "tumour",
        "version": "1",
        "task": "tabular-classification",
        "description": "Whether a breast tumour is malignant, by measurements of its cells' nuclei",
        "inputs": [features],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [2]}],
        "labels": LABELS,
        "activation": "softmax",
        "batch": {"max_items": 64},
        "weights": "weights.safetensors",
        "network": NETWORK,
        "validation": {"file": "validation.safetensors", "metric": "accuracy", "threshold": THRESHOLD},
        "canary": {"file": "canary.json", "label": canary},
    }


def write_work(folder: Path, bundle: Path, columns: list[Column], values: np.ndarray, labels: np.ndarray) -> None:
    """measurements.csv, measurements-labels.csv and measurements-predictions-1.csv, a line for each row."""
    (folder / "measurements.csv").write_bytes(to_csv(columns, values))
    read, model = check.load(bundle, "float32")
    items = items_of_csv(to_csv(columns, values), columns)
    scores = torch.from_numpy(model.run(items)).softmax(1)
    best = [
        (LABELS[place], f"{score:.6f}") for score, place in zip(*map(torch.Tensor.tolist, scores.max(1)), strict=True)
    ]
    (folder / "measurements-labels.csv").write_text(_csv(["label"], ([LABELS[place]] for place in labels)))
    (folder / f"measurements-predictions-{read.version}.csv").write_text(_csv(["label", "score"], best))


def _csv(header: list[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
