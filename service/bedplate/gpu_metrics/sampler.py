"""Samples in a thread of its own, so that a library that hangs never holds up who asks for figures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bedplate.gpu_metrics.nvml import Sample

_log = logging.getLogger(__name__)


class Sampler:
    """Keeps the latest of what `sample` gives.

    Args:
        sample: gives one for each GPU, None for one that does not answer.
        count: of GPUs.
        interval_s: between samples; Prometheus asks once in 15 s.
        stale_s: past which a sample says nothing of now.
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
        """Without waiting: a library that hangs would not let it end."""
        self._stopping.set()

    def latest(self) -> list[Sample | None]:
        """As fresh as `stale_s`; all None where the library has not answered since."""
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
