"""The settings of the GPU metrics program: /etc/bedplate/gpu-metrics.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GpuMetricsSettings:
    # UUIDs of the GPUs that this host is to have, there or not; the first is told of as gpu0, as its engine is called.
    gpus: tuple[str, ...]
    metrics_dir: Path
