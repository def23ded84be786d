"""What a run leaves behind: every figure as it was measured, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Of an open-loop request.
DEADLINE_MS = 500.0
# Where latencies, processor time and memory are read: clients, by model.
BUSY = {"tiny": 64, "cnn": 16, "transformer": 16}
TITLES = {
    "tiny": "Tiny model: 64 → 128 → 10, JSON in and out",
    "cnn": "CNN of ResNet-18's shape: 3 x 224 x 224 float32, raw",
    "transformer": "Transformer: 4 layers, d = 256, 128 tokens, raw",
}


@dataclass(frozen=True)
class Measured:
    """One run of load. Times in seconds, memory in MB."""

    peer: str
    label: str
    says: str
    model: str
    round: int
    clients: int
    per_s: float
    cpu_ms: float  # of the server's processes, per request
    pss_mb: float | None  # of the server's processes, under load
    latencies_us: dict[int, int]  # in classes of 1 %


@dataclass(frozen=True)
class Offered:
    """One level of load. Rates are of a second of the schedule."""

    peer: str
    label: str
    model: str
    capacity_per_s: float
    share: float
    offered_per_s: float
    good_per_s: float
    p99_ms: float  # of good answers
    fates: dict[str, int]  # status or error → requests
    late: int  # requests that the generator itself sent late


def write(
    path: Path,
    measured: Sequence[Measured],
    offered: Sequence[Offered],
    machine: Mapping[str, str],
    failures: Sequence[str],
    how: str,
) -> None:
    document: dict[str, Any] = {
        "how": how,
        "machine": dict(machine),
        "failures": list(failures),
        "measured": [asdict(run) for run in measured],
        "offered": [asdict(level) for level in offered],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line for each run: what changes from one to the next can be read in a diff.
    lines = {key: [json.dumps(row) for row in document.pop(key)] for key in ("measured", "offered")}
    lists = [f' "{key}": [\n  ' + ",\n  ".join(rows) + "\n ]" for key, rows in lines.items()]
    head = json.dumps(document, indent=1).rstrip().removesuffix("}").rstrip()
    path.write_text(head + ",\n" + ",\n".join(lists) + "\n}\n")
