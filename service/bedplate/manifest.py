"""SHA256SUMS of a bundle: every other file, in the format that `sha256sum -c` checks."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from bedplate.document import BundleError

MANIFEST = "SHA256SUMS"
# One directory, no hidden files: a name from this set cannot leave the bundle.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_MAX_MANIFEST_BYTES = 64 << 10
_READ_BYTES = 1 << 20


def write_manifest(directory: Path) -> None:
    """Write SHA256SUMS over every file in `directory`, replacing an older one.

    Raises:
        BundleError: something in the directory is not a regular file with a plain name.
    """
    names = sorted(_file_names(directory) - {MANIFEST})
    (directory / MANIFEST).write_text("".join(f"{_digest(directory, name)}  {name}\n" for name in names))


def verify_manifest(directory: Path) -> str:
    """Compare every file in `directory` with SHA256SUMS.

    Returns: the sha256 of SHA256SUMS itself, by which the whole content is known.

    Raises:
        BundleError: a file is missing, not listed, different, or not a regular file.
    """
    present = _file_names(directory)
    if MANIFEST not in present:
        raise BundleError(f"{directory / MANIFEST}: is missing; build the bundle again, or copy it completely")
    manifest = read_file(directory, MANIFEST, _MAX_MANIFEST_BYTES)
    listed = _parse(directory / MANIFEST, manifest)
    for name in sorted(present - set(listed) - {MANIFEST}):
        raise BundleError(f"{directory / name}: is not listed in {MANIFEST}; remove it, or build the bundle again")
    for name, digest in listed.items():
        if name not in present:
            raise BundleError(f"{directory / name}: is listed in {MANIFEST} and missing; copy the bundle again")
        found = _digest(directory, name)
        if found != digest:
            raise BundleError(
                f"{directory / name}: has sha256 {found}, {MANIFEST} says {digest}; copy the bundle again"
            )
    return hashlib.sha256(manifest).hexdigest()


def read_file(directory: Path, name: str, limit_bytes: int) -> bytes:
    """The content of one file of a bundle, at most `limit_bytes` of it."""
    with _open(directory, name) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise BundleError(f"{directory / name}: is larger than {limit_bytes} bytes; make it smaller")
    return content


def _file_names(directory: Path) -> set[str]:
    try:
        entries = list(os.scandir(directory))
    except OSError as error:
        raise BundleError(f"{directory}: cannot be listed ({error.strerror}); name a bundle's directory") from None
    for entry in entries:
        if not entry.is_file(follow_symlinks=False):
            raise BundleError(f"{entry.path}: is not a regular file; a bundle holds no links and no directories")
        if not FILE_NAME.fullmatch(entry.name):
            raise BundleError(f"{directory}: file name {entry.name!r} does not do, wanted {FILE_NAME.pattern}")
    return {entry.name for entry in entries}


def _parse(path: Path, manifest: bytes) -> dict[str, str]:
    listed: dict[str, str] = {}
    for number, line in enumerate(manifest.decode("utf-8", "replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if not match:
            raise BundleError(f"{path}:{number}: {line[:160]!r} is not '<sha256>  <file>'; run sha256sum again")
        digest, name = match.groups()
        if not FILE_NAME.fullmatch(name):
            raise BundleError(f"{path}:{number}: file name {name[:160]!r} does not do, wanted {FILE_NAME.pattern}")
        if name in listed or name == MANIFEST:
            raise BundleError(f"{path}:{number}: lists {name!r} twice, or itself; run sha256sum again")
        listed[name] = digest
    return listed


def _digest(directory: Path, name: str) -> str:
    digest = hashlib.sha256()
    with _open(directory, name) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _open(directory: Path, name: str) -> BinaryIO:
    # O_NOFOLLOW and fstat: what is read is what was found, even if somebody swaps it for a link meanwhile.
    try:
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{directory / name}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{directory / name}: is not a regular file")
    return os.fdopen(descriptor, "rb")
