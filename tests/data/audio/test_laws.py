"""Laws over every format: what is kept is what the file holds, however it is read."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import soundfile

from pipeline.data.audio import dr_flac, ffmpeg, sndfile
from pipeline.data.audio.load import OpenAudio, load_audio, measure, probe
from pipeline.data.audio.waveform import SAMPLE_RATE
from tests.data.audio.formats import FORMATS, LOSSLESS, LOSSY, Samples, speech_like, to_pcm

SECONDS = 12.0
SOURCE = speech_like(SECONDS, SAMPLE_RATE)
AT_48_KHZ = "opus in webm"
"""FFmpeg decodes it at 48 kHz; `test_load` compares its segments."""
BLOCK_SIZES = (997, 16_384, 1 << 20)
CUTS = (0, 1, 575, 1152, 16_000, 54_321, 100_000, 150_000)
"""Where segments begin and end, samples; within frames, at their edges, and seconds apart."""

DELAY = 4_200
"""Samples of priming and padding that a lossy codec may add at 16 kHz."""


@pytest.fixture(scope="module", params=sorted(FORMATS.keys() - {AT_48_KHZ}))
def encoded(request: pytest.FixtureRequest) -> tuple[str, bytes, Samples]:
    """Name and bytes of a file, and its samples in one decode."""
    data = FORMATS[request.param](SOURCE, SAMPLE_RATE)
    return request.param, data, load_audio(data, request.param).waveform


def test_a_lossless_file_gives_the_samples_that_were_encoded(encoded: tuple[str, bytes, Samples]) -> None:
    name, _, whole = encoded
    if name in LOSSY:
        assert abs(len(whole) - len(SOURCE)) <= DELAY
        return
    pcm = to_pcm(SOURCE)
    expected = (pcm >> 8) / np.float32(128) if name == "wav of 8 bit" else pcm / np.float32(32_768)
    np.testing.assert_array_equal(whole, expected)


def test_the_size_of_blocks_does_not_change_samples(
    encoded: tuple[str, bytes, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, data, whole = encoded
    for size in BLOCK_SIZES:
        monkeypatch.setattr(dr_flac, "_BLOCK_SAMPLES", size)
        monkeypatch.setattr(sndfile, "_BLOCK_SAMPLES", size)
        monkeypatch.setattr(ffmpeg, "_GATHERED_SAMPLES", size)
        np.testing.assert_array_equal(load_audio(data, name).waveform, whole)


def test_a_segment_is_a_slice_of_the_whole_file(encoded: tuple[str, bytes, Samples]) -> None:
    name, data, whole = encoded
    for start, end in [*itertools.pairwise(CUTS[3:]), (1, 1152), (100_000, None), (0, len(whole))]:
        segment = load_audio(data, name, start=start, end=end).waveform
        np.testing.assert_array_equal(segment, whole[start:end])


def test_ascending_segments_share_one_decode_and_descending_ones_start_again(
    encoded: tuple[str, bytes, Samples],
) -> None:
    name, data, whole = encoded
    audio = OpenAudio(data, name)
    ascending = [(0, 16_000), (16_000, 40_000), (50_000, 50_400), (50_400, 150_000), (150_000, len(whole))]
    for start, end in [*ascending, (20_000, 30_000), (0, len(whole))]:
        segment = load_audio(audio, name, start=start, end=end).waveform
        np.testing.assert_array_equal(segment, whole[start:end])
    audio.close()


def test_the_measured_length_is_that_of_the_decode(encoded: tuple[str, bytes, Samples]) -> None:
    name, data, whole = encoded
    assert measure(data, name) == len(whole)
    stated = probe(io.BytesIO(data), name).num_samples
    if name in LOSSLESS:
        assert stated in (None, len(whole))  # Matroska states no length of the audio
    else:
        assert stated is None or abs(stated - len(whole)) <= DELAY


@pytest.mark.parametrize("name", ["mp3 of variable rate", "mp3 of constant rate", "vorbis", "opus", "flac"])
def test_the_samples_are_those_of_one_read_by_libsndfile(name: str) -> None:
    data = FORMATS[name](SOURCE, SAMPLE_RATE)
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        expected = np.zeros((sound.frames, 1), np.float32)
        sound.buffer_read_into(expected, dtype="float32")
    np.testing.assert_array_equal(load_audio(data, name).waveform, expected[:, 0])
