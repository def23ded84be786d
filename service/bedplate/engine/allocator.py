"""Tunes glibc's malloc to keep the memory that batches use.

By default malloc returns the memory of large tensors to the kernel after every batch, and the next batch waits while
the kernel maps and clears thousands of pages again (docs/adr/0022).
"""

from __future__ import annotations

import ctypes

# From malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8
# Larger blocks are mapped each for itself, and go back when they are freed.
_KEPT_BYTES = 1 << 30
# As much as the call can be told: what is free at the end of the heap stays.
_UNTRIMMED_BYTES = (1 << 31) - 1

_libc = ctypes.CDLL(None)


def keep_memory() -> None:
    """Tune malloc for a process that computes. Call it before there are threads: each would get a heap of its own.

    Raises:
        OSError: this malloc cannot be tuned.
    """
    for option, value in (
        (_MMAP_THRESHOLD, _KEPT_BYTES),
        (_TRIM_THRESHOLD, _UNTRIMMED_BYTES),
        (_ARENA_MAX, 1),
    ):
        if not _libc.mallopt(option, value):
            raise OSError(f"mallopt({option}, {value}) was refused; Bedplate needs glibc")


def give_back() -> None:
    """Return free memory to the kernel, after a model was released and nothing as large may come again."""
    _libc.malloc_trim(0)
