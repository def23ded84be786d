"""How a model is computed: as its bundle says, or in another way that pays on this host (docs/optimize.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Form:
    """
    Args:
        precision: what numbers it computes with: float32, bfloat16; of native code also int8.
        channels_last: pictures lie in memory pixel by pixel, not channel by channel; convolutions may be faster so.
        package: native code for all of it, built on this host; None: torch's layers one after another.
    """

    precision: str = "float32"
    channels_last: bool = False
    package: Path | None = None

    @property
    def name(self) -> str:
        layout = "-channels-last" if self.channels_last else ""
        return f"{self.precision}{layout}{'-compiled' if self.package else ''}"
