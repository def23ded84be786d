"""The number of a front end or decoder among those of its host, as its unit hands it over."""

from __future__ import annotations

import re

from bedplate.settings import SettingsError

_NUMBER = re.compile(r"[0-9]{1,3}", re.ASCII)


def require_number(instance: str) -> None:
    """Raises: SettingsError: `instance` is no number that a socket can be named after."""
    if not _NUMBER.fullmatch(instance):
        raise SettingsError(f"--instance: {instance!r} does not do, wanted a number of at most three digits")
