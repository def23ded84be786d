"""The engine program loads, warms up, listens and drains. There is one process for each device."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import signal

import torch
import uvloop

from bedplate.bundle.bundle import BundleError
from bedplate.engine import allocator, watchdog
from bedplate.engine.admin import Admin
from bedplate.engine.cores import cores_of
from bedplate.engine.faults import DeviceOutOfMemory
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.server import Server
from bedplate.engine.settings import EngineSettings
from bedplate.engine.start import Load, start
from bedplate.process import endpoint, garbage, log, notify
from bedplate.process.settings import SettingsError
from bedplate.telemetry.exposition import Exposition

logger = logging.getLogger(__name__)
_DEVICE = re.compile(r"(cpu|gpu)[0-9]{1,3}")
_REFUSED = 2


def run(settings: EngineSettings, device: str, load: Load | None = None) -> int:
    """Serve until SIGTERM. The exit status is 0 after a drain, and 2 if settings or a bundle were refused.

    Args:
        load: makes a model of a checked bundle; benchmarks pass models of known cost.
    """
    log.start(f"bedplate-engine@{device}")
    try:
        torch_device = choose_device(device)
        keep_to_cores(settings, device)
        torch.set_num_threads(settings.threads)
        allocator.keep_memory()
        load = load or functools.partial(Model.load, allowed=settings.code)
        uvloop.run(_serve(settings, device, torch_device, load))
    except (BundleError, SettingsError, DeviceOutOfMemory) as error:
        logger.error("refused to start: %s", error)
        return _REFUSED
    return 0


def choose_device(name: str) -> torch.device:
    """Return the torch device: cpuN is the CPU; gpuN is the first GPU in CUDA_VISIBLE_DEVICES, which the unit sets.

    Raises:
        SettingsError: the name is another one, or no GPU is visible.
    """
    if not _DEVICE.fullmatch(name):
        raise SettingsError(f"--device: {name!r} does not do, wanted cpu0, cpu1 ... or gpu0, gpu1 ...")
    if name.startswith("cpu"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingsError(f"--device: {name} does not do, torch sees no GPU; check the driver, or use cpu0")
    return torch.device("cuda:0")


def keep_to_cores(settings: EngineSettings, device: str) -> None:
    cores = cores_of(device, settings.threads, os.sched_getaffinity(0)) if settings.pin else None
    if cores:
        os.sched_setaffinity(0, cores)
        logger.info("keeps to its cores", extra={"cores": sorted(cores)})


async def _serve(settings: EngineSettings, device: str, torch_device: torch.device, load: Load) -> None:
    loop = asyncio.get_running_loop()
    metrics = EngineMetrics()
    stopping = asyncio.Event()
    server, loader = await start(settings, device, torch_device, metrics, stopping.set, load)
    exposition = await _expose(settings, device, metrics)
    garbage.settle()
    # Only from here on is there anything to drain; before, a signal simply ends the process.
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    path = settings.socket_dir / f"{device}.sock"
    listener = await loop.create_unix_server(server.connection, sock=endpoint.bind(path))
    admin = Admin(loader, settings.models_dir)
    if settings.admin_dir:
        await admin.start(settings.admin_dir / f"{device}.sock")
    notify.notify("READY=1", f"STATUS=serving {len(server.catalogue.models)} models on {device}")
    logger.info("ready", extra={"socket": str(path)})
    feeding = _feed_watchdog(server)
    await stopping.wait()
    if feeding:
        feeding.cancel()
    notify.notify("STOPPING=1")
    logger.info("draining")
    path.unlink(missing_ok=True)
    listener.close()
    await admin.close()
    await server.drain()
    loader.close()
    if exposition:
        exposition.close()
    logger.info("stopped")


async def _expose(settings: EngineSettings, device: str, metrics: EngineMetrics) -> Exposition | None:
    if not settings.metrics_dir:
        return None
    exposition = Exposition(settings.metrics_dir / f"engine@{device}.sock", metrics.registry)
    await exposition.start()
    return exposition


def _feed_watchdog(server: Server) -> asyncio.Task[None] | None:
    interval_s = notify.watchdog_interval_s()
    if interval_s is None:
        return None
    return asyncio.create_task(watchdog.feed(server.batcher, server.probe, notify.notify, interval_s))
