"""Which cores an engine of processors keeps to."""

from __future__ import annotations

from collections.abc import Collection


def cores_of(device: str, threads: int, available: Collection[int]) -> set[int] | None:
    """`threads` cores for cpuN, counted from the last: interrupts prefer the first ones.

    None for a GPU, whose engine waits more than it computes, and where the cores do not suffice for cpu0 to cpuN.
    """
    if not device.startswith("cpu"):
        return None
    end = len(available) - int(device[3:]) * threads
    if end < threads:
        return None
    return set(sorted(available)[end - threads : end])
