"""A module of torch as a graph, with a free number of items and the dimensions free that are to vary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.bundle.tensor import Range


@dataclass(frozen=True)
class Graph:
    exported: ExportedProgram
    max_items: int  # that it takes at once


def export(
    module: nn.Module, example: torch.Tensor, max_items: int, varying: Mapping[int, Range], source: str
) -> Graph:
    """
    Args:
        example: (items, *shape).
        varying: dimensions of the example, from 1, that vary.

    Raises:
        BundleError: torch cannot export it; with torch's words.
    """
    free = {at: Dim(f"size{at}", min=one.low, max=one.high) for at, one in varying.items()}
    # Not one item: torch takes one for a number that never changes.
    several = example[:2] if len(example) > 1 else torch.cat([example, example])
    was_fast = torch.backends.mha.get_fastpath_enabled()
    # torch's quick way through attention cannot be exported.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if max_items > 1:
            try:
                return Graph(_exported(module, several, {0: Dim("items", min=1, max=max_items), **free}), max_items)
            except torch._dynamo.exc.UserError:
                # It has the number of items in it; of one each it may be asked.
                return Graph(_exported(module, example[:1], free), 1)
        return Graph(_exported(module, example[:1], free), 1)
    except Exception as error:
        said = words_of(error, 600)
        raise BundleError(f"{source}: torch.export cannot export it: {type(error).__name__}: {said}") from None
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def _exported(module: nn.Module, example: torch.Tensor, free: Mapping[int, Dim]) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (example,), dynamic_shapes=(dict(free),), strict=False)
