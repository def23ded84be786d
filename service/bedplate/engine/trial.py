"""One engine of a trial: computes the models of bundles as fast as it can, on the cores and threads it would have.

`bedplate engines` starts it, writes a line of JSON to its standard input for each measurement, and reads one back.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import read_bundle
from bedplate.engine import allocator
from bedplate.engine.cores import cores_of
from bedplate.engine.model import Array, Model


def main(device: str, threads: int, cores: Sequence[int], directories: Sequence[Path]) -> None:
    """Print the size of a full batch, then do each measurement that standard input requests, until it ends."""
    compute_as_engine(device, threads, cores)
    models = [_loaded(directory) for directory in directories]
    for model in models:
        model.warm_up()
    _say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        _say(measure(models, asked["full"], asked["begin_s"], asked["seconds"]))


def compute_as_engine(device: str, threads: int, cores: Sequence[int]) -> None:
    """Give this process the cores, the threads and the memory settings of an engine."""
    os.sched_setaffinity(0, cores_of(device, threads, cores) or cores)
    torch.set_num_threads(threads)
    allocator.keep_memory()


def _loaded(directory: Path) -> Model:
    bundle = read_bundle(directory)
    # Whoever started the trial was asked whether the bundle's programs may run.
    return Model.load(bundle, directory, torch.device("cpu"), allowed=bundle.code_sums)


def measure(models: Sequence[Model], full: bool, begin_s: float, seconds: float) -> dict[str, float]:
    """Compute batches of one item or full ones, the models in turn, from `begin_s` on the monotonic clock.

    Returns:
        items_per_s; p50_ms of a batch.
    """
    batches = [(model, full_batch(model)[: None if full else 1]) for model in models]
    time.sleep(max(0.0, begin_s - time.monotonic()))
    times_s: list[float] = []
    items = 0
    begun_s = ended_s = time.monotonic()
    # Whole turns, or of slow models the first would be asked more often.
    while ended_s < begun_s + seconds:
        for model, batch in batches:
            before_s = ended_s
            model.run(batch)
            ended_s = time.monotonic()
            times_s.append(ended_s - before_s)
            items += len(batch)
    return {"items_per_s": items / (ended_s - begun_s), "p50_ms": statistics.median(times_s) * 1000}


def full_batch(model: Model) -> Array:
    """Return (items, *input shape) of the largest shape."""
    shape = model.bundle.input.largest
    items = model.bundle.input.most_items(shape, model.max_items, model.max_cost)
    noise = np.random.default_rng(seed=0).uniform(-1, 1, (items, *shape))
    # Of whole numbers all are 0: ids that every embedding has.
    return dtypes.from_numbers(model.bundle.input.dtype, noise if model.bundle.input.is_floating else noise * 0)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
