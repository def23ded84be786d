"""Train three networks to tell which instrument plays: fast, default and accurate, versions of one model.

    PYTHONPATH=service python -m examples.timbre.train

writes build/bundles/timbre/1-fast, 1 and 1-accurate, and build/examples/timbre/heldout: recordings by other
instruments in other rooms, as files of all kinds, with the truth and what each version says.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.decode.sound import samples_of
from torch import nn

from examples.common import run, training
from examples.common.bundles import write_bundle
from examples.common.heldout import write_held_out, write_predictions
from examples.common.sets import chance_of
from examples.timbre.files import to_file
from examples.timbre.sounds import HELD_OUT, INSTRUMENTS, TRAINING, recording

SEED = 20260411
THRESHOLD = 0.95  # of the held-out recordings; the networks get more
RATE_HZ = 16_000
WINDOW = 2 * RATE_HZ  # samples: long enough for some notes
LABELS = list(INSTRUMENTS)
RECORDINGS = {"training": 140, "validation": 15, "held out": 20}  # of each instrument
SILENCE = math.log(1e-6)  # what the layer mel_spectrogram makes of it
IN_BUNDLE = 108  # windows of the validation set, which goes to every host: 12 of each instrument, of all kinds of files
LEARNT_S = 4  # length of a recording to learn from: two windows
HELD_OUT_FILES = [("mp3", 44_100, 2), ("flac", 22_050, 1), ("wav", 16_000, 1), ("mp3", 32_000, 1), ("flac", 48_000, 2)]


@dataclass(frozen=True)
class Variant:
    version: str
    hop: int  # samples from one window to the next
    mels: int  # pitches that the network sees
    channels: tuple[int, ...]  # of its convolutions
    epochs: int
    threshold: float  # of single windows, which tell less than whole recordings

    @property
    def network(self) -> list[Any]:
        """A spectrogram, then convolutions that each halve it."""
        spectrum = {"sample_rate": RATE_HZ, "n_fft": 1024, "hop_length": 512, "n_mels": self.mels}
        layers: list[Any] = [{"mel_spectrogram": spectrum}]  # [1, mels, 63]
        for before, after in zip((1, *self.channels), self.channels, strict=False):
            size = {"in_channels": before, "out_channels": after, "kernel_size": 3, "stride": 2, "padding": 1}
            layers += [{"conv2d": size | {"bias": False}}, {"batch_norm2d": {"num_features": after}}, "relu"]
        layers += [{"adaptive_avg_pool2d": {"output_size": 1}}, "flatten", {"dropout": {"p": 0.2}}]
        return [*layers, {"linear": {"in_features": self.channels[-1], "out_features": len(LABELS)}}]


VARIANTS = (
    Variant("1-fast", hop=WINDOW, mels=48, channels=(12, 24, 48), epochs=20, threshold=0.9),
    Variant("1", hop=WINDOW, mels=64, channels=(16, 32, 64, 64), epochs=12, threshold=0.95),
    Variant("1-accurate", hop=WINDOW // 2, mels=96, channels=(24, 48, 96, 128), epochs=12, threshold=0.95),
)
BUNDLES = [f"timbre/{variant.version}" for variant in VARIANTS]


def main() -> int:
    return run.run(__file__, BUNDLES, make)


def make(build: Path) -> None:
    learnt, chosen_by = windows("training"), windows("validation")
    print(f"{len(learnt[1])} windows to learn from, {len(chosen_by[1])} to choose by", flush=True)
    folder = run.held_out_folder(build, "timbre")
    files = held_out_files()
    write_held_out(folder, files, (name.split("-")[1].partition(".")[0] for name in files))
    for variant in VARIANTS:
        print(f"timbre {variant.version}", flush=True)
        module = train(variant, learnt, chosen_by)
        bundle = run.bundle_folder(build, f"timbre/{variant.version}")
        write(bundle, variant, module, chosen_by, one_window_each(files))
        right = write_predictions(folder, bundle)
        print(f"held out: {right:.2%} of {len(files)} recordings right")
        if right < THRESHOLD:
            raise run.NotGoodEnough(
                f"{variant.version} gets {right:.1%} of the held-out recordings, wanted {THRESHOLD:.0%}"
            )


def windows(part: str) -> training.Set:
    """Of every instrument alike, (windows, 1, WINDOW) float32 and the places of their labels."""
    sounds, places = [], []
    for number in range(RECORDINGS[part] * len(LABELS)):
        label = number % len(LABELS)
        samples = recording(LABELS[label], LEARNT_S, RATE_HZ, TRAINING, chance_of(SEED, part, number))
        sounds.append(samples.astype(np.float32).reshape(-1, 1, WINDOW))
        places += [label] * len(sounds[-1])
    return torch.from_numpy(np.concatenate(sounds)), torch.tensor(places)


def held_out_files() -> dict[str, bytes]:
    """By NUMBER-INSTRUMENT.KIND: 3 to 8 s, of several rates, in one and two channels."""
    files = {}
    for number in range(RECORDINGS["held out"] * len(LABELS)):
        name, chance = LABELS[number % len(LABELS)], chance_of(SEED, "held out", number)
        kind, rate_hz, channels = HELD_OUT_FILES[number // len(LABELS) % len(HELD_OUT_FILES)]
        samples = recording(name, chance.uniform(3, 8), rate_hz, HELD_OUT, chance)
        files[f"{number:03d}-{name}.{kind}"] = to_file(samples, rate_hz, kind, channels)
    return files


def one_window_each(files: dict[str, bytes]) -> training.Set:
    """The beginnings of the first held-out recordings, decoded as the service does it."""
    some = list(files.items())[:IN_BUNDLE]
    starts = [samples_of(content, RATE_HZ, 60)[:WINDOW] for _, content in some]
    places = [LABELS.index(name.split("-")[1].partition(".")[0]) for name, _ in some]
    return torch.from_numpy(np.stack(starts)[:, np.newaxis]), torch.tensor(places)


def train(variant: Variant, learnt: training.Set, chosen_by: training.Set) -> nn.Module:
    torch.manual_seed(SEED)
    module = training.build(variant.network)
    spectrogram, rest = module[0], module[1:]
    # The spectrogram learns nothing, so it is computed once.
    with torch.inference_mode():
        spectrograms = [spectrogram(inputs) for inputs, _ in (learnt, chosen_by)]
    sets = [(inputs.clone(), places) for inputs, (_, places) in zip(spectrograms, (learnt, chosen_by), strict=True)]
    training.train(rest, *sets, epochs=variant.epochs, learning_rate=6e-3, batch_items=32, vary=vary)
    return module


def vary(spectra: torch.Tensor) -> torch.Tensor:
    """Each louder or softer, through another microphone, from another moment on; of some only the beginning."""
    count, _, mels, frames = spectra.shape
    loudness = 1.5 * torch.randn(count, 1, 1, 1)
    tilt = torch.randn(count, 1, 1, 1) * torch.linspace(-1, 1, mels).reshape(1, 1, mels, 1)
    varied = torch.roll(spectra, int(torch.randint(frames, ())), dims=3) + loudness + tilt
    # The last window of a file is filled up with silence.
    end = torch.randint(frames // 8, 3 * frames, (count, 1, 1, 1))
    return torch.where(torch.arange(frames) < end, varied, SILENCE)


def document(variant: Variant, canary: str) -> dict[str, Any]:
    sound = {"sample_rate": RATE_HZ, "hop": variant.hop}
    return {
        "format": 1,
        "name": "timbre",
        "version": variant.version,
        "task": "audio-classification",
        "description": "Which instrument plays in a recording",
        "inputs": [{"name": "sound", "dtype": "float32", "shape": [1, WINDOW], "audio": sound}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [len(LABELS)]}],
        "labels": LABELS,
        "activation": "softmax",
        "batch": {"max_items": 64},
        "weights": "weights.safetensors",
        "network": variant.network,
        "validation": {"file": "validation.safetensors", "metric": "accuracy", "threshold": variant.threshold},
        "canary": {"file": "canary.flac", "label": canary},
    }


def write(bundle: Path, variant: Variant, module: nn.Module, chosen_by: training.Set, validation: training.Set) -> None:
    place = training.surest(module, chosen_by)
    canary = to_file(chosen_by[0][place, 0].numpy().astype(np.float64), RATE_HZ, "flac")
    label = LABELS[int(chosen_by[1][place])]
    write_bundle(bundle, document(variant, label), module, validation, {"canary.flac": canary})


if __name__ == "__main__":
    sys.exit(main())
