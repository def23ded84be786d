"""Tokenizes a text to the ids that a model takes. The bytes are untrusted, so they are bounded before tokenizing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bedplate.bundle.tensor import Tensor, Text
from bedplate.errors import EmptyBody, MediaTooLong, UnreadableMedia, WrongSize

_MAX_BYTES_PER_CHARACTER = 4  # of UTF-8
_SHORTER = "send a shorter text, or parts of it"


def ids_of(data: bytes | memoryview, tensor: Tensor, spec: Text, tokenizer: Tokenizer) -> npt.NDArray[Any]:
    """Return one item, (1, ids) in the dtype of `tensor`.

    Raises:
        EmptyBody, UnreadableMedia: there is no text, or it is not UTF-8.
        MediaTooLong, WrongSize: it has more, or fewer, characters or ids than the model takes.
    """
    text = _text(data, spec.max_characters)
    [fewest], [most] = tensor.smallest, tensor.largest
    with _cut_to(most, tokenizer) if spec.truncation else contextlib.nullcontext():
        ids = tokenizer.encode(text).ids
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


@contextlib.contextmanager
def _cut_to(most: int, tokenizer: Tokenizer) -> Iterator[None]:
    """For a moment: other bundles may have the same tokenizer, and cut otherwise or not at all."""
    said = tokenizer.truncation
    tokenizer.enable_truncation(most)
    try:
        yield
    finally:
        tokenizer.no_truncation()
        if said:
            tokenizer.enable_truncation(**said)


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
