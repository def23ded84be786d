"""A matrix-factorisation model: it finds the items whose factors match a user's best, from names to names.

Factors lie on the device. Names, and what users have had, stay on the CPU, which only looks up what a query needs.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.manifest import Manifest
from bedplate.bundle.recommendation import MAX_NAME_BYTES, SUGGESTION, is_name, k_out_of_range, questions_in
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.tensors import read_tensors
from bedplate.errors import UnknownUser

_MAX_USERS = 10_000_000
_MAX_ITEMS = 1_000_000
_MAX_FACTORS = 4096
_MAX_JSON_BYTES = 6 * MAX_NAME_BYTES + 8  # of a name
_MAX_SCORES_BYTES = 1 << 30  # of a full batch: a score of each item for each question
Array = npt.NDArray[Any]


class Recommender(nn.Module):
    """Maps (questions, 72) uint8 to (questions, max_k, 68) uint8; see bedplate/bundle/recommendation.py."""

    users: torch.Tensor  # (users, factors)
    items: torch.Tensor  # (items, factors)

    def __init__(self, users: torch.Tensor, items: torch.Tensor, names: Users, item_names: Array, seen: Seen, k: int):
        super().__init__()
        self.register_buffer("users", users)
        self.register_buffer("items", items)
        self._names = names
        self._item_names = item_names  # (items,) bytes
        self._seen = seen
        self._max_k = k
        self.host_bytes = names.nbytes + item_names.nbytes + seen.nbytes

    def require_known(self, batch: Array) -> None:
        """Check the queries before they are queued.

        Raises:
            UnknownUser, OutOfRange: a query cannot be answered; the error has its index, counted from 0.
        """
        asked = questions_in(batch)
        for place in np.flatnonzero(~self._names.know(asked["user"])):
            name = bytes(asked["user"][place]).decode(errors="replace")
            shown = name if is_name(name) else "of this name"
            raise UnknownUser(
                f"inputs[{place}]: user '{shown}' is not known to the model",
                value=name if is_name(name) else None,
                next_step="ask for a user that the model was trained with; a new one is known from the next version on",
            )
        wrong = np.flatnonzero((asked["k"] < 1) | (asked["k"] > self._max_k))
        for place in wrong:
            raise k_out_of_range(int(place), int(asked["k"][place]), self._max_k)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        asked = questions_in(batch.cpu().numpy())
        rows = self._names.rows(asked["user"])
        scores = (self.users[torch.from_numpy(rows).to(self.users.device)] @ self.items.T).float()
        which, had = self._seen.of(rows, asked["include_seen"] == 0)
        scores[torch.from_numpy(which).to(scores.device), torch.from_numpy(had).to(scores.device)] = -torch.inf
        best, places = (part.cpu().numpy() for part in scores.topk(self._max_k))
        if np.isnan(best).any() or np.isposinf(best).any():
            raise RuntimeError("scores that are not finite")
        wanted = (np.arange(self._max_k) < asked["k"][:, np.newaxis]) & np.isfinite(best)
        answer = np.zeros(best.shape, SUGGESTION)
        answer["item"][wanted] = self._item_names[places[wanted]]
        answer["score"][wanted] = best[wanted]
        return torch.from_numpy(answer.view(np.uint8).reshape(*best.shape, SUGGESTION.itemsize))


class Users:
    """Rows by name: in order, so that millions of names take no more than their bytes."""

    def __init__(self, names: Array):
        self._order = np.argsort(names, kind="stable").astype(np.int32)
        self._sorted = names[self._order]

    @property
    def nbytes(self) -> int:
        return self._sorted.nbytes + self._order.nbytes

    def know(self, asked: Array) -> npt.NDArray[np.bool_]:
        """asked (questions,) bytes: which of them have a row."""
        return np.asarray(self._sorted[self._places(asked)] == asked)

    def rows(self, asked: Array) -> npt.NDArray[np.int64]:
        """Of names that are known; of others any."""
        return self._order[self._places(asked)].astype(np.int64)

    def _places(self, asked: Array) -> Array:
        # In the type of the names: in another all of them would be copied to it.
        found = np.searchsorted(self._sorted, asked.astype(self._sorted.dtype))
        return np.minimum(found, len(self._sorted) - 1)


class Seen:
    """Of each user the items that it has had: those of row n from offsets[n] to offsets[n + 1]."""

    def __init__(self, offsets: npt.NDArray[np.int64], items: npt.NDArray[np.int32]):
        self._offsets = offsets
        self._items = items

    @property
    def nbytes(self) -> int:
        return self._offsets.nbytes + self._items.nbytes

    def of(self, rows: Array, hidden: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs of a question's place and an item, for the questions that `hidden` says; see `Users.rows`."""
        begins, ends = self._offsets[rows], self._offsets[rows + 1]
        counts = np.where(hidden, ends - begins, 0)
        had = [self._items[begin : begin + count] for begin, count in zip(begins, counts, strict=True)]
        return np.repeat(np.arange(len(rows)), counts), np.concatenate(had).astype(np.int64)


def read_recommender(bundle: Bundle, manifest: Manifest) -> Recommender:
    """Read the model of a bundle of the task recommendation, on the CPU.

    Raises:
        BundleError: factors, names and what users have had do not match.
    """
    spec = bundle.recommendation
    assert spec
    weights = f"{manifest.directory / bundle.weights}"
    users, items = _factors(read_tensors(manifest, bundle.weights), weights)
    needed = bundle.max_items * len(items) * 4
    if needed > _MAX_SCORES_BYTES:
        most = _MAX_SCORES_BYTES // (len(items) * 4)
        raise BundleError(
            f"{manifest.directory}/bundle.yaml: batch.max_items: {bundle.max_items} does not do, wanted "
            f"at most {most}; scores of {len(items)} items for each of them may take {_MAX_SCORES_BYTES} bytes"
        )
    if spec.max_k > len(items):
        raise BundleError(
            f"{manifest.directory}/bundle.yaml: recommendation.max_k: {spec.max_k} does not do, "
            f"wanted at most {len(items)}, the number of items"
        )
    names = Users(_names(manifest, spec.users, len(users)))
    item_names = _names(manifest, spec.items, len(items))
    return Recommender(users, items, names, item_names, _seen(manifest, spec.seen, len(users), len(items)), spec.max_k)


def _factors(found: dict[str, torch.Tensor], source: str) -> tuple[torch.Tensor, torch.Tensor]:
    if found.keys() != {"users", "items"}:
        raise BundleError(f"{source}: holds {sorted(found)}, wanted the tensors 'users' and 'items'")
    users, items = found["users"], found["items"]
    for name, tensor, most in (("users", users, _MAX_USERS), ("items", items, _MAX_ITEMS)):
        fits = tensor.dim() == 2 and 1 <= len(tensor) <= most and 1 <= tensor.shape[1] <= _MAX_FACTORS
        if not fits or tensor.dtype is not torch.float32 or tensor.shape[1] != users.shape[-1]:
            raise BundleError(
                f"{source}: tensor '{name}' is {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, wanted "
                f"float32 [1 to {most}, factors], as many factors of users as of items and at most {_MAX_FACTORS}"
            )
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{source}: tensor '{name}' holds values that are not finite; train the model again")
    return users, items


def _names(manifest: Manifest, file: str, count: int) -> Array:
    """(count,) bytes, as long as the longest."""
    path = manifest.directory / file
    try:
        found = json.loads(manifest.read(file, count * _MAX_JSON_BYTES + 2))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != count:
        raise BundleError(f"{path}: does not do, wanted a JSON list of {count} names, one for each row of the factors")
    wrong = next((place for place, name in enumerate(found) if not isinstance(name, str) or not is_name(name)), None)
    if wrong is not None:
        raise BundleError(
            f"{path}: name {wrong}, {str(found[wrong])[:80]!r}, does not do, "
            f"wanted a text of 1 to {MAX_NAME_BYTES} bytes that can be shown"
        )
    names = np.array([name.encode() for name in found])
    ordered = np.sort(names)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise BundleError(f"{path}: has {bytes(ordered[twice[0]]).decode()!r} twice; name each once")
    return names


def _seen(manifest: Manifest, file: str | None, users: int, items: int) -> Seen:
    if file is None:
        return Seen(np.zeros(users + 1, np.int64), np.zeros(0, np.int32))
    found = read_tensors(manifest, file)
    if found.keys() != {"offsets", "items"}:
        raise BundleError(
            f"{manifest.directory / file}: holds {sorted(found)}, wanted the tensors 'offsets' and 'items'"
        )
    offsets, had = found["offsets"].numpy(), found["items"].numpy()
    fits = (
        offsets.dtype == np.int64
        and had.dtype == np.int32
        and offsets.shape == (users + 1,)
        and had.ndim == 1
        and offsets[0] == 0
        and offsets[-1] == len(had)
        and bool((np.diff(offsets) >= 0).all())
        and (not len(had) or 0 <= had.min() <= had.max() < items)
    )
    if not fits:
        raise BundleError(
            f"{manifest.directory / file}: does not do, wanted 'offsets' int64 [{users + 1}] from 0 up to the length "
            f"of 'items' int32, which are places of {items} items"
        )
    return Seen(offsets, had)
