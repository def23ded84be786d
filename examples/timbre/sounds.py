"""Recordings of instruments that nobody played: notes by additive synthesis, in a room, with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
_TAU = 2 * np.pi


@dataclass(frozen=True)
class Ranges:
    """What recordings of a set have in common; each draws its own from it."""

    touch: tuple[float, float]  # how an instrument is built and played, of the whole range 0 to 1
    note_s: tuple[float, float]
    echo_s: tuple[float, float]  # until the room is 60 dB quieter
    noise: tuple[float, float]  # of the peak
    loud: tuple[float, float]  # peak


TRAINING = Ranges(touch=(0.1, 0.9), note_s=(0.2, 0.9), echo_s=(0.1, 0.8), noise=(1e-4, 0.01), loud=(0.1, 0.9))
# Beyond it on both sides: instruments, tempos, rooms and noise that no training has heard.
HELD_OUT = Ranges(touch=(0.0, 1.0), note_s=(0.15, 1.2), echo_s=(0.05, 1.2), noise=(5e-5, 0.02), loud=(0.05, 1.0))


@dataclass(frozen=True)
class Note:
    hz: float
    length_s: float
    rate_hz: int
    touch: npt.NDArray[np.float64]  # (4,) from 0 to 1, the same for all notes of a recording
    chance: np.random.Generator

    @property
    def times(self) -> Samples:
        return np.arange(int(self.length_s * self.rate_hz)) / self.rate_hz

    def between(self, which: int, low: float, high: float) -> float:
        return float(low + (high - low) * self.touch[which])

    def noise(self) -> Samples:
        return self.chance.standard_normal(len(self.times))


def _tones(note: Note, ratios: Samples, levels: Samples, vibrato: float = 0.0, decay: Samples | None = None) -> Samples:
    """Sines at `ratios` of the note's pitch; what does not fit under half the rate is left out.

    Args:
        vibrato: share of the pitch by which it swings.
        decay: of each sine, in 1/s.
    """
    times = note.times
    swing = 1 + vibrato * np.sin(_TAU * note.between(3, 4.5, 6.5) * times + note.chance.uniform(0, _TAU))
    turns = np.cumsum(note.hz * swing) / note.rate_hz
    sound = np.zeros_like(times)
    for n, (ratio, level) in enumerate(zip(ratios, levels, strict=True)):
        if note.hz * ratio < 0.45 * note.rate_hz and level > 1e-4:
            fading = np.exp(-decay[n] * times) if decay is not None else 1.0
            turn = ratio * turns + note.chance.uniform()
            # Of 32 bits a sine takes a fifth of the time; only the part of the turn may be rounded so.
            sound += level * fading * np.sin(np.float32(_TAU) * (turn - np.rint(turn)).astype(np.float32))
    return sound


def _swell(note: Note, rise_s: float, fall_s: float) -> Samples:
    """From nothing to full and back to nothing, as breath and bow do."""
    times = note.times
    return np.minimum(1, times / rise_s) * np.clip((note.length_s - times) / fall_s, 0, 1)


def _harmonics(count: int) -> Samples:
    return np.arange(1, count + 1, dtype=np.float64)


def _flute(note: Note) -> Samples:
    harmonics = _harmonics(6)
    tone = _tones(note, harmonics, note.between(0, 0.2, 0.4) ** (harmonics - 1), vibrato=note.between(1, 0.002, 0.01))
    breath = np.convolve(note.noise(), np.ones(6) / 6, "same") * note.between(2, 0.05, 0.2)
    return (tone + breath) * _swell(note, 0.06, 0.06)


def _clarinet(note: Note) -> Samples:
    """A pipe closed at one end: odd harmonics, hardly any even ones."""
    harmonics = _harmonics(15)
    even = harmonics % 2 == 0
    levels = harmonics ** -note.between(0, 0.8, 1.4) * np.where(even, note.between(1, 0.02, 0.12), 1)
    return _tones(note, harmonics, levels) * _swell(note, 0.03, 0.05)


def _violin(note: Note) -> Samples:
    """A sawtooth, coloured by a body that resonates, with vibrato and the scratch of the bow."""
    harmonics = _harmonics(25)
    hertz = harmonics * note.hz
    body = sum(np.exp(-(((hertz - at) / 250) ** 2)) for at in (480, note.between(0, 900, 1300), 2600))
    levels = (0.3 + body) / harmonics ** note.between(1, 0.7, 1.0)
    tone = _tones(note, harmonics, levels, vibrato=note.between(2, 0.006, 0.016))
    return (tone + 0.02 * note.noise()) * _swell(note, 0.12, 0.08)


def _trumpet(note: Note) -> Samples:
    """Brass: the louder the brighter, so that upper harmonics come after lower ones."""
    harmonics = _harmonics(18)
    swell = _swell(note, 0.04, 0.06)
    dull = _tones(note, harmonics, np.exp(-0.9 * (harmonics - 1)))
    bright = _tones(note, harmonics, np.exp(-((harmonics - 4) ** 2) / (2 * note.between(0, 3.0, 5.0) ** 2)))
    return dull * swell + bright * swell ** note.between(1, 2, 4)


def _piano(note: Note) -> Samples:
    """Stiff strings: partials a little sharp, two strings a key that beat, a hammer that knocks."""
    harmonics = _harmonics(16)
    ratios = harmonics * np.sqrt(1 + note.between(0, 1e-4, 8e-4) * harmonics**2)
    levels = harmonics ** -note.between(1, 0.9, 1.5)
    decay = 1.2 + 0.5 * harmonics
    strings = sum(_tones(note, ratios * (1 + detune), levels, decay=decay) for detune in (0.0, 0.0008))
    knock = note.noise() * np.exp(-note.times / 0.008) * note.between(2, 0.2, 0.6)
    return (strings + knock) * _swell(note, 0.002, 0.06)


def _guitar(note: Note) -> Samples:
    """A string that is plucked at a place: the harmonics with a node there are missing, and the high ones die first."""
    harmonics = _harmonics(24)
    levels = np.abs(np.sin(np.pi * harmonics * note.between(0, 0.12, 0.3))) / harmonics**0.8
    decay = note.between(1, 2, 4) + note.between(2, 0.1, 0.25) * harmonics**1.6
    return _tones(note, harmonics, levels, decay=decay) * _swell(note, 0.001, 0.03)


def _organ(note: Note) -> Samples:
    """Pipes in octaves and fifths that neither swell nor fade."""
    ratios = np.array([0.5, 1, 1.5, 2, 3, 4, 6, 8])
    drawn = 0.2 + 0.8 * note.touch[np.arange(8) % 4] * np.array([1, 1, 0.5, 0.9, 0.4, 0.7, 0.3, 0.5])
    return _tones(note, ratios, drawn) * _swell(note, 0.01, 0.01)


def _bell(note: Note) -> Samples:
    """Partials of cast bells, in no harmony, ringing long."""
    ratios = np.array([0.5, 1, 1.183, 1.506, 2, 2.514, 2.662, 3.011, 4.166, 5.433])
    levels = np.array([0.5, 1, 0.8, 0.4, 0.9, 0.4, 0.3, 0.3, 0.25, 0.2]) ** note.between(0, 0.7, 1.3)
    decay = note.between(1, 0.8, 2) * ratios**0.8
    return _tones(note, ratios * (1 + 0.01 * (note.touch[2] - 0.5)), levels, decay=decay) * _swell(note, 0.001, 0.05)


def _drum(note: Note) -> Samples:
    """A skin whose pitch drops after the stroke, and the wires under it."""
    times = note.times
    pitch = note.hz * (1 + note.between(0, 0.5, 1.5) * np.exp(-times / 0.03))
    skin = np.sin(_TAU * np.cumsum(pitch) / note.rate_hz) * np.exp(-times / note.between(1, 0.08, 0.2))
    wires = note.noise() * np.exp(-times / note.between(2, 0.04, 0.15)) * note.between(3, 0.2, 0.8)
    return (skin + wires) * _swell(note, 0.001, 0.01)


# name: (a note of it, lowest and highest pitch in Hz)
INSTRUMENTS: dict[str, tuple[Callable[[Note], Samples], float, float]] = {
    "bell": (_bell, 300, 1200),
    "clarinet": (_clarinet, 150, 900),
    "drum": (_drum, 60, 200),
    "flute": (_flute, 260, 1400),
    "guitar": (_guitar, 82, 660),
    "organ": (_organ, 80, 900),
    "piano": (_piano, 60, 1400),
    "trumpet": (_trumpet, 180, 900),
    "violin": (_violin, 196, 1400),
}


def recording(name: str, length_s: float, rate_hz: int, ranges: Ranges, chance: np.random.Generator) -> Samples:
    """A melody that one instrument plays, (samples,) from -1 to 1."""
    play, lowest, highest = INSTRUMENTS[name]
    touch = chance.uniform(*ranges.touch, 4)
    sound = np.zeros(int(length_s * rate_hz))
    hz = float(np.exp(chance.uniform(np.log(lowest), np.log(highest))))
    start_s = 0.0
    while start_s < length_s - 0.05:
        note_s = chance.uniform(*ranges.note_s)
        note = Note(hz, min(note_s * chance.uniform(0.9, 1.5), length_s - start_s), rate_hz, touch, chance)
        played = play(note) * chance.uniform(0.6, 1)
        at = int(start_s * rate_hz)
        sound[at : at + len(played)] += played[: len(sound) - at]
        start_s += note_s
        hz = float(np.clip(hz * 2 ** (chance.integers(-7, 8) / 12), lowest, highest))
    sound = _in_a_room(sound, rate_hz, chance.uniform(*ranges.echo_s), chance)
    sound /= np.abs(sound).max()
    sound += chance.uniform(*ranges.noise) * chance.standard_normal(len(sound))
    return np.clip(sound * chance.uniform(*ranges.loud), -1, 1)


def _in_a_room(sound: Samples, rate_hz: int, echo_s: float, chance: np.random.Generator) -> Samples:
    """With the echo of walls: noise that fades."""
    times = np.arange(int(echo_s * rate_hz)) / rate_hz
    echo = chance.standard_normal(len(times)) * 10 ** (-3 * times / echo_s) * 0.02
    echo[0] = 1
    size = 1 << (len(sound) + len(echo) - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(echo, size), size)[: len(sound)]
