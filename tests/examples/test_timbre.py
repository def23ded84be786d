"""Sounds that stand for instruments: in range, the same for the same seed, and files that the service reads."""

import numpy as np
import pytest
import torch
from bedplate.decode.sound import samples_of

from examples.common import training
from examples.common.sets import chance_of
from examples.timbre import train as timbre
from examples.timbre.files import to_file
from examples.timbre.sounds import HELD_OUT, INSTRUMENTS, TRAINING, recording


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_an_instrument_sounds_and_never_beyond_full_scale(name):
    samples = recording(name, 2, 16_000, HELD_OUT, np.random.default_rng(1))

    assert samples.shape == (32_000,)
    assert np.isfinite(samples).all()
    assert 0.05 <= np.abs(samples).max() <= 1


def test_a_seed_is_a_recording_and_no_two_sets_share_one():
    def drawn(part, number):
        return recording("flute", 1, 16_000, TRAINING, chance_of(timbre.SEED, part, number))

    assert np.array_equal(drawn("training", 0), drawn("training", 0))
    assert not np.array_equal(drawn("training", 0), drawn("held out", 0))
    assert not np.array_equal(drawn("training", 0), drawn("training", 1))


def test_held_out_recordings_come_from_wider_ranges():
    for name, (low, high) in vars(TRAINING).items():
        wide_low, wide_high = getattr(HELD_OUT, name)
        assert wide_low < low < high < wide_high, name


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_holds_the_recording(kind, channels):
    samples = recording("organ", 1, 32_000, TRAINING, np.random.default_rng(2))

    heard = samples_of(to_file(samples, 32_000, kind, channels), 32_000, 60)

    # mp3 begins with some samples of its own.
    sent, got = (np.abs(np.fft.rfft(part[:32_000])) for part in (samples, heard))
    assert np.corrcoef(sent, got)[0, 1] > 0.99


def test_the_network_of_each_variant_takes_a_window_and_names_an_instrument():
    for variant in timbre.VARIANTS:
        logits = training.build(variant.network).eval()(torch.zeros(2, 1, timbre.WINDOW))

        assert logits.shape == (2, len(INSTRUMENTS))


def test_silence_is_what_the_layer_makes_of_it():
    [layer] = training.build(timbre.VARIANTS[0].network[:1])

    assert layer(torch.zeros(1, 1, timbre.WINDOW)).unique().item() == pytest.approx(timbre.SILENCE)
