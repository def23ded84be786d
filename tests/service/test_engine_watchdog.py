"""systemd hears from the engine as long as the device gets things done, and not a beat longer."""

import asyncio
from dataclasses import dataclass

import pytest
from bedplate.engine import watchdog

INTERVAL_S = 0.002
ROUNDS = 10


class EnoughRounds(Exception):
    pass


@dataclass
class Device:
    """A batcher as the watchdog sees it, and what happens in each interval."""

    is_idle: bool = True
    answers_probes: bool = True
    finishes_batches: bool = False
    batches: int = 0
    probes: int = 0
    rounds: int = 0

    @property
    def idle(self):
        self.rounds += 1
        if self.rounds > ROUNDS:
            raise EnoughRounds
        self.batches += self.finishes_batches
        return self.is_idle

    def probe(self):
        self.probes += 1
        self.batches += self.answers_probes


def beats_of(device):
    """What systemd hears in ROUNDS intervals."""
    heard = []
    with pytest.raises(EnoughRounds):
        asyncio.run(watchdog.feed(device, device.probe, heard.append, INTERVAL_S))
    return heard


def test_an_idle_device_that_answers_its_probes_is_alive():
    assert beats_of(Device()) == ["WATCHDOG=1"] * ROUNDS


def test_an_idle_device_that_hangs_or_fails_on_its_probe_is_not():
    device = Device(answers_probes=False)

    assert beats_of(device) == []
    assert device.probes == ROUNDS


def test_a_busy_device_that_finishes_batches_is_alive_without_probes():
    device = Device(is_idle=False, finishes_batches=True)

    assert beats_of(device) == ["WATCHDOG=1"] * ROUNDS
    assert device.probes == 0


def test_a_busy_device_that_answers_nothing_is_asked_and_not_alive():
    device = Device(is_idle=False, answers_probes=False)

    assert beats_of(device) == []
    assert device.probes == ROUNDS - 1


def test_a_device_kept_busy_with_what_its_model_fails_on_is_alive_if_it_answers_its_probes():
    device = Device(is_idle=False)

    # At least every second time; systemd waits for three.
    assert len(beats_of(device)) >= ROUNDS // 2
