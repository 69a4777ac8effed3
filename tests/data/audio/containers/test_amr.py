"""AMR files are read frame by frame; they hold neither lengths nor checksums."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pipeline.data.audio.containers.amr import locate_amr
from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, measure
from tests.data.audio.containers.files import heard, id3v1, id3v2, noise, reason_of, stated
from tests.data.audio.formats import speech_like, with_ffmpeg

SAMPLES = speech_like(2, 8_000)
NARROW_MAGIC, WIDE_MAGIC = b"#!AMR\n", b"#!AMR-WB\n"
WIDE_MODES = (18, 24, 33, 37, 41, 47, 51, 59, 61)
"""Bytes of the frames of AMR-WB."""


def narrow(bit_rate: int) -> bytes:
    return with_ffmpeg(SAMPLES, 8_000, "amr", "libopencore_amrnb", bit_rate)


def wide(mode: int, num_frames: int = 100) -> bytes:
    """Frames of random parameters: there is no encoder for AMR-WB."""
    size = WIDE_MODES[mode]
    return WIDE_MAGIC + b"".join(bytes([mode << 3 | 4]) + noise(size - 1, seed) for seed in range(num_frames))


FILES = {"narrow": narrow(12_200), "wide": wide(2)}


@pytest.mark.parametrize("bit_rate", [4_750, 5_150, 5_900, 6_700, 7_400, 7_950, 10_200, 12_200])
def test_every_mode_of_amr_is_heard_to_its_end(bit_rate: int) -> None:
    loaded = load_audio(narrow(bit_rate), "x")
    assert (loaded.header.container, loaded.header.sample_rate) == ("amr", 8_000)
    assert 0 <= measure(narrow(bit_rate), "x") - len(SAMPLES) <= 320


@pytest.mark.parametrize("mode", range(len(WIDE_MODES)))
def test_every_mode_of_wide_band_amr_is_heard_to_its_end(mode: int) -> None:
    assert load_audio(wide(mode), "x").header.sample_rate == 16_000
    assert measure(wide(mode), "x") == 100 * 320


def test_a_probe_does_not_count_the_frames() -> None:
    assert stated(FILES["narrow"]) is None


@pytest.mark.parametrize("name", FILES)
def test_every_cut_within_a_frame_is_noticed(name: str) -> None:
    data = FILES[name]
    size = 32 if name == "narrow" else WIDE_MODES[2]
    for num_bytes in range(1, size):
        assert reason_of(data[:-num_bytes]) == "truncated"


@pytest.mark.parametrize("name", FILES)
def test_joined_files_are_refused(name: str) -> None:
    assert reason_of(FILES[name] + FILES[name]) == "trailing_data"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("front", "back"), [(b"\0", bytes(1000)), (id3v2(noise(50)), id3v1())], ids=["zeros", "tags"]
)
def test_tags_and_padding_change_nothing(name: str, front: bytes, back: bytes) -> None:
    np.testing.assert_array_equal(heard(front + FILES[name] + back), heard(FILES[name]))


def test_zeros_and_text_among_the_frames_are_noticed() -> None:
    data = FILES["narrow"]
    begin = 6 + 32 * 20
    assert reason_of(data[:begin] + bytes(64) + data[begin + 64 :]) == "undecodable"
    assert reason_of(data[:begin] + b"<html>" * 20 + data[begin:]) in ("undecodable", "truncated")


def test_any_bytes_are_audio_or_an_audio_error() -> None:
    rng = np.random.default_rng(0)
    for magic in (NARROW_MAGIC, WIDE_MAGIC):
        for _ in range(50):
            data = magic + rng.bytes(int(rng.integers(300)))
            for is_whole in (False, True):
                try:
                    locate_amr(io.BytesIO(data), Span(0, len(data)), "x", is_whole)
                except AudioError as error:
                    assert error.detail
