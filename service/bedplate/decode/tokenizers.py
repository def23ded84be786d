"""The tokenizers that a decoder has read, by the sha256 of their files: reading one takes longer than most texts do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Tokenizer

from bedplate.bundle.tokenizer import read_tokenizer
from bedplate.errors import Internal

_KEPT = 4  # those asked for last
_MEMORY_PER_BYTE = 48  # of a file, at most: 45 were seen of a Unigram's, 10 to 16 of others


@dataclass(frozen=True)
class _Read:
    tokenizer: Tokenizer
    took_bytes: int


class Tokenizers:
    """
    Args:
        max_bytes: of memory for all of them; one alone may take more, as far as the process may.
        resident_bytes: tells how much the process takes.
    """

    def __init__(self, max_bytes: int, resident_bytes: Callable[[], int]):
        self._max_bytes = max_bytes
        self._resident_bytes = resident_bytes
        self._known: dict[str, _Read] = {}  # the one asked for last comes last

    def find(self, sha256: str) -> Tokenizer | None:
        found = self._known.pop(sha256, None)
        if found is None:
            return None
        self._known[sha256] = found
        return found.tokenizer

    def read(self, content: bytes | memoryview, sha256: str) -> None:
        """Read it, unless somebody else brought it meanwhile.

        Raises:
            Internal: it is no tokenizer, which the engine should have refused, or another.
        """
        if self.find(sha256):
            return
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Internal("a decoder was sent another tokenizer than it was told of")
        expected_bytes = len(content) * _MEMORY_PER_BYTE
        while self._known and (len(self._known) >= _KEPT or self.kept_bytes + expected_bytes > self._max_bytes):
            del self._known[next(iter(self._known))]
        before_bytes = self._resident_bytes()
        try:
            tokenizer = read_tokenizer(content)
        except ValueError as error:
            raise Internal(f"a decoder was sent no tokenizer: {error}") from None
        self._known[sha256] = _Read(tokenizer, max(0, self._resident_bytes() - before_bytes))

    @property
    def kept_bytes(self) -> int:
        """How much memory they take."""
        return sum(one.took_bytes for one in self._known.values())
