"""Pickles, and archives that may hold one. Loading them runs code, so this recognizes them by name and content only."""

from __future__ import annotations

import pickletools
import warnings
from pathlib import Path

from bedplate.bundle.strict_yaml import BundleError

HEAD_BYTES = 64 << 10  # enough to know one by; pickles of protocol 0 have no mark at their beginning
_SUFFIXES = {".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz"}
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")  # torch.save, TorchScript and numpy's archives
_PROTOCOLS = range(2, 6)
_OPCODES = {opcode.code for opcode in pickletools.opcodes}
_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "INST"}
_CONVERT = (
    "on a machine that may run it, load it and write its numbers with "
    "safetensors.torch.save_file(module.state_dict(), 'weights.safetensors') (docs/bundles.md)"
)


def refuse(path: Path, head: bytes) -> None:
    """Refuse a file that its name and first bytes show to be a pickle, or an archive that may hold one.

    Raises:
        BundleError: it is one of these.
    """
    if path.suffix.lower() in _SUFFIXES:
        raise BundleError(f"{path}: ends in {path.suffix}, as pickles and TorchScript do; {_CONVERT}")
    if head.startswith(_ZIPS):
        raise BundleError(f"{path}: is an archive as torch.save and TorchScript write them; {_CONVERT}")
    if _is_pickle(head):
        raise BundleError(f"{path}: is a pickle, which runs code when it is loaded; {_CONVERT}")


def _is_pickle(head: bytes) -> bool:
    # A safetensors file begins with a length, which may look like the first two bytes; then come zeros.
    if len(head) > 2 and head[0] == 0x80 and head[1] in _PROTOCOLS and chr(head[2]) in _OPCODES:
        return True
    # The older protocols are plain text. Without an import they are numbers and texts, and harmless.
    imports = False
    try:
        with warnings.catch_warnings():
            # Of escapes in what is no text of Python's.
            warnings.simplefilter("ignore")
            for opcode, _, _ in pickletools.genops(head):
                imports = imports or opcode.name in _IMPORTS
    except ValueError as error:
        # It may go on behind the head. Of a text the next words are no opcodes.
        return imports and len(head) == HEAD_BYTES and "unknown" not in str(error)
    return imports
