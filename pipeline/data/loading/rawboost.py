"""RawBoost: the three noises of telephony, drawn anew for each utterance (Tak et al., ICASSP 2022).

- LnL, linear and non-linear convolutive noise: the powers x, x², … x^N, each through its own chain of notches.
- ISD, impulsive signal-dependent noise: some samples are moved by a random share of themselves.
- SSI, stationary signal-independent noise: white noise through a chain of notches, added at a random SNR.

The published program filters sample by sample and designs one notch after the other; here all notches of an
utterance are designed at once in the frequency domain, and all powers are filtered by one overlap-save pass.

K: powers, N: notches of a chain, T: samples, L: taps, B: blocks, F: frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform

ALGORITHMS: dict[int, str] = {
    1: "LnL",
    2: "ISD",
    3: "SSI",
    4: "LnL, ISD, SSI",
    5: "LnL, ISD",
    6: "LnL, SSI",
    7: "ISD, SSI",
    8: "LnL beside ISD",
}

_DESIGN_SIZE = (
    1024  # the response is sampled as finely as the published design does: 512 points up to Nyquist
)
_BLOCK_SIZE = 4096
_BLOCKS_AT_ONCE = 8  # their spectra stay in the cache of a core: a third faster for long utterances
_EDGE_HZ = 1e-3  # how near a notch may come to 0 Hz and to Nyquist


@dataclass(frozen=True, slots=True)
class RawBoost:
    """One of the eight published combinations, with the parameters of the AntiDeepfake recipe."""

    algo: int = 5
    """A key of ALGORITHMS."""
    num_powers: int = 5
    num_notches: int = 5
    centre_hz: tuple[float, float] = (20.0, 8000.0)
    width_hz: tuple[float, float] = (100.0, 1000.0)
    num_taps: tuple[int, int] = (10, 100)
    gain_db: tuple[float, float] = (0.0, 0.0)
    nonlinear_loss_db: tuple[float, float] = (5.0, 20.0)
    """How far the powers above the first lie below `gain_db`."""
    impulse_percent: float = 10.0
    """At most this share of the samples is moved."""
    impulse_gain: float = 2.0
    snr_db: tuple[float, float] = (10.0, 40.0)

    def __post_init__(self) -> None:
        if self.algo not in ALGORITHMS:
            raise ValueError(f"RawBoost has no algorithm {self.algo}; known: 1 to 8")
        if self.num_notches * self.num_taps[1] > _DESIGN_SIZE:
            raise ValueError(
                f"{self.num_notches} notches of {self.num_taps[1]} taps exceed {_DESIGN_SIZE} taps"
            )

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return a boosted waveform of the same length."""
        if self.algo == 8:
            return _within_full_scale(self.convolve(waveform, rng) + self.add_impulses(waveform, rng))
        if self.algo in (1, 4, 5, 6):
            waveform = self.convolve(waveform, rng)
        if self.algo in (2, 4, 5, 7):
            waveform = self.add_impulses(waveform, rng)
        if self.algo in (3, 4, 6, 7):
            waveform = self.add_coloured_noise(waveform, rng)
        return waveform

    def convolve(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """LnL: the sum of the filtered powers, without its mean."""
        losses_db_K = np.where(
            np.arange(self.num_powers) == 0, 0, rng.uniform(*self.nonlinear_loss_db, self.num_powers)
        )
        gains_db_K = rng.uniform(*self.gain_db, self.num_powers) - losses_db_K
        filters_KL, delays_K = self.draw_filters(gains_db_K, rng)
        summed = _filter_powers(waveform, filters_KL, delays_K)
        return _within_full_scale(summed - summed.mean())

    def add_impulses(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """ISD: move a random share of the samples, each by a random part of itself."""
        num_moved = int(len(waveform) * rng.uniform(0, self.impulse_percent) / 100)
        places = rng.choice(len(waveform), num_moved, replace=False, shuffle=False)
        shares = rng.uniform(-1, 1, (2, num_moved)).astype(np.float32)
        moved = waveform.copy()
        moved[places] += np.float32(self.impulse_gain) * waveform[places] * shares[0] * shares[1]
        return _within_full_scale(moved)

    def add_coloured_noise(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """SSI: add filtered white noise at a random SNR."""
        white = rng.standard_normal(len(waveform), dtype=np.float32)
        filters_KL, delays_K = self.draw_filters(np.array([rng.uniform(*self.gain_db)]), rng)
        noise = _filter_powers(white, filters_KL, delays_K)
        ratio = level(waveform) / level(noise)
        return waveform + noise * np.float32(ratio * 10 ** (-rng.uniform(*self.snr_db) / 20))

    def draw_filters(
        self, gains_db_K: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw a chain of notches for each gain; return taps [K, L] padded with zeros, and delays in samples [K]."""
        shape = (len(gains_db_K), self.num_notches)
        centres_KN = rng.uniform(*self.centre_hz, shape)
        widths_KN = rng.uniform(*self.width_hz, shape)
        sizes_KN = rng.uniform(*self.num_taps, shape).astype(np.int64) | 1  # odd: a notch needs a middle
        lows_KN = np.maximum(centres_KN - widths_KN / 2, _EDGE_HZ)
        highs_KN = np.minimum(centres_KN + widths_KN / 2, SAMPLE_RATE / 2 - _EDGE_HZ)
        chains_KF = np.prod(scipy.fft.rfft(notches(lows_KN, highs_KN, sizes_KN), _DESIGN_SIZE), axis=1)
        peaks_K = np.abs(chains_KF[:, :-1]).max(axis=1)
        filters_KL = scipy.fft.irfft(chains_KF * (10 ** (gains_db_K / 20) / peaks_K)[:, None], _DESIGN_SIZE)
        num_taps_K = sizes_KN.sum(axis=1) - self.num_notches + 1
        # The published program cuts one sample after the middle of the chain.
        return filters_KL[:, : num_taps_K.max()], (num_taps_K + 1) // 2


def notches(
    lows: NDArray[np.float64], highs: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Windowed-sinc band stops from `lows` to `highs` (Hz) of `sizes` taps, [..., longest], padded with zeros.

    A sum of taps below zero turns the sign of the whole filter, as scaling to a gain of one at 0 Hz would.
    """
    places = np.arange(sizes.max())
    offsets = places - (sizes[..., None] - 1) / 2
    lows_, highs_ = (2 * edges[..., None] / SAMPLE_RATE for edges in (lows, highs))
    taps = lows_ * np.sinc(lows_ * offsets) - highs_ * np.sinc(highs_ * offsets) + (offsets == 0)
    phases = np.minimum(places / np.maximum(sizes[..., None] - 1, 1), 1)
    taps *= (0.54 - 0.46 * np.cos(2 * np.pi * phases)) * (places < sizes[..., None])
    signed: NDArray[np.float64] = np.copysign(taps, taps * taps.sum(axis=-1, keepdims=True))
    return signed


def _filter_powers(
    waveform: Waveform, filters_KL: NDArray[np.float64], delays_K: NDArray[np.int64]
) -> Waveform:
    """Filter power k of the waveform by filter k, advance each by its delay, and sum: overlap-save, [T]."""
    num_powers, num_taps = filters_KL.shape
    latest = int(delays_K.max())
    # A filter that begins (latest − delay) later lets all powers share one advance.
    shifted_KL = np.zeros((num_powers, num_taps + latest - int(delays_K.min())))
    for shifted, taps, delay in zip(shifted_KL, filters_KL, delays_K, strict=True):
        shifted[latest - delay : latest - delay + num_taps] = taps
    responses_KF = scipy.fft.rfft(shifted_KL, _BLOCK_SIZE).astype(np.complex64)
    overlap = shifted_KL.shape[1] - 1
    hop = _BLOCK_SIZE - overlap
    num_blocks = -(-len(waveform) // hop)
    powers_KT = np.zeros((num_powers, (num_blocks - 1) * hop + _BLOCK_SIZE), dtype=np.float32)
    # The first sample that counts is sample `latest` of the full convolution; it needs `overlap` samples before it.
    inside = slice(overlap - latest, overlap - latest + len(waveform))
    powers_KT[0, inside] = waveform
    for power in range(1, num_powers):
        np.multiply(powers_KT[power - 1, inside], waveform, out=powers_KT[power, inside])
    blocks_KBT = np.lib.stride_tricks.sliding_window_view(powers_KT, _BLOCK_SIZE, axis=1)[:, ::hop]
    filtered_BT = np.empty((num_blocks, hop), dtype=np.float32)
    for begin in range(0, num_blocks, _BLOCKS_AT_ONCE):
        several = slice(begin, begin + _BLOCKS_AT_ONCE)
        spectra_KBF = scipy.fft.rfft(blocks_KBT[:, several])
        spectra_KBF *= responses_KF[:, None]
        filtered_BT[several] = scipy.fft.irfft(spectra_KBF.sum(axis=0), _BLOCK_SIZE)[:, overlap:]
    return filtered_BT.reshape(-1)[: len(waveform)]


def level(waveform: Waveform) -> float:
    """Root of the energy; never 0, so that silence stays silence.

    Summed by NumPy: BLAS, which computes its norms, would start threads in every worker of the loader, and the last
    bit would depend on how many.
    """
    return max(math.sqrt(np.square(waveform).sum()), 1e-12)


def _within_full_scale(waveform: Waveform) -> Waveform:
    peak = np.abs(waveform).max(initial=0)
    return waveform / peak if peak > 1 else waveform
