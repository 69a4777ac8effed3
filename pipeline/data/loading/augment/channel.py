"""What a microphone, an amplifier or a narrow channel does: level, clipping, bandwidth, sampling rate, speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import scipy.signal
import soxr

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.augment.step import Augmentation, fit_length, ratio
from pipeline.errors import InputError
from pipeline.fields import Range

Decibels = Annotated[tuple[float, float], Range(-120, 120)]
"""An interval of differences of levels."""

Band = Annotated[tuple[float, float], Range(1, SAMPLE_RATE / 2 - 1)]
"""An interval of frequencies in Hz."""


@dataclass(frozen=True, kw_only=True)
class Gain(Augmentation):
    """Change the level. Matters only before a nonlinear augmentation, since detectors normalise each utterance."""

    name: Literal["gain"] = "gain"
    gain_db: Decibels = (-20.0, 6.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the scaled waveform, clipped at full scale."""
        scaled: Waveform = waveform * ratio(rng.uniform(*self.gain_db))
        return np.clip(scaled, -1, 1, out=scaled)


@dataclass(frozen=True, kw_only=True)
class Clipping(Augmentation):
    """Clip the waveform below its peak, as an overdriven microphone does."""

    name: Literal["clipping"] = "clipping"
    threshold_db: Annotated[tuple[float, float], Range(-120, 0)] = (-20.0, -3.0)
    """Level at which it is clipped, relative to the peak."""

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the clipped waveform."""
        threshold = np.abs(waveform).max(initial=0) * ratio(rng.uniform(*self.threshold_db))
        clipped: Waveform = np.clip(waveform, -threshold, threshold)
        return clipped


@dataclass(frozen=True, kw_only=True)
class LowPass(Augmentation):
    """Limit the bandwidth, as cheap microphones and old recordings do."""

    name: Literal["low_pass"] = "low_pass"
    cutoff_hz: Band = (2500.0, 7500.0)
    num_taps: Annotated[int, Range(3, 4095)] = 129

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform low-passed at a random cutoff, without delay."""
        return _filter(waveform, self.num_taps, rng.uniform(*self.cutoff_hz), "lowpass")


@dataclass(frozen=True, kw_only=True)
class BandPass(Augmentation):
    """Keep the band of a telephone."""

    name: Literal["band_pass"] = "band_pass"
    low_hz: Band = (100.0, 400.0)
    high_hz: Band = (3000.0, 3800.0)
    num_taps: Annotated[int, Range(3, 4095)] = 257

    def __post_init__(self) -> None:
        if self.low_hz[1] >= self.high_hz[0]:
            raise InputError(
                f"low_hz reaches {self.low_hz[1]:g}, which is not below high_hz {self.high_hz[0]:g}"
            )

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform between two random cutoffs, without delay."""
        edges = [rng.uniform(*self.low_hz), rng.uniform(*self.high_hz)]
        return _filter(waveform, self.num_taps, edges, "bandpass")


def _filter(waveform: Waveform, num_taps: int, cutoff_hz: float | list[float], kind: str) -> Waveform:
    """Filter with a symmetric filter, whose delay is removed."""
    num_taps |= 1
    taps = scipy.signal.firwin(num_taps, cutoff_hz, fs=SAMPLE_RATE, pass_zero=kind).astype(np.float32)
    filtered: Waveform = scipy.signal.oaconvolve(waveform, taps)[num_taps // 2 :][: len(waveform)]
    return filtered


@dataclass(frozen=True, kw_only=True)
class Resampling(Augmentation):
    """Resample to a lower rate and back, each with a random resampler quality."""

    name: Literal["resampling"] = "resampling"
    rate_hz: Annotated[tuple[float, float], Range(1000, SAMPLE_RATE)] = (6_000.0, 15_000.0)
    qualities: tuple[Literal["QQ", "LQ", "MQ", "HQ", "VHQ"], ...] = ("QQ", "LQ", "MQ", "HQ")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with the narrower band, aliases and images of the resamplers."""
        rate = round(rng.uniform(*self.rate_hz))
        down, up = (self.qualities[int(choice)] for choice in rng.integers(len(self.qualities), size=2))
        narrow = soxr.resample(waveform, SAMPLE_RATE, rate, down)
        return fit_length(soxr.resample(narrow, rate, SAMPLE_RATE, up), len(waveform))


@dataclass(frozen=True, kw_only=True)
class Speed(Augmentation):
    """Play faster or slower by resampling, which moves the pitch as well.

    A slower waveform is cut at its end, and a faster one continues with its beginning: silence in its place would tell
    how fast it is.
    """

    keeps_time = False

    name: Literal["speed"] = "speed"
    factor: Annotated[tuple[float, float], Range(0.25, 4)] = (0.9, 1.1)
    """How many times as fast."""

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform at another speed, of the same length."""
        rate = round(SAMPLE_RATE * rng.uniform(*self.factor))
        played: Waveform = soxr.resample(waveform, rate, SAMPLE_RATE, "MQ")
        return np.resize(played, len(waveform)) if len(played) else waveform.copy()
