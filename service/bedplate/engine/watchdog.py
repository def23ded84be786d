"""Tells systemd that the device thread still gets things done, and nothing when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bedplate.engine.batcher import Batcher


async def feed(
    batcher: Batcher,
    probe: Callable[[], Awaitable[None]],
    notify: Callable[[str], object],
    interval_s: float,
) -> None:
    """Every `interval_s`: WATCHDOG=1 if the device finished a batch since the last time.

    An idle device is given a `probe`, one warm-up item, so that a hung one is noticed before a caller notices.
    """
    seen = batcher.batches
    while True:
        await asyncio.sleep(interval_s)
        if batcher.idle:
            await _try(probe, interval_s)
        if batcher.batches != seen:
            seen = batcher.batches
            notify("WATCHDOG=1")


async def _try(probe: Callable[[], Awaitable[None]], timeout_s: float) -> None:
    try:
        await asyncio.wait_for(probe(), timeout_s)
    except asyncio.TimeoutError:
        return  # no progress to tell of; the silence is the report
