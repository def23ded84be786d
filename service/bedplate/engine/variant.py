"""How a model is computed: as its bundle says, or in another form that is faster on this host (docs/optimize.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bedplate.engine.program import ProgramModule


@dataclass(frozen=True)
class ModelVariant:
    """One form of computing a model.

    Args:
        precision: the numbers it computes with: float32 or bfloat16; native code also int8.
        channels_last: images are stored pixel by pixel, not channel by channel. None: where that usually is faster.
        package: native code for all of it, built on this host; None: torch's layers one after another.
    """

    precision: str = "float32"
    channels_last: bool | None = None
    package: Path | None = None

    @property
    def name(self) -> str:
        layout = "-channels-last" if self.channels_last else ""
        return f"{self.precision}{layout}{'-compiled' if self.package else ''}"

    def settled(self, module: nn.Module, device: torch.device) -> ModelVariant:
        """Return the form with its layout decided: CPUs compute convolutions of images pixel by pixel."""
        if self.channels_last is not None:
            return self
        return replace(self, channels_last=_convolves(module) and device.type == "cpu")


def _convolves(module: nn.Module) -> bool:
    if isinstance(module, ProgramModule):
        return module.convolves
    return any(isinstance(layer, nn.Conv2d) for layer in module.modules())
