"""The two networks with some training, and data that they are right about nearly always.

Whoever rounds numbers moves answers that are close to a border, so some are: classes overlap a little.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.networks import NETWORKS, TOKENS, VOCABULARY
from benchmarks.peers.cases import Array

CLASSES = 10  # of the thousand that the networks can tell
ITEMS = 400
BATCH = 32
_SIDE, _SMALL = 224, 64
_TURNED = 4.0  # degrees that lines differ from their class's direction, one standard deviation
_WAVE = 12.5  # pixels
_OWN = 0.25  # share of words that are of the text's subject

Data = tuple[Array, Array]  # items, classes


def lines(random: np.random.Generator, count: int, side: int) -> Data:
    """Pictures of parallel lines in noise; the class is their direction."""
    classes = random.integers(0, CLASSES, count)
    angles = np.deg2rad(classes * (180 / CLASSES) + random.normal(0, _TURNED, count))[:, None, None]
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    phases = random.uniform(0, 2 * np.pi, (count, 1, 1))
    waves = np.sin((across * np.cos(angles) + down * np.sin(angles)) * (2 * np.pi / _WAVE) + phases)
    colours = random.uniform(0.5, 1, (count, 3, 1, 1))
    noise = random.standard_normal((count, 3, side, side), np.float32)
    return (waves[:, None] * colours + 0.5 * noise).astype(np.float32), classes


def words(random: np.random.Generator, count: int, own: float = _OWN) -> Data:
    """Texts as token numbers; the class is the subject that more words are of than chance has it."""
    classes = random.integers(0, CLASSES, count)
    any_word = random.integers(0, VOCABULARY, (count, TOKENS))
    of_subject = any_word - any_word % CLASSES + classes[:, None]
    return np.where(random.random((count, TOKENS)) < own, of_subject, any_word), classes


def validation(name: str) -> Data:
    random = np.random.default_rng(seed=1)
    return lines(random, ITEMS, _SIDE) if name == "cnn" else words(random, ITEMS)


def network(name: str, file: Path) -> nn.Module:
    """With its weights from `file`, which are learned first if it is not there: one or two minutes."""
    torch.manual_seed(0)
    made = NETWORKS[name][0]()
    if not file.exists():
        print(f"trains the {name}", flush=True)
        _train_cnn(made) if name == "cnn" else _train_transformer(made)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(made.state_dict(), file)
    made.load_state_dict(load_file(file))
    return made.requires_grad_(False).eval()


def _train_cnn(cnn: nn.Module) -> None:
    random = np.random.default_rng(seed=0)
    # Small pictures, for the time: lines are as far apart in them.
    _fit(cnn, lambda step: lines(random, BATCH, _SMALL), steps=240, rate=1e-3)
    # Sums over larger pictures have other averages.
    for part in cnn.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    with torch.no_grad():
        for _ in range(10):
            cnn(torch.from_numpy(lines(random, 8, _SIDE)[0]))


def _train_transformer(transformer: nn.Module) -> None:
    random = np.random.default_rng(seed=0)
    # What is plain first.
    _fit(transformer, lambda step: words(random, BATCH, max(_OWN, 0.6 - step / 140)), steps=100, rate=5e-4)


def _fit(module: nn.Module, batch: Callable[[int], Data], steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(module.parameters(), rate)
    module.train()
    for step in range(steps):
        items, classes = map(torch.from_numpy, batch(step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = module(items)
        loss = nn.functional.cross_entropy(logits.float(), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            right = (logits.argmax(1) == classes).float().mean()
            print(f"step {step + 1}: loss {loss:.3f}, {right:.0%} of the batch right", flush=True)
