"""Chooses the cores that an engine on a CPU is pinned to."""

from __future__ import annotations

from collections.abc import Collection


def cores_of(device: str, threads: int, available: Collection[int]) -> set[int] | None:
    """Return `threads` cores for cpuN, counted from the last one, because interrupts prefer the first ones.

    None for a GPU, whose engine waits more than it computes, and if there are too few cores for cpu0 to cpuN.
    """
    if not device.startswith("cpu"):
        return None
    end = len(available) - int(device[3:]) * threads
    if end < threads:
        return None
    return set(sorted(available)[end - threads : end])
