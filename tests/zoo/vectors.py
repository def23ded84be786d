"""What transformers itself answers where a vector is wanted, pooled here and not by what is tried."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.zoo.models import Entry

# Of transformers, for a folder of a model that has two parts.
_PARTS = {
    ("CLIPModel", "image"): "CLIPVisionModelWithProjection",
    ("CLIPModel", "text"): "CLIPTextModelWithProjection",
    ("SiglipModel", "image"): "SiglipVisionModel",
}


def asker(source: Path, entry: Entry) -> Callable[[bytes], Any]:
    """Of a picture or a text its vector, (numbers,)."""
    import transformers  # noqa: PLC0415

    made = getattr(transformers, _PARTS.get((entry.model, entry.part), entry.model))
    model = made.from_pretrained(source, dtype=torch.float32).eval()
    prepare = _pictures(source) if entry.takes_pictures else _texts(source)

    def ask(content: bytes) -> Any:
        with torch.inference_mode():
            said = model(**prepare(content))
        vector = _own(said) if entry.pooling == "own" else _pooled(said.last_hidden_state[0].numpy(), entry.pooling)
        return vector / np.linalg.norm(vector) if entry.is_unit else vector

    return ask


def _pictures(source: Path) -> Callable[[bytes], Any]:
    from transformers import AutoImageProcessor  # noqa: PLC0415

    processor = AutoImageProcessor.from_pretrained(source)
    return lambda content: processor(Image.open(io.BytesIO(content)), return_tensors="pt")


def _texts(source: Path) -> Callable[[bytes], Any]:
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(source)

    def prepare(content: bytes) -> Any:
        given = tokenizer(content.decode(), return_tensors="pt")
        given.pop("token_type_ids", None)
        return given

    return prepare


def _own(said: Any) -> Any:
    for key in ("text_embeds", "image_embeds", "pooler_output"):
        if said.get(key) is not None:
            return said[key][0].flatten().numpy()
    raise AssertionError("it has no vector of its own")


def _pooled(tokens: Any, pooling: str) -> Any:
    """tokens (tokens, numbers), without padding."""
    return {"mean": lambda: tokens.mean(0), "cls": lambda: tokens[0], "last": lambda: tokens[-1]}[pooling]()
