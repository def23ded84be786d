"""systemd hears from the engine as long as the device gets things done, and not a beat longer."""

import asyncio
import contextlib
from dataclasses import dataclass

from bedplate.engine import watchdog

INTERVAL_S = 0.005


@dataclass
class Device:
    """What the watchdog sees of a batcher."""

    idle: bool = True
    batches: int = 0


def beats_of(device, probe, rounds):
    """Feed for `rounds` intervals; what was sent to systemd."""
    sent = []
    ticks = []

    async def counted_probe():
        ticks.append("probe")
        await probe()

    async def main():
        feeding = asyncio.create_task(watchdog.feed(device, counted_probe, sent.append, INTERVAL_S))
        await asyncio.sleep(INTERVAL_S * rounds)
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding

    asyncio.run(main())
    return sent, ticks


def test_an_idle_device_that_answers_its_probe_is_alive():
    device = Device()

    async def answer():
        device.batches += 1

    sent, probes = beats_of(device, answer, rounds=40)

    assert set(sent) == {"WATCHDOG=1"}
    assert len(sent) == len(probes)


def test_an_idle_device_that_swallows_its_probe_is_not():
    device = Device()

    async def hang():
        await asyncio.Event().wait()

    sent, probes = beats_of(device, hang, rounds=20)

    assert sent == []
    assert probes


def test_an_idle_device_that_fails_its_probe_is_not():
    device = Device()

    async def fail():
        """The batch failed, so the batcher did not count it."""

    sent, probes = beats_of(device, fail, rounds=20)

    assert sent == []
    assert probes


def test_a_busy_device_that_finishes_batches_is_alive_without_probes():
    class Busy:
        idle = False
        finished = 0

        @property
        def batches(self):
            self.finished += 1
            return self.finished

    async def unwanted():
        raise AssertionError("a busy device was probed")

    sent, probes = beats_of(Busy(), unwanted, rounds=40)

    assert sent
    assert probes == []


def test_a_busy_device_that_finishes_nothing_is_not():
    async def unwanted():
        raise AssertionError("a busy device was probed")

    sent, probes = beats_of(Device(idle=False), unwanted, rounds=20)

    assert (sent, probes) == ([], [])
