"""Recommendations: queries to a matrix-factorisation model and its answers, as records of fixed size.

Only the engine knows users and items by name; in a front end, millions of names would take memory once per process.
So names travel as bytes, and a query or an answer is a uint8 tensor like any other.
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
    """The section `recommendation` of a bundle: the files with names, and the limits of a query."""

    users: str  # a file: a JSON list of names, in the order of the rows of the tensor `users`
    items: str
    seen: str | None  # a file: which items a user has had already
    max_k: int

    @property
    def files(self) -> dict[str, str]:
        """The files of the section, by the key that names each."""
        seen = {"recommendation.seen": self.seen} if self.seen else {}
        return {"recommendation.users": self.users, "recommendation.items": self.items, **seen}

    @property
    def input(self) -> Tensor:
        return Tensor("questions", "uint8", (QUESTION.itemsize,))

    @property
    def output(self) -> Tensor:
        """The output tensor: `max_k` suggestions, best first; where there are fewer, the rest is zeros."""
        return Tensor("suggestions", "uint8", (self.max_k, SUGGESTION.itemsize))


def read_recommendation(section: Section) -> Recommendation:
    """Read the section `recommendation`.

    Raises:
        BundleError: the message names the key, the value and a remedy.
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
    """Whether this may name a user or an item: 1 to 64 bytes of printable UTF-8."""
    return bool(name) and name.isprintable() and len(name.encode()) <= MAX_NAME_BYTES


def questions(asked: Iterable[tuple[str, int, bool]]) -> npt.NDArray[np.uint8]:
    """Encode queries as (items, 72): the user, how many items it wants, and whether it may get items that it had."""
    records = np.array([(user.encode(), k, include) for user, k, include in asked], QUESTION)
    return records.view(np.uint8).reshape(len(records), QUESTION.itemsize)


def questions_in(items: npt.NDArray[Any]) -> Records:
    """View (items, 72) uint8 as (items,) QUESTION."""
    return np.ascontiguousarray(items).view(QUESTION).reshape(len(items))


def suggestions_in(outputs: npt.NDArray[Any]) -> Records:
    """View (items, max_k, 68) uint8 as (items, max_k) SUGGESTION."""
    return np.ascontiguousarray(outputs).view(SUGGESTION).reshape(outputs.shape[:2])


def names_as_bytes(names: Iterable[str]) -> npt.NDArray[np.uint8]:
    """Encode names as (items, 64), the form in which validation.safetensors has the expected items."""
    held = np.array([name.encode() for name in names], f"S{MAX_NAME_BYTES}")
    return held.view(np.uint8).reshape(len(held), MAX_NAME_BYTES)


def k_out_of_range(place: int, k: int, most: int) -> OutOfRange:
    """Return the error for a `k` out of range: the front end raises it for JSON, the engine for binary input."""
    shown = k if abs(k) < 1 << 31 else "a number of many digits"
    return OutOfRange(
        f"inputs[{place}].k: {shown} is out of range, 1 to {most}",
        value=k if abs(k) < 1 << 31 else None,
        limit=most,
        next_step=f"ask for 1 to {most} items",
    )
