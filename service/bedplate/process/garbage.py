"""Python's collector of cycles, told how these programs live: much at the start that stays, then short-lived things."""

from __future__ import annotations

import gc

# Requests make hardly any cycles, but hundreds of objects each: with Python's own 700 a search would follow every
# few of them.
_ALLOCATIONS = 50_000


def settle() -> None:
    """Called once everything is loaded: it is looked through for cycles now, and never again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 10, 10)
