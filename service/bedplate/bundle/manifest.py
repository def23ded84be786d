"""SHA256SUMS of a bundle, which lists every other file in the format of `sha256sum -c`, and its signature."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bedplate.bundle import pickles, signature
from bedplate.bundle.strict_yaml import BundleError

MANIFEST = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
# One directory, no hidden files: a name from this set cannot leave the bundle.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_MAX_MANIFEST_BYTES = 64 << 10
_MAX_SIGNATURE_BYTES = 16 << 10
_READ_BYTES = 1 << 20


class SummedFile:
    """A file that is hashed while it is read, so the bytes that are used are the bytes that were hashed."""

    def __init__(self, file: BinaryIO):
        self.size_bytes = os.fstat(file.fileno()).st_size
        self.sha256 = hashlib.sha256()
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; it stays partly empty only at the end of the file."""
        size = self._file.readinto(buffer)  # type: ignore[attr-defined]  # a buffered reader
        self.sha256.update(buffer[:size])
        return int(size)


@dataclass(frozen=True)
class Manifest:
    """A directory that holds exactly the files that SHA256SUMS lists. Their content is not verified yet."""

    directory: Path
    sums: Mapping[str, str]  # file → sha256
    digest: str  # the sha256 of SHA256SUMS itself, by which the whole content is known
    signer: str  # whose signature was verified; nobody's where none was asked for

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[SummedFile]:
        """Open a listed file. Use what you read only after the context has ended without an error: the sum matched.

        Raises:
            BundleError: the file is not listed, not regular, or different.
        """
        if name not in self.sums:
            raise BundleError(f"{self.directory / name}: is not listed in {MANIFEST}; name a file of the bundle")
        with _open(self.directory, name) as file:
            summed = SummedFile(file)
            yield summed
            while summed.read(_READ_BYTES):
                pass
        found = summed.sha256.hexdigest()
        if found != self.sums[name]:
            raise BundleError(
                f"{self.directory / name}: has sha256 {found}, {MANIFEST} says {self.sums[name]}; copy the bundle again"
            )

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return the content of a listed file, at most `limit_bytes` of it."""
        with self.open(name) as file:
            content = file.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise _too_large(self.directory / name, limit_bytes)
        return content

    def verify(self) -> None:
        """Compare every file with its sum, and refuse those that would run code if somebody loaded them.

        Raises:
            BundleError: a file is different, or holds a pickle.
        """
        for name in self.sums:
            with self.open(name) as file:
                head = file.read(pickles.HEAD_BYTES)
            pickles.refuse(self.directory / name, head)


def write_manifest(directory: Path) -> None:
    """Write SHA256SUMS over every file in `directory`. It replaces an older one, and removes its signature.

    Raises:
        BundleError: the directory holds something other than regular files with plain names.
    """
    names = sorted(_file_names(directory) - {MANIFEST, SIGNATURE})
    (directory / SIGNATURE).unlink(missing_ok=True)
    (directory / MANIFEST).write_text("".join(f"{_digest(directory, name)}  {name}\n" for name in names))


def write_signature(directory: Path, key: Path) -> None:
    """Sign SHA256SUMS as it is.

    Raises:
        BundleError: there is no SHA256SUMS, or ssh-keygen cannot sign with this key.
    """
    content = _read(directory, MANIFEST, _MAX_MANIFEST_BYTES)
    (directory / SIGNATURE).write_bytes(signature.sign(content, key))


def read_manifest(directory: Path, signers: Path | None = None) -> Manifest:
    """Verify the signature before reading anything but it and SHA256SUMS, then compare the names of files.

    Args:
        signers: who may sign, as OpenSSH's allowed_signers; None: no signature is required.

    Raises:
        BundleError: there is no good signature of a signer, or a file is missing, not listed, or not a regular one.
    """
    present = _file_names(directory)
    if MANIFEST not in present:
        raise BundleError(
            f"{directory / MANIFEST}: is missing; copy the bundle again, or finish it with 'bedplate bundle sign'"
        )
    content = _read(directory, MANIFEST, _MAX_MANIFEST_BYTES)
    signer = _signer(directory, content, present, signers) if signers else ""
    listed = _parse(directory / MANIFEST, content)
    for name in sorted(present - set(listed) - {MANIFEST, SIGNATURE}):
        raise BundleError(f"{directory / name}: is not listed in {MANIFEST}; remove it, or build the bundle again")
    for name in sorted(set(listed) - present):
        raise BundleError(f"{directory / name}: is listed in {MANIFEST} and missing; copy the bundle again")
    return Manifest(directory, listed, hashlib.sha256(content).hexdigest(), signer)


def verify_manifest(directory: Path, signers: Path | None = None) -> Manifest:
    """Do what `read_manifest` does, then compare every file with its sum.

    Raises:
        BundleError: see `read_manifest` and `Manifest.verify`.
    """
    manifest = read_manifest(directory, signers)
    manifest.verify()
    return manifest


def signing_key(directory: Path) -> str | None:
    """Return the fingerprint of the key that signed SHA256SUMS, trusted or not; None if there is no signature.

    Raises:
        BundleError: there is a signature, but it does not belong to this SHA256SUMS.
    """
    if SIGNATURE not in _file_names(directory):
        return None
    content = _read(directory, MANIFEST, _MAX_MANIFEST_BYTES)
    return signature.key_of(content, _read(directory, SIGNATURE, _MAX_SIGNATURE_BYTES), directory / SIGNATURE)


def _signer(directory: Path, content: bytes, present: set[str], signers: Path) -> str:
    path = directory / SIGNATURE
    if SIGNATURE not in present:
        raise BundleError(f"{path}: is missing, and {signers} says who has to sign; sign the bundle, and copy it again")
    return signature.signer_of(content, _read(directory, SIGNATURE, _MAX_SIGNATURE_BYTES), signers, path)


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
        if name in listed or name in (MANIFEST, SIGNATURE):
            raise BundleError(f"{path}:{number}: lists {name!r} twice, or itself; run sha256sum again")
        listed[name] = digest
    return listed


def _read(directory: Path, name: str, limit_bytes: int) -> bytes:
    with _open(directory, name) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise _too_large(directory / name, limit_bytes)
    return content


def _too_large(path: Path, limit_bytes: int) -> BundleError:
    return BundleError(f"{path}: is larger than {limit_bytes} bytes; make it smaller")


def _digest(directory: Path, name: str) -> str:
    with _open(directory, name) as file:
        summed = SummedFile(file)
        while summed.read(_READ_BYTES):
            pass
    return summed.sha256.hexdigest()


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
