"""A model that tells good moods from bad ones by their words, and tokenizers as files."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.service.lamp import description

WORDS = ("[UNK]", "good", "bad", "very", "not", "day", "a")
FEWEST, MOST = 1, 12  # tokens
MAX_CHARACTERS = 200


def tokenizer(*words: str) -> bytes:
    """Of whole words, in small letters; what is none of them is the first."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str().encode()


TOKENIZER = tokenizer(*WORDS)
SHA256 = hashlib.sha256(TOKENIZER).hexdigest()
TOKENIZERS = {SHA256: TOKENIZER}
NETWORK = [
    {"embedding": {"num_embeddings": len(WORDS), "embedding_dim": 2}},
    {"mean": {"dim": 1}},
    {"linear": {"in_features": 2, "out_features": 2}},
]
# How bad a word is, and how good: (words, 2).
WEIGHTS = {
    "0.weight": torch.tensor([[0, 0], [0, 2.0], [2.0, 0], [0, 0], [1.0, 0], [0, 0.5], [0, 0]]),
    "2.weight": torch.eye(2),
    "2.bias": torch.zeros(2),
}


def moods(**changes: Any) -> dict[str, Any]:
    """The description of it; `TOKENIZERS` has the file."""
    document = {
        "name": "moods",
        "task": "text-classification",
        "description": "Is it a good day",
        "inputs": [
            {
                "name": "tokens",
                "dtype": "int64",
                "shape": [[FEWEST, MOST]],
                "text": {"tokenizer": "tokenizer.json", "max_characters": MAX_CHARACTERS},
            }
        ],
        "labels": ["bad", "good"],
        "network": NETWORK,
        "canary": {"file": "canary.txt", "label": "good"},
        "canary_bytes": base64.b64encode(b"A very good day").decode(),
        "tokenizer_sha256": SHA256,
    }
    return description(**{**document, **changes})
