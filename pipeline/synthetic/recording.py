"""Let clean synthetic speech sound recorded: a room, a noise, a microphone, a level."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from pipeline.synthetic.speech import SPEECH_RATE, Waveform

RECORDING_RATE = 16_000
"""Hz of what `record` returns."""

_RECORDER_RATES = (16_000, 22_050, 24_000, 44_100, 48_000)


def record(speech: Waveform, generator: np.random.Generator, *, lead_s: float, trail_s: float) -> Waveform:
    """Record `speech` (at `SPEECH_RATE`) with `lead_s` and `trail_s` of background around it, at 16 kHz.

    Everything that is drawn here is drawn alike for bona fide speech and for the source of a spoof, so that
    only what happens afterwards tells them apart. The result stays below half of full scale.
    """
    # Through a recorder of another rate and back: the ingest resamples once more, and no class is resampled
    # more often than the other.
    rate = int(generator.choice(_RECORDER_RATES))
    waveform = soxr.resample(soxr.resample(speech, SPEECH_RATE, rate), rate, RECORDING_RATE)
    waveform = np.pad(waveform, (round(lead_s * RECORDING_RATE), round(trail_s * RECORDING_RATE)))
    waveform = _in_room(waveform, generator)
    waveform = _with_noise(waveform, generator)
    waveform = _through_microphone(waveform, generator)
    level = 10 ** (generator.uniform(-34, -20) / 20)
    waveform = waveform * (level / np.sqrt(np.mean(np.square(waveform))))
    peak = float(np.abs(waveform).max())
    return np.asarray(waveform * min(1.0, 0.5 / peak), dtype=np.float32)


def _in_room(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Add a tail of exponentially decaying noise: 60 dB in 0.05–0.5 s, 2–20 dB below the direct sound."""
    decay_s = generator.uniform(0.05, 0.5)
    times = np.arange(round(decay_s * RECORDING_RATE)) / RECORDING_RATE
    tail = generator.standard_normal(times.size) * 10 ** (-3 * times / decay_s)
    tail *= 10 ** (-generator.uniform(2, 20) / 20) / np.sqrt(np.sum(np.square(tail)))
    tail[0] += 1.0
    return np.asarray(signal.oaconvolve(waveform, tail)[: waveform.size], dtype=np.float32)


def _with_noise(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Add noise between white and brown, slowly swelling, sometimes with mains hum; SNR 15–40 dB."""
    num_samples = waveform.size
    spectrum = np.fft.rfft(generator.standard_normal(num_samples))
    frequencies = np.maximum(np.fft.rfftfreq(num_samples, 1 / RECORDING_RATE), 30.0)
    noise = np.fft.irfft(spectrum * frequencies ** (-generator.uniform(0, 1)), num_samples)
    noise /= np.sqrt(np.mean(np.square(noise)))
    times = np.arange(num_samples) / RECORDING_RATE
    swell_hz, phase = generator.uniform(0.1, 1.5), generator.uniform(0, 2 * np.pi)
    noise *= 1 + generator.uniform(0, 0.6) * np.sin(2 * np.pi * swell_hz * times + phase)
    if generator.random() < 0.3:
        noise += _hum(times, generator)
    snr_db = generator.uniform(15, 40)
    scale = np.sqrt(np.mean(np.square(waveform)) / np.mean(np.square(noise))) * 10 ** (-snr_db / 20)
    return np.asarray(waveform + scale * noise, dtype=np.float32)


def _hum(times: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Mains hum with its first odd harmonics, about as loud as unit noise. `times` [num_samples] in seconds."""
    mains_hz = generator.choice([50.0, 60.0])
    harmonics = [
        generator.uniform(0.1, 1.0) / order * np.sin(2 * np.pi * mains_hz * order * times)
        for order in (1, 3, 5)
    ]
    return np.asarray(sum(harmonics))


def _through_microphone(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Tilt the spectrum; cut the lows for some, the highs for some others."""
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
