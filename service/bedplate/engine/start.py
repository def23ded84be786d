"""What an engine starts with: what it served before it crashed, or else what its settings list."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bedplate.bundle.bundle import Bundle, BundleError, read_bundle
from bedplate.engine.catalogue import Aliases, Catalogue, ModelsError, parse_aliases
from bedplate.engine.loader import Loader, Origin, Origins
from bedplate.engine.memory import Memory
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.prepared import ArtifactStore, Host
from bedplate.engine.server import Server
from bedplate.engine.settings import EngineSettings
from bedplate.engine.state import State
from bedplate.engine.variant import ModelVariant
from bedplate.engine.work import Key, key_of
from bedplate.process.settings import SettingsError

logger = logging.getLogger(__name__)
# A checked bundle, its directory, the device and how to compute → the model on that device.
Load = Callable[[Bundle, Path, torch.device, ModelVariant], Model]
Models = dict[Path, Model]


async def start(
    settings: EngineSettings,
    device: str,
    torch_device: torch.device,
    metrics: EngineMetrics,
    give_up: Callable[[], None],
    load: Load,
) -> tuple[Server, Loader]:
    """Load every bundle and warm it up. A bundle that is refused does not keep the others from being served.

    Raises:
        BundleError, SettingsError: nothing that the settings list can be served, or not together. Bundles that were
            loaded by hand never raise.
    """
    if not settings.bundle_signers:
        logger.warning("bundle_signers is not set: bundles are compared with their sums, whoever wrote those")
    memory = Memory.of(torch_device, settings.models_memory_bytes)

    trying = settings.socket_dir / f"{device}.native.trying"
    shelf = _shelf(settings, torch_device, trying)
    is_starting = True

    def read_model(bundle: Bundle, directory: Path) -> Model:
        plain = ModelVariant(settings.precision)
        form = shelf.form_of(bundle) if shelf else None
        if is_starting and form and form.package:
            trying.touch()
        try:
            return load(bundle, directory, torch_device, form or plain)
        except RuntimeError as error:
            if form is None or form.package is None:
                raise
            logger.error("native code cannot be loaded, the bundle itself is: %s", error)
        return load(bundle, directory, torch_device, plain)

    def read(directory: Path) -> Model:
        return read_model(read_bundle(directory, settings.bundle_signers), directory)

    state = State(settings, device)

    def keep(catalogue: Catalogue, origins: Origins) -> None:
        state.save([origins[key_of(model)].directory for model in catalogue.models], catalogue.aliases)

    async def serve(models: Models, aliases: Aliases, refuse_some: bool = False) -> tuple[Server, Loader]:
        nonlocal is_starting
        server, refused = await _warm_server(list(models.values()), aliases, settings, metrics)
        if refused:
            if len(refused) == len(models) or not refuse_some:
                await server.drain()
                raise next(iter(refused.values()))
            models = await _without(refused, server, models, aliases)
            memory.trim()
        # What is loaded later and ends the engine is not loaded again when it starts.
        is_starting = False
        trying.unlink(missing_ok=True)
        origins = {key_of(model): Origin(directory, time.time()) for directory, model in models.items()}
        return server, Loader(
            server,
            read_model,
            memory,
            origins,
            signers=settings.bundle_signers,
            changed=keep,
            give_up=give_up,
        )

    if before := state.take():
        try:
            models = load_models(before.bundles, read, settings.models_memory_bytes)
            serving = await serve(models, before.aliases)
        except Exception as error:
            logger.error("what was loaded by hand is not served again: %s", error)
            state.forget()
        else:
            logger.info("what was loaded by hand is served again")
            state.save(before.bundles, before.aliases)
            return serving
    refusals: dict[Path, BundleError] = {}
    models = load_models(settings.bundles, read, settings.models_memory_bytes, refusals)
    aliases: Aliases = parse_aliases(settings.aliases)
    return await serve(models, _without_refused(aliases, models) if refusals else aliases, refuse_some=True)


def _shelf(settings: EngineSettings, device: torch.device, trying: Path) -> ArtifactStore | None:
    """
    Args:
        trying: is there while native code is loaded and warmed up; then it has ended the engine that did so.
    """
    if trying.exists():
        logger.error("the engine ended while it tried native code, which is ignored this time")
        trying.unlink()
        return None
    if not settings.prepared_dir:
        return None
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return ArtifactStore(settings.prepared_dir, Host.here(kind, settings.threads))


def load_models(
    directories: Sequence[Path],
    read: Callable[[Path], Model],
    limit_bytes: int | None,
    refusals: dict[Path, BundleError] | None = None,
) -> Models:
    """Read, check and load every bundle.

    Args:
        refusals: collects the bundles that cannot be loaded, if another one can; without it the first one raises.

    Raises:
        BundleError: a bundle cannot be loaded, or is listed twice, or all together need more memory than they may have.
    """
    models: Models = {}
    for directory in directories:
        try:
            model = read(directory)
        except BundleError as error:
            if refusals is None:
                raise
            logger.error("a bundle is refused: %s", error)
            refusals[directory] = error
            continue
        bundle = model.bundle
        if key_of(model) in map(key_of, models.values()):
            raise BundleError(f"{directory}: {bundle.name} {bundle.version} is listed twice; remove one from 'bundles'")
        models[directory] = model
        needed = sum(model.weights_bytes for model in models.values())
        if limit_bytes is not None and needed > limit_bytes:
            raise BundleError(
                f"{directory}: the weights of it and those before it need {needed} bytes, models_memory_bytes is "
                f"{limit_bytes}; raise it, or list fewer bundles"
            )
        told = {"model": bundle.name, "version": bundle.version, "signer": bundle.signer, "form": model.form}
        logger.info("model loaded", extra=told)
    if refusals and not models:
        raise next(iter(refusals.values()))
    return models


def _without_refused(aliases: Aliases, models: Models) -> Aliases:
    """The aliases of versions that are there. A name whose default was refused has its next version instead."""
    loaded = set(map(key_of, models.values()))
    return {
        name: {alias: version for alias, version in theirs.items() if (name, version) in loaded}
        for name, theirs in aliases.items()
        if any(name == other for other, _ in loaded)
    }


async def _warm_server(
    models: Sequence[Model], aliases: Aliases, settings: EngineSettings, metrics: EngineMetrics
) -> tuple[Server, Mapping[Key, BundleError]]:
    loop = asyncio.get_running_loop()
    try:
        catalogue = Catalogue(models, aliases)
        server = Server(catalogue, loop, settings.queue_limit, metrics, settings.batch_wait_ms)
    except ModelsError as error:
        raise SettingsError(f"bundles and aliases: {error}") from None
    return server, await server.start()


async def _without(refused: Mapping[Key, BundleError], server: Server, models: Models, aliases: Aliases) -> Models:
    """Let `server` serve the rest of `models`, and free the memory of those that do not run."""
    rest = {directory: model for directory, model in models.items() if key_of(model) not in refused}
    server.serve(Catalogue(rest.values(), _without_refused(aliases, rest)))
    for model in models.values():
        if error := refused.get(key_of(model)):
            logger.error("a bundle is refused: %s", error)
            await asyncio.wrap_future(server.batcher.retire(key_of(model)))
            model.release()
    return rest
