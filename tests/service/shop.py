"""A shop of five lamps and three users, whose tastes are written down so that a test can tell what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.bundle.manifest import write_manifest
from safetensors.torch import save_file

from tests.service.engine_tools import write_bundle
from tests.service.lamp import recommending

USERS = ["ann", "björn", "chloé of a long name"]
ITEMS = ["GU10", "E27", "E14", "LED strip", "卓上ランプ"]
FACTORS = {
    "users": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.125]]),
    "items": torch.tensor([[5.0, 0.0], [4.0, 1.0], [3.0, 2.0], [2.0, 9.0], [1.0, 4.0]]),
}
# ann has had E27 and the strip, björn nothing, chloé all but GU10.
SEEN = {"offsets": torch.tensor([0, 2, 2, 6]), "items": torch.tensor([1, 3, 1, 2, 3, 4], dtype=torch.int32)}


def write_shop(
    directory: Path,
    factors: dict[str, torch.Tensor] = FACTORS,
    users: list[str] | bytes = USERS,
    items: list[str] | bytes = ITEMS,
    seen: dict[str, torch.Tensor] | None = SEEN,
    files: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A complete bundle of the task recommendation.

    Args:
        files: further ones, tensors by name.
    """
    write_bundle(directory, factors, recommending(**{"name": "shop", **changes}))
    for name, lines in (("users.json", users), ("items.json", items)):
        (directory / name).write_bytes(lines if isinstance(lines, bytes) else json.dumps(lines).encode())
    for name, tensors in {**({"seen.safetensors": seen} if seen else {}), **(files or {})}.items():
        save_file(tensors, directory / name)
    write_manifest(directory)
    return directory


def best_of(user: int, k: int, include_seen: bool = False, factor: float = 1.0) -> list[dict[str, Any]]:
    """By hand: what ought to be answered."""
    scores = FACTORS["items"].numpy() @ FACTORS["users"].numpy()[user] * factor
    begin, end = SEEN["offsets"][user : user + 2].tolist()
    hidden = set() if include_seen else set(SEEN["items"][begin:end].tolist())
    order = [place for place in np.argsort(-scores, kind="stable") if place not in hidden]
    return [{"item": ITEMS[place], "score": float(scores[place])} for place in order[:k]]
