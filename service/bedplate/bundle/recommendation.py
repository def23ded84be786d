"""Recommendations: what is asked of a matrix-factorisation model and what it answers, as records of fixed size.

The engine alone knows users and items by name: a front end would hold millions of them once for each of its processes.
So names travel, as bytes, and a question or an answer is a tensor of bytes like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle.manifest import FILE_NAME
from bedplate.bundle.strict_yaml import Section
from bedplate.bundle.tensor import Tensor
from bedplate.errors import OutOfRange

MAX_NAME_BYTES = 64
_MAX_K = 1000
# Little-endian, without padding; names in UTF-8 with zeros after them.
QUESTION = np.dtype([("user", f"S{MAX_NAME_BYTES}"), ("k", "<i4"), ("include_seen", "<i4")])
SUGGESTION = np.dtype([("item", f"S{MAX_NAME_BYTES}"), ("score", "<f4")])
Records = npt.NDArray[Any]


@dataclass(frozen=True)
class Recommendation:
    """Where a bundle has its names, and what may be asked for."""

    users: str  # a file: a JSON list of names, in the order of the rows of the tensor `users`
    items: str
    seen: str | None  # a file: which items a user has had already
    max_k: int

    @property
    def files(self) -> dict[str, str]:
        """By the key that names them."""
        seen = {"recommendation.seen": self.seen} if self.seen else {}
        return {"recommendation.users": self.users, "recommendation.items": self.items, **seen}

    @property
    def input(self) -> Tensor:
        return Tensor("questions", "uint8", (QUESTION.itemsize,))

    @property
    def output(self) -> Tensor:
        """As many suggestions as may be asked for, best first; what there is no suggestion for is zeros."""
        return Tensor("suggestions", "uint8", (self.max_k, SUGGESTION.itemsize))


def read_recommendation(section: Section) -> Recommendation:
    """What bundle.yaml says of it.

    Raises:
        BundleError: with the key, the value and what would do.
    """
    found = Recommendation(
        users=section.text("users", FILE_NAME.pattern),
        items=section.text("items", FILE_NAME.pattern),
        seen=section.text("seen", FILE_NAME.pattern) if section.has("seen") else None,
        max_k=section.integer("max_k", 1, _MAX_K),
    )
    section.done()
    return found


def is_name(name: str) -> bool:
    """The rule for names of users and items: 1 to 64 bytes of UTF-8, all of which can be shown."""
    return bool(name) and name.isprintable() and len(name.encode()) <= MAX_NAME_BYTES


def questions(asked: Iterable[tuple[str, int, bool]]) -> npt.NDArray[np.uint8]:
    """(items, 72) of users, how many items each wants, and whether those that it has had may be among them."""
    records = np.array([(user.encode(), k, include) for user, k, include in asked], QUESTION)
    return records.view(np.uint8).reshape(len(records), QUESTION.itemsize)


def questions_in(items: npt.NDArray[Any]) -> Records:
    """(items, 72) uint8 to (items,) QUESTION."""
    return np.ascontiguousarray(items).view(QUESTION).reshape(len(items))


def suggestions_in(outputs: npt.NDArray[Any]) -> Records:
    """(items, max_k, 68) uint8 to (items, max_k) SUGGESTION."""
    return np.ascontiguousarray(outputs).view(SUGGESTION).reshape(outputs.shape[:2])


def names_as_bytes(names: Iterable[str]) -> npt.NDArray[np.uint8]:
    """(items, 64), as validation.safetensors has the items that are expected."""
    held = np.array([name.encode() for name in names], f"S{MAX_NAME_BYTES}")
    return held.view(np.uint8).reshape(len(held), MAX_NAME_BYTES)


def k_out_of_range(place: int, k: int, most: int) -> OutOfRange:
    """Told by the front end of JSON, and by the engine of what came as bytes."""
    shown = k if abs(k) < 1 << 31 else "a number of many digits"
    return OutOfRange(
        f"inputs[{place}].k: {shown} is out of range, 1 to {most}",
        value=k if abs(k) < 1 << 31 else None,
        limit=most,
        next_step=f"ask for 1 to {most} items",
    )
