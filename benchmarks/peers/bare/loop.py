"""Reads lines "BATCH SECONDS"; answers each with items per second, processor ms per item and a histogram of µs."""

import sys
import time
from collections import Counter

import numpy as np

from benchmarks.peers import serving
from benchmarks.peers.cases import CHECKED, load


def main() -> None:
    predict = serving.load()
    case = load(serving.MODEL)
    answers = predict(case.inputs[:CHECKED])
    print("right" if all(map(case.is_right, range(CHECKED), answers)) else "wrong", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(*measure(predict, case.inputs, int(batch), float(seconds)), flush=True)


def measure(predict: serving.Predict, inputs: np.ndarray, batch: int, seconds: float) -> list[object]:
    batches = [inputs[start : start + batch] for start in range(0, len(inputs) - batch + 1, batch)]
    took_us: Counter[int] = Counter()
    started, before = time.perf_counter(), time.process_time()
    now, turn = started, 0
    while now - started < seconds:
        predict(batches[turn % len(batches)])
        turn += 1
        before_batch, now = now, time.perf_counter()
        took_us[round((now - before_batch) * 1e6)] += batch
    cpu_ms = 1e3 * (time.process_time() - before) / (turn * batch)
    return [turn * batch / (now - started), cpu_ms, *(f"{value}:{count}" for value, count in took_us.items())]


if __name__ == "__main__":
    main()
