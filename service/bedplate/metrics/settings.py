"""The settings of the metrics program: /etc/bedplate/metrics.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MetricsSettings:
    # One for each unit that this host is to run, up or not: web@1.sock is told of as unit web@1.
    sockets: tuple[Path, ...]
