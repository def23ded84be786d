"""Factorise who has had what, and write the factors out as two versions of a bundle.

    PYTHONPATH=service python -m examples.recommend.train

writes build/bundles/recommend/1 (from the first half of what each customer has had) and 2 (from all but the last
items), and build/examples/recommend/heldout: questions for some customers, what each took next, and what
each version suggests offline.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.bundle.recommendation import names_as_bytes, questions
from safetensors.torch import save
from sklearn.decomposition import NMF
from torch import nn

from examples.common import run
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions
from examples.recommend.interactions import HAD, ITEMS, NEXT, USERS, draw, matrix

SEED = 20260711
FACTORS = 16
K = 10
ASKED = 500  # customers, in the held-out files
KNOWN = {"1": HAD // 2, "2": HAD - NEXT}  # of each customer's items, by version
THRESHOLDS = {"1": 0.14, "2": 0.20}  # share of the next items that are among the ten; the most popular get less
BUNDLES = [f"recommend/{version}" for version in KNOWN]
CUSTOMERS = [f"customer-{number:04d}" for number in range(USERS)]
NAMES = [f"item-{number:03d}" for number in range(ITEMS)]


class Factors(nn.Module):
    """What weights.safetensors holds."""

    def __init__(self, users: np.ndarray, items: np.ndarray):
        super().__init__()
        self.register_buffer("users", torch.from_numpy(users))
        self.register_buffer("items", torch.from_numpy(items))


def main() -> int:
    return run.run(__file__, BUNDLES, make)


def make(build: Path) -> None:
    had = draw(SEED)
    upcoming = had[:, -NEXT:]
    folder = run.held_out_folder(build, "recommend")
    files = {f"{name}.json": json.dumps({"inputs": [{"user": name, "k": K}]}).encode() for name in CUSTOMERS[:ASKED]}
    write_held_out(folder, files, (NAMES[place] for place in upcoming[:ASKED, 0]))
    for version, known in KNOWN.items():
        seen = had[:, :known]
        users, items = factorise(matrix(seen))
        rate, popular = hit_rate(users @ items.T, seen, upcoming), hit_rate(popularity(seen), seen, upcoming)
        print(f"recommend {version}: {rate:.2%} of the next items are among the ten, {popular:.2%} by popularity alone")
        if rate < max(THRESHOLDS[version], popular):
            raise run.NotGoodEnough(
                f"{version} finds {rate:.1%}, wanted {THRESHOLDS[version]:.0%} and more than {popular:.1%}"
            )
        bundle = run.bundle_folder(build, f"recommend/{version}")
        write(bundle, version, users, items, seen, upcoming)
        write_predictions(folder, bundle)


def factorise(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(users, FACTORS) and (items, FACTORS) float32, none below 0."""
    model = NMF(FACTORS, init="nndsvda", max_iter=150, tol=1e-3, random_state=SEED)
    users = model.fit_transform(known)
    return users.astype(np.float32), np.ascontiguousarray(model.components_.T, np.float32)


def popularity(seen: np.ndarray) -> np.ndarray:
    """(users, items): the same for all users, how many have had the item."""
    return np.tile(matrix(seen).sum(axis=0), (len(seen), 1))


def hit_rate(scores: np.ndarray, seen: np.ndarray, upcoming: np.ndarray) -> float:
    """The share of the upcoming items that are among the best K of those that were not seen."""
    scores = scores.copy()
    np.put_along_axis(scores, seen, -np.inf, axis=1)
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    return float((upcoming[:, :, np.newaxis] == best[:, np.newaxis]).any(axis=2).mean())


def write(
    bundle: Path, version: str, users: np.ndarray, items: np.ndarray, seen: np.ndarray, upcoming: np.ndarray
) -> None:
    user, item = canary(users @ items.T, seen)
    asked = questions((name, K, False) for name in CUSTOMERS for _ in range(NEXT))
    validation = torch.from_numpy(asked), torch.from_numpy(names_as_bytes(NAMES[place] for place in upcoming.ravel()))
    offsets = torch.arange(0, seen.size + 1, seen.shape[1])
    had = torch.from_numpy(seen.ravel().astype(np.int32))
    files = {
        "users.json": json.dumps(CUSTOMERS).encode(),
        "items.json": json.dumps(NAMES).encode(),
        "seen.safetensors": save({"offsets": offsets, "items": had}),
        "canary.json": json.dumps({"inputs": [{"user": CUSTOMERS[user], "k": 1}]}).encode(),
    }
    write_bundle(bundle, document(version, NAMES[item]), Factors(users, items), validation, files)


def canary(scores: np.ndarray, seen: np.ndarray) -> tuple[int, int]:
    """The user whose first item is surest, and that item: it must not change with the last bits of a sum."""
    scores = scores.copy()
    np.put_along_axis(scores, seen, -np.inf, axis=1)
    best = np.sort(scores, axis=1)
    user = int((best[:, -1] - best[:, -2]).argmax())
    return user, int(scores[user].argmax())


def document(version: str, item: str) -> dict[str, Any]:
    names = {"users": "users.json", "items": "items.json", "seen": "seen.safetensors", "max_k": 100}
    return {
        "format": 1,
        "name": "recommend",
        "version": version,
        "task": "recommendation",
        "description": "Items that a customer of a made-up shop may take next",
        "recommendation": names,
        "batch": {"max_items": 64},
        "cache": {"ttl_s": 1800},
        "request": {"max_bytes": 10 << 20},
        "weights": "weights.safetensors",
        "validation": {"file": "validation.safetensors", "metric": "hit-rate", "threshold": THRESHOLDS[version]},
        "canary": {"file": "canary.json", "item": item},
    }


if __name__ == "__main__":
    sys.exit(main())
