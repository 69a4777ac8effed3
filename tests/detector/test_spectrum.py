"""Statistics of the spectrum: what they are, that padding and level do not matter, and what they show."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.detector.network import normalise
from pipeline.detector.spectrum import FLOOR, NUM_BANDS, SPECTRUM_WIDTH, spectral_statistics


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=num_samples).astype(np.float32)


def statistics_of(*waveforms: np.ndarray) -> np.ndarray:
    lengths = torch.tensor([len(each) for each in waveforms])
    padded = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return spectral_statistics(normalise(padded, lengths), lengths).numpy()


def test_the_statistics_are_those_of_the_logarithm_of_the_power_in_bands_of_100_hz() -> None:
    waveform = noise(16_000) * np.linspace(0.1, 1, 16_000, dtype=np.float32)
    normalised = normalise(torch.from_numpy(waveform)[None], torch.tensor([16_000]))[0].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    frames = np.stack([normalised[start : start + 320] for start in range(0, 16_000 - 319, 160)])
    power = np.abs(np.fft.rfft(frames * window)[:, 1:]) ** 2 / np.sum(window**2)
    level = np.log(power.reshape(len(frames), NUM_BANDS, 2).mean(axis=2) + FLOOR)
    expected = [
        level.mean(axis=0),
        level.std(axis=0),
        np.diff(level, axis=0).std(axis=0),
        np.diff(level, axis=1).std(axis=0),
    ]
    (found,) = statistics_of(waveform)
    assert found.shape == (SPECTRUM_WIDTH,)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-4)


def test_padding_and_level_have_no_effect() -> None:
    waveforms = [noise(length, length) for length in (40_000, 9_000, 700, 320, 100)]
    together = statistics_of(*waveforms)
    for waveform, found in zip(waveforms, together, strict=True):
        np.testing.assert_allclose(found, statistics_of(waveform)[0], atol=1e-5)
        np.testing.assert_allclose(found, statistics_of(waveform * np.float32(0.2))[0], atol=1e-3)
    assert np.isfinite(together).all()
    # One frame has no change in time, and nothing that differs from its mean.
    assert not together[3:, NUM_BANDS:].any()


def test_a_band_that_a_codec_removes_is_seen() -> None:
    waveform = noise(32_000)
    spectrum = np.fft.rfft(waveform)
    spectrum[len(spectrum) * 5 // 8 :] = 0  # above 5 kHz
    (whole,), (cut,) = statistics_of(waveform), statistics_of(np.fft.irfft(spectrum).astype(np.float32))
    difference = (whole - cut)[:NUM_BANDS]
    assert np.abs(difference[:49]).max() < 0.6 and difference[52:].min() > 5
