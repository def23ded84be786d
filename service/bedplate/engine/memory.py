"""Limits the memory of loaded models' weights, and returns that of unloaded ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable

import torch

from bedplate.engine import allocator
from bedplate.engine.model import Model


class Memory:
    """The limit on the weights of all loaded models.

    Args:
        limit_bytes: of all loaded weights together; None: no limit.
        device_free_bytes: returns the free memory of a device that has its own.
    """

    def __init__(self, limit_bytes: int | None, device_free_bytes: Callable[[], int] | None = None):
        self._limit_bytes = limit_bytes
        self._device_free_bytes = device_free_bytes

    @classmethod
    def of(cls, device: torch.device, limit_bytes: int | None) -> Memory:
        if device.type != "cuda":
            return cls(limit_bytes)
        return cls(limit_bytes, lambda: torch.cuda.mem_get_info(device)[0])

    def free_bytes(self, models: Iterable[Model]) -> int | None:
        """Return how large the weights of one more model beside `models` may be; None if nothing limits them."""
        bounds = []
        if self._limit_bytes is not None:
            bounds.append(self._limit_bytes - sum(model.weights_bytes for model in models))
        if self._device_free_bytes is not None:
            bounds.append(self._device_free_bytes())
        return max(0, min(bounds)) if bounds else None

    def trim(self) -> None:
        """After a model was released, collect the cycles that hold it, and return its memory to the kernel."""
        gc.collect()
        allocator.give_back()
        if self._device_free_bytes is not None:
            torch.cuda.empty_cache()
