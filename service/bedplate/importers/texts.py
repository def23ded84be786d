"""A model of Hugging Face's that takes texts, with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bedplate.importers.answers import Answers
from bedplate.importers.export import export
from bedplate.importers.exported import as_program
from bedplate.importers.options import Options
from bedplate.importers.tokens import read_texts
from bedplate.importers.writing import Imported, answers_of


class Logits(nn.Module):
    """Ids in, logits out. What is padding the ids say themselves, so that batches filled up to one length are right."""

    def __init__(self, model: nn.Module, pad: int | None):
        super().__init__()
        self.model = model
        self._pad = pad

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask_of(ids, self._pad)).logits
        return logits


def mask_of(ids: torch.Tensor, pad: int | None) -> torch.Tensor | None:
    """1 where ids (items, tokens) are no padding; None where all of them are tokens."""
    return None if pad is None else ids.ne(pad).long()


def imported(
    folder: Path,
    model: Any,
    head: Callable[[Any, int | None], nn.Module],
    answers: Answers,
    options: Options,
    lowers: bool = False,
) -> Imported:
    """
    Args:
        head: makes of the model, and the id that fills up, what takes ids and gives answers.
        lowers: see `read_texts`.

    Raises:
        BundleError: it has no tokenizer.json, or torch cannot export it.
    """
    texts = read_texts(folder, model, options, lowers)
    module = head(model, texts.pad).eval()
    graph = export(module, texts.example, options.max_items, {1: texts.length}, str(folder))
    found = [answers_of(module, one).astype(np.float64) for one in texts.questions]
    joined = np.concatenate(found)
    document: dict[str, Any] = {
        **options.document(answers.task("text-classification"), f"{type(model).__name__} of {folder.resolve().name}"),
        **texts.document(graph.max_items),
        **answers.document("canary.txt", joined),
    }
    canary = texts.texts[answers.canary(joined)].encode()
    return Imported(
        document,
        as_program(graph.exported, str(folder)),
        {"canary.txt": canary, "tokenizer.json": texts.tokenizer, **answers.files(joined)},
        texts.validation(answers.expected(joined)),
        texts.questions,
        found,
        texts.chosen,
    )
