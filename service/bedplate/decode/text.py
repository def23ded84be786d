"""Tokenizes a text to the ids that a model takes. The bytes are untrusted, so they are bounded before tokenizing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bedplate.bundle.tensor import Tensor, Text
from bedplate.bundle.tokenizer import read_tokenizer
from bedplate.errors import EmptyBody, Internal, MediaTooLong, UnreadableMedia, WrongSize

_MAX_BYTES_PER_CHARACTER = 4  # of UTF-8
_SHORTER = "send a shorter text, or parts of it"
_KEPT = 4  # tokenizers, those asked for last
_MEMORY_PER_BYTE = 32  # of a tokenizer's file, at most: 16 were seen


def ids_of(data: bytes | memoryview, tensor: Tensor, spec: Text, tokenizer: bytes) -> npt.NDArray[Any]:
    """Return one item, (1, ids) in the dtype of `tensor`.

    Raises:
        EmptyBody, UnreadableMedia: there is no text, or it is not UTF-8.
        MediaTooLong, WrongSize: it has more, or fewer, characters or ids than the model takes.
        Internal: `tokenizer` is invalid, which the engine should have refused.
    """
    text = _text(data, spec.max_characters)
    ids = _tokenizer(tokenizer).encode(text).ids
    [fewest], [most] = tensor.smallest, tensor.largest
    if len(ids) > most:
        raise _too_long(len(ids), most, "tokens")
    if len(ids) < fewest:
        raise WrongSize(
            f"the text has {len(ids)} tokens, {fewest} are the fewest that this model takes",
            value=len(ids),
            limit=fewest,
            next_step="send a longer text",
        )
    return np.array([ids], tensor.numpy_dtype)


def kept_bytes() -> int:
    """Return how much memory the cached tokenizers may take."""
    return sum(_sizes)


_sizes: list[int] = []


@lru_cache(maxsize=_KEPT)
def _tokenizer(content: bytes) -> Tokenizer:
    """Reading one takes longer than most texts do."""
    try:
        tokenizer = read_tokenizer(content)
    except ValueError as error:
        raise Internal(f"a decoder was sent no tokenizer: {error}") from None
    _sizes[:] = [*_sizes[1 - _KEPT :], len(content) * _MEMORY_PER_BYTE]
    return tokenizer


def _text(data: bytes | memoryview, max_characters: int) -> str:
    if not data:
        raise EmptyBody("the text is empty", value=0, next_step="send a text")
    if len(data) > max_characters * _MAX_BYTES_PER_CHARACTER:
        raise _too_long(len(data), max_characters * _MAX_BYTES_PER_CHARACTER, "bytes")
    try:
        text = str(data, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableMedia(
            f"the text is no UTF-8, byte {error.start} is wrong", value=error.start, next_step="send UTF-8"
        ) from None
    if len(text) > max_characters:
        raise _too_long(len(text), max_characters, "characters")
    return text


def _too_long(found: int, allowed: int, unit: str) -> MediaTooLong:
    return MediaTooLong(
        f"the text has {found} {unit}, {allowed} are allowed", value=found, limit=allowed, next_step=_SHORTER
    )
