"""What an engine begins with: what it served before it crashed, or else what its settings list."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bedplate.bundle import Bundle, BundleError, read_bundle
from bedplate.engine.catalogue import Catalogue, ModelsError, parse_aliases
from bedplate.engine.loader import Loader, Origin, Origins
from bedplate.engine.memory import Memory
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.server import Server
from bedplate.engine.settings import EngineSettings
from bedplate.engine.state import Served, State
from bedplate.engine.work import key_of
from bedplate.settings import SettingsError

logger = logging.getLogger(__name__)
# A checked bundle, its directory, the device and what to compute in → the model on that device.
Load = Callable[[Bundle, Path, torch.device, str], Model]


async def start(
    settings: EngineSettings,
    device: str,
    torch_device: torch.device,
    metrics: EngineMetrics,
    give_up: Callable[[], None],
    load: Load,
) -> tuple[Server, Loader]:
    """Load every bundle and warm it up.

    Raises:
        BundleError, SettingsError: what the settings list cannot be served. What was loaded by hand never is a reason.
    """
    memory = Memory.of(torch_device, settings.models_memory_bytes)

    def read_model(bundle: Bundle, directory: Path) -> Model:
        return load(bundle, directory, torch_device, settings.precision)

    state = State(settings, device)

    def keep(catalogue: Catalogue, origins: Origins) -> None:
        state.save([origins[key_of(model)].directory for model in catalogue.models], catalogue.aliases)

    async def serve(served: Served) -> tuple[Server, Loader]:
        models = load_models(served.bundles, read_model, settings.models_memory_bytes)
        server = await _warm_server(list(models.values()), served, settings, metrics)
        origins = {key_of(model): Origin(directory, time.time()) for directory, model in models.items()}
        return server, Loader(
            server,
            read_model,
            memory,
            origins,
            changed=keep,
            give_up=give_up,
        )

    if before := state.take():
        try:
            serving = await serve(before)
        except Exception as error:
            logger.error("what was loaded by hand is not served again: %s", error)
            state.forget()
        else:
            logger.info("what was loaded by hand is served again")
            state.save(before.bundles, before.aliases)
            return serving
    return await serve(Served(settings.bundles, parse_aliases(settings.aliases)))


def load_models(
    directories: Sequence[Path], read_model: Callable[[Bundle, Path], Model], limit_bytes: int | None
) -> dict[Path, Model]:
    """Read, check and load every bundle.

    Raises:
        BundleError: one of them does not do, or comes twice, or all together need more memory than they may have.
    """
    models: dict[Path, Model] = {}
    for directory in directories:
        bundle = read_bundle(directory)
        if (bundle.name, bundle.version) in map(key_of, models.values()):
            raise BundleError(f"{directory}: {bundle.name} {bundle.version} is listed twice; remove one from 'bundles'")
        models[directory] = read_model(bundle, directory)
        needed = sum(model.weights_bytes for model in models.values())
        if limit_bytes is not None and needed > limit_bytes:
            raise BundleError(
                f"{directory}: the weights of it and those before it need {needed} bytes, models_memory_bytes is "
                f"{limit_bytes}; raise it, or list fewer bundles"
            )
        logger.info("model loaded", extra={"model": bundle.name, "version": bundle.version})
    return models


async def _warm_server(
    models: Sequence[Model], served: Served, settings: EngineSettings, metrics: EngineMetrics
) -> Server:
    loop = asyncio.get_running_loop()
    try:
        catalogue = Catalogue(models, served.aliases)
        server = Server(catalogue, loop, settings.queue_limit, metrics, settings.batch_wait_ms)
    except ModelsError as error:
        raise SettingsError(f"bundles and aliases: {error}") from None
    await server.start()
    return server
