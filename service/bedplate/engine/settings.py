"""The settings of the engine: /etc/bedplate/engine.yaml, the same file for every device of a host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class EngineSettings:
    socket_dir: Path  # <device>.sock appears here once the models are warm
    bundles: tuple[Path, ...]  # directories with bundle.yaml; of several versions the first one is the default
    metrics_dir: Path | None = None  # engine@<device>.sock tells the figures here (docs/metrics.md)
    # More than one thread pays only where an engine has more than one core to itself.
    threads: int = field(default=1, metadata={"unit": "threads", "min": 1, "max": 256})
    # Engine cpuN keeps to cores of its own, as many as it has threads, counted from the last. Its two threads then hand
    # over on one core, instead of waking another that sleeps. Nothing is pinned where there are too few cores.
    pin: bool = True
    # What models compute in. bfloat16 is faster where the device has instructions for it, and rounds to 3 digits.
    precision: str = field(default="float32", metadata={"choices": ["float32", "bfloat16"]})
    # Requests that may wait while the device works. Past it the answer is 'engine-busy' at once, not a late one.
    queue_limit: int = field(default=64, metadata={"unit": "requests", "min": 1, "max": 65536})
    # How long an incomplete batch waits for company. It never brought throughput where it was measured, and costs each
    # request of a quiet hour this time.
    batch_wait_ms: float = field(default=0.0, metadata={"unit": "ms", "min": 0, "max": 1000})
    # Beside "default", which every name has: NAME/ALIAS=VERSION. NAME/default=VERSION chooses another default.
    aliases: tuple[str, ...] = ()
    admin_dir: Path | None = None  # operators reach <device>.sock here (docs/adr/0011); nobody without it
    models_dir: Path | None = None  # operators load bundles from below here; none without it
    # Who may sign bundles, in the form of allowed_signers; read anew each time. None: sums are all that is compared.
    bundle_signers: Path | None = None
    # Where `bedplate bundle optimize` keeps what it found out about models on this host; None: nothing is known.
    prepared_dir: Path | None = None
    # Sums (sha256) of the programs of bundles that may run here. One with another program is refused.
    code: tuple[str, ...] = ()
    # What the weights of all loaded models may take together. None: no bound on a processor; on a GPU what is free.
    models_memory_bytes: int | None = field(default=None, metadata={"unit": "bytes", "min": 1, "max": 1 << 50})
