"""What one request costs the engine: two small layers, so that nearly all of it is the way in and out.

One peer on a core of its own keeps some requests outstanding and asks anew for each answer. Besides by the bar, what
the engine may cost is judged by the whole service, beside its peers.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bedplate.wire import Frame

from benchmarks.engine.bundles import write_layers
from benchmarks.engine.device import processor_s
from benchmarks.engine.peer import Peer, predict_frame
from benchmarks.engine.report import Row
from benchmarks.engine.stack import scratch, stack

OUTSTANDING = (1, 8, 64, 256)
FEATURES = [64, 128, 10]
MAX_ITEMS = 64
ROUNDS = 3
QUEUE = {"queue_limit": 1024}


def measure(quick: bool) -> list[Row]:
    seconds = 0.5 if quick else 2.0
    with scratch() as folder:
        bundle = write_layers(folder, "tiny", FEATURES, MAX_ITEMS)
        with stack([bundle], ("bundle",), folder=folder, webs=0, engine_settings=QUEUE) as running:
            pid = running.engines[0].pid or 0
            return [_cost(running.socket(), pid, outstanding, seconds) for outstanding in OUTSTANDING]


def _cost(path: Path, pid: int, outstanding: int, seconds: float) -> Row:
    turns = [_turn(path, pid, outstanding, seconds) for _ in range(ROUNDS)]
    engine_us, per_s, items = (statistics.median(column) for column in zip(*turns, strict=True))
    return Row(f"{outstanding} outstanding", f"{engine_us:.1f} us of processor, {per_s:.0f}/s, batches of {items:.1f}")


def _turn(path: Path, pid: int, outstanding: int, seconds: float) -> tuple[float, float, float]:
    """Processor time of the engine for one request in us, requests per second, items of the mean batch."""
    peer, numbers = Peer(path), itertools.count(1)
    peer.send_all(_questions(numbers, outstanding))
    answers, batches = 0, 0.0
    before_s, started = processor_s(pid), time.perf_counter()
    while (took_s := time.perf_counter() - started) < seconds:
        arrived = peer.receive_all()
        peer.send_all(_questions(numbers, len(arrived)))
        answers += len(arrived)
        batches += sum(1 / answer.meta["batch_items"] for answer in arrived)
    engine_s = processor_s(pid) - before_s
    peer.close()
    return engine_s / answers * 1e6, answers / took_s, answers / batches


_ITEM = np.zeros((1, FEATURES[0]), np.float32)


def _questions(numbers: Iterator[int], count: int) -> list[Frame]:
    return [predict_frame(number, "tiny", _ITEM) for number in itertools.islice(numbers, count)]
