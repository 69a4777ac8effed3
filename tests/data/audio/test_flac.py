"""The FLAC of shards gives back the PCM16 that was encoded, as integers and as floats."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import decode_flac, decode_pcm, encode_flac, pcm_digest, quantise
from pipeline.data.audio.waveform import Waveform

FULL_SCALE = np.float32(32_768)


def noise(num_samples: int = 16_000) -> Waveform:
    return np.random.default_rng(7).uniform(-1, 1, num_samples).astype(np.float32)


def test_encoding_is_deterministic_and_its_error_is_at_most_half_a_step():
    waveform = noise()
    data = encode_flac(quantise(waveform))
    assert data == encode_flac(quantise(waveform.copy()))
    decoded = decode_flac(data)
    assert decoded.dtype == np.float32
    assert np.abs(decoded - waveform).max() <= 0.5 / 32_768
    assert encode_flac(quantise(decoded)) == data
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"


def test_every_pcm_value_is_decoded_as_it_was_encoded():
    pcm = np.arange(-32_768, 32_768, dtype=np.int16)
    data = encode_flac(pcm)
    decoded = decode_pcm(data)
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, pcm)
    np.testing.assert_array_equal(decode_flac(data), pcm / FULL_SCALE)
    np.testing.assert_array_equal(quantise(decode_flac(data)), pcm)
    assert pcm_digest(decoded) == pcm_digest(pcm)


def test_a_segment_equals_the_same_part_of_the_whole():
    data = encode_flac(quantise(noise()))
    whole = decode_flac(data)
    for start, end in ((0, 5_000), (4_097, 9_001), (15_000, 16_000)):
        np.testing.assert_array_equal(decode_flac(data, start=start, end=end), whole[start:end])
    np.testing.assert_array_equal(decode_flac(data, start=9_000), whole[9_000:])


def test_a_long_enough_buffer_is_used_and_a_shorter_one_is_not():
    data = encode_flac(quantise(noise()))
    buffer, short = np.zeros(20_000, np.float32), np.zeros(10, np.float32)
    decoded = decode_flac(data, out=buffer)
    assert np.shares_memory(decoded, buffer)
    assert len(decoded) == 16_000
    assert not buffer[16_000:].any()
    np.testing.assert_array_equal(decode_flac(data, out=short), decoded)
    assert not short.any()


def test_pcm_is_rounded_half_to_even_and_saturates():
    steps = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 40_000, -40_000, 32_767.4], dtype=np.float32)
    expected = np.array([0, 2, 2, 0, -2, 0, 32_767, -32_768, 32_767], dtype="<i2")
    pcm = quantise(steps / FULL_SCALE)
    np.testing.assert_array_equal(pcm, expected)
    assert pcm_digest(pcm) == hashlib.sha256(expected.tobytes()).hexdigest()


@pytest.mark.parametrize("decode", [decode_flac, decode_pcm])
def test_damaged_data_is_an_audio_error(decode):
    data = encode_flac(quantise(noise()))
    for damaged in (b"", data[:30], data[: len(data) // 2], b"x" * 100):
        with pytest.raises(AudioError):
            decode(damaged)


def test_a_header_that_states_ten_hours_is_rejected_before_memory_is_allocated():
    data = bytearray(encode_flac(quantise(noise())))
    # STREAMINFO: after 4 + 4 bytes, 10 bytes of sizes, 20 + 3 + 5 bits, then 36 bits of length.
    num_samples = 36_000 * 16_000
    data[21] = data[21] & 0xF0 | num_samples >> 32
    data[22:26] = (num_samples & 0xFFFFFFFF).to_bytes(4, "big")
    with pytest.raises(AudioError, match="too_long"):
        decode_pcm(bytes(data))


def test_a_process_that_only_decodes_flac_does_not_import_ffmpeg_or_soxr():
    program = (
        "import sys, pipeline.data.audio.flac; sys.exit(bool({'av', 'soxr', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
