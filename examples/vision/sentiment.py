"""vision-sentiment: whether a sentence is in favour, against, or neither."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions
from examples.common.sets import chance_of
from examples.vision.sentences import LABELS, sentence

NAME = "vision-sentiment/1"
THRESHOLD = 0.95
SEED = 20260520
COUNTS = {"training": 6000, "validation": 150, "held out": 300}
WIDTH, MOST = 48, 64  # numbers for a token, tokens of a sentence
MAX_CHARACTERS = 1000
EPOCHS = 9
Sentences = list[tuple[str, int]]  # text, place of its label


def network(words: int) -> list[Any]:
    encoder = {"d_model": WIDTH, "nhead": 4, "dim_feedforward": 96, "norm_first": True, "dropout": 0.1}
    return [
        {"embedding": {"num_embeddings": words, "embedding_dim": WIDTH}},
        {"positional_embedding": {"num_positions": MOST, "embedding_dim": WIDTH}},
        {"transformer_encoder_layer": encoder},
        {"layer_norm": {"normalized_shape": [WIDTH]}},
        {"mean": {"dim": 1}},
        {"linear": {"in_features": WIDTH, "out_features": len(LABELS)}},
    ]


def make(build: Path) -> float:
    """Returns: the share of held-out sentences that it gets right."""
    torch.manual_seed(SEED)
    learnt, chosen_by, held_out = (said(part) for part in COUNTS)
    tokenizer = learn_words(learnt)
    layers = network(tokenizer.get_vocab_size())
    module = training.build(layers)
    train(module, tokenizer, learnt, EPOCHS)
    folder = run.held_out_folder(build, NAME)
    files = {f"{number:03d}-{LABELS[label]}.txt": text.encode() for number, (text, label) in enumerate(held_out)}
    write_held_out(folder, files, [LABELS[label] for _, label in held_out])
    canary, label = surest(module, tokenizer, chosen_by)
    extra = {"canary.txt": canary.encode(), "tokenizer.json": tokenizer.to_str(pretty=True).encode()}
    write_bundle(run.bundle_folder(build, NAME), document(layers, LABELS[label]), module, to_bytes(held_out), extra)
    return write_predictions(folder, run.bundle_folder(build, NAME))


def said(part: str) -> Sentences:
    """Each meaning as often as the others."""
    found = []
    for number in range(COUNTS[part]):
        label = number % len(LABELS)
        found.append((sentence(LABELS[label], part == "held out", chance_of(SEED, part, number)), label))
    return found


def learn_words(sentences: Sentences) -> Tokenizer:
    """In small letters, whole words and signs; a word that is not among them is one unknown word."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "[CLS]"], show_progress=False)
    tokenizer.train_from_iterator((text for text, _ in sentences), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return tokenizer


def train(module: nn.Module, tokenizer: Tokenizer, sentences: Sentences, epochs: int) -> None:
    """Sentences of one length together, as the engine computes them. Now and then a word is forgotten, so that one
    that is unknown is no surprise."""
    batches = by_length(tokenizer, sentences, batch_items=64)
    learn = training.learner(module, epochs * len(batches), learning_rate=4e-3)
    module.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for number in torch.randperm(len(batches)).tolist():
            ids, labels = batches[number]
            ids = torch.where(torch.rand(ids.shape) < 0.03, 0, ids)
            total += learn(nn.functional.cross_entropy(module(ids), labels))
        if epoch % 2 == 0:
            print(f"epoch {epoch} of {epochs}: loss {total / len(batches):.4f}", flush=True)
    module.eval()


def by_length(tokenizer: Tokenizer, sentences: Sentences, batch_items: int) -> list[training.Set]:
    """(items, tokens) int64 with the places of their labels."""
    alike: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
    for text, label in sentences:
        ids = tokenizer.encode(text).ids
        alike[len(ids)].append((ids, label))
    batches = []
    for found in alike.values():
        for start in range(0, len(found), batch_items):
            some = found[start : start + batch_items]
            batches.append((torch.tensor([ids for ids, _ in some]), torch.tensor([label for _, label in some])))
    return batches


@torch.inference_mode()
def surest(module: nn.Module, tokenizer: Tokenizer, sentences: Sentences) -> tuple[str, int]:
    """A canary must not flip with the last bits of a sum."""
    scores = [module(torch.tensor([tokenizer.encode(text).ids])).softmax(1)[0, label] for text, label in sentences]
    return sentences[int(torch.stack(scores).argmax())]


def to_bytes(sentences: Sentences) -> training.Set:
    """As a validation set has texts: UTF-8, filled up with zeros."""
    texts = [text.encode() for text, _ in sentences]
    inputs = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.uint8)
    for row, text in zip(inputs, texts, strict=True):
        row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return inputs, torch.tensor([label for _, label in sentences])


def document(layers: list[Any], canary: str) -> dict[str, Any]:
    name, _, version = NAME.partition("/")
    text = {"tokenizer": "tokenizer.json", "max_characters": MAX_CHARACTERS}
    return {
        "format": 1,
        "name": name,
        "version": version,
        "task": "text-classification",
        "description": "Whether a sentence is in favour or against",
        "inputs": [{"name": "tokens", "dtype": "int64", "shape": [[1, MOST]], "text": text}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [len(LABELS)]}],
        "labels": LABELS,
        "activation": "softmax",
        "batch": {"max_items": 64},
        "weights": "weights.safetensors",
        "network": layers,
        "validation": {"file": "validation.safetensors", "metric": "accuracy", "threshold": THRESHOLD},
        "canary": {"file": "canary.txt", "label": canary},
    }
