"""What every peer's server shares, so that they differ in the server alone: the model, and the two ways to ask it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import safetensors.torch
import torch

from benchmarks.networks import NETWORKS
from benchmarks.peers.cases import DATATYPES, MODELS

MODEL = os.environ.get("BENCH_MODEL", "tiny")
PORT = int(os.environ.get("BENCH_PORT", "18400"))  # and a few after it, where a server wants more than one
WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "1"))
WAIT_MS = float(os.environ.get("BENCH_WAIT_MS", "0"))
# Clients give up after this long. 0: never.
DEADLINE_MS = float(os.environ.get("BENCH_DEADLINE_MS", "0"))
# Only the bare loop is asked to, for comparison.
CHANNELS_LAST = bool(os.environ.get("BENCH_CHANNELS_LAST"))
IS_JSON = MODEL == "tiny"
MEDIA_TYPE = "application/json" if IS_JSON else "application/octet-stream"
DTYPE = np.dtype(MODELS[MODEL].dtype)
DATATYPE = DATATYPES[MODELS[MODEL].dtype]
SHAPE = tuple(size for size in NETWORKS[MODEL][1] if size > 1)

Predict = Callable[[np.ndarray], np.ndarray]


def load() -> Predict:
    """(items, *shape) → (items, outputs) float32, on one thread."""
    torch.set_num_threads(1)
    module = NETWORKS[MODEL][0]().requires_grad_(False).eval()
    folder = Path(os.environ["BENCH_WEIGHTS"])
    module.load_state_dict(safetensors.torch.load_file(folder / f"{MODEL}.safetensors"))
    if CHANNELS_LAST:
        module = module.to(memory_format=torch.channels_last)

    def predict(items: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answers: np.ndarray = module(torch.from_numpy(items)).numpy()
        return answers

    for size in sorted({1, min(2, MAX_BATCH), MAX_BATCH}):
        predict(np.zeros((size, *SHAPE), DTYPE))
    return predict


def decode(body: bytes) -> np.ndarray:
    """A request's body → one item."""
    if IS_JSON:
        return decode_document(orjson.loads(body))
    # Copied: torch wants memory that it may write to.
    return np.frombuffer(body, DTYPE).reshape(SHAPE).copy()


def decode_document(document: dict[str, Any]) -> np.ndarray:
    return np.array(document["inputs"][0]["data"], np.float32)


def encode_document(logits: np.ndarray) -> dict[str, Any]:
    output = {"name": "logits", "datatype": "FP32", "shape": [1, logits.size], "data": logits.tolist()}
    return {"model_name": MODEL, "outputs": [output]}


def encode(logits: np.ndarray) -> bytes:
    """One item's logits → an answer's body."""
    return orjson.dumps(encode_document(logits)) if IS_JSON else logits.tobytes()


def stacked(items: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(items) if len(items) > 1 else items[0][np.newaxis]
