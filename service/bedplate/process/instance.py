"""The number of a front end or decoder among those of its host, as its unit hands it over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from bedplate.process.settings import SettingsError

T = TypeVar("T")

_NUMBER = re.compile(r"[0-9]{1,3}", re.ASCII)


def require_number(instance: str) -> None:
    """Raises: SettingsError: `instance` is no number that a socket can be named after."""
    if not _NUMBER.fullmatch(instance):
        raise SettingsError(f"--instance: {instance!r} does not do, wanted a number of at most three digits")


def by_preference(each: Sequence[T], instance: int) -> list[T]:
    """All of them, from another one on for each instance.

    Front ends know nothing of one another. Of engines that each of them finds equally busy they must not all ask the
    same.

    Args:
        instance: counted from 1.
    """
    first = (instance - 1) % max(1, len(each))
    return [*each[first:], *each[:first]]
