"""The tokenizer of a bundle: read from its file, and held against the network that takes its ids."""

from __future__ import annotations

from tokenizers import Tokenizer

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.strict_yaml import BundleError


def read_tokenizer(content: bytes) -> Tokenizer:
    """The tokenizer that a file of Hugging Face's tokenizers describes.

    Raises:
        ValueError: it describes none.
    """
    try:
        return Tokenizer.from_str(content.decode())
    except (MemoryError, KeyboardInterrupt):
        raise
    # The library raises plain Exceptions, and panics that are not even those.
    except BaseException as error:
        raise ValueError(" ".join(str(error).split())) from None


def check_tokenizer(bundle: Bundle, id_limit: int | None, source: str) -> None:
    """Whether a model that takes text can be asked at all.

    Args:
        id_limit: one more than the largest id that the network knows; None where it embeds none.

    Raises:
        BundleError: no tokenizer, or one with ids that the network does not know.
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
