"""AAC and AC-3 without a container are read frame by frame."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest

from pipeline.data.audio.containers.ac3 import locate_ac3
from pipeline.data.audio.containers.adts import locate_adts
from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, measure, probe
from tests.data.audio.containers.files import SPEECH, heard, id3v1, id3v2, noise, reason_of, stated
from tests.data.audio.formats import Maker, speech_like, with_ffmpeg

MAKERS: dict[str, Maker] = {
    "aac": partial(with_ffmpeg, file_format="adts", codec="aac"),
    "ac3": partial(with_ffmpeg, file_format="ac3", codec="ac3"),
    "eac3": partial(with_ffmpeg, file_format="eac3", codec="eac3"),
}
AC3_RATE = 48_000
SAMPLES = {"aac": SPEECH, "ac3": speech_like(2, AC3_RATE), "eac3": speech_like(2, AC3_RATE)}
RATES = {"aac": 16_000, "ac3": AC3_RATE, "eac3": AC3_RATE}
FILES = {name: maker(SAMPLES[name], RATES[name]) for name, maker in MAKERS.items()}


@pytest.mark.parametrize("name", FILES)
def test_all_frames_are_heard(name: str) -> None:
    loaded = load_audio(FILES[name], "x")
    assert (loaded.header.encoding, loaded.header.sample_rate) == (name.upper(), RATES[name])
    assert 0 <= measure(FILES[name], "x") - len(SAMPLES[name]) <= 3 * 1024
    assert stated(FILES[name]) is None


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_aac_of_every_rate_is_heard_to_its_end(rate: int) -> None:
    samples = speech_like(1.3, rate)
    assert 0 <= measure(MAKERS["aac"](samples, rate), "x") - len(samples) <= 3 * 1024


@pytest.mark.parametrize(
    ("name", "rate"), [("ac3", 32_000), ("ac3", 44_100), ("eac3", 32_000), ("eac3", 44_100)]
)
def test_ac3_of_every_rate_is_heard_to_its_end(name: str, rate: int) -> None:
    samples = speech_like(1.3, rate)
    assert 0 <= measure(MAKERS[name](samples, rate), "x") - len(samples) <= 2 * 1536


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_truncated(name: str) -> None:
    data = FILES[name]
    for num_bytes in (1, 3, 6, len(data) // 2 + 1):
        assert reason_of(data[:-num_bytes]) == "truncated"


@pytest.mark.parametrize("name", FILES)
def test_a_hole_is_noticed(name: str) -> None:
    data, rng = FILES[name], np.random.default_rng(2)
    for _ in range(20):
        begin = int(rng.integers(8, len(data) - 300))
        end = min(begin + int(rng.integers(1, 4096)) * 2 + 1, len(data) - 8)
        assert reason_of(data[:begin] + data[end:]) in ("truncated", "undecodable")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("front", "back"),
    [(b"\0", bytes(2000)), (id3v2(noise(5000)), id3v1()), (noise(900), b"<html></html>" * 50)],
    ids=["zeros", "tags", "junk"],
)
def test_tags_and_junk_around_the_frames_change_nothing(name: str, front: bytes, back: bytes) -> None:
    np.testing.assert_array_equal(heard(front + FILES[name] + back), heard(FILES[name]))


@pytest.mark.parametrize("name", FILES)
def test_joined_files_are_heard_whole(name: str) -> None:
    assert measure(2 * FILES[name], "x") == 2 * measure(FILES[name], "x")


def test_joined_files_of_other_rates_are_refused() -> None:
    for name in FILES:
        with pytest.raises(AudioError, match=r"changes from .* to .*44100 Hz.* at byte"):
            heard(FILES[name] + MAKERS[name](speech_like(1, 44_100), 44_100))


@pytest.mark.parametrize("name", FILES)
def test_any_bytes_are_audio_or_an_audio_error(name: str) -> None:
    locator = locate_adts if name == "aac" else locate_ac3
    rng = np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(FILES[name][: int(rng.integers(1, 5000))])
        place = int(rng.integers(len(data)))
        data[place : place + 40] = rng.bytes(int(rng.integers(80)))
        for is_whole in (False, True):
            try:
                locator(io.BytesIO(bytes(data)), Span(0, len(data)), "x", is_whole)
            except AudioError as error:
                assert error.detail


def test_a_probe_names_the_codec() -> None:
    assert [probe(io.BytesIO(FILES[name]), "x").encoding for name in FILES] == ["AAC", "AC3", "EAC3"]
