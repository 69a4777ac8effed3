"""Random but repeatable changes of training waveforms: each augmentation is a frozen dataclass with one call.

An augmentation takes a waveform and a random generator and returns a new waveform of the same length. All randomness
comes from the generator, so the same seed gives the same samples. `AUGMENTATIONS` lists the names that a configuration
can use.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.rawboost import ALGORITHMS, RawBoost, level
from pipeline.errors import InputError, did_you_mean

CODECS: dict[str, tuple[str, str, int]] = {
    "ulaw": ("WAV", "ULAW", 8_000),
    "alaw": ("WAV", "ALAW", 8_000),
    "gsm": ("WAV", "GSM610", 8_000),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
}
"""libsndfile format and subtype, and the native sample rate of the codec in Hz."""


class Augmentation(Protocol):
    """A random change of a waveform that keeps its length."""

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the changed waveform; the input is not modified."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Several augmentations in sequence."""

    steps: tuple[Augmentation, ...]

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform after the last step."""
        for step in self.steps:
            waveform = step(waveform, rng)
        return waveform


@dataclass(frozen=True, slots=True)
class Gain:
    """Change the level. Matters only before a nonlinear augmentation, since detectors normalise each utterance."""

    gain_db: tuple[float, float] = (-20.0, 6.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the scaled waveform, clipped at full scale."""
        scaled: Waveform = waveform * _ratio(rng.uniform(*self.gain_db))
        return np.clip(scaled, -1, 1, out=scaled)


@dataclass(frozen=True, slots=True)
class Noise:
    """Add noise with a power spectrum of 1/f^slope: 0 is white, 1 pink, 2 brown."""

    snr_db: tuple[float, float] = (5.0, 30.0)
    slope: tuple[float, float] = (0.0, 2.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with noise at a random SNR and slope."""
        slope, snr_db = rng.uniform(*self.slope), rng.uniform(*self.snr_db)
        size = scipy.fft.next_fast_len(len(waveform), real=True)
        spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
        # The spectrum is flat below 20 Hz; otherwise brown noise would be mostly a slow drift.
        frequencies = np.maximum(scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
        spectrum *= (frequencies ** (-slope / 2)).astype(np.float32)
        noise: Waveform = scipy.fft.irfft(spectrum, size)[: len(waveform)]
        noise *= np.float32(level(waveform) / level(noise)) * _ratio(-snr_db)
        noise += waveform
        return noise


@dataclass(frozen=True, slots=True)
class Reverberation:
    """Simulate a room: direct sound followed by exponentially decaying noise."""

    rt60_s: tuple[float, float] = (0.1, 0.8)
    """Time in which the tail decays by 60 dB."""
    direct_to_tail_db: tuple[float, float] = (-3.0, 12.0)
    predelay_s: tuple[float, float] = (0.001, 0.01)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the reverberated waveform at its original level, without the tail beyond its end."""
        rt60, direct_db, predelay = (
            rng.uniform(*interval) for interval in (self.rt60_s, self.direct_to_tail_db, self.predelay_s)
        )
        time = np.arange(int(rt60 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        tail = rng.standard_normal(len(time), dtype=np.float32) * np.exp(
            np.float32(-np.log(1000) / rt60) * time
        )
        tail *= _ratio(-direct_db) / np.float32(level(tail))
        response = np.concatenate([np.zeros(int(predelay * SAMPLE_RATE), dtype=np.float32), tail])
        response[0] = 1
        wet: Waveform = scipy.signal.oaconvolve(waveform, response)[: len(waveform)]
        wet *= np.float32(level(waveform) / level(wet))
        return wet


@dataclass(frozen=True, slots=True)
class LowPass:
    """Limit the bandwidth, as cheap microphones and old recordings do."""

    cutoff_hz: tuple[float, float] = (2500.0, 7500.0)
    num_taps: int = 129

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform low-passed at a random cutoff, without delay."""
        taps = scipy.signal.firwin(self.num_taps, rng.uniform(*self.cutoff_hz), fs=SAMPLE_RATE).astype(
            np.float32
        )
        filtered: Waveform = scipy.signal.oaconvolve(waveform, taps)[self.num_taps // 2 :][: len(waveform)]
        return filtered


@dataclass(frozen=True, slots=True)
class Resampling:
    """Resample to a lower rate and back, each with a random resampler quality."""

    rate_hz: tuple[float, float] = (6_000.0, 15_000.0)
    qualities: tuple[str, ...] = ("QQ", "LQ", "MQ", "HQ")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with the narrower band, aliases and images of the resamplers."""
        rate = round(rng.uniform(*self.rate_hz))
        down, up = (self.qualities[int(choice)] for choice in rng.integers(len(self.qualities), size=2))
        narrow = soxr.resample(waveform, SAMPLE_RATE, rate, down)
        return _fit_length(soxr.resample(narrow, rate, SAMPLE_RATE, up), len(waveform))


@dataclass(frozen=True, slots=True)
class Codec:
    """Encode and decode with a random codec, at a random quality where the codec has one.

    One core encodes gsm at about 400 times real time, mp3 at 200 and opus at 60, so use the slow ones sparingly.
    """

    names: tuple[str, ...] = tuple(CODECS)

    def __post_init__(self) -> None:
        if unknown := set(self.names) - CODECS.keys():
            raise ValueError(f"unknown codecs {sorted(unknown)}; known: {', '.join(CODECS)}")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform after encoding and decoding."""
        container, subtype, rate = CODECS[self.names[int(rng.integers(len(self.names)))]]
        quality = {"compression_level": float(rng.uniform(0.3, 1))} if container != "WAV" else {}
        resampled = np.clip(soxr.resample(waveform, SAMPLE_RATE, rate, "HQ"), -1, 1)
        file = io.BytesIO()
        soundfile.write(file, resampled, rate, format=container, subtype=subtype, **quality)
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
        return _fit_length(soxr.resample(decoded, rate, SAMPLE_RATE, "HQ"), len(waveform))


AUGMENTATIONS: dict[str, Augmentation] = {
    "gain": Gain(),
    "noise": Noise(),
    "reverberation": Reverberation(),
    "low_pass": LowPass(),
    "resampling": Resampling(),
    "codec": Codec(),
    **{f"rawboost{algo}": RawBoost(algo) for algo in ALGORITHMS},
}
"""Augmentations by name, with the default parameters; rawboost5 is the one that AntiDeepfake was trained with."""


def augmentation(names: Sequence[str]) -> Augmentation | None:
    """Combine the named augmentations in sequence; None if there are no names.

    Raises:
        InputError: a name is unknown.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(f"unknown augmentation {name!r}{did_you_mean(name, sorted(AUGMENTATIONS))}")
    if len(names) == 1:
        return AUGMENTATIONS[names[0]]
    return Chain(tuple(AUGMENTATIONS[name] for name in names)) if names else None


def _ratio(level_db: float) -> np.float32:
    return np.float32(10 ** (level_db / 20))


def _fit_length(waveform: Waveform, num_samples: int) -> Waveform:
    """Cut the end or pad it with zeros, because resamplers and block codecs round the length."""
    fitted = np.zeros(num_samples, dtype=np.float32)
    num_kept = min(num_samples, len(waveform))
    fitted[:num_kept] = waveform[:num_kept]
    return fitted
