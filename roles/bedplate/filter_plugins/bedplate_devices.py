"""Engines of a host, one for each device: gpu0, gpu1 … in the order of the PCI addresses, and cpu0, cpu1 …"""

from __future__ import annotations

DROP_IN = "etc/systemd/system/bedplate-engine@{}.service.d/gpu.conf"


def devices(declared, gpus):
    """What runs where.

    Args:
        declared: devices to run an engine on; without any, each GPU has one, or a processor where there is none.
        gpus: [{address, uuid, minor}], as library/host_gpus.py tells them.

    Returns:
        {engines, on_gpus, on_processors, told, untold, files}. `told`: GPUs whose driver tells node and UUID; `untold`:
        engines that would have none. `files`: for `host_files`, a drop-in for the engine of each GPU.
    """
    engines = list(declared) or [f"gpu{number}" for number in range(len(gpus))] or ["cpu0"]
    told = {f"gpu{number}": gpu for number, gpu in enumerate(gpus) if gpu["uuid"] and gpu["minor"] is not None}
    on_gpus = [engine for engine in engines if engine.startswith("gpu")]
    return {
        "engines": engines,
        "on_gpus": on_gpus,
        "on_processors": [engine for engine in engines if engine.startswith("cpu")],
        "told": list(told),
        "untold": [engine for engine in on_gpus if engine not in told],
        "files": [_drop_in(engine, told[engine]) for engine in on_gpus if engine in told],
    }


def _drop_in(engine, gpu):
    return {
        "path": f"/{DROP_IN.format(engine)}",
        "src": f"{DROP_IN.format('gpu')}.j2",
        "vars": {"__bedplate_gpu": gpu},
    }


class FilterModule:
    def filters(self):
        return {"bedplate_devices": devices}
