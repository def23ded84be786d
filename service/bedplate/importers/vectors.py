"""Models that answer with a vector: what their last layer says of tokens becomes one, in the exported program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bedplate.bundle.strict_yaml import BundleError
from bedplate.importers.texts import mask_of

# How vectors of tokens become one of all; 'pooler' is the model's own way, with a layer of its own or a projection.
CLS, LAST, MEAN, POOLER = "cls", "last", "mean", "pooler"
POOLINGS = (CLS, LAST, MEAN, POOLER)
# Where models have what 'pooler' takes, the last first.
_OWN = ("text_embeds", "image_embeds", "pooler_output")


class Vectors(nn.Module):
    """What a model takes in, (items, numbers) out.

    Args:
        model: of transformers.
        pad: the id that fills up texts; None where nothing does.
        pooling: of POOLINGS.
        layers: behind the pooling.
        normalize: to the length 1.
    """

    def __init__(
        self,
        model: nn.Module,
        pad: int | None,
        pooling: str,
        layers: Sequence[nn.Module] = (),
        normalize: bool = False,
    ):
        super().__init__()
        self.model = model
        self.layers = nn.Sequential(*layers)
        self._pad = pad
        self._pooling = pooling
        self._normalize = normalize

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        mask = None
        if given.is_floating_point():
            said = self.model(given)
        else:
            mask = mask_of(given, self._pad)
            said = self.model(input_ids=given, attention_mask=mask)
        own = self._pooling == POOLER
        pooled = own_vector(said).flatten(1) if own else _pooled(said.last_hidden_state, mask, self._pooling)
        vector: torch.Tensor = self.layers(pooled)
        return vector / _lengths(vector) if self._normalize else vector


def _lengths(vectors: torch.Tensor) -> torch.Tensor:
    """(items, 1); as torch.nn.functional.normalize has them, in operations that programs have."""
    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return lengths.clamp(min=1e-12)


def own_vector(said: Any) -> Any:
    """What the model itself says of all: (items, numbers), or (items, numbers, 1, 1); None if it says nothing."""
    return next((said[key] for key in _OWN if said.get(key) is not None), None)


def _pooled(tokens: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """
    Args:
        tokens: (items, tokens, numbers); of convolutions (items, numbers, height, width).
        mask: (items, tokens), 1 where there is one; behind the last one there are only 0.
    """
    if tokens.dim() == 4:
        tokens = tokens.flatten(2).transpose(1, 2)
    if pooling == CLS:
        return tokens[:, 0]
    if mask is None:
        return tokens[:, -1] if pooling == LAST else tokens.mean(1)
    if pooling == LAST:
        place = (mask.sum(1) - 1).clamp(min=0)
        return tokens.gather(1, place.view(-1, 1, 1).expand(-1, 1, tokens.shape[2])).squeeze(1)
    weights = mask.to(tokens.dtype).unsqueeze(2)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def pooling_of(model: Any, asked: str | None, example: torch.Tensor, source: str) -> str:
    """How the tokens of a model become a vector: as it is asked for, or as the model itself does.

    Raises:
        BundleError: nobody says it, or the model has no way of its own.
    """
    if asked and asked != POOLER:
        return asked
    with torch.inference_mode():
        said = model(example)
    has_own = own_vector(said) is not None
    # BERT's layer behind the first token tells pairs of sentences apart: no vector of a text, unless it is asked for.
    is_meant = example.is_floating_point() or "text_embeds" in said
    if not has_own or not (asked or is_meant):
        known = " or ".join(POOLINGS if has_own else POOLINGS[:-1])
        raise BundleError(f"{source}: {type(model).__name__} does not say what its vector is; name --pooling {known}")
    return POOLER
