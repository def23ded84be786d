"""Runs a bundle's own `decode` and `encode` in the decoder process (docs/adr/0021).

The front end sends the program; the decoder's settings say whether it may run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate.bundle import dtypes, user_code
from bedplate.bundle.tensor import Tensor
from bedplate.bundle.user_code import CodeFault
from bedplate.decode.media import Decoded
from bedplate.errors import Internal, UnreadableMedia

_log = logging.getLogger("bedplate.decode")
_MAX_ANSWER_BYTES = 512 << 10  # of JSON; a frame's metadata hold it


class Codec:
    """The functions of one program.

    Args:
        allowed: sums of the programs that may run here.
        seen: fields for each line of the log.

    Raises:
        Internal: the program may not run, or does not.
    """

    def __init__(self, source: bytes, allowed: Collection[str], seen: dict[str, Any]):
        self._seen = seen
        digest = hashlib.sha256(source).hexdigest()
        if digest not in allowed:
            _log.error("a program that may not run here was asked for", extra={"sha256": digest, **seen})
            raise _unable()
        try:
            self._decode, self._encode = user_code.functions_of(source, digest, user_code.CODEC, "codec")
        except CodeFault as fault:
            raise self._failed("a codec does not run", fault) from None

    def decode(self, files: Sequence[bytes], types: Sequence[str], spec: Tensor) -> Decoded:
        """Return the items of each file, which comes with its Content-Type.

        Raises:
            UnreadableMedia: `decode` rejects a file.
            Internal: `decode` returns something other than a tensor.
        """
        parts = [self._items(file, kind, spec) for file, kind in zip(files, types, strict=True)]
        return Decoded(parts, [{"items": len(part)} for part in parts])

    def encode(self, outputs: npt.NDArray[Any], items: Sequence[int]) -> list[Any]:
        """Return a prediction for each file from the (items, *output shape) of its items.

        Raises:
            Internal: `encode` fails, or returns something that is not JSON.
        """
        stops = np.cumsum(items)
        try:
            answers = [user_code.called(self._encode, part) for part in np.split(outputs, stops[:-1])]
            text = json.dumps(answers, allow_nan=False)
        except (CodeFault, ValueError, TypeError, RecursionError) as error:
            raise self._failed("encode fails", error) from None
        if len(text) > _MAX_ANSWER_BYTES:
            raise self._failed("encode fails", CodeFault(f"gives {len(text)} bytes of JSON, {_MAX_ANSWER_BYTES} do"))
        predictions: list[Any] = json.loads(text)
        return predictions

    def _items(self, file: bytes, kind: str, spec: Tensor) -> npt.NDArray[Any]:
        try:
            found = user_code.called(self._decode, file, kind)
        except CodeFault as fault:
            _log.info("decode does not take what a client sent", extra={"because": str(fault), **self._seen})
            raise UnreadableMedia(
                "the content is not what this model takes", next_step="see the model's description"
            ) from None
        if not isinstance(found, np.ndarray) or found.ndim != len(spec.shape) + 1 or not _becomes(found, spec):
            shown = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
            raise self._failed("decode fails", CodeFault(f"gives {shown}, wanted {spec.dtype} {spec.shown}"))
        return dtypes.from_numbers(spec.dtype, found)

    def _failed(self, event: str, error: Exception) -> Internal:
        because = str(error) if isinstance(error, CodeFault) else type(error).__name__
        _log.error(event, extra={"because": because, **self._seen})
        return _unable()


def _becomes(found: npt.NDArray[Any], spec: Tensor) -> bool:
    """Whether numbers of one kind are given for numbers of that kind."""
    if spec.is_floating:
        return found.dtype.kind == "f"
    return bool(np.can_cast(found.dtype, spec.numpy_dtype))


def _unable() -> Internal:
    return Internal("the model's own program failed; the operator finds why under the request id")
