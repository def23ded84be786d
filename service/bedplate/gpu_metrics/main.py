"""The GPU metrics program: samples the host's GPUs and exports the metrics on a unix socket, as engines do."""

from __future__ import annotations

import asyncio
import logging
import signal

from bedplate.gpu_metrics.gpus import Gpus
from bedplate.gpu_metrics.nvml import Nvml
from bedplate.gpu_metrics.sampler import Sampler
from bedplate.gpu_metrics.settings import GpuMetricsSettings
from bedplate.process import log
from bedplate.process.notify import notify
from bedplate.telemetry import exposition

_log = logging.getLogger(__name__)


def run(settings: GpuMetricsSettings) -> int:
    """Serve until SIGTERM."""
    log.start("bedplate-gpu-metrics")
    nvml = Nvml(settings.gpus)
    sampler = Sampler(nvml.sample, len(settings.gpus))
    registry = exposition.new_registry()
    registry.register(Gpus(settings.gpus, sampler.latest, nvml.xids))
    sampler.start()
    asyncio.run(_serve(exposition.Exposition(settings.metrics_dir / "gpus.sock", registry), len(settings.gpus)))
    sampler.stop()
    return 0


async def _serve(told: exposition.Exposition, gpus: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    await told.start()
    notify("READY=1", f"STATUS=telling of {gpus} GPUs")
    _log.info("ready", extra={"gpus": gpus})
    await stopping.wait()
    told.close()
