"""Texts as an imported model takes them: its tokenizer, how many tokens it takes, and texts to ask it about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers

from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.bundle.tensor import Range
from bedplate.importers.options import Options
from bedplate.importers.writing import Array

_DRAWN = 32
_MOST_TOKENS = 8192
_CHARACTERS_PER_TOKEN = 16
_CHARACTERS_TO_CUT = 100_000  # of a text of which the rest is cut
# Tokens of all texts of a batch.
_MAX_COST = 16384
_WORDS = ("the", "a", "film", "was", "good", "bad", "slow", "and", "not", "very", "what", "I", "saw", "it", "of", "day")


@dataclass(frozen=True)
class Texts:
    """
    Args:
        tokenizer: tokenizer.json as the bundle has it.
        length: tokens of a text, the fewest and the most.
        pad: the id that fills up, where it is nothing else; None: what is padding the ids do not say.
        texts: to ask about.
        questions: their ids, (1, tokens) each.
    """

    tokenizer: bytes
    length: Range
    pad: int | None
    texts: Sequence[str]
    questions: Sequence[Array]
    options: Options

    @property
    def example(self) -> torch.Tensor:
        """(2, tokens) to export with."""
        tokens = min(self.length.high, 16)
        return torch.from_numpy(np.resize(max(self.questions, key=len), (2, tokens)).astype(np.int64))

    def document(self, max_items: int) -> dict[str, Any]:
        """The keys of bundle.yaml on what is taken."""
        text = {"tokenizer": "tokenizer.json", "max_characters": _most_characters(self.options, self.length.high)}
        if self.options.truncate:
            text["truncation"] = True
        most = self.length.high
        shape = [[self.length.low, most]]
        return {
            "inputs": [{"name": "tokens", "dtype": "int64", "shape": shape, "text": text}],
            "batch": {"max_items": max_items, "max_cost": min(max_items * most, max(_MAX_COST, most))},
        }

    @property
    def chosen(self) -> list[str]:
        options = self.options
        longer = "cut" if options.truncate else "refused: --truncate cuts it"
        source = f"of {options.examples}" if options.examples else "made of common words: --examples takes real ones"
        return [
            f"{self.length.low} to {self.length.high} tokens; a longer text is {longer}",
            f"validation set and canary of {len(self.texts)} texts {source}",
        ]

    def validation(self, expected: Array) -> dict[str, torch.Tensor]:
        """Texts as UTF-8, filled up with zeros, and what is expected of each."""
        encoded = [text.encode() for text in self.texts]
        rows = np.zeros((len(encoded), max(map(len, encoded))), np.uint8)
        for row, content in zip(rows, encoded, strict=True):
            row[: len(content)] = np.frombuffer(content, np.uint8)
        return {"inputs": torch.from_numpy(rows), "expected": torch.from_numpy(np.ascontiguousarray(expected))}


def read_texts(folder: Path, model: Any, options: Options, lowers: bool = False) -> Texts:
    """
    Args:
        folder: with tokenizer.json.
        lowers: whether capitals become small letters before the tokenizer sees them.

    Raises:
        BundleError: it has no tokenizer.json, or there is no text that the model takes.
    """
    most = _most_tokens(folder, model, options)
    content, tokenizer = _tokenizer(folder, lowers)
    fewest = max(1, tokenizer.num_special_tokens_to_add(False))
    longest = _most_characters(options, most)
    if options.truncate:
        tokenizer.enable_truncation(most)
    texts = _texts(options.examples)
    ids = [tokenizer.encode(text).ids for text in texts]
    kept = [
        (text, one) for text, one in zip(texts, ids, strict=True) if fewest <= len(one) <= most and len(text) <= longest
    ]
    if not kept:
        raise BundleError(
            f"{options.examples or folder}: no text of {fewest} to {most} tokens; name others by --examples"
        )
    # What a text itself holds, such as an end that is the padding, too, is no padding.
    pad = model.config.pad_token_id
    pad = None if any(pad in one for _, one in kept) else pad
    questions = [np.asarray([one], np.int64) for _, one in kept]
    return Texts(content, Range(fewest, most), pad, [text for text, _ in kept], questions, options)


def _most_characters(options: Options, most: int) -> int:
    return _CHARACTERS_TO_CUT if options.truncate else most * _CHARACTERS_PER_TOKEN


def _tokenizer(folder: Path, lowers: bool) -> tuple[bytes, Tokenizer]:
    """tokenizer.json as a bundle has it: nothing is filled up, and what is too long the bundle says."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BundleError(
            f"{path}: is missing; write it with transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise BundleError(f"{path}: is no tokenizer ({words_of(error, 200)})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if lowers:
        known = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *known])
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
