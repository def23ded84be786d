"""A model of Hugging Face's that tells what a text is, with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from bedplate.bundle.strict_yaml import BundleError
from bedplate.bundle.tensor import Range
from bedplate.importers.export import export
from bedplate.importers.exported import as_program
from bedplate.importers.options import Options, labels_of
from bedplate.importers.writing import VALIDATION, Array, Imported, answers_of, surest

_DRAWN = 32
_MOST_TOKENS = 8192
_CHARACTERS_PER_TOKEN = 16
_CHARACTERS_TO_CUT = 100_000  # of a text of which the rest is cut
# Tokens of all texts of a batch.
_MAX_COST = 16384
_WORDS = ("the", "a", "film", "was", "good", "bad", "slow", "and", "not", "very", "what", "I", "saw", "it", "of", "day")


class Logits(nn.Module):
    """Ids in, logits out. What is padding the ids say themselves, so that batches filled up to one length are right."""

    def __init__(self, model: nn.Module, pad: int | None):
        super().__init__()
        self.model = model
        self._pad = pad

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = None if self._pad is None else ids.ne(self._pad).long()
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits


def imported(folder: Path, model: Any, names: Mapping[int, str], options: Options) -> Imported:
    """
    Raises:
        BundleError: it has no tokenizer.json, or torch cannot export it.
    """
    if model.config.num_labels < 2:
        raise BundleError(f"{folder}: gives one number, no labels; import it by 'bedplate bundle import torch'")
    most = _most_tokens(folder, model, options)
    content, tokenizer = _tokenizer(folder, options, most)
    fewest = max(1, tokenizer.num_special_tokens_to_add(False))
    texts = _texts(options.examples)
    ids = [tokenizer.encode(text).ids for text in texts]
    longest = _CHARACTERS_TO_CUT if options.truncate else most * _CHARACTERS_PER_TOKEN
    kept = [
        (text, one) for text, one in zip(texts, ids, strict=True) if fewest <= len(one) <= most and len(text) <= longest
    ]
    if not kept:
        raise BundleError(
            f"{options.examples or folder}: no text of {fewest} to {most} tokens; name others by --examples"
        )
    questions = [np.asarray([one], np.int64) for _, one in kept]
    module = Logits(model, model.config.pad_token_id).eval()
    example = torch.from_numpy(np.resize(max(questions, key=len), (2, min(most, 16))).astype(np.int64))
    graph = export(module, example, options.max_items, {1: Range(fewest, most)}, str(folder))
    answers = [answers_of(module, one).astype(np.float64) for one in questions]
    labels, canary = labels_of(names), surest(np.concatenate(answers))
    document: dict[str, Any] = {
        "name": options.name,
        "version": options.version,
        "task": "text-classification",
        "description": options.description or f"{type(model).__name__} of {folder.resolve().name}",
        "inputs": [
            {
                "name": "tokens",
                "dtype": "int64",
                "shape": [[fewest, most]],
                "text": {"tokenizer": "tokenizer.json", "max_characters": longest},
            }
        ],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [len(labels)]}],
        "labels": list(labels),
        "activation": "sigmoid" if model.config.problem_type == "multi_label_classification" else "softmax",
        "batch": {"max_items": graph.max_items, "max_cost": min(graph.max_items * most, max(_MAX_COST, most))},
        "validation": {"file": VALIDATION, "metric": "accuracy", "threshold": 0.99},
        "canary": {"file": "canary.txt", "label": labels[int(answers[canary].argmax())]},
    }
    longer = "cut" if options.truncate else "refused: --truncate cuts it"
    source = f"of {options.examples}" if options.examples else "made of common words: --examples takes real ones"
    return Imported(
        document,
        as_program(graph.exported, str(folder)),
        {"canary.txt": kept[canary][0].encode(), "tokenizer.json": content},
        _validation([text for text, _ in kept], answers),
        questions,
        answers,
        [
            f"{fewest} to {most} tokens; a longer text is {longer}",
            f"validation set and canary of {len(kept)} texts {source}",
        ],
    )


def _tokenizer(folder: Path, options: Options, most: int) -> tuple[bytes, Tokenizer]:
    """tokenizer.json as a bundle has it: nothing is filled up, and cut only where that is wanted."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BundleError(
            f"{path}: is missing; write it with transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise BundleError(f"{path}: is no tokenizer ({' '.join(str(error).split())[:200]})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if options.truncate:
        tokenizer.enable_truncation(most)
    return tokenizer.to_str().encode(), tokenizer


def _most_tokens(folder: Path, model: Any, options: Options) -> int:
    """Of one text: what is asked for, what the tokenizer was made for, what there are positions for."""
    config = model.config
    bounds = [_MOST_TOKENS]
    if positions := getattr(config, "max_position_embeddings", None):
        # RoBERTa and its like count from behind the padding's id.
        table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        bounds.append(positions - (padding + 1 if padding is not None else 0))
    path = folder / "tokenizer_config.json"
    if path.is_file() and isinstance(said := json.loads(path.read_bytes()).get("model_max_length"), (int, float)):
        bounds.append(int(min(said, _MOST_TOKENS)))
    if options.max_tokens:
        bounds.append(options.max_tokens)
    return max(2, min(bounds))


def _texts(examples: Path | None) -> list[str]:
    if examples is not None:
        return [line for line in examples.read_text().splitlines() if line.strip()]
    random = np.random.default_rng(0)
    lengths = random.integers(3, 60, _DRAWN)
    return [" ".join(random.choice(_WORDS, int(length))) for length in lengths]


def _validation(texts: Sequence[str], answers: Sequence[Array]) -> dict[str, torch.Tensor]:
    """Texts as UTF-8, filled up with zeros, and the original's answers as places of labels."""
    encoded = [text.encode() for text in texts]
    longest = max(map(len, encoded))
    rows = np.zeros((len(encoded), longest), np.uint8)
    for row, content in zip(rows, encoded, strict=True):
        row[: len(content)] = np.frombuffer(content, np.uint8)
    expected = np.array([int(one[0].argmax()) for one in answers], np.int64)
    return {"inputs": torch.from_numpy(rows), "expected": torch.from_numpy(expected)}
