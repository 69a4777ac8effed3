"""Speech to augment, and recordings to augment it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.audio.flac import encode_flac, quantise
from pipeline.data.audio.waveform import Waveform
from pipeline.data.loading.augment.recordings import Recordings

RATE = 16_000


def speech(num_samples: int = RATE, seed: int = 1) -> Waveform:
    """A tone with the rhythm of syllables over a little noise."""
    time = np.arange(num_samples) / RATE
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    return (0.4 * np.sin(2 * np.pi * 300 * time) * np.sin(20 * time) + 0.02 * noise).astype(np.float32)


def record(file: Path, waveforms: Sequence[Waveform]) -> Recordings:
    """Write waveforms one after another, as FLAC, behind bytes that belong to none of them."""
    data = [encode_flac(quantise(waveform)) for waveform in waveforms]
    file.write_bytes(b"in front" + b"".join(data))
    sizes = np.array([len(each) for each in data])
    return Recordings(
        (str(file),),
        np.zeros(len(data), np.int32),
        len(b"in front") + np.cumsum(sizes) - sizes,
        sizes.astype(np.int32),
        np.array([len(waveform) for waveform in waveforms], np.int32),
    )


def power_between(waveform: Waveform, low_hz: float, high_hz: float) -> float:
    """The energy in a band."""
    spectrum = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return float(spectrum[(frequencies >= low_hz) & (frequencies < high_hz)].sum())
