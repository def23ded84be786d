"""The number of a front end or decoder among those of its host, as its unit passes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from bedplate.process.settings import SettingsError

T = TypeVar("T")

_NUMBER = re.compile(r"[0-9]{1,3}", re.ASCII)


def require_number(instance: str) -> None:
    """Check the number of an instance.

    Raises:
        SettingsError: no socket can be named after `instance`.
    """
    if not _NUMBER.fullmatch(instance):
        raise SettingsError(f"--instance: {instance!r} does not do, wanted a number of at most three digits")


def by_preference(each: Sequence[T], instance: int) -> list[T]:
    """Return all of them, rotated by the number of the instance.

    Front ends do not know of one another, so they must not all choose the same one of several equally busy engines.

    Args:
        instance: counted from 1.
    """
    first = (instance - 1) % max(1, len(each))
    return [*each[first:], *each[:first]]
