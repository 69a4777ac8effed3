import numpy as np
import pytest
import scipy.signal

from pipeline.data.loading.augment.rawboost import ALGORITHMS, RawBoost, notches

RATE = 16_000


def speech(num_samples: int = 6_000) -> np.ndarray:
    time = np.arange(num_samples) / RATE
    noise = np.random.default_rng(1).standard_normal(num_samples)
    return (0.5 * np.sin(2 * np.pi * 300 * time) * np.sin(20 * time) + 0.05 * noise).astype(np.float32)


def rawboost(algo: int) -> RawBoost:
    return RawBoost(name=f"rawboost{algo}")  # type: ignore[arg-type]


def slow_scale(signal: np.ndarray) -> np.ndarray:
    return signal / max(1.0, np.abs(signal).max())


def slow_filters(gains_db: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Design the published chain of notches, one notch at a time."""
    centres = rng.uniform(20, 8000, (len(gains_db), 5))
    widths = rng.uniform(100, 1000, (len(gains_db), 5))
    sizes = rng.uniform(10, 100, (len(gains_db), 5))
    chains = []
    for row, gain_db in enumerate(gains_db):
        chain = np.ones(1)
        for centre, width, size in zip(centres[row], widths[row], sizes[row], strict=True):
            low, high = max(centre - width / 2, 1e-3), min(centre + width / 2, RATE / 2 - 1e-3)
            odd = int(size) + (int(size) % 2 == 0)
            chain = np.convolve(chain, scipy.signal.firwin(odd, [low, high], window="hamming", fs=RATE))
        _, response = scipy.signal.freqz(chain, 1, fs=RATE)
        chains.append(10 ** (gain_db / 20) * chain / np.abs(response).max())
    return chains


def slow_filtered(signal: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Compute every output sample as a sum of products, starting one sample after the centre of the filter."""
    advance = (len(taps) + 1) // 2
    filtered = np.zeros(len(signal))
    for sample in range(len(signal)):
        for tap, weight in enumerate(taps):
            source = sample + advance - tap
            if 0 <= source < len(signal):
                filtered[sample] += weight * signal[source]
    return filtered


def slow_convolve(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    losses = rng.uniform(5, 20, 5)
    gains = rng.uniform(0, 0, 5)
    chains = slow_filters(np.array([gains[0], *(gains - losses)[1:]]), rng)
    total = np.zeros(len(signal))
    for power, taps in enumerate(chains, start=1):
        total += slow_filtered(signal.astype(np.float64) ** power, taps)
    return slow_scale(total - total.mean())


def slow_impulses(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = int(len(signal) * rng.uniform(0, 10) / 100)
    positions = rng.choice(len(signal), count, replace=False, shuffle=False)
    factors = rng.uniform(-1, 1, (2, count))
    changed = signal.astype(np.float64).copy()
    for position, first, second in zip(positions, *factors, strict=True):
        changed[position] += 2 * signal[position] * first * second
    return slow_scale(changed)


def slow_noise(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    white = rng.standard_normal(len(signal), dtype=np.float32)
    taps = slow_filters(np.array([rng.uniform(0, 0)]), rng)[0]
    noise = slow_filtered(white, taps)
    snr_db = rng.uniform(10, 40)
    power = np.sum(signal.astype(np.float64) ** 2) / np.sum(noise**2)
    return signal + noise * np.sqrt(power) / 10 ** (0.05 * snr_db)


def slow_rawboost(algo: int, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if algo == 8:
        return slow_scale(slow_convolve(signal, rng) + slow_impulses(signal, rng))
    steps = {"LnL": slow_convolve, "ISD": slow_impulses, "SSI": slow_noise}
    for step in ALGORITHMS[algo].split(", "):
        signal = steps[step](signal, rng)
    return signal


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_equals_a_literal_implementation_of_its_definition(algo: int) -> None:
    signal = speech(600)
    for seed in range(2):
        fast = rawboost(algo)(signal, np.random.default_rng(seed))
        slow = slow_rawboost(algo, signal, np.random.default_rng(seed))
        np.testing.assert_allclose(fast, slow, atol=2e-5)


def test_filtering_in_blocks_equals_one_convolution() -> None:
    signal = speech(30_000)
    rng = np.random.default_rng(5)
    fast = rawboost(1)(signal, np.random.default_rng(5))
    losses, gains = rng.uniform(5, 20, 5), np.zeros(5)
    rng.uniform(0, 0, 5)
    total = np.zeros(len(signal))
    for power, taps in enumerate(slow_filters(gains - losses * (np.arange(5) > 0), rng), start=1):
        advance = (len(taps) + 1) // 2
        full = np.convolve(signal.astype(np.float64) ** power, taps)
        total += np.append(full, np.zeros(2))[advance : advance + len(signal)]
    np.testing.assert_allclose(fast, slow_scale(total - total.mean()), atol=2e-5)


def test_a_notch_equals_scipys_band_stop_filter() -> None:
    lows, highs = np.array([100.0, 2_000.0, 7_500.0]), np.array([700.0, 2_300.0, 7_999.999])
    sizes = np.array([11, 99, 55])
    taps = notches(lows, highs, sizes)
    assert taps.shape == (3, 99)
    for row, size in enumerate(sizes):
        textbook = scipy.signal.firwin(size, [lows[row], highs[row]], fs=RATE)
        np.testing.assert_allclose(taps[row, :size] / taps[row].sum(), textbook, atol=1e-9)
        assert not taps[row, size:].any()


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("num_samples", [1, 400, 4_096, 20_001])
def test_rawboost_keeps_the_length_and_the_input_and_stays_finite(algo: int, num_samples: int) -> None:
    for signal in (speech(num_samples), np.zeros(num_samples, dtype=np.float32)):
        before = signal.copy()
        boosted = rawboost(algo)(signal, np.random.default_rng(0))
        assert boosted.shape == signal.shape
        assert boosted.dtype == np.float32
        assert np.isfinite(boosted).all()
        np.testing.assert_array_equal(signal, before)
