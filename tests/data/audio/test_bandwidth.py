"""The bandwidth of an utterance is measured in its decoded audio, whatever its header says."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from pipeline.data.audio.bandwidth import BAND_HZ, FRAME_SAMPLES, MAX_FRAMES, MIN_FRAMES, bandwidth_hz
from pipeline.data.audio.flac import quantise
from pipeline.data.audio.load import load_audio
from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform
from pipeline.synthetic.codecs import encode_and_decode
from pipeline.synthetic.speech import SPEECH_RATE, Synthesizer, Voice, trim_silence

TEXT = "She sells sea shells by the sea shore, and six thick thistle sticks."


@pytest.fixture(scope="module")
def speech() -> Waveform:
    """Four seconds of speech with energy up to 8 kHz, at −20 dB of full scale."""
    with Synthesizer() as synthesizer:
        spoken = trim_silence(
            synthesizer.speak(TEXT, Voice("en", "m1", 50, pitch_range=50, words_per_minute=170))
        )
    waveform: Waveform = soxr.resample(spoken, SPEECH_RATE, SAMPLE_RATE).astype(np.float32)
    return waveform * np.float32(0.1 / np.sqrt(np.mean(waveform**2)))


def low_passed(waveform: Waveform, cutoff_hz: float) -> Waveform:
    """Without any energy above the cutoff."""
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE) > cutoff_hz] = 0
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def resampled(waveform: Waveform, rate: int) -> Waveform:
    """As if it had been published at a lower rate."""
    return soxr.resample(soxr.resample(waveform, SAMPLE_RATE, rate), rate, SAMPLE_RATE).astype(np.float32)


def measured(waveform: NDArray[np.floating[Any]]) -> float:
    bandwidth = bandwidth_hz(quantise(waveform.astype(np.float32)))
    assert bandwidth is not None
    return bandwidth


def test_speech_that_nothing_has_limited_reaches_8_khz(speech):
    assert measured(speech) == pytest.approx(8000, abs=2 * BAND_HZ)


@pytest.mark.parametrize("cutoff_hz", [3000, 3400, 4000, 5500, 7000])
@pytest.mark.parametrize("gain_db", [0, -20, 4])
def test_a_sharp_low_pass_is_found_at_any_level_clipped_peaks_included(speech, cutoff_hz, gain_db):
    waveform = low_passed(speech, cutoff_hz) * np.float32(10 ** (gain_db / 20))
    assert measured(waveform) == pytest.approx(cutoff_hz, abs=2 * BAND_HZ)


@pytest.mark.parametrize("cutoff_hz", [3000, 5500, 7000])
def test_the_end_of_a_flat_spectrum_is_found(cutoff_hz):
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    assert measured(low_passed(noise, cutoff_hz)) == pytest.approx(cutoff_hz, abs=2 * BAND_HZ)


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000])
def test_audio_that_was_upsampled_ends_below_half_its_earlier_rate(speech, rate):
    assert 0.9 * rate / 2 <= measured(resampled(speech, rate)) <= rate / 2 + BAND_HZ


@pytest.mark.parametrize("form", [("WAV", "ULAW"), ("WAV", "GSM610"), ("FLAC", "PCM_16")])
def test_a_telephone_file_ends_at_4_khz_after_its_codec_and_the_resampling_of_ingest(speech, form):
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(speech, SAMPLE_RATE, 8_000), 8_000, format=form[0], subtype=form[1])
    loaded = load_audio(file.getvalue(), "a", start=None, end=None, resampler="soxr_hq")
    assert measured(loaded.waveform) == pytest.approx(4000, abs=2 * BAND_HZ)


@pytest.mark.parametrize(
    ("encoder", "decoder", "rate", "bit_rate", "expected_hz"),
    [
        ("libmp3lame", "mp3float", 16_000, 16_000, (5000, 6000)),
        ("libmp3lame", "mp3float", 16_000, 64_000, (7000, 7750)),
        ("libopus", "opus", 16_000, 6_000, (3750, 5500)),
        ("libopus", "opus", 16_000, 24_000, (7250, 8000)),
    ],
)
def test_what_a_codec_leaves_out_is_found(speech, encoder, decoder, rate, bit_rate, expected_hz):
    decoded = encode_and_decode(speech, encoder, decoder, sample_rate=rate, bit_rate=bit_rate)
    low, high = expected_hz
    assert low <= measured(decoded) <= high


def test_rounding_and_dither_do_not_count(speech):
    narrow = low_passed(speech, 3400)
    once = quantise(narrow) / 32768
    rng = np.random.default_rng(0)
    dither = (rng.random(narrow.size) - rng.random(narrow.size)) / 32768
    for waveform in (once, narrow + dither, quantise((narrow / 4).astype(np.float32)) * 4 / 32768):
        assert measured(waveform) == pytest.approx(3400, abs=2 * BAND_HZ)


def test_noise_far_below_the_speech_does_not_count_and_noise_near_it_does(speech):
    noise = np.random.default_rng(0).standard_normal(speech.size).astype(np.float32)
    narrow = low_passed(speech, 3400)
    assert measured(narrow + 2e-5 * noise) == pytest.approx(3400, abs=2 * BAND_HZ)
    assert measured(narrow + 2e-3 * noise) == 8000


def test_hum_and_an_offset_hide_nothing(speech):
    time_s = np.arange(speech.size) / SAMPLE_RATE
    hum = (0.4 * np.sin(2 * np.pi * 50 * time_s) + 0.3).astype(np.float32)
    quiet = speech / 10
    assert measured(quiet + hum) == pytest.approx(measured(quiet), abs=2 * BAND_HZ)


def test_a_quiet_recording_keeps_what_is_above_its_rounding_noise(speech):
    assert measured(speech / 100) == pytest.approx(measured(speech), abs=3 * BAND_HZ)
    assert measured(low_passed(speech, 3400) / 100) == pytest.approx(3400, abs=2 * BAND_HZ)
    rng = np.random.default_rng(0)
    dither = (rng.random(speech.size) - rng.random(speech.size)) / 32768
    assert measured(dither) == measured(np.zeros_like(speech)) == 0.0


def test_a_click_has_no_bandwidth_of_its_own(speech):
    clicked = low_passed(speech, 3000)
    clicked[[9_000, 30_000]] = 0.9
    assert measured(clicked) == pytest.approx(3000, abs=2 * BAND_HZ)


def test_audio_shorter_than_a_tenth_of_a_second_is_not_measured(speech):
    pcm = quantise(speech)
    assert bandwidth_hz(pcm[: MIN_FRAMES * FRAME_SAMPLES - 1]) is None
    assert bandwidth_hz(pcm[: MIN_FRAMES * FRAME_SAMPLES]) is not None


def test_long_audio_is_measured_from_beginning_to_end(speech):
    narrow = quantise(np.tile(low_passed(speech, 3000), 20))
    assert bandwidth_hz(narrow) == pytest.approx(3000, abs=2 * BAND_HZ)
    assert len(narrow) > 10 * MAX_FRAMES * FRAME_SAMPLES
    half = np.concatenate([narrow, quantise(np.tile(speech, 20))])
    assert bandwidth_hz(half) == bandwidth_hz(half.copy()) == pytest.approx(8000, abs=2 * BAND_HZ)
