"""Weights, inputs and what torch answers to them. Runs once, in the environment that has torch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.networks import NETWORKS, VOCABULARY
from benchmarks.peers.cases import MODELS, Array, Model


def inputs_of(model: Model) -> Array:
    random = np.random.default_rng(seed=len(model.name))
    shape = (model.inputs, *model.shape)
    if model.name == "transformer":
        return random.integers(0, VOCABULARY, shape)
    # Four digits: what JSON carries is exactly what torch gets.
    return random.normal(size=shape).round(4).astype(np.float32)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, model in MODELS.items():
        torch.manual_seed(0)
        network = NETWORKS[name][0]().requires_grad_(False).eval()
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        inputs = inputs_of(model)
        with torch.inference_mode():
            answers = [network(torch.from_numpy(item[np.newaxis])).numpy() for item in inputs]
            white = int(network(torch.ones(1, *model.shape)).argmax())
        np.savez(folder / f"{name}.npz", inputs=inputs, expected=np.concatenate(answers), label_of_ones=white)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
