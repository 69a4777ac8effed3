"""The loader normalises in NumPy and the scorer in torch: a detector must receive the same samples from both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data.loading.reading import EPSILON
from pipeline.data.loading.reading import normalise as normalise_row
from pipeline.detector.network import normalise as normalise_batch
from pipeline.detector.variants import NORM_EPSILON


@pytest.mark.parametrize("seed", range(10))
def test_the_normalisers_of_the_loader_and_of_the_detector_agree(seed):
    """To 2e-5 at unit variance, for any length, level and offset, and for silence, with padding."""
    rng = np.random.default_rng(seed)
    lengths = [1, 400, *rng.integers(2, 100_000, 4).tolist(), 4096, 30_000]
    padded = np.full((len(lengths), max(lengths) + 17), 7.0, np.float32)  # padding need not be 0 beforehand
    expected = np.zeros_like(padded)
    for row, length in enumerate(lengths):
        level, offset = 10.0 ** rng.uniform(-4, 0), rng.uniform(-0.3, 0.3)
        waveform = (level * rng.standard_normal(length) + level * offset).astype(np.float32)
        if row == len(lengths) - 1:
            waveform[:] = 0.25 * (seed % 2)  # silence, with and without an offset
        padded[row, :length] = waveform
        normalise_row(waveform, expected[row, :length])
    normalised = normalise_batch(torch.from_numpy(padded), torch.tensor(lengths)).numpy()
    assert not expected[-1].any()
    np.testing.assert_allclose(normalised, expected, atol=2e-5, rtol=0)


def test_the_normalisers_agree_on_a_batch_without_padding():
    waveforms = np.random.default_rng(0).standard_normal((3, 20_000)).astype(np.float32) * 0.1 + 0.02
    expected = np.empty_like(waveforms)
    for row, waveform in zip(expected, waveforms, strict=True):
        normalise_row(waveform, row)
    normalised = normalise_batch(torch.from_numpy(waveforms)).numpy()
    np.testing.assert_allclose(normalised, expected, atol=2e-5, rtol=0)


def test_the_normalisers_share_one_epsilon():
    assert EPSILON == NORM_EPSILON
