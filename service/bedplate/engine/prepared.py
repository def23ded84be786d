"""Records of what was measured about a model on this host, and the native code that was built (docs/adr/0018).

`bedplate bundle optimize` writes records, engines read them. A record is valid for one content of a bundle, one torch,
one kind of device and one number of threads. Without a valid record an engine computes as its settings say.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.manifest import FILE_NAME
from bedplate.engine.variant import ModelVariant

logger = logging.getLogger(__name__)
FORMAT = 2
RECORD = "record.json"
_MAX_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_PRECISIONS = ("float32", "bfloat16", "int8")


class Unusable(Exception):
    """A record that is not valid here; the message says why."""


@dataclass(frozen=True)
class Host:
    """What native code and its measurements depend on: a record is valid only if all of it is equal."""

    torch: str
    device: str  # cpu, or the name of a GPU
    cpu: str  # sum of the processor's name and instructions
    threads: int

    @classmethod
    def here(cls, device: str, threads: int) -> Host:
        return cls(importlib.metadata.version("torch"), device, _processor(), threads)


@dataclass(frozen=True)
class Record:
    """The form in which a model is served, and the measurements of all forms."""

    name: str
    version: str
    digest: str  # of the bundle
    host: Host
    precision: str
    channels_last: bool
    package: str | None  # a file beside the record
    package_sha256: str | None
    accuracy_loss: float  # points that were allowed
    figures: list[dict[str, Any]] = field(compare=False, default_factory=list)
    format: int = FORMAT


def place_of(shelf: Path, bundle: Bundle, host: Host) -> Path:
    """Return the directory of a record: there is one for each content, torch, device and number of threads."""
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", f"{host.torch}-{host.device}")
    return shelf / bundle.name / bundle.version / f"{bundle.digest[:16]}-{kind}-{host.threads}"


def write_record(place: Path, record: Record) -> None:
    """Write the record, last of all: without a record an attempt was not finished and counts for nothing."""
    # A name of its own: engines of the same kind may prepare the same.
    beside = place / f"{RECORD}.{os.getpid()}"
    beside.write_text(json.dumps(asdict(record), indent=1) + "\n")
    os.replace(beside, place / RECORD)


class ArtifactStore:
    """The records of a directory, for one engine's host."""

    def __init__(self, directory: Path, host: Host):
        self._directory = directory
        self._host = host

    def form_of(self, bundle: Bundle) -> ModelVariant | None:
        """Return how to compute this model; None if there is no record, or none that is valid."""
        try:
            return self.read(bundle)
        except FileNotFoundError:
            logger.info("a model is not optimized", extra={"model": bundle.name, "version": bundle.version})
        except (Unusable, OSError) as error:
            logger.error("a prepared model is ignored: %s", error)
        return None

    def read(self, bundle: Bundle) -> ModelVariant:
        """Read a record and verify it.

        Raises:
            FileNotFoundError: there is no record.
            Unusable: it is of another bundle or host, the directory's owner did not write it, or its native code is not
                what was recorded.
        """
        place = place_of(self._directory, bundle, self._host)
        record = _parse(place / RECORD, self._read(place / RECORD))
        wanted = (bundle.name, bundle.version, bundle.digest, asdict(self._host))
        if (record.name, record.version, record.digest, asdict(record.host)) != wanted:
            raise Unusable(f"{place / RECORD}: is of another bundle, torch or host; optimize it again")
        if record.package is None:
            return ModelVariant(record.precision, record.channels_last)
        package = place / record.package
        self._require_owner(package)
        if sha256_of(package) != record.package_sha256:
            raise Unusable(f"{package}: has changed since it was built; remove it, and optimize the bundle again")
        return ModelVariant(record.precision, record.channels_last, package)

    def _read(self, path: Path) -> bytes:
        place, version, name, shelf = list(path.parents)[:4]
        for each in (shelf, name, version, place, path):
            self._require_owner(each)
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)

    def _require_owner(self, path: Path) -> None:
        """Native code is a program: only who owns the whole directory may have written it."""
        found, owner = path.lstat(), self._directory.lstat().st_uid
        if stat.S_ISLNK(found.st_mode) or found.st_uid != owner or found.st_mode & 0o022:
            raise Unusable(f"{path}: others than the owner of {self._directory} may have written it; remove it")


def _parse(path: Path, text: bytes) -> Record:
    try:
        document = json.loads(text)
        record = Record(**{**document, "host": Host(**document["host"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unusable(f"{path}: is no record ({error}); remove it, and optimize the bundle again") from None
    if not _is_sound(record):
        raise Unusable(f"{path}: says what this version does not know; remove it, and optimize the bundle again")
    return record


def _is_sound(record: Record) -> bool:
    name = record.package
    return (
        record.format == FORMAT
        and record.precision in _PRECISIONS
        and isinstance(record.channels_last, bool)
        and (name is None or (isinstance(name, str) and FILE_NAME.fullmatch(name) is not None))
        # int8 is computed by native code alone.
        and (name is not None or record.precision != "int8")
    )


def sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            found.update(data)
    return found.hexdigest()


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """Of the first core: native code may use every instruction that is listed there."""
    first = path.read_text().partition("\n\n")[0]
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    told = [known.get("model name", ""), *sorted(known.get("flags", "").split())]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()
