"""Noise is added at the requested ratio, and recordings are cut or repeated to the length of the speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.audio.flac import quantise
from pipeline.data.loading.augment.additive import Babble, Colour, Music, Noise
from tests.data.loading.augment.recorded import RATE, power_between, record, speech


def snr_db(waveform: np.ndarray, mixed: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(waveform) / np.linalg.norm(mixed - waveform)))


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_has_the_requested_snr_and_slope(slope: float):
    waveform = speech(4 * RATE)
    mixed = Colour(snr_db=(12, 12), slope=(slope, slope))(waveform, np.random.default_rng(0))
    assert snr_db(waveform, mixed) == pytest.approx(12, abs=0.1)
    # One octave higher, the power is 2^(1 − slope) times as large.
    noise = mixed - waveform
    octaves = power_between(noise, 2_000, 4_000) / power_between(noise, 1_000, 2_000)
    assert octaves == pytest.approx(2 ** (1 - slope), rel=0.1)


@pytest.mark.parametrize("kind", [Noise, Music, Babble])
@pytest.mark.parametrize("wanted_db", [-5.0, 7.0, 20.0])
def test_recordings_are_added_at_the_requested_snr(
    kind: type[Noise] | type[Music] | type[Babble], wanted_db: float, tmp_path: Path
):
    recordings = record(tmp_path / "noises", [speech(50_000, 2) * 0.1, speech(2_000, 3)])
    step = kind(from_=("musan",), snr_db=(wanted_db, wanted_db))
    waveform = speech(2 * RATE)
    for seed in range(4):
        mixed = step.mix(waveform, np.random.default_rng(seed), recordings)
        assert snr_db(waveform, mixed) == pytest.approx(wanted_db, abs=0.1)


def test_a_window_of_a_long_recording_and_a_repeated_short_one_are_added(tmp_path: Path):
    rng = np.random.default_rng(0)
    long, short = (
        (quantise(0.1 * rng.standard_normal(size, np.float32)) / 2**15).astype(np.float32)
        for size in (30_000, 700)
    )
    windows = [record(tmp_path / "long", [long]).draw_window(4_000, rng) for _ in range(9)]
    starts = [int(np.argmax(np.correlate(long, window))) for window in windows]
    assert len(set(starts)) > 5
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(window, long[start : start + 4_000])
    repeated = record(tmp_path / "short", [short]).draw_window(2_000, rng)
    np.testing.assert_array_equal(repeated[:1_300], repeated[700:])
    np.testing.assert_array_equal(np.sort(repeated[:700]), np.sort(short))


def test_babble_is_the_sum_of_different_recordings_at_one_level(tmp_path: Path):
    tones = [
        (amplitude * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)).astype(np.float32)
        for amplitude, hz in ((0.9, 500), (0.05, 1_500), (0.3, 2_500))
    ]
    recordings = record(tmp_path / "tones", tones)
    babble = Babble(from_=("musan",), snr_db=(0, 0), num_speakers=(20, 20))
    waveform = speech(RATE)
    added = babble.mix(waveform, np.random.default_rng(1), recordings) - waveform
    powers = [power_between(added, hz - 5, hz + 5) for hz in (500, 1_500, 2_500)]
    assert min(powers) > 0.01 * sum(powers)  # phases of equal tones add up at random
    assert sum(powers) > 0.99 * power_between(added, 0, 8_000)


def test_silence_stays_as_it_is(tmp_path: Path):
    silence = np.zeros(RATE, np.float32)
    recordings = record(tmp_path / "noises", [speech()])
    mixed = Noise(from_=("musan",)).mix(silence, np.random.default_rng(0), recordings)
    assert np.abs(mixed).max() < 1e-9
