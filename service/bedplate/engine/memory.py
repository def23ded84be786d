"""What the weights of loaded models may take, and giving back what unloaded ones took."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable

import torch

from bedplate.engine import allocator
from bedplate.engine.model import Model


class Memory:
    """
    Args:
        limit_bytes: of all loaded weights together; None is no bound.
        device_free_bytes: asks a device that has memory of its own what is free there.
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
        """What the weights of one more model may take beside `models`; None if nothing bounds them."""
        bounds = []
        if self._limit_bytes is not None:
            bounds.append(self._limit_bytes - sum(model.weights_bytes for model in models))
        if self._device_free_bytes is not None:
            bounds.append(self._device_free_bytes())
        return max(0, min(bounds)) if bounds else None

    def trim(self) -> None:
        """After a model was released: what held it in a circle goes, and nothing of it is kept for later."""
        gc.collect()
        allocator.give_back()
        if self._device_free_bytes is not None:
            torch.cuda.empty_cache()
