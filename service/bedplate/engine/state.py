"""What was loaded and promoted by hand. It survives a crash of the engine, but no reboot and no change of settings."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bedplate.engine.settings import EngineSettings

logger = logging.getLogger(__name__)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ServedState:
    """Directories of bundles in their order, and the aliases: what an engine starts with."""

    bundles: tuple[Path, ...]
    aliases: Mapping[str, Mapping[str, str]]


class State:
    """The state file of one device.

    It has another name while it is applied, so an engine that dies of its content does not find it the next time.
    """

    def __init__(self, settings: EngineSettings, device: str):
        self._path = settings.socket_dir / f"{device}.state.json"
        self._trying = settings.socket_dir / f"{device}.state.trying"
        self._fingerprint = _fingerprint(settings)

    def take(self) -> ServedState | None:
        """Return what was served when the engine ended, if known and usable; `save` it again once it is served."""
        if self._trying.exists():
            logger.error("the engine ended while it applied its state, which is ignored now")
            self.forget()
            return None
        try:
            os.replace(self._path, self._trying)
            served = _parse(self._trying, self._fingerprint)
        except FileNotFoundError:
            return None
        # Whatever stands there: no state is reason enough to stay down.
        except (OSError, RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("the state is of no use and is ignored: %r", error)
            served = None
        if served is None:
            self.forget()
        return served

    def save(self, bundles: Sequence[Path], aliases: Mapping[str, Mapping[str, str]]) -> None:
        """Write the file beside and rename it, so it is always whole. A failure loses the state, not the engine."""
        document = {"fingerprint": self._fingerprint, "bundles": list(map(str, bundles)), "aliases": aliases}
        beside = self._path.with_suffix(".new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
            os.replace(beside, self._path)
        except OSError as error:
            logger.error("the state was not written: %s", error)
        self.forget()

    def forget(self) -> None:
        """Remove the file that was applied: its content is served now, or will not be tried again."""
        with contextlib.suppress(OSError):
            self._trying.unlink(missing_ok=True)


def _parse(path: Path, fingerprint: str) -> ServedState | None:
    with path.open("rb") as file:
        document = json.loads(file.read(_MAX_BYTES))
    if document["fingerprint"] != fingerprint:
        logger.info("the state is of other settings and is ignored")
        return None
    bundles = tuple(Path(bundle) for bundle in document["bundles"])
    aliases = {str(name): {str(a): str(v) for a, v in theirs.items()} for name, theirs in document["aliases"].items()}
    return ServedState(bundles, aliases)


def _fingerprint(settings: EngineSettings) -> str:
    text = json.dumps(dataclasses.asdict(settings), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
