"""Tunes Python's garbage collector for processes that allocate much at the start, and then short-lived objects."""

from __future__ import annotations

import gc

# Requests make hardly any cycles, but hundreds of objects each: with Python's own 700 a search would follow every
# few of them.
_ALLOCATIONS = 50_000


def settle() -> None:
    """Collect once everything is loaded, and exclude those objects from later collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 10, 10)
