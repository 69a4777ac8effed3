"""Processes that leave traces in speech: what makes the demo's spoofs.

Each takes a recording at 16 kHz [num_samples] and a random generator, and returns a waveform of the same shape.
`TRAINING` and `EVALUATION` share no process, so an evaluation asks about traces that training never met.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from pipeline.synthetic.codecs import through_codec
from pipeline.synthetic.recording import RECORDING_RATE
from pipeline.synthetic.speech import Waveform

Process: TypeAlias = Callable[[Waveform, np.random.Generator], Waveform]
Spectrum: TypeAlias = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class PitchTrack:
    """The pitch of a waveform every `hop` samples."""

    hop: int
    period: NDArray[np.float64]
    """Samples per cycle, [num_frames]; meaningful where voiced."""
    is_voiced: NDArray[np.bool_]
    """[num_frames]"""


def apply(process: Process, waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Run `process` and give its result the length and the level (RMS) of `waveform`."""
    processed = process(waveform, generator)
    assert processed.shape == waveform.shape, (process.__name__, processed.shape, waveform.shape)
    loudness = np.sqrt(np.mean(np.square(processed)))
    assert loudness > 0, process.__name__
    scale = np.sqrt(np.mean(np.square(waveform))) / loudness
    return np.asarray(np.clip(processed * scale, -1, 1), dtype=np.float32)


# Processes of training


def griffin_lim(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Copy synthesis: a mel spectrogram of 32–80 bands, and a phase found by 8–32 fast Griffin-Lim steps."""
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
    """Opus in its speech mode at 6–12 kbit/s."""
    return through_codec(
        waveform,
        "libopus",
        "opus",
        sample_rate=RECORDING_RATE,
        bit_rate=int(generator.choice([6_000, 8_000, 10_000, 12_000])),
        options={"application": "voip"},
    )


def low_rate_mp3(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """MP3 at 8–24 kbit/s."""
    bit_rate = int(generator.choice([8_000, 16_000, 24_000]))
    return through_codec(waveform, "libmp3lame", "mp3float", sample_rate=RECORDING_RATE, bit_rate=bit_rate)


def pulse_vocoder(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Linear prediction of order 12–20, excited by pulses where voiced and by noise elsewhere."""
    order, hop = int(generator.integers(12, 21)), RECORDING_RATE // 100
    track = track_pitch(waveform, hop)
    excitation = _pulses_or_noise(track, waveform.size, generator)
    frames = _frames(waveform, 3 * hop, hop) * np.hanning(3 * hop)
    predictors = _linear_prediction(frames, order)
    result = np.zeros(frames.shape[0] * hop)
    state = np.zeros(order)
    for index, predictor in enumerate(predictors):
        span = slice(index * hop, (index + 1) * hop)
        result[span], state = signal.lfilter([1.0], predictor, excitation[span], zi=state)
    return _with_envelope_of(waveform, result[: waveform.size].astype(np.float32), hop)


def pitch_shifted(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """A phase vocoder that moves the voice 1–4 semitones up or down, its formants with it."""
    window, hop = 512, 128
    ratio = 2 ** (generator.choice([-1, 1]) * generator.uniform(1, 4) / 12)
    spectrum = _stft(waveform, window, hop)
    positions = np.arange(0, spectrum.shape[0] - 1, 1 / ratio)
    before, share = positions.astype(int), (positions % 1)[:, None]
    magnitude = (1 - share) * np.abs(spectrum[before]) + share * np.abs(spectrum[before + 1])
    advance = np.angle(spectrum[before + 1] * spectrum[before].conj()).astype(np.float64)
    phase = np.angle(spectrum[0]) + np.cumsum(advance, axis=0)
    # Longer by the ratio at the old pitch, then played faster by it.
    stretched = _istft(
        (magnitude * np.exp(1j * phase)).astype(np.complex64), hop, round(waveform.size * ratio)
    )
    shifted = soxr.resample(stretched, RECORDING_RATE * ratio, RECORDING_RATE)
    return np.asarray(np.pad(shifted, (0, max(0, waveform.size - shifted.size)))[: waveform.size])


# Processes of evaluation


def sinusoidal(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """The 20–50 strongest sinusoids of each 32 ms frame, and nothing else."""
    window, hop = 512, 128
    num_peaks = int(generator.integers(20, 51))
    padding = 2  # of the transform, for finer frequencies
    spectrum = _stft(waveform, window, hop, num_bins=padding * window)
    magnitude = np.abs(spectrum)
    is_peak = np.zeros(magnitude.shape, dtype=bool)
    is_peak[:, 1:-1] = (magnitude[:, 1:-1] > magnitude[:, :-2]) & (magnitude[:, 1:-1] >= magnitude[:, 2:])
    ranked = np.argsort(np.where(is_peak, magnitude, 0), axis=1)[:, ::-1][:, :num_peaks]
    kept = np.take_along_axis(spectrum, ranked, 1) * np.take_along_axis(is_peak, ranked, 1)
    # One bin a sinusoid, synthesised over the whole frame.
    sparse = np.zeros_like(spectrum)
    np.put_along_axis(sparse, ranked, kept, 1)
    grains = np.fft.irfft(sparse, axis=1)[:, :window] * np.hanning(window)
    return _overlap_add(grains.astype(np.float32), hop, waveform.size)


def phase_randomised(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """The magnitudes of the short-time spectrum with 50–100 % of the circle added to each phase at random."""
    window, hop = 512, 128
    spectrum = _stft(waveform, window, hop)
    spread = generator.uniform(0.5, 1.0)
    turn = np.exp(2j * np.pi * spread * (generator.random(spectrum.shape) - 0.5))
    return _istft((spectrum * turn).astype(np.complex64), hop, waveform.size)


def celp(waveform: Waveform, generator: np.random.Generator) -> Waveform:  # noqa: ARG001
    """RealAudio 1.0: code-excited linear prediction at 8 kbit/s, of what lies below 4 kHz."""
    return through_codec(waveform, "real_144", "real_144", sample_rate=8_000, bit_rate=8_000)


def noise_vocoder(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """The envelopes of 10–24 bands, each on noise of its band: speech without pitch."""
    window, hop = 512, 128
    bank = _mel_bank(int(generator.integers(10, 25)), window)
    energies = np.square(np.abs(_stft(waveform, window, hop))) @ bank.T
    gains = np.sqrt(energies @ (bank / np.maximum(bank.sum(axis=1, keepdims=True), 1e-9)))
    noise = generator.standard_normal(waveform.size).astype(np.float32)
    return _istft((_stft(noise, window, hop) * gains).astype(np.complex64), hop, waveform.size)


def pitch_flattened(waveform: Waveform, generator: np.random.Generator) -> Waveform:
    """Pitch-synchronous overlap-add that moves every voiced cycle to one constant pitch."""
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


TRAINING: dict[str, Process] = {
    "griffin_lim": griffin_lim,
    "low_rate_opus": low_rate_opus,
    "low_rate_mp3": low_rate_mp3,
    "pulse_vocoder": pulse_vocoder,
    "pitch_shifted": pitch_shifted,
}
"""Name → process, for the corpora of training and validation."""

EVALUATION: dict[str, Process] = {
    "sinusoidal": sinusoidal,
    "phase_randomised": phase_randomised,
    "celp": celp,
    "noise_vocoder": noise_vocoder,
    "pitch_flattened": pitch_flattened,
}
"""Name → process, for the corpora of evaluation."""


# What the processes are made of


def track_pitch(waveform: Waveform, hop: int, *, low_hz: float = 60, high_hz: float = 400) -> PitchTrack:
    """Find the pitch by autocorrelation of 40 ms frames; a frame is voiced where the best lag exceeds 0.4."""
    size = RECORDING_RATE // 25
    frames = _frames(waveform, size, hop)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, 2 * size, axis=1)))
    correlation = np.fft.irfft(power, axis=1)[:, :size]
    # The window's own autocorrelation would favour short lags.
    window_power = np.square(np.abs(np.fft.rfft(np.hanning(size), 2 * size)))
    window_correlation = np.fft.irfft(window_power)[:size]
    correlation /= np.maximum(correlation[:, :1], 1e-12)
    shortest, longest = int(RECORDING_RATE / high_hz), int(RECORDING_RATE / low_hz)
    lags = np.arange(shortest, longest)
    likeness = correlation[:, lags] * window_correlation[0] / window_correlation[lags]
    # Two periods look as much alike as one: prefer the shorter lag.
    best = np.argmax(likeness - 0.2 * lags / longest, axis=1)
    is_voiced = likeness[np.arange(best.size), best] > 0.4
    period = np.where(is_voiced, lags[best], hop // 2).astype(np.float64)
    return PitchTrack(hop, period, is_voiced)


def _frames(waveform: Waveform, size: int, hop: int) -> NDArray[np.float32]:
    """Cut [ceil(num_samples / hop), size] frames centred on multiples of `hop`, with zeros beyond the ends."""
    padded = np.pad(waveform, (size // 2, size))
    num_frames = -(-waveform.size // hop)
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:num_frames]


def _stft(waveform: Waveform, window: int, hop: int, *, num_bins: int | None = None) -> Spectrum:
    """Short-time spectrum [num_frames, bins] under a Hann window; `num_bins`: points of the transform."""
    frames = _frames(waveform, window, hop) * np.hanning(window).astype(np.float32)
    return np.asarray(np.fft.rfft(frames, num_bins or window, axis=1), dtype=np.complex64)


def _istft(spectrum: Spectrum, hop: int, num_samples: int) -> Waveform:
    """The waveform [num_samples] whose short-time spectrum is nearest to `spectrum`."""
    window = 2 * (spectrum.shape[1] - 1)
    grains = np.fft.irfft(spectrum, axis=1).astype(np.float32) * np.hanning(window).astype(np.float32)
    return _overlap_add(grains, hop, num_samples)


def _overlap_add(grains: NDArray[np.float32], hop: int, num_samples: int) -> Waveform:
    """Add grains [num_frames, size], centred on multiples of `hop`, over their summed squared Hann windows."""
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
    """Triangular filters [num_bands, window // 2 + 1], evenly spaced in mel from 0 to 8 kHz."""
    highest = 2595 * np.log10(1 + RECORDING_RATE / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, highest, num_bands + 2) / 2595) - 1)
    bins_hz = np.fft.rfftfreq(window, 1 / RECORDING_RATE)
    # A band narrower than two bins would hold none of them.
    width_hz = np.maximum(np.diff(edges_hz), RECORDING_RATE / window)
    rising = 1 - (edges_hz[1:-1, None] - bins_hz) / width_hz[:-1, None]
    falling = 1 - (bins_hz - edges_hz[1:-1, None]) / width_hz[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def _pulses_or_noise(
    track: PitchTrack, num_samples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Unit-power excitation: a pulse a period where voiced, Gaussian noise elsewhere."""
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
    """Levinson-Durbin of all frames [num_frames, size] at once; predictors [num_frames, order + 1]."""
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


def _with_envelope_of(waveform: Waveform, imitation: Waveform, hop: int) -> Waveform:
    """Give `imitation` the short-time level of `waveform`, frame by frame of `hop` samples."""
    levels = [np.sqrt(np.mean(np.square(_frames(x, 4 * hop, hop)), axis=1)) for x in (waveform, imitation)]
    gain = levels[0] / np.maximum(levels[1], 1e-9)
    positions = np.arange(waveform.size) / hop
    return np.asarray(imitation * np.interp(positions, np.arange(gain.size), gain), dtype=np.float32)


def _pitch_marks(waveform: Waveform, track: PitchTrack) -> NDArray[np.int64]:
    """One position a cycle, each on the highest sample near where the last cycle's period points."""
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
