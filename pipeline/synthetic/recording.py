"""Simulate a recording of clean synthetic speech: room, noise, microphone and level."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from pipeline.synthetic.speech import SPEECH_RATE, Waveform

RECORDING_RATE = 16_000
"""Sample rate in Hz of recordings."""

_RECORDER_RATES = (16_000, 22_050, 24_000, 44_100, 48_000)


def record(speech: Waveform, generator: np.random.Generator, *, lead_s: float, trail_s: float) -> Waveform:
    """Simulate a recording at 16 kHz with background noise before and after the speech.

    All random choices have the same distribution for bona fide speech and for the input of an artifact process, so
    that only the process distinguishes the labels. The peak is at most half of full scale.

    Args:
        speech: [num_samples] at `SPEECH_RATE`.
        generator: Makes all random choices.
        lead_s: Seconds of background before the speech.
        trail_s: Seconds of background after the speech.
    """
    # Resample to the rate of a recorder and back. Both labels are resampled equally often.
    rate = int(generator.choice(_RECORDER_RATES))
    waveform = soxr.resample(soxr.resample(speech, SPEECH_RATE, rate), rate, RECORDING_RATE)
    waveform = np.pad(waveform, (round(lead_s * RECORDING_RATE), round(trail_s * RECORDING_RATE)))
    waveform = _add_reverberation(waveform, generator)
    waveform = _add_noise(waveform, generator)
    waveform = _apply_microphone(waveform, generator)
    level = 10 ** (generator.uniform(-34, -20) / 20)
    waveform = waveform * (level / np.sqrt(np.mean(np.square(waveform))))
    peak = float(np.abs(waveform).max())
    return np.asarray(waveform * min(1.0, 0.5 / peak), dtype=np.float32)


def _add_reverberation(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Convolve with exponentially decaying noise: reverberation time 0.05–0.5 s, 2–20 dB below the direct sound."""
    decay_s = generator.uniform(0.05, 0.5)
    times = np.arange(round(decay_s * RECORDING_RATE)) / RECORDING_RATE
    tail = generator.standard_normal(times.size) * 10 ** (-3 * times / decay_s)
    tail *= 10 ** (-generator.uniform(2, 20) / 20) / np.sqrt(np.sum(np.square(tail)))
    tail[0] += 1.0
    return np.asarray(signal.oaconvolve(waveform, tail)[: waveform.size], dtype=np.float32)


def _add_noise(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Add white to brown noise of slowly varying level, sometimes with mains hum, at 15–40 dB SNR."""
    num_samples = waveform.size
    spectrum = np.fft.rfft(generator.standard_normal(num_samples))
    frequencies = np.maximum(np.fft.rfftfreq(num_samples, 1 / RECORDING_RATE), 30.0)
    noise = np.fft.irfft(spectrum * frequencies ** (-generator.uniform(0, 1)), num_samples)
    noise /= np.sqrt(np.mean(np.square(noise)))
    times = np.arange(num_samples) / RECORDING_RATE
    swell_hz, phase = generator.uniform(0.1, 1.5), generator.uniform(0, 2 * np.pi)
    noise *= 1 + generator.uniform(0, 0.6) * np.sin(2 * np.pi * swell_hz * times + phase)
    if generator.random() < 0.3:
        noise += _mains_hum(times, generator)
    snr_db = generator.uniform(15, 40)
    scale = np.sqrt(np.mean(np.square(waveform)) / np.mean(np.square(noise))) * 10 ** (-snr_db / 20)
    return np.asarray(waveform + scale * noise, dtype=np.float32)


def _mains_hum(times: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Make mains hum with its first odd harmonics, at about the level of unit noise.

    Args:
        times: [num_samples] in seconds.
        generator: Makes all random choices.
    """
    mains_hz = generator.choice([50.0, 60.0])
    harmonics = [
        generator.uniform(0.1, 1.0) / order * np.sin(2 * np.pi * mains_hz * order * times)
        for order in (1, 3, 5)
    ]
    return np.asarray(sum(harmonics))


def _apply_microphone(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Tilt the spectrum, and sometimes apply a high-pass or a low-pass filter."""
    tilt = generator.uniform(-0.5, 0.7)
    waveform = signal.lfilter([1.0, -tilt], [1.0], waveform)
    if generator.random() < 0.4:
        cutoff_hz = generator.uniform(50, 300)
        waveform = signal.sosfilt(_butterworth(2, cutoff_hz, "highpass"), waveform)
    if generator.random() < 0.5:
        cutoff_hz = generator.uniform(3_000, 7_500)
        waveform = signal.sosfilt(_butterworth(8, cutoff_hz, "lowpass"), waveform)
    return np.asarray(waveform, dtype=np.float32)


def _butterworth(order: int, cutoff_hz: float, kind: str) -> NDArray[np.float64]:
    return np.asarray(signal.butter(order, cutoff_hz, kind, fs=RECORDING_RATE, output="sos"))
