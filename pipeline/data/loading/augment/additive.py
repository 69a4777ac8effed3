"""Sounds that are added to speech at a random signal-to-noise ratio: coloured noise, recordings, babble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import scipy.fft

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.augment.recordings import Recordings
from pipeline.data.loading.augment.step import Augmentation, RecordedAugmentation, level, ratio
from pipeline.fields import Range

Decibels = Annotated[tuple[float, float], Range(-60, 120)]
"""An interval of signal-to-noise ratios."""


@dataclass(frozen=True, kw_only=True)
class Colour(Augmentation):
    """Add noise with a power spectrum of 1/f^slope: 0 is white, 1 pink, 2 brown."""

    name: Literal["colour"] = "colour"
    snr_db: Decibels = (5.0, 30.0)
    slope: Annotated[tuple[float, float], Range(-2, 4)] = (0.0, 2.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with noise at a random SNR and slope."""
        slope, snr_db = rng.uniform(*self.slope), rng.uniform(*self.snr_db)
        size = scipy.fft.next_fast_len(len(waveform), real=True)
        spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
        # The spectrum is flat below 20 Hz; otherwise brown noise would be mostly a slow drift.
        frequencies = np.maximum(scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
        spectrum *= (frequencies ** (-slope / 2)).astype(np.float32)
        noise: Waveform = scipy.fft.irfft(spectrum, size)[: len(waveform)]
        return add_at(waveform, noise, snr_db)


@dataclass(frozen=True, kw_only=True)
class Noise(RecordedAugmentation):
    """Add a recording of noise."""

    kind = "noise"

    name: Literal["noise"] = "noise"
    snr_db: Decibels = (0.0, 20.0)

    def mix(self, waveform: Waveform, rng: np.random.Generator, recordings: Recordings) -> Waveform:
        """Return the waveform with a random window of a random recording at a random SNR."""
        snr_db = rng.uniform(*self.snr_db)
        return add_at(waveform, recordings.draw_window(len(waveform), rng), snr_db)


@dataclass(frozen=True, kw_only=True)
class Music(Noise):
    """Add a recording of music."""

    kind = "music"

    name: Literal["music"] = "music"  # type: ignore[assignment]
    snr_db: Decibels = (5.0, 20.0)


@dataclass(frozen=True, kw_only=True)
class Babble(RecordedAugmentation):
    """Add several people who talk at once, all at the same level."""

    kind = "speech"

    name: Literal["babble"] = "babble"
    snr_db: Decibels = (13.0, 20.0)
    num_speakers: Annotated[tuple[int, int], Range(1, 100)] = (3, 7)

    def mix(self, waveform: Waveform, rng: np.random.Generator, recordings: Recordings) -> Waveform:
        """Return the waveform with the sum of some recordings of speech at a random SNR."""
        snr_db = rng.uniform(*self.snr_db)
        babble = np.zeros_like(waveform)
        for _ in range(rng.integers(*self.num_speakers, endpoint=True)):
            speech = recordings.draw_window(len(waveform), rng)
            babble += speech / np.float32(level(speech))
        return add_at(waveform, babble, snr_db)


def add_at(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Return the sum of a waveform and a noise that is scaled to an SNR; silence has no SNR and changes nothing."""
    scale = np.float32(level(waveform) / level(noise)) * ratio(-snr_db)
    return waveform + scale * noise
