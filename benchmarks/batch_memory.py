"""What it costs a batch that malloc gives the memory of the one before back, and what the order of pixels costs.

    PYTHONPATH=service python -m benchmarks.batch_memory [--rounds 3]

The CNN of ResNet-18's shape, one thread, batches of 1, 8 and 32; as torch makes it, with malloc told to keep memory
(bedplate/engine/allocator.py), and so with channels last too. Each variant is a process of its own, they take turns.
Computed in a thread that is not the first, as in an engine: there glibc keeps least.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time

import torch
from bedplate.engine import allocator

from benchmarks.networks import NETWORKS

BATCHES = (1, 8, 32)
# Whether memory is kept, and whether pictures lie channels last.
VARIANTS = {
    "as torch makes it": (False, False),
    "memory kept": (True, False),
    "memory kept, channels last": (True, True),
}
_SECONDS = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measured(*VARIANTS[arguments.variant])))
        return 0
    runs: dict[str, list[list[tuple[float, float]]]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.batch_memory", "--variant", variant]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[variant].append(json.loads(done.stdout))
    print(f"ms an item (pages mapped an item), batches of {', '.join(map(str, BATCHES))}; medians")
    for variant, rounds in runs.items():
        cells = [
            [statistics.median(column) for column in zip(*sized, strict=True)] for sized in zip(*rounds, strict=True)
        ]
        print(f"{variant:28}", *(f"{item_ms:7.2f} ({pages:5.0f})" for item_ms, pages in cells))
    return 0


def measured(keep_memory: bool, channels_last: bool) -> list[tuple[float, float]]:
    """For each size of batch: milliseconds of processor, and pages mapped, for one item."""
    torch.set_num_threads(1)
    if keep_memory:
        allocator.keep_memory()
    network = NETWORKS["cnn"][0]().requires_grad_(False).eval()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    found = []

    @torch.inference_mode()
    def work() -> None:
        for size in BATCHES:
            batch = torch.randn(size, 3, 224, 224)
            network(batch)
            batches, started_s, pages = 0, time.thread_time(), _pages()
            while time.thread_time() < started_s + _SECONDS:
                network(batch)
                batches += 1
            items = batches * size
            found.append(((time.thread_time() - started_s) * 1e3 / items, (_pages() - pages) / items))

    device = threading.Thread(target=work)
    device.start()
    device.join()
    return found


def _pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    sys.exit(main())
