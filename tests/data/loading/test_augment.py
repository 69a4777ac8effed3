import numpy as np
import pytest

from pipeline.data.loading.augment import (
    AUGMENTATIONS,
    CODECS,
    Chain,
    Codec,
    Gain,
    LowPass,
    Noise,
    Resampling,
    Reverberation,
    augmentation,
)
from pipeline.errors import InputError

RATE = 16_000


def speech(num_samples: int = RATE) -> np.ndarray:
    time = np.arange(num_samples) / RATE
    noise = np.random.default_rng(1).standard_normal(num_samples)
    return (0.4 * np.sin(2 * np.pi * 300 * time) * np.sin(20 * time) + 0.02 * noise).astype(np.float32)


def power_between(waveform: np.ndarray, low_hz: float, high_hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return float(spectrum[(frequencies >= low_hz) & (frequencies < high_hz)].sum())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_depends_only_on_the_seed(name: str) -> None:
    augment, waveform = AUGMENTATIONS[name], speech()
    first, second, other = (augment(waveform, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", [*AUGMENTATIONS, *CODECS])
def test_an_augmentation_keeps_the_length_and_the_input_and_stays_finite(name: str) -> None:
    augment = AUGMENTATIONS[name] if name in AUGMENTATIONS else Codec((name,))
    for waveform in (speech(400), speech(12_345), np.zeros(4_000, dtype=np.float32)):
        before = waveform.copy()
        augmented = augment(waveform, np.random.default_rng(0))
        assert augmented.shape == waveform.shape
        assert augmented.dtype == np.float32
        assert np.isfinite(augmented).all()
        np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_the_requested_snr_and_slope(slope: float) -> None:
    waveform = speech(4 * RATE)
    noise = Noise((12, 12), (slope, slope))(waveform, np.random.default_rng(0)) - waveform
    assert 20 * np.log10(np.linalg.norm(waveform) / np.linalg.norm(noise)) == pytest.approx(12, abs=0.01)
    # One octave higher, the power is 2^(1 − slope) times as large.
    octaves = power_between(noise, 2_000, 4_000) / power_between(noise, 1_000, 2_000)
    assert octaves == pytest.approx(2 ** (1 - slope), rel=0.1)


def test_reverberation_keeps_the_level_and_decays_at_the_requested_rate() -> None:
    click = np.zeros(2 * RATE, dtype=np.float32)
    click[100] = 0.5
    room = Reverberation(rt60_s=(0.5, 0.5), direct_to_tail_db=(0, 0), predelay_s=(0.005, 0.005))
    wet = room(click, np.random.default_rng(0))
    assert np.linalg.norm(wet) == pytest.approx(0.5, rel=1e-5)
    assert np.abs(wet[:100]).max() < 1e-6
    assert wet[100] == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    early, late = (np.std(wet[begin : begin + 800]) for begin in (200, 200 + RATE // 4))
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=2)


def test_low_pass_removes_frequencies_above_the_cutoff_without_delay() -> None:
    waveform = speech()
    filtered = LowPass((3_000, 3_000))(waveform, np.random.default_rng(0))
    assert power_between(filtered, 4_000, 8_000) < 1e-4 * power_between(waveform, 4_000, 8_000)
    assert power_between(filtered, 100, 2_000) == pytest.approx(power_between(waveform, 100, 2_000), rel=0.01)
    assert np.corrcoef(waveform, filtered)[0, 1] > 0.99


def test_resampling_removes_the_band_above_the_lower_rate() -> None:
    waveform = speech()
    narrow = Resampling((8_000, 8_000), ("HQ",))(waveform, np.random.default_rng(0))
    assert power_between(narrow, 4_200, 8_000) < 1e-4 * power_between(waveform, 4_200, 8_000)
    assert np.corrcoef(waveform, narrow)[0, 1] > 0.99


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_changes_the_samples_without_delay(name: str) -> None:
    waveform = speech()
    decoded = Codec((name,))(waveform, np.random.default_rng(0))
    assert not np.array_equal(decoded, waveform)
    correlation = [
        np.corrcoef(waveform[500:-500], np.roll(decoded, lag)[500:-500])[0, 1] for lag in range(-60, 61)
    ]
    assert max(correlation) > 0.9
    assert abs(int(np.argmax(correlation)) - 60) <= 3


def test_gain_changes_the_level_and_clips_at_full_scale() -> None:
    waveform = speech()
    quieter = Gain((-6, -6))(waveform, np.random.default_rng(0))
    np.testing.assert_allclose(quieter, waveform * 10 ** (-6 / 20), rtol=1e-5)
    assert np.abs(Gain((40, 40))(waveform, np.random.default_rng(0))).max() == 1


def test_a_chain_applies_its_steps_in_order() -> None:
    waveform, rng = speech(), np.random.default_rng
    louder, quieter = Gain((40, 40)), Gain((-40, -40))
    np.testing.assert_allclose(Chain((quieter, louder))(waveform, rng(0)), waveform, atol=1e-6)
    assert np.abs(Chain((louder, quieter))(waveform, rng(0))).max() == pytest.approx(0.01)  # clipped first


def test_augmentations_are_selected_by_name() -> None:
    assert augmentation(()) is None
    assert augmentation(("rawboost5",)) is AUGMENTATIONS["rawboost5"]
    assert augmentation(("noise", "gain")) == Chain((AUGMENTATIONS["noise"], AUGMENTATIONS["gain"]))
    with pytest.raises(InputError, match="unknown augmentation 'rawbost'; did you mean rawboost"):
        augmentation(("rawbost",))
    with pytest.raises(ValueError, match="unknown codecs"):
        Codec(("amr",))
