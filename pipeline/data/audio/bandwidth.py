"""Measure the bandwidth of an utterance: the highest frequency with energy in its decoded audio.

A header tells at most half the sample rate. Audio that was low-passed or upsampled, or that a codec has passed through,
stops earlier, and such a difference between the labels is a shortcut for a detector.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.audio.waveform import SAMPLE_RATE, Pcm

FRAME_SAMPLES = 256
"""16 ms: one spectrum."""

MIN_FRAMES = 6
"""Shorter audio has too few spectra for an average."""

MAX_FRAMES = 48
"""Spectra that are averaged; of longer audio, frames at equal distances are taken. More give the same result."""

BINS_PER_BAND = 2

BAND_HZ = BINS_PER_BAND * SAMPLE_RATE / FRAME_SAMPLES
"""Resolution: 125 Hz."""

NOISE_FLOOR = 10**-0.2
"""Power spectral density (PCM16 steps squared per sample) below which nothing counts. Rounding to PCM16 has 1/12, with
triangular dither 3/12; the rest is room for the variance of the average."""

DYNAMIC_RANGE = 10**6.0
"""Power ratio between the strongest band and the weakest that counts. In speech, bands up to 8 kHz are at most some
55 dB below the strongest one; what filters and codecs leave in their stop bands is further down."""

TRIMMED = 8
"""One of so many frames, the loudest first, is left out of the average of a band: a click or a clipped peak has energy
at all frequencies, wherever the speech ends."""

REFERENCE_BANDS = slice(2, 32)
"""The strongest band is looked for between 250 Hz and 4 kHz: hum and offsets are stronger than the speech."""

# Its sidelobes are 60 dB down within 200 Hz: those of a Hann window would blur the end of a flat spectrum by 400 Hz.
_WINDOW = np.kaiser(FRAME_SAMPLES + 1, 8.0)[:-1].astype(np.float32)
_BAND_POWER = BINS_PER_BAND * np.sum(_WINDOW**2)


def bandwidth_hz(pcm: Pcm) -> float | None:
    """The highest frequency with energy in 16 kHz audio, at most 8000 Hz; None for audio shorter than 0.1 s.

    Neither rounding noise nor noise 60 dB below the speech counts; louder noise is energy. The result is the upper edge
    of a band of `BAND_HZ`, 0 if there is nothing but rounding noise. Equal samples give equal results.

    Args:
        pcm: [num_samples] decoded audio.
    """
    num_frames = len(pcm) // FRAME_SAMPLES
    if num_frames < MIN_FRAMES:
        return None
    frames = pcm[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
    if num_frames > MAX_FRAMES:
        frames = frames[np.arange(MAX_FRAMES) * (num_frames - 1) // (MAX_FRAMES - 1)]
    spectra = np.fft.rfft(frames * _WINDOW)
    # Real and imaginary parts of the bins from the second on: four values to a band.
    squares = np.square(spectra.view(np.float32)[:, 2:])
    power = squares[:, ::4] + squares[:, 1::4] + squares[:, 2::4] + squares[:, 3::4]
    num_kept = len(frames) - len(frames) // TRIMMED
    bands = np.partition(power, num_kept - 1, axis=0)[:num_kept].mean(axis=0) / _BAND_POWER
    threshold = max(NOISE_FLOOR, float(bands[REFERENCE_BANDS].max()) / DYNAMIC_RANGE)
    audible = np.flatnonzero(bands > threshold)
    return float((audible[-1] + 1) * BAND_HZ) if len(audible) else 0.0
