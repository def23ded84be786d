"""Samples in a separate thread, so that a library that hangs never delays an export."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bedplate.gpu_metrics.nvml import Sample

_log = logging.getLogger(__name__)


class Sampler:
    """Keeps the latest result of `sample`.

    Args:
        sample: returns a sample for each GPU, None for one that does not answer.
        count: of GPUs.
        interval_s: between samples; Prometheus scrapes once in 15 s.
        stale_s: a sample older than this is dropped.
    """

    def __init__(
        self, sample: Callable[[], list[Sample | None]], count: int, interval_s: float = 5.0, stale_s: float = 30.0
    ):
        self._sample = sample
        self._interval_s = interval_s
        self._stale_s = stale_s
        self._nothing: list[Sample | None] = [None] * count
        self._latest = (0.0, self._nothing)
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def stop(self) -> None:
        """Stop without waiting, because a library that hangs would never return."""
        self._stopping.set()

    def latest(self) -> list[Sample | None]:
        """Return samples no older than `stale_s`; all None if the library has not answered since."""
        taken_s, samples = self._latest
        return samples if time.monotonic() - taken_s < self._stale_s else self._nothing

    def _run(self) -> None:
        while True:
            try:
                self._latest = (time.monotonic(), self._sample())
            except Exception:
                # One that died would leave figures to age without a word.
                _log.exception("a sample failed")
            if self._stopping.wait(self._interval_s):
                return
