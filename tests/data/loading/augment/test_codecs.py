"""Each codec keeps the length and the time of the speech, at each of its bit rates."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from pipeline.data.audio.transcode import transcode
from pipeline.data.loading.augment.codecs import (
    CODECS,
    Codec,
    _alaw_table,
    _rates_within,
    _ulaw_table,
    pass_through,
)
from tests.data.loading.augment.recorded import RATE, speech

RATES = [(name, kbits) for name, codec in CODECS.items() for kbits in codec.kbits]


def voice(num_samples: int) -> np.ndarray:
    """Noise in the band of speech, with syllables: its correlation with itself has a single sharp peak."""
    noise = np.random.default_rng(3).standard_normal(num_samples)
    band = scipy.signal.sosfilt(
        scipy.signal.butter(2, [300, 3_000], "bandpass", fs=RATE, output="sos"), noise
    )
    return (0.2 * band * (1.1 + np.sin(25 * np.arange(num_samples) / RATE))).astype(np.float32)


@pytest.mark.parametrize(("name", "kbits"), RATES)
def test_a_codec_changes_the_samples_without_delay(name: str, kbits: float):
    waveform = voice(RATE)
    decoded = pass_through(waveform, CODECS[name], kbits)
    assert decoded.shape == waveform.shape
    assert not np.array_equal(decoded, waveform)
    correlation = scipy.signal.correlate(decoded, waveform, method="fft")
    assert abs(int(np.argmax(correlation)) - (RATE - 1)) <= 1


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_takes_short_silent_and_loud_audio(name: str):
    for waveform in (
        speech(1_600),
        np.zeros(4_000, np.float32),
        2 * np.sign(speech(4_000)).astype(np.float32),
    ):
        for kbits in CODECS[name].kbits:
            decoded = pass_through(waveform, CODECS[name], kbits)
            assert decoded.shape == waveform.shape and decoded.dtype == np.float32
            assert np.isfinite(decoded).all()
            assert np.abs(decoded).max() < 3


@pytest.mark.parametrize("name", CODECS)
def test_the_end_of_the_speech_is_not_lost(name: str):
    waveform = voice(9_999)
    decoded = pass_through(waveform, CODECS[name], CODECS[name].kbits[-1])
    assert np.linalg.norm(decoded[-500:]) > 0.3 * np.linalg.norm(waveform[-500:])


@pytest.mark.parametrize(("table", "codec"), [(_ulaw_table, "pcm_mulaw"), (_alaw_table, "pcm_alaw")])
def test_companding_is_that_of_ffmpeg(table, codec: str):
    pcm = np.arange(2**16, dtype=np.uint16).view(np.int16)
    samples = (pcm / 2**15).astype(np.float32)
    decoded, rate = transcode(samples, codec, codec, sample_rate=8_000)
    assert rate == 8_000
    # FFmpeg rounds what lies between two steps in another way; a step is at most 1024.
    difference = np.abs(table()[pcm.view(np.uint16)] - decoded[: len(pcm)])
    assert difference.max() <= 1024 / 2**15
    assert np.mean(difference > 0) < 0.03


def test_a_bit_rate_between_the_limits_is_drawn_or_else_the_nearest():
    assert _rates_within((16, 24, 32, 40), 20, 40) == [24, 32, 40]
    assert _rates_within((4.75, 12.2), 16, 64) == [12.2]
    assert _rates_within((64,), 4, 12) == [64]
    drawn = {
        len(np.unique(Codec(codecs=("g726",), bit_rate=(16, 40))(speech(), np.random.default_rng(seed))))
        for seed in range(12)
    }
    assert len(drawn) > 1
