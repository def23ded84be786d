"""Changes what an engine serves while it serves: load, unload, promote. Runs in the event loop.

A separate thread reads files, and the device is used between two batches, so requests notice neither until the
server switches to the new catalogue at once. A failure leaves everything unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bedplate.bundle.bundle import Bundle, read_bundle
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.catalogue import DEFAULT, Catalogue, ModelsError
from bedplate.engine.memory import Memory
from bedplate.engine.model import Model
from bedplate.engine.server import Server
from bedplate.engine.warm_up import warm_up_steps
from bedplate.engine.work import Key, key_of
from bedplate.errors import Draining, UnknownModel

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a loaded model came from."""

    directory: Path
    loaded_at: float  # seconds since 1970


Origins = Mapping[Key, Origin]


class Loader:
    """Changes what `server` serves.

    Args:
        read_model: makes a model of a checked bundle and its directory, on the engine's device.
        origins: of what the server serves already.
        signers: who may sign a bundle (allowed_signers); None: no signature is required.
        changed: called with what is served after each change.
        give_up: called when nothing is left to serve.
    """

    def __init__(
        self,
        server: Server,
        read_model: Callable[[Bundle, Path], Model],
        memory: Memory,
        origins: Origins,
        *,
        signers: Path | None = None,
        changed: Callable[[Catalogue, Origins], None] = lambda catalogue, origins: None,
        give_up: Callable[[], None] = lambda: None,
    ):
        self._server = server
        self._batcher = server.batcher
        self._read_model = read_model
        self._memory = memory
        self._origins = dict(origins)
        self._signers = signers
        self._changed = changed
        self._give_up = give_up
        # One load or unload at a time: what fits depends on the one before it. A promotion waits for none of them.
        self._lock = asyncio.Lock()
        # One thread for all of them: each thread that ever loaded would keep a part of the freed memory for itself.
        self._thread = ThreadPoolExecutor(1, "loader")

    async def load(self, directory: Path, swap: bool = False) -> tuple[Bundle, bool]:
        """Serve the bundle in `directory` too; return False if it is served already.

        Args:
            swap: if it does not fit beside the others, unload the default version of its name to make room.

        Raises:
            BundleError, ModelsError, Draining: nothing has changed; the message says why.
        """
        async with self._lock:
            bundle = await self._in_thread(lambda: read_bundle(directory, self._signers))
            if self._is_loaded(bundle, directory):
                return bundle, False
            self._server.catalogue.require_no_alias(bundle)
            old = self._room_for(bundle, directory, swap)
            if old is None:
                await self._add(bundle, directory)
            else:
                await self._swap(old, bundle, directory)
            return bundle, True

    def promote(self, name: str, version: str, alias: str = DEFAULT) -> None:
        """Point `alias` to this version from now on.

        Raises:
            ModelsError: the version is not loaded, or the alias is invalid.
        """
        self._serve(self._server.catalogue.with_alias(name, alias, version), self._origins)
        logger.info("model promoted", extra={"model": name, "version": version, "alias": alias})

    async def unload(self, name: str, version: str, last: bool = False) -> None:
        """Take no more requests for a version, answer those that wait, then free its memory.

        Args:
            last: it may be the last version of its name; its aliases are removed too.

        Raises:
            ModelsError: it is not loaded, or still needed.
        """
        key = name, version
        async with self._lock:
            model = self._server.catalogue.removable(key, last)
            self._serve(self._server.catalogue.without(key), self._origins_without(key))
            await asyncio.wrap_future(self._batcher.retire(key))
            await self._release(model)
        logger.info("model unloaded", extra={"model": name, "version": version})

    def stats(self) -> list[dict[str, Any]]:
        """Return statistics of each model that is served, in the catalogue's order."""
        return [self._stats(model) for model in self._server.catalogue.models]

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _stats(self, model: Model) -> dict[str, Any]:
        key = key_of(model)
        return {
            "name": model.bundle.name,
            "version": model.bundle.version,
            "digest": model.bundle.digest,
            "aliases": self._server.catalogue.aliases_of(key),
            "form": model.form,
            "weights_bytes": model.weights_bytes,
            "directory": str(self._origins[key].directory),
            "loaded_at": self._origins[key].loaded_at,
            "max_items": model.max_items,
            **self._batcher.figures(key),
        }

    def _is_loaded(self, bundle: Bundle, directory: Path) -> bool:
        loaded = self._server.catalogue.get((bundle.name, bundle.version))
        if loaded and loaded.bundle.digest != bundle.digest:
            raise ModelsError(
                f"{directory}: {bundle.name} {bundle.version} is loaded with digest {loaded.bundle.digest[:12]}, this "
                f"one has {bundle.digest[:12]}; unload the other first, or give this one another version"
            )
        return loaded is not None

    def _room_for(self, bundle: Bundle, directory: Path, swap: bool) -> Model | None:
        """The model that makes room for a bundle; None if there is room."""
        needed = sum((directory / name).stat().st_size for name in bundle.loaded_files.values())
        free = self._memory.free_bytes(self._server.catalogue.models)
        if free is None or needed <= free:
            return None
        told = f"{directory}: the weights need {needed} bytes, {free} are free"
        old = self._server.catalogue.default_of(bundle.name)
        if old is None:
            raise ModelsError(f"{told}, and no version of {bundle.name} could make room; unload another model first")
        shown = f"{bundle.name} {old.bundle.version}"
        if needed > free + old.weights_bytes:
            raise ModelsError(f"{told}, {old.weights_bytes} more without {shown}; unload another model first")
        if not swap:
            raise ModelsError(f"{told}; unload a model first, or let {shown} make room with --swap")
        return old

    async def _add(self, bundle: Bundle, directory: Path) -> None:
        model = await self._prepare(bundle, directory)
        await self._serve_or_release(model, directory, lambda: self._server.catalogue.with_model(model), self._origins)
        told = {"model": bundle.name, "version": bundle.version, "signer": bundle.signer, "form": model.form}
        logger.info("model loaded", extra=told)

    async def _swap(self, old: Model, bundle: Bundle, directory: Path) -> None:
        """Requests for the old version wait. They were decoded for it, so that in the end their webs send them anew."""
        key = key_of(old)
        self._batcher.pause(key)
        try:
            await asyncio.wrap_future(self._batcher.execute(old.release))
            await self._in_thread(self._memory.trim)
            model = await self._prepare(bundle, directory)
            await self._serve_or_release(
                model, directory, lambda: self._server.catalogue.replaced(key, model), self._origins_without(key)
            )
        except Exception:
            await self._bring_back(old)
            raise
        self._batcher.dismiss(key, _unloaded())
        await asyncio.wrap_future(self._batcher.retire(key))
        logger.info("model swapped", extra={"model": key[0], "version": bundle.version, "instead_of": key[1]})

    async def _bring_back(self, old: Model) -> None:
        key = key_of(old)
        directory = self._origins[key].directory
        try:
            # Its signature was good when it was loaded, and the digest says that it is the same.
            bundle = await self._in_thread(lambda: read_bundle(directory))
            if bundle.digest != old.bundle.digest:
                raise ModelsError(f"{directory}: has changed since it was loaded")
            old.restore(await self._prepare(bundle, directory))
        except Draining:
            return
        except Exception as error:
            logger.critical("a model that made room is lost: %s", error, extra={"model": key[0], "version": key[1]})
            self._serve(self._server.catalogue.without(key), self._origins_without(key))
            self._batcher.dismiss(key, _unloaded())
            if not self._server.catalogue.models:
                self._give_up()
        else:
            self._batcher.resume(key)

    async def _prepare(self, bundle: Bundle, directory: Path) -> Model:
        """Read the weights and warm up; nobody is served by it yet."""
        model: Model | None = None
        try:
            model = await self._in_thread(lambda: self._read_model(bundle, directory))
            for step in warm_up_steps(model, self._batcher):
                await asyncio.wrap_future(self._batcher.execute(step))
        except Exception as error:
            # What the attempt had read goes now, not when somebody forgets the error: the memory may be needed.
            traceback.clear_frames(error.__traceback__)
            if model is not None:
                self._batcher.retire(key_of(model))
                await self._release(model)
            if isinstance(error, (BundleError, Draining)):
                raise
            logger.exception("a model cannot be loaded")
            raise ModelsError(f"{directory}: cannot be loaded ({str(error) or type(error).__name__})") from None
        return model

    async def _serve_or_release(
        self, model: Model, directory: Path, catalogue: Callable[[], Catalogue], origins: Origins
    ) -> None:
        try:
            self._serve(catalogue(), {**origins, key_of(model): Origin(directory, time.time())})
        except ModelsError:
            await self._release(model)
            raise

    def _serve(self, catalogue: Catalogue, origins: Origins) -> None:
        self._server.serve(catalogue)
        self._origins = dict(origins)
        self._changed(catalogue, origins)

    def _origins_without(self, key: Key) -> Origins:
        return {other: origin for other, origin in self._origins.items() if other != key}

    async def _release(self, model: Model) -> None:
        def release() -> None:
            model.release()
            self._memory.trim()

        await self._in_thread(release)

    async def _in_thread(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)


def _unloaded() -> UnknownModel:
    return UnknownModel("the version was unloaded", next_step="see GET /v1/models")
