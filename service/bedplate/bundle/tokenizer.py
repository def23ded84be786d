"""The tokenizer of a bundle: read from its file, and checked against the network that takes its ids."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.strict_yaml import BundleError


def read_tokenizer(content: bytes | memoryview) -> Tokenizer:
    """Return the tokenizer that a file in the format of Hugging Face's tokenizers describes.

    Raises:
        ValueError: the file describes none.
    """
    try:
        return Tokenizer.from_str(str(content, "utf-8"))
    except (MemoryError, KeyboardInterrupt):
        raise
    # The library raises plain Exceptions, and panics that are not even those.
    except BaseException as error:
        raise ValueError(" ".join(str(error).split())) from None


@lru_cache(maxsize=1)
def tokenizer_of(content: bytes) -> Tokenizer:
    """As `read_tokenizer`, of a bundle that is asked about several texts."""
    return read_tokenizer(content)


def check_tokenizer(bundle: Bundle, id_limit: int | None, source: str) -> None:
    """Check that the model of a text task can take the ids of its tokenizer.

    Args:
        id_limit: one more than the largest id that the network knows; None if it embeds none.

    Raises:
        BundleError: there is no tokenizer, or it has ids that the network does not know.
    """
    if bundle.input.text is None:
        return
    where = f"{source}: inputs[0].text.tokenizer: {bundle.input.text.tokenizer}"
    try:
        tokenizer = read_tokenizer(bundle.tokenizer)
    except ValueError as error:
        raise BundleError(f"{where} is no tokenizer ({error}); write it with tokenizers' save") from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if id_limit is not None and largest >= id_limit:
        raise BundleError(f"{where} has ids up to {largest}, the network's embedding {id_limit}; they belong together")
