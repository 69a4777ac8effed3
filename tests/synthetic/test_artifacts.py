"""Artifact processes: their effect, their repeatability, and the pitch tracker behind them."""

import numpy as np
import pytest

from pipeline.synthetic.artifacts import EVALUATION_PROCESSES, TRAINING_PROCESSES, apply_process, track_pitch
from pipeline.synthetic.recording import RECORDING_RATE, record
from pipeline.synthetic.speech import Synthesizer, Voice, Waveform, trim_silence

PROCESSES = TRAINING_PROCESSES | EVALUATION_PROCESSES


@pytest.fixture(scope="module")
def recording() -> Waveform:
    with Synthesizer() as synthesizer:
        speech = trim_silence(
            synthesizer.speak("Two foxes crossed the field.", Voice("en", "m3", 50, 50, 170))
        )
    return record(speech, np.random.default_rng(5), lead_s=0.2, trail_s=0.2)


def level(waveform: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def envelope(waveform: Waveform) -> np.ndarray:
    return np.abs(waveform[: waveform.size // 800 * 800].reshape(-1, 800)).mean(axis=1)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_changes_samples_but_keeps_length_level_and_envelope(name, recording):
    spoof = apply_process(PROCESSES[name], recording, np.random.default_rng(1))
    assert spoof.shape == recording.shape and spoof.dtype == np.float32
    assert level(spoof) == pytest.approx(level(recording), rel=0.02)
    assert level(spoof - recording) > 0.1 * level(recording)
    assert np.corrcoef(envelope(spoof), envelope(recording))[0, 1] > 0.8


@pytest.mark.parametrize("name", PROCESSES)
def test_the_same_generator_gives_the_same_spoof(name, recording):
    first, second = (apply_process(PROCESSES[name], recording, np.random.default_rng(2)) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["low_rate_opus", "low_rate_mp3", "celp"])
def test_decoded_speech_is_aligned_with_the_input(name, recording):
    spoof = apply_process(PROCESSES[name], recording, np.random.default_rng(0))
    correlation = np.correlate(spoof[8000:16000], recording[7900:16100], mode="full")
    center = correlation.size // 2
    assert abs(int(np.argmax(np.abs(correlation))) - center) <= 1


def test_training_and_evaluation_share_no_process():
    assert not TRAINING_PROCESSES.keys() & EVALUATION_PROCESSES.keys()
    assert not set(TRAINING_PROCESSES.values()) & set(EVALUATION_PROCESSES.values())


def test_pitch_is_found_in_a_pulse_train_but_not_in_noise():
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(RECORDING_RATE).astype(np.float32)
    pulses = np.zeros(RECORDING_RATE, dtype=np.float32)
    pulses[::128] = 1.0
    track = track_pitch(pulses + 0.01 * noise, 160)
    assert track.is_voiced[5:-5].all()
    assert np.abs(track.period[5:-5] - 128).max() <= 1
    assert track_pitch(noise, 160).is_voiced.mean() < 0.1


def test_a_recording_has_background_noise_before_the_speech(recording):
    edge = recording[: RECORDING_RATE // 10]
    assert level(edge) > 1e-4
    assert np.unique(edge).size > edge.size // 2
