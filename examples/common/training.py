"""Classifiers: a network learns from one set, and another one tells which epoch was best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from bedplate.bundle.bundle import Layer
from bedplate.engine import network
from torch import nn

Set = tuple[torch.Tensor, torch.Tensor]  # inputs (items, *shape), classes (items) int64


def build(layers: Sequence[Any]) -> nn.Sequential:
    """The network of a bundle.yaml, untrained."""
    read = [Layer(entry, {}) if isinstance(entry, str) else Layer(*next(iter(entry.items()))) for entry in layers]
    return network.build(read, "train.py")


def train(
    module: nn.Module,
    training: Set,
    validation: Set,
    *,
    epochs: int,
    learning_rate: float,
    batch_items: int = 64,
    weight_decay: float = 1e-2,
    vary: Callable[[torch.Tensor], torch.Tensor] = lambda inputs: inputs,
) -> None:
    """Give `module` the weights of the epoch with the lowest loss on the validation set.

    Args:
        vary: what a batch of inputs might as well have been, drawn anew each time it is learnt from.
    """
    inputs, targets = training
    steps = epochs * -(-len(inputs) // batch_items)
    learn = learner(module, steps, learning_rate, weight_decay)
    best_loss, best_weights = float("inf"), module.state_dict()
    for epoch in range(1, epochs + 1):
        module.train()
        for batch in torch.split(torch.randperm(len(inputs)), batch_items):
            learn(nn.functional.cross_entropy(module(vary(inputs[batch])), targets[batch], label_smoothing=0.05))
        loss_now, right = measure(module, validation)
        if loss_now < best_loss:
            best_loss = loss_now
            best_weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        if epoch % max(1, epochs // 6) == 0:
            print(f"epoch {epoch} of {epochs}: validation loss {loss_now:.4f}, {right:.2%} right", flush=True)
    module.load_state_dict(best_weights)
    module.eval()


def learner(
    module: nn.Module, steps: int, learning_rate: float, weight_decay: float = 1e-2
) -> Callable[[torch.Tensor], float]:
    """One step of learning for each loss that it is given, which it tells as a number."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)

    def learn(loss: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    return learn


@torch.inference_mode()
def measure(module: nn.Module, items: Set, batch_items: int = 256) -> tuple[float, float]:
    """Loss and share of right answers."""
    inputs, targets = items
    logits = torch.cat([module.eval()(batch) for batch in torch.split(inputs, batch_items)])
    right = (logits.argmax(1) == targets).float().mean()
    return float(nn.functional.cross_entropy(logits, targets)), float(right)


@torch.inference_mode()
def surest(module: nn.Module, items: Set) -> int:
    """The place of the item whose right answer is surest: a canary must not flip with the last bits of a sum."""
    inputs, targets = items
    return int(module.eval()(inputs).softmax(1)[torch.arange(len(targets)), targets].argmax())
