"""RawBoost: three kinds of telephony noise with random parameters for each utterance (Tak et al., ICASSP 2022).

- LnL, linear and non-linear convolutive noise: the powers x, x², … x^N, each filtered by its own chain of notches.
- ISD, impulsive signal-dependent noise: some samples are changed by a random fraction of themselves.
- SSI, stationary signal-independent noise: white noise, filtered by a chain of notches and added at a random SNR.

The published program filters sample by sample and designs one notch after another. Here all notches of an utterance are
designed at once in the frequency domain, and all powers are filtered in one overlap-save pass.

K: powers, N: notches of a chain, T: samples, L: taps, B: blocks, F: frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.data.loading.augment.step import Augmentation, level
from pipeline.errors import InputError
from pipeline.fields import Range

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

_DESIGN_SIZE = 1024
"""FFT size of the filter design; as in the published program, it samples the response at 512 points up to Nyquist."""
_BLOCK_SIZE = 4096
_BLOCKS_PER_PASS = 8
"""Blocks whose spectra are held at once: they fit the cache of a core, which makes long utterances a third faster."""
_EDGE_HZ = 1e-3
"""Smallest distance of a notch from 0 Hz and from Nyquist."""


Band = Annotated[tuple[float, float], Range(0, SAMPLE_RATE / 2)]
"""An interval of frequencies in Hz."""


@dataclass(frozen=True, kw_only=True)
class RawBoost(Augmentation):
    """One of the eight published combinations, with the parameters that AntiDeepfake was trained with."""

    name: Literal[
        "rawboost1", "rawboost2", "rawboost3", "rawboost4", "rawboost5", "rawboost6", "rawboost7", "rawboost8"
    ] = "rawboost5"
    num_powers: Annotated[int, Range(1, 20)] = 5
    num_notches: Annotated[int, Range(1, 100)] = 5
    centre_hz: Band = (20.0, 8000.0)
    width_hz: Band = (100.0, 1000.0)
    num_taps: Annotated[tuple[int, int], Range(1, _DESIGN_SIZE)] = (10, 100)
    gain_db: Annotated[tuple[float, float], Range(-120, 120)] = (0.0, 0.0)
    nonlinear_loss_db: Annotated[tuple[float, float], Range(-120, 120)] = (5.0, 20.0)
    """Attenuation of the powers above the first, relative to `gain_db`."""
    impulse_percent: Annotated[float, Range(0, 100)] = 10.0
    """Largest percentage of the samples that is changed."""
    impulse_gain: Annotated[float, Range(0, 1000)] = 2.0
    snr_db: Annotated[tuple[float, float], Range(-60, 120)] = (10.0, 40.0)

    def __post_init__(self) -> None:
        if self.num_notches * self.num_taps[1] > _DESIGN_SIZE:
            raise InputError(
                f"{self.num_notches} num_notches of {self.num_taps[1]} num_taps exceed {_DESIGN_SIZE} taps; give fewer"
            )

    @property
    def algo(self) -> int:
        """A key of ALGORITHMS."""
        return int(self.name.removeprefix("rawboost"))

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with the noise of the chosen algorithm."""
        if self.algo == 8:
            return _limit_to_full_scale(self.convolve(waveform, rng) + self.add_impulses(waveform, rng))
        if self.algo in (1, 4, 5, 6):
            waveform = self.convolve(waveform, rng)
        if self.algo in (2, 4, 5, 7):
            waveform = self.add_impulses(waveform, rng)
        if self.algo in (3, 4, 6, 7):
            waveform = self.add_coloured_noise(waveform, rng)
        return waveform

    def convolve(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """LnL: return the sum of the filtered powers, minus its mean."""
        losses_db_K = np.where(
            np.arange(self.num_powers) == 0, 0, rng.uniform(*self.nonlinear_loss_db, self.num_powers)
        )
        gains_db_K = rng.uniform(*self.gain_db, self.num_powers) - losses_db_K
        filters_KL, delays_K = self.draw_filters(gains_db_K, rng)
        summed = _filter_powers(waveform, filters_KL, delays_K)
        return _limit_to_full_scale(summed - summed.mean())

    def add_impulses(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """ISD: change a random share of the samples, each by a random fraction of itself."""
        num_changed = int(len(waveform) * rng.uniform(0, self.impulse_percent) / 100)
        positions = rng.choice(len(waveform), num_changed, replace=False, shuffle=False)
        factors = rng.uniform(-1, 1, (2, num_changed)).astype(np.float32)
        changed = waveform.copy()
        changed[positions] += np.float32(self.impulse_gain) * waveform[positions] * factors[0] * factors[1]
        return _limit_to_full_scale(changed)

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
        """Draw a chain of notches for each gain; return zero-padded taps [K, L] and delays in samples [K]."""
        shape = (len(gains_db_K), self.num_notches)
        centres_KN = rng.uniform(*self.centre_hz, shape)
        widths_KN = rng.uniform(*self.width_hz, shape)
        # Odd, so that each filter is symmetric about one tap.
        sizes_KN = rng.uniform(*self.num_taps, shape).astype(np.int64) | 1
        lows_KN = np.maximum(centres_KN - widths_KN / 2, _EDGE_HZ)
        highs_KN = np.minimum(centres_KN + widths_KN / 2, SAMPLE_RATE / 2 - _EDGE_HZ)
        chains_KF = np.prod(scipy.fft.rfft(notches(lows_KN, highs_KN, sizes_KN), _DESIGN_SIZE), axis=1)
        peaks_K = np.abs(chains_KF[:, :-1]).max(axis=1)
        filters_KL = scipy.fft.irfft(chains_KF * (10 ** (gains_db_K / 20) / peaks_K)[:, None], _DESIGN_SIZE)
        num_taps_K = sizes_KN.sum(axis=1) - self.num_notches + 1
        # The published program starts its output one sample after the centre of the chain.
        return filters_KL[:, : num_taps_K.max()], (num_taps_K + 1) // 2


def notches(
    lows: NDArray[np.float64], highs: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Design windowed-sinc band-stop filters: [..., longest], padded with zeros.

    A filter whose taps sum to less than zero is negated, as scaling to a gain of one at 0 Hz would do.

    Args:
        lows: Lower edges in Hz.
        highs: Upper edges in Hz.
        sizes: Numbers of taps.
    """
    tap = np.arange(sizes.max())
    offsets = tap - (sizes[..., None] - 1) / 2
    lows_, highs_ = (2 * edges[..., None] / SAMPLE_RATE for edges in (lows, highs))
    taps = lows_ * np.sinc(lows_ * offsets) - highs_ * np.sinc(highs_ * offsets) + (offsets == 0)
    phases = np.minimum(tap / np.maximum(sizes[..., None] - 1, 1), 1)
    taps *= (0.54 - 0.46 * np.cos(2 * np.pi * phases)) * (tap < sizes[..., None])
    signed: NDArray[np.float64] = np.copysign(taps, taps * taps.sum(axis=-1, keepdims=True))
    return signed


def _filter_powers(
    waveform: Waveform, filters_KL: NDArray[np.float64], delays_K: NDArray[np.int64]
) -> Waveform:
    """Filter power k of the waveform by filter k, advance each by its delay, and sum them [T], by overlap-save."""
    num_powers, num_taps = filters_KL.shape
    latest = int(delays_K.max())
    # Delaying each filter by (latest − delay) lets all powers share one advance.
    shifted_KL = np.zeros((num_powers, num_taps + latest - int(delays_K.min())))
    for shifted, taps, delay in zip(shifted_KL, filters_KL, delays_K, strict=True):
        shifted[latest - delay : latest - delay + num_taps] = taps
    responses_KF = scipy.fft.rfft(shifted_KL, _BLOCK_SIZE).astype(np.complex64)
    overlap = shifted_KL.shape[1] - 1
    hop = _BLOCK_SIZE - overlap
    num_blocks = -(-len(waveform) // hop)
    powers_KT = np.zeros((num_powers, (num_blocks - 1) * hop + _BLOCK_SIZE), dtype=np.float32)
    # The output starts at sample `latest` of the full convolution, which needs `overlap` samples before it.
    inside = slice(overlap - latest, overlap - latest + len(waveform))
    powers_KT[0, inside] = waveform
    for power in range(1, num_powers):
        np.multiply(powers_KT[power - 1, inside], waveform, out=powers_KT[power, inside])
    blocks_KBT = np.lib.stride_tricks.sliding_window_view(powers_KT, _BLOCK_SIZE, axis=1)[:, ::hop]
    filtered_BT = np.empty((num_blocks, hop), dtype=np.float32)
    for begin in range(0, num_blocks, _BLOCKS_PER_PASS):
        blocks = slice(begin, begin + _BLOCKS_PER_PASS)
        spectra_KBF = scipy.fft.rfft(blocks_KBT[:, blocks])
        spectra_KBF *= responses_KF[:, None]
        filtered_BT[blocks] = scipy.fft.irfft(spectra_KBF.sum(axis=0), _BLOCK_SIZE)[:, overlap:]
    return filtered_BT.reshape(-1)[: len(waveform)]


def _limit_to_full_scale(waveform: Waveform) -> Waveform:
    peak = np.abs(waveform).max(initial=0)
    return waveform / peak if peak > 1 else waveform
