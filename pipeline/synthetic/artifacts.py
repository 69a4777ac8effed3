"""Artifact processes: signal processing that turns a recording into a spoof for the demo.

Each process takes a recording [num_samples] at 16 kHz and a random generator, and returns a waveform of the same
shape. `TRAINING_PROCESSES` and `EVALUATION_PROCESSES` are disjoint, so evaluation uses artifacts unseen in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from pipeline.synthetic.codecs import encode_and_decode
from pipeline.synthetic.recording import RECORDING_RATE
from pipeline.synthetic.speech import Waveform

Process: TypeAlias = Callable[[Waveform, np.random.Generator], Waveform]
Spectrum: TypeAlias = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class PitchTrack:
    """The pitch of a waveform every `hop` samples."""

    hop: int
    period: NDArray[np.float64]
    """[num_frames] Samples per cycle; arbitrary in unvoiced frames."""
    is_voiced: NDArray[np.bool_]
    """[num_frames]"""


def apply_process(process: Process, waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Run a process and scale its result to the RMS level of the input, clipped to ±1."""
    processed = process(waveform, generator)
    assert processed.shape == waveform.shape, (process.__name__, processed.shape, waveform.shape)
    level = np.sqrt(np.mean(np.square(processed)))
    assert level > 0, process.__name__
    scale = np.sqrt(np.mean(np.square(waveform))) / level
    return np.asarray(np.clip(processed * scale, -1, 1), dtype=np.float32)


def griffin_lim(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Invert a mel spectrogram of 32–80 bands with 8–32 iterations of fast Griffin-Lim."""
    window, hop, momentum = 512, 128, 0.99
    bank = _mel_bank(int(generator.integers(32, 81)), window)
    mel = np.abs(_stft(waveform, window, hop)) @ bank.T
    magnitude = np.maximum(mel @ np.linalg.pinv(bank).T, 0).astype(np.float32)
    phases = np.exp(2j * np.pi * generator.random(magnitude.shape)).astype(np.complex64)
    previous = np.zeros_like(phases)
    for _ in range(int(generator.integers(8, 33))):
        consistent = _stft(_istft(magnitude * phases, hop, waveform.size), window, hop)
        phases = consistent + momentum * (consistent - previous)
        phases /= np.maximum(np.abs(phases), 1e-9)
        previous = consistent
    return _istft(magnitude * phases, hop, waveform.size)


def low_rate_opus(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Encode with Opus in speech mode at 6–12 kbit/s."""
    return encode_and_decode(
        waveform,
        "libopus",
        "opus",
        sample_rate=RECORDING_RATE,
        bit_rate=int(generator.choice([6_000, 8_000, 10_000, 12_000])),
        options={"application": "voip"},
    )


def low_rate_mp3(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Encode as MP3 at 8–24 kbit/s."""
    bit_rate = int(generator.choice([8_000, 16_000, 24_000]))
    return encode_and_decode(
        waveform, "libmp3lame", "mp3float", sample_rate=RECORDING_RATE, bit_rate=bit_rate
    )


def pulse_vocoder(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Resynthesise by linear prediction of order 12–20, excited by pulses if voiced and by noise otherwise."""
    order, hop = int(generator.integers(12, 21)), RECORDING_RATE // 100
    track = track_pitch(waveform, hop)
    excitation = _excitation(track, waveform.size, generator)
    frames = _frames(waveform, 3 * hop, hop) * np.hanning(3 * hop)
    predictors = _linear_prediction(frames, order)
    result = np.zeros(frames.shape[0] * hop)
    state = np.zeros(order)
    for index, predictor in enumerate(predictors):
        span = slice(index * hop, (index + 1) * hop)
        result[span], state = signal.lfilter([1.0], predictor, excitation[span], zi=state)
    return _match_envelope(waveform, result[: waveform.size].astype(np.float32), hop)


def pitch_shifted(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Shift pitch and formants by 1–4 semitones up or down with a phase vocoder."""
    window, hop = 512, 128
    ratio = 2 ** (generator.choice([-1, 1]) * generator.uniform(1, 4) / 12)
    spectrum = _stft(waveform, window, hop)
    positions = np.arange(0, spectrum.shape[0] - 1, 1 / ratio)
    before, share = positions.astype(int), (positions % 1)[:, None]
    magnitude = (1 - share) * np.abs(spectrum[before]) + share * np.abs(spectrum[before + 1])
    advance = np.angle(spectrum[before + 1] * spectrum[before].conj()).astype(np.float64)
    phase = np.angle(spectrum[0]) + np.cumsum(advance, axis=0)
    # Stretch by the ratio at the original pitch, then resample to the original duration.
    stretched = _istft(
        (magnitude * np.exp(1j * phase)).astype(np.complex64), hop, round(waveform.size * ratio)
    )
    shifted = soxr.resample(stretched, RECORDING_RATE * ratio, RECORDING_RATE)
    return np.asarray(np.pad(shifted, (0, max(0, waveform.size - shifted.size)))[: waveform.size])


def sinusoidal(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Keep only the 20–50 strongest sinusoids of each 32 ms frame."""
    window, hop = 512, 128
    num_peaks = int(generator.integers(20, 51))
    padding = 2  # zero-padding factor of the transform, for a finer frequency resolution
    spectrum = _stft(waveform, window, hop, num_points=padding * window)
    magnitude = np.abs(spectrum)
    is_peak = np.zeros(magnitude.shape, dtype=bool)
    is_peak[:, 1:-1] = (magnitude[:, 1:-1] > magnitude[:, :-2]) & (magnitude[:, 1:-1] >= magnitude[:, 2:])
    ranked = np.argsort(np.where(is_peak, magnitude, 0), axis=1)[:, ::-1][:, :num_peaks]
    kept = np.take_along_axis(spectrum, ranked, 1) * np.take_along_axis(is_peak, ranked, 1)
    # Each sinusoid is one bin, synthesised over the whole frame.
    sparse = np.zeros_like(spectrum)
    np.put_along_axis(sparse, ranked, kept, 1)
    grains = np.fft.irfft(sparse, axis=1)[:, :window] * np.hanning(window)
    return _overlap_add(grains.astype(np.float32), hop, waveform.size)


def phase_randomised(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Keep the magnitudes of the short-time spectrum and turn each phase at random within 50–100 % of the circle."""
    window, hop = 512, 128
    spectrum = _stft(waveform, window, hop)
    spread = generator.uniform(0.5, 1.0)
    turn = np.exp(2j * np.pi * spread * (generator.random(spectrum.shape) - 0.5))
    return _istft((spectrum * turn).astype(np.complex64), hop, waveform.size)


def celp(waveform: Waveform, generator: np.random.Generator) -> Waveform:  # noqa: ARG001
    """Encode as RealAudio 1.0: code-excited linear prediction at 8 kbit/s, limited to 4 kHz."""
    return encode_and_decode(waveform, "real_144", "real_144", sample_rate=8_000, bit_rate=8_000)


def noise_vocoder(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Modulate noise with the envelopes of 10–24 bands, which removes the pitch."""
    window, hop = 512, 128
    bank = _mel_bank(int(generator.integers(10, 25)), window)
    energies = np.square(np.abs(_stft(waveform, window, hop))) @ bank.T
    gains = np.sqrt(energies @ (bank / np.maximum(bank.sum(axis=1, keepdims=True), 1e-9)))
    noise = generator.standard_normal(waveform.size).astype(np.float32)
    return _istft((_stft(noise, window, hop) * gains).astype(np.complex64), hop, waveform.size)


def pitch_flattened(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Move all voiced cycles to one constant pitch by pitch-synchronous overlap-add (PSOLA)."""
    hop = RECORDING_RATE // 100
    track = track_pitch(waveform, hop)
    voiced = track.period[track.is_voiced]
    target = (np.median(voiced) if voiced.size else 0.008 * RECORDING_RATE) * generator.uniform(0.8, 1.25)
    marks = _pitch_marks(waveform, track)
    result = np.zeros(waveform.size + 4 * RECORDING_RATE // 50, dtype=np.float32)
    position = float(marks[0])
    while position < waveform.size:
        nearest = int(np.argmin(np.abs(marks - position)))
        mark = int(marks[nearest])
        frame = min(mark // hop, track.period.size - 1)
        period = round(track.period[frame])
        grain = waveform[max(0, mark - period) : mark + period]
        start = round(position) - min(period, mark)
        window = np.hanning(2 * period + 1)[max(0, period - mark) :][: grain.size]
        if start >= 0:
            result[start : start + grain.size] += grain * window
        position += target if track.is_voiced[frame] else period
    return result[: waveform.size]


TRAINING_PROCESSES: dict[str, Process] = {
    "griffin_lim": griffin_lim,
    "low_rate_opus": low_rate_opus,
    "low_rate_mp3": low_rate_mp3,
    "pulse_vocoder": pulse_vocoder,
    "pitch_shifted": pitch_shifted,
}
"""Name → process, for the training and validation corpora."""

EVALUATION_PROCESSES: dict[str, Process] = {
    "sinusoidal": sinusoidal,
    "phase_randomised": phase_randomised,
    "celp": celp,
    "noise_vocoder": noise_vocoder,
    "pitch_flattened": pitch_flattened,
}
"""Name → process, for the evaluation corpora."""


def track_pitch(waveform: Waveform, hop: int, *, low_hz: float = 60, high_hz: float = 400) -> PitchTrack:
    """Find the pitch by normalised autocorrelation of 40 ms frames.

    A frame is voiced if the correlation at its best lag exceeds 0.4.

    Args:
        waveform: [num_samples] at 16 kHz.
        hop: Samples between frames.
        low_hz: Lowest pitch.
        high_hz: Highest pitch.
    """
    size = RECORDING_RATE // 25
    frames = _frames(waveform, size, hop)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, 2 * size, axis=1)))
    correlation = np.fft.irfft(power, axis=1)[:, :size]
    # Divide by the autocorrelation of the window, which would favour short lags.
    window_power = np.square(np.abs(np.fft.rfft(np.hanning(size), 2 * size)))
    window_correlation = np.fft.irfft(window_power)[:size]
    correlation /= np.maximum(correlation[:, :1], 1e-12)
    shortest, longest = int(RECORDING_RATE / high_hz), int(RECORDING_RATE / low_hz)
    lags = np.arange(shortest, longest)
    normalised = correlation[:, lags] * window_correlation[0] / window_correlation[lags]
    # The correlation at two periods is as high as at one, so prefer the shorter lag.
    best = np.argmax(normalised - 0.2 * lags / longest, axis=1)
    is_voiced = normalised[np.arange(best.size), best] > 0.4
    period = np.where(is_voiced, lags[best], hop // 2).astype(np.float64)
    return PitchTrack(hop, period, is_voiced)


def _frames(waveform: Waveform, size: int, hop: int) -> NDArray[np.float32]:
    """Cut frames [ceil(num_samples / hop), size] centred on multiples of `hop`; the ends are zero-padded."""
    padded = np.pad(waveform, (size // 2, size))
    num_frames = -(-waveform.size // hop)
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:num_frames]


def _stft(waveform: Waveform, window: int, hop: int, *, num_points: int | None = None) -> Spectrum:
    """Compute the short-time spectrum [num_frames, num_points // 2 + 1] with a Hann window.

    Args:
        waveform: [num_samples].
        window: Window length in samples.
        hop: Samples between frames.
        num_points: Length of the transform if it is longer than the window.
    """
    frames = _frames(waveform, window, hop) * np.hanning(window).astype(np.float32)
    return np.asarray(np.fft.rfft(frames, num_points or window, axis=1), dtype=np.complex64)


def _istft(spectrum: Spectrum, hop: int, num_samples: int) -> Waveform:
    """Invert a short-time spectrum to the waveform [num_samples] that matches it best (least squares)."""
    window = 2 * (spectrum.shape[1] - 1)
    grains = np.fft.irfft(spectrum, axis=1).astype(np.float32) * np.hanning(window).astype(np.float32)
    return _overlap_add(grains, hop, num_samples)


def _overlap_add(grains: NDArray[np.float32], hop: int, num_samples: int) -> Waveform:
    """Overlap-add grains [num_frames, size] centred on multiples of `hop`, normalised by the squared Hann windows."""
    num_frames, size = grains.shape
    assert size % hop == 0, (size, hop)
    overlap = size // hop
    total = np.zeros((num_frames + overlap, hop), dtype=np.float32)
    weight = np.zeros((num_frames + overlap, hop), dtype=np.float32)
    window = np.square(np.hanning(size)).astype(np.float32).reshape(overlap, hop)
    for part in range(overlap):
        total[part : part + num_frames] += grains.reshape(num_frames, overlap, hop)[:, part]
        weight[part : part + num_frames] += window[part]
    whole = (total / np.maximum(weight, 0.1)).reshape(-1)[size // 2 :]
    return np.asarray(np.pad(whole, (0, max(0, num_samples - whole.size)))[:num_samples], dtype=np.float32)


def _mel_bank(num_bands: int, window: int) -> NDArray[np.float32]:
    """Make triangular filters [num_bands, window // 2 + 1], evenly spaced in mel from 0 to 8 kHz."""
    highest = 2595 * np.log10(1 + RECORDING_RATE / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, highest, num_bands + 2) / 2595) - 1)
    bins_hz = np.fft.rfftfreq(window, 1 / RECORDING_RATE)
    # A band narrower than one bin could fall between two bins and be empty.
    width_hz = np.maximum(np.diff(edges_hz), RECORDING_RATE / window)
    rising = 1 - (edges_hz[1:-1, None] - bins_hz) / width_hz[:-1, None]
    falling = 1 - (bins_hz - edges_hz[1:-1, None]) / width_hz[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def _excitation(track: PitchTrack, num_samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Make a unit-power excitation: one pulse per period if voiced, Gaussian noise otherwise."""
    num_frames = -(-num_samples // track.hop)
    excitation = generator.standard_normal(num_frames * track.hop)
    voiced = np.repeat(track.is_voiced, track.hop)
    period = np.repeat(track.period, track.hop)
    excitation[voiced] = 0
    cycles = np.floor(np.cumsum(np.where(voiced, 1 / period, 0)))
    starts = np.flatnonzero((np.diff(cycles, prepend=0) > 0) & voiced)
    excitation[starts] = np.sqrt(period[starts])
    return excitation


def _linear_prediction(frames: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Run Levinson-Durbin on frames [num_frames, size]; returns the predictors [num_frames, order + 1]."""
    power = np.square(np.abs(np.fft.rfft(frames, 2 * frames.shape[1], axis=1)))
    correlation = np.fft.irfft(power, axis=1)[:, : order + 1]
    correlation[:, 0] = correlation[:, 0] * 1.0001 + 1e-9
    predictor = np.zeros((frames.shape[0], order + 1))
    predictor[:, 0] = 1
    error = correlation[:, 0].copy()
    for step in range(1, order + 1):
        reflection = -np.einsum("fk,fk->f", predictor[:, :step], correlation[:, step:0:-1]) / error
        predictor[:, 1 : step + 1] += reflection[:, None] * predictor[:, step - 1 :: -1][:, :step]
        error *= 1 - np.square(reflection)
    return predictor


def _match_envelope(waveform: Waveform, imitation: Waveform, hop: int) -> Waveform:
    """Scale `imitation` to the short-time level of `waveform`, in steps of `hop` samples."""
    levels = [np.sqrt(np.mean(np.square(_frames(x, 4 * hop, hop)), axis=1)) for x in (waveform, imitation)]
    gain = levels[0] / np.maximum(levels[1], 1e-9)
    positions = np.arange(waveform.size) / hop
    return np.asarray(imitation * np.interp(positions, np.arange(gain.size), gain), dtype=np.float32)


def _pitch_marks(waveform: Waveform, track: PitchTrack) -> NDArray[np.int64]:
    """Find one position per cycle: the highest sample near one period after the previous mark."""
    marks = [int(track.period[0])]
    while True:
        frame = min(marks[-1] // track.hop, track.period.size - 1)
        period = int(track.period[frame])
        expected = marks[-1] + period
        if expected + period >= waveform.size:
            return np.array(marks)
        if track.is_voiced[frame]:
            reach = max(1, period // 5)
            expected += int(np.argmax(waveform[expected - reach : expected + reach])) - reach
        marks.append(expected)
