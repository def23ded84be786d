"""Builds or measures one candidate in a separate process, so that its memory and its crashes end with it.

`trials.py` starts it, writes one line of JSON to its standard input, and reads the last line that it prints.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle, read_bundle
from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.engine.faults import DeviceOutOfMemory
from bedplate.engine.main import choose_device
from bedplate.engine.model import Model, read_network
from bedplate.engine.trial import compute_as_engine, full_batch, measure
from bedplate.engine.variant import ModelVariant
from bedplate.optimize import check
from bedplate.optimize.build import CannotBuild, build

# torch says a page where a line would do. Unit: characters.
_MOST_SAID = 160
# From a bundle and its directory to its network, as `read_network`; measurements hand in others.
Network = Callable[[Bundle, Path], nn.Module]


def main(network: Network = read_network) -> int:
    begun_s = time.monotonic()
    asked = json.loads(sys.stdin.readline())
    compute_as_engine(asked["device"], asked["threads"], asked["cores"])
    try:
        said = {"build": _build, "measure": _measure}[asked["do"]](asked, network, begun_s)
    except (BundleError, CannotBuild, DeviceOutOfMemory) as error:
        said = {"refused": words_of(error, _MOST_SAID)}
    print(json.dumps(said), flush=True)
    return 0


def _build(asked: dict[str, Any], network: Network, begun_s: float) -> dict[str, Any]:
    directory = Path(asked["bundle"])
    bundle = read_bundle(directory)
    # Of texts it holds what a tokenizer takes, not what the network does.
    calibrates = bundle.validation and not bundle.input.text
    known = check.validation_set(bundle, directory)[0] if calibrates else None
    build(network(bundle, directory), bundle, asked["precision"], Path(asked["package"]), known)
    return {"build_s": time.monotonic() - begun_s}


def _measure(asked: dict[str, Any], network: Network, begun_s: float) -> dict[str, Any]:
    directory = Path(asked["bundle"])
    bundle = read_bundle(directory)
    package = Path(asked["package"]) if asked["package"] else None
    form = ModelVariant(asked["precision"], asked["channels_last"], package)
    model = Model.of(bundle, lambda: network(bundle, directory), choose_device(asked["device"]), form)
    model.warm_up()
    start_s = time.monotonic() - begun_s
    accuracy = check.measure(bundle, directory, model).share if bundle.validation else None
    single, full = (measure([model], full, time.monotonic(), asked["seconds"]) for full in (False, True))
    answers = dtypes.to_numbers(bundle.output.dtype, model.run(full_batch(model)))
    np.save(asked["answers"], answers.astype(np.float64))
    return {
        "accuracy": accuracy,
        "items_per_s": full["items_per_s"],
        "p50_ms": single["p50_ms"],
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start_s": start_s,
    }


if __name__ == "__main__":
    sys.exit(main())
