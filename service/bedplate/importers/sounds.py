"""A model of Hugging Face's that takes recordings as samples, with its extractor's way from samples to numbers."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bedplate.bundle.canary import MAX_CANARY_BYTES
from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.bundle.tensor import MAX_DIMENSION, Sound
from bedplate.decode.sound import samples_of, windows_of
from bedplate.importers.answers import Answers
from bedplate.importers.export import export
from bedplate.importers.exported import as_program
from bedplate.importers.options import Options
from bedplate.importers.writing import Array, Imported, numbers_validation

_DRAWN = 8
_MAX_S = 600.0  # of an example
_MAX_VALIDATION_BYTES = 32 << 20
_AT_ONCE = 4
_KINDS = {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus"}
_EXTRACTORS = ("Wav2Vec2FeatureExtractor",)
_EPSILON = 1e-7  # as the extractor has it


class Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(samples).logits
        return logits


class Windows(nn.Module):
    """(items, 1, samples) in, what `head` says of (items, samples) out; each window has the mean 0 and the deviation 1
    first, where the model was trained on such."""

    def __init__(self, head: nn.Module, normalizes: bool):
        super().__init__()
        self.head = head
        self._normalizes = normalizes

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        samples = windows.squeeze(1)
        if self._normalizes:
            mean = samples.mean(1, keepdim=True)
            samples = samples - mean
            samples = samples / (samples.square().mean(1, keepdim=True) + _EPSILON).sqrt()
        answers: torch.Tensor = self.head(samples)
        return answers


def imported(
    folder: Path, model: Any, head: Callable[[Any], nn.Module], answers: Answers, options: Options
) -> Imported:
    """
    Args:
        head: makes of the model what takes (items, samples) and gives answers.

    Raises:
        BundleError: its extractor makes something else than samples, or torch cannot export it.
    """
    extractor = _extractor(folder)
    rate_hz = int(extractor.sampling_rate)
    spec = _windows(options, rate_hz, folder)
    contents = _contents(options.examples, rate_hz, spec.window)
    # The first window of each: the answer to a longer recording is the mean of several.
    questions = np.concatenate([windows_of(samples_of(one, rate_hz, _MAX_S), spec)[:1] for one in contents])
    questions = (_in_16_bits(questions) / np.float32(32768)).astype(np.float32)  # as the canary's file has it
    wanted = head(model).eval()
    found = _original(wanted, extractor, questions, rate_hz)
    module = Windows(wanted, bool(extractor.do_normalize)).eval()
    graph = export(module, torch.from_numpy(questions[:2]), options.max_items, {}, str(folder))
    at = answers.canary(found)
    document: dict[str, Any] = {
        **options.document(answers.task("audio-classification"), f"{type(model).__name__} of {folder.resolve().name}"),
        "inputs": [
            {
                "name": "sound",
                "dtype": "float32",
                "shape": [1, spec.window],
                "audio": {"sample_rate": rate_hz, "hop": spec.hop},
            }
        ],
        "batch": {"max_items": graph.max_items},
        **answers.document("canary.wav", found),
    }
    source = f"of {options.examples}" if options.examples else "drawn by chance: --examples takes real ones"
    return Imported(
        document,
        as_program(graph.exported, str(folder)),
        {"canary.wav": _wav(questions[at, 0], rate_hz), **answers.files(found)},
        numbers_validation(questions, found, bool(answers.labels), _MAX_VALIDATION_BYTES),
        [questions],
        [found.astype(np.float64)],
        [
            f"windows of {spec.window / rate_hz:g} s at {rate_hz} Hz, one behind the other, the last filled up with "
            "silence; the answer to a recording is the mean of its windows",
            f"validation set and canary of {len(contents)} recordings {source}",
        ],
    )


def _extractor(folder: Path) -> Any:
    from transformers import AutoFeatureExtractor  # noqa: PLC0415

    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        said = words_of(error)
        raise BundleError(f"{folder}: transformers cannot load its feature extractor: {said}") from None
    name = type(extractor).__name__
    if name not in _EXTRACTORS:
        raise BundleError(
            f"{folder / 'preprocessor_config.json'}: {name} is not imported yet, wanted {' or '.join(_EXTRACTORS)}; "
            "the module goes by 'bedplate bundle import torch'"
        )
    return extractor


def _windows(options: Options, rate_hz: int, folder: Path) -> Sound:
    if not options.window_s:
        raise BundleError(
            f"{folder}: takes recordings; name --window SECONDS, as long as those that the model was trained with"
        )
    samples = round(options.window_s * rate_hz)
    if not 1 <= samples <= MAX_DIMENSION:
        raise BundleError(f"--window: {options.window_s:g} s does not do, wanted up to {MAX_DIMENSION // rate_hz} s")
    return Sound(rate_hz, samples, samples)


def _contents(examples: Path | None, rate_hz: int, window: int) -> list[bytes]:
    if examples is None:
        return [_wav(_drawn(number, window, rate_hz), rate_hz) for number in range(_DRAWN)]
    files = sorted(path for path in examples.iterdir() if path.suffix.lower() in _KINDS)
    if len(files) < 2:
        raise BundleError(f"{examples}: has no two recordings ({', '.join(sorted(_KINDS))})")
    return [path.read_bytes() for path in files]


def _drawn(number: int, samples: int, rate_hz: int) -> Array:
    """Some tones that come and go, and noise: (samples,) from -1 to 1."""
    random = np.random.default_rng(number)
    at_s = np.arange(samples) / rate_hz
    sound = random.normal(0, 0.02, samples)
    for _ in range(3):
        pitch_hz, pulse_hz = random.uniform(100, rate_hz / 5), random.uniform(0.5, 4)
        sound += 0.2 * np.sin(2 * np.pi * pitch_hz * at_s) * np.sin(2 * np.pi * pulse_hz * at_s)
    return sound.clip(-1, 1).astype(np.float32)


def _in_16_bits(samples: Array) -> Array:
    return np.asarray((samples * 32768).round().clip(-32768, 32767))


def _wav(samples: Array, rate_hz: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(_in_16_bits(samples).astype("<i2").tobytes())
    content = out.getvalue()
    if len(content) > MAX_CANARY_BYTES:
        raise BundleError(f"--window: a canary of {len(content)} bytes, {MAX_CANARY_BYTES} are allowed; take less")
    return content


def _original(head: nn.Module, extractor: Any, windows: Array, rate_hz: int) -> Array:
    """What the model says of what its own extractor makes of each window."""
    with torch.inference_mode():
        found = [
            head(extractor(list(some[:, 0]), sampling_rate=rate_hz, return_tensors="pt")["input_values"])
            for some in np.array_split(windows, -(-len(windows) // _AT_ONCE))
        ]
    return np.asarray(torch.cat(found).numpy())
