"""Filters, resamplers, clipping and packet loss do what their settings say."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.loading.augment.channel import BandPass, Clipping, Gain, LowPass, Resampling, Speed
from pipeline.data.loading.augment.packets import FRAME_SAMPLES, PacketLoss, draw_losses
from tests.data.loading.augment.recorded import RATE, power_between, speech


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_gain_changes_the_level_and_clips_at_full_scale():
    waveform = speech()
    quieter = Gain(gain_db=(-6, -6))(waveform, rng())
    np.testing.assert_allclose(quieter, waveform * 10 ** (-6 / 20), rtol=1e-5)
    assert np.abs(Gain(gain_db=(40, 40))(waveform, rng())).max() == 1


def test_clipping_flattens_only_what_is_above_the_threshold():
    waveform = speech()
    peak = np.abs(waveform).max()
    clipped = Clipping(threshold_db=(-6, -6))(waveform, rng())
    threshold = peak * 10 ** (-6 / 20)
    assert np.abs(clipped).max() == pytest.approx(threshold)
    below = np.abs(waveform) < threshold
    assert 0.5 < below.mean() < 1
    np.testing.assert_array_equal(clipped[below], waveform[below])


def test_low_pass_removes_frequencies_above_the_cutoff_without_delay():
    waveform = speech()
    filtered = LowPass(cutoff_hz=(3_000, 3_000))(waveform, rng())
    assert power_between(filtered, 4_000, 8_000) < 1e-4 * power_between(waveform, 4_000, 8_000)
    assert power_between(filtered, 100, 2_000) == pytest.approx(power_between(waveform, 100, 2_000), rel=0.01)
    assert np.corrcoef(waveform, filtered)[0, 1] > 0.99


def test_band_pass_keeps_the_band_of_a_telephone_without_delay():
    waveform = rng().standard_normal(RATE).astype(np.float32)
    filtered = BandPass(low_hz=(300, 300), high_hz=(3_400, 3_400))(waveform, rng())
    for low_hz, high_hz in ((0, 150), (3_700, 8_000)):
        assert power_between(filtered, low_hz, high_hz) < 1e-3 * power_between(waveform, low_hz, high_hz)
    kept = power_between(filtered, 500, 3_200) / power_between(waveform, 500, 3_200)
    assert kept == pytest.approx(1, abs=0.01)
    assert np.argmax(np.correlate(filtered, waveform, "full")) == RATE - 1


def test_resampling_removes_the_band_above_the_lower_rate():
    waveform = speech()
    narrow = Resampling(rate_hz=(8_000, 8_000), qualities=("HQ",))(waveform, rng())
    assert power_between(narrow, 4_200, 8_000) < 1e-4 * power_between(waveform, 4_200, 8_000)
    assert np.corrcoef(waveform, narrow)[0, 1] > 0.99


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_moves_the_pitch_and_fills_the_whole_length(factor: float):
    tone = np.sin(2 * np.pi * 1_000 * np.arange(RATE) / RATE).astype(np.float32)
    played = Speed(factor=(factor, factor))(tone, rng())
    assert len(played) == len(tone)
    expected = 1_000 * factor
    assert power_between(played, expected - 20, expected + 20) > 0.98 * power_between(played, 0, 8_000)
    assert np.abs(played[-500:]).max() > 0.9


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 1.0), (0.1, 3.0), (0.4, 5.0)])
def test_losses_have_the_requested_share_and_come_in_bursts(loss: float, burst: float):
    is_lost = draw_losses(200_000, loss, burst, rng())
    assert is_lost.mean() == pytest.approx(loss, rel=0.05)
    num_bursts = np.count_nonzero(np.diff(is_lost.astype(int)) == 1)
    assert is_lost.sum() / num_bursts == pytest.approx(burst, rel=0.05)
    starts = np.mean([draw_losses(1, loss, burst, np.random.default_rng(seed))[0] for seed in range(2_000)])
    assert starts == pytest.approx(loss, abs=0.05)


def test_a_lost_frame_is_silent_or_repeats_the_last_one():
    waveform = speech(100 * FRAME_SAMPLES + 50)
    shape = (100, FRAME_SAMPLES)
    original = waveform[: 100 * FRAME_SAMPLES].reshape(shape)
    silent = PacketLoss(loss=(0.2, 0.2), burst_frames=(2, 2), fill=("zeros",))(waveform, rng())
    frames = silent[: 100 * FRAME_SAMPLES].reshape(shape)
    is_lost = ~frames.any(axis=1)
    assert 5 < is_lost.sum() < 50
    np.testing.assert_array_equal(frames[~is_lost], original[~is_lost])
    repeated = PacketLoss(loss=(0.2, 0.2), burst_frames=(2, 2), fill=("repeat",))(waveform, rng())
    again = repeated[: 100 * FRAME_SAMPLES].reshape(shape)
    for number in np.flatnonzero(is_lost):
        if number:
            np.testing.assert_array_equal(again[number], again[number - 1])
    np.testing.assert_array_equal(PacketLoss(loss=(0, 0))(waveform, rng()), waveform)
