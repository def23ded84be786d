"""The bare torch loop that an engine is compared with: the same network, threads and batch, and nothing else.

A program of its own, so that it keeps to a core as the engine does. Reads lines "NETWORK BATCH SECONDS", answers each
with items per second.
"""

from __future__ import annotations

import sys
import time

import torch

from benchmarks.engine.models import network
from benchmarks.networks import NETWORKS


def items_per_s(kind: str, batch: int, seconds: float) -> float:
    module = network(kind)
    inputs = torch.zeros(batch, *NETWORKS[kind][1])
    batches = 0
    with torch.inference_mode():
        started = time.perf_counter()
        while (took_s := time.perf_counter() - started) < seconds:
            module(inputs)
            batches += 1
    return batches * batch / took_s


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        kind, batch, seconds = line.split()
        print(items_per_s(kind, int(batch), float(seconds)), flush=True)


if __name__ == "__main__":
    main()
