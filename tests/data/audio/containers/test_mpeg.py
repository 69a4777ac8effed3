"""MPEG audio is read from its first frame to its last, also where files were joined; a frame that lacks is noticed."""

from __future__ import annotations

import io
import itertools
from functools import partial

import numpy as np
import pytest
import soundfile

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.mpeg import locate_mpeg
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.ffmpeg import FfmpegReader
from pipeline.data.audio.load import load_audio, measure, probe
from tests.data.audio.containers.files import (
    RATE,
    SPEECH,
    ape,
    heard,
    id3v1,
    id3v2,
    noise,
    reason_of,
    stated,
)
from tests.data.audio.formats import FORMATS, Maker, speech_like, with_ffmpeg, with_soundfile

with_lame: Maker = partial(
    with_ffmpeg, file_format="mp3", codec="libmp3lame", id3v2_version="0", write_xing="0"
)
VARIABLE = FORMATS["mp3 of variable rate"](SPEECH, RATE)
CONSTANT = FORMATS["mp3 of constant rate"](SPEECH, RATE)
BARE = with_lame(SPEECH, RATE)
"""Without a table."""
BARE_VARIABLE = VARIABLE.replace(b"Xing", b"none")
LAYER_II = FORMATS["mp2"](SPEECH, RATE)
FRAME = 576
"""Samples of a frame at 16 kHz."""
FILES = {
    "variable": VARIABLE,
    "constant": CONSTANT,
    "bare": BARE,
    "bare variable": BARE_VARIABLE,
    "layer II": LAYER_II,
}


def table_offset(data: bytes) -> int:
    return data.index(b"Xing")


def with_stated_frames(data: bytes, num_frames: int) -> bytes:
    position = table_offset(data) + 8
    return data[:position] + num_frames.to_bytes(4, "big") + data[position + 4 :]


def stated_frames(data: bytes) -> int:
    position = table_offset(data) + 8
    return int.from_bytes(data[position : position + 4], "big")


def read_at_once(data: bytes) -> np.ndarray:
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        samples = np.zeros((sound.frames, 1), np.float32)
        sound.buffer_read_into(samples, dtype="float32")
    return samples[:, 0]


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_every_rate_and_mode_gives_the_samples_that_were_encoded(rate: int, mode: str) -> None:
    samples = speech_like(1.234, rate)
    data = with_soundfile(
        samples, rate, "MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.6
    )
    assert stated(data) == measure(data, "x") == len(samples)


@pytest.mark.parametrize("rate", [16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("name", ["mp3", "mp2"])
def test_all_frames_of_a_file_without_a_table_are_heard(rate: int, name: str) -> None:
    samples = speech_like(2.1, rate)
    data = with_lame(samples, rate) if name == "mp3" else FORMATS["mp2"](samples, rate)
    assert stated(data) is None
    assert 0 <= measure(data, "x") - len(samples) < 3 * 1152
    assert probe(io.BytesIO(data), "x").encoding == name.upper()


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.5, 60.0])
@pytest.mark.parametrize("name", ["mp3 of constant rate", "mp3 of variable rate"])
def test_short_and_long_files_are_whole(name: str, seconds: float) -> None:
    samples = speech_like(seconds, RATE)
    assert len(heard(FORMATS[name](samples, RATE))) == len(samples)


def test_a_file_of_variable_rate_without_a_table_is_heard_to_its_end() -> None:
    silence_then_speech = np.concatenate([np.zeros(6 * RATE, np.float32), speech_like(6, RATE)])
    data = FORMATS["mp3 of variable rate"](silence_then_speech, RATE).replace(b"Xing", b"none")
    assert (
        len(read_at_once(data)) < 11 * RATE
    )  # libsndfile takes the rate of the silence for that of the file
    assert 0 <= len(heard(data)) - 12 * RATE <= 4 * FRAME


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_truncated_wherever_a_frame_is_cut(name: str) -> None:
    data = FILES[name]
    for num_bytes in (1, 2, 3, 7, len(data) // 2 + 1):
        assert reason_of(data[:-num_bytes]) == "truncated"


@pytest.mark.parametrize("name", FILES)
def test_a_hole_is_noticed_wherever_it_is(name: str) -> None:
    data, rng = FILES[name], np.random.default_rng(1)
    for _ in range(40):
        begin = int(rng.integers(4, len(data) - 200))
        end = begin + int(rng.integers(1, min(4096, len(data) - begin - 4)))
        if (end - begin) % 36 == 0:  # as long as whole frames
            continue
        assert reason_of(data[:begin] + data[end:]) in ("truncated", "undecodable")


@pytest.mark.parametrize("name", ["variable", "constant"])
def test_a_table_tells_that_whole_frames_are_missing(name: str) -> None:
    data = FILES[name]
    extent = locate_mpeg(io.BytesIO(data), Span(0, len(data)), "x", is_whole=True)
    assert extent.num_samples == len(SPEECH)
    num_frames = stated_frames(data.replace(b"Info", b"Xing"))
    frame_bytes = (len(data) - data.index(b"\xff\xf3", 4)) // num_frames
    for cut in range(1, 5 * frame_bytes):
        with pytest.raises(AudioError, match="truncated"):
            locate_mpeg(io.BytesIO(data[:-cut]), Span(0, len(data) - cut), "x", is_whole=True)


def test_a_table_that_counts_itself_is_right_too() -> None:
    data = with_stated_frames(VARIABLE, stated_frames(VARIABLE) + 1)
    np.testing.assert_array_equal(heard(data), heard(VARIABLE))
    assert reason_of(with_stated_frames(VARIABLE, stated_frames(VARIABLE) + 2)) == "truncated"


@pytest.mark.parametrize("num_frames", [0, 1, 20])
def test_a_table_that_states_too_little_does_not_shorten_the_audio(num_frames: int) -> None:
    whole = heard(VARIABLE)
    samples = heard(with_stated_frames(VARIABLE, num_frames))
    assert 0 <= len(samples) - len(whole) < 2 * FRAME  # the padding of the encoder is no longer known
    np.testing.assert_array_equal(samples[: len(whole)], whole)


def test_zeros_as_the_delay_of_an_unknown_encoder_are_believed_like_libsndfile_does() -> None:
    position = table_offset(VARIABLE) + 120
    data = VARIABLE[:position] + bytes(36) + VARIABLE[position + 36 :]
    np.testing.assert_array_equal(heard(data), read_at_once(data))


@pytest.mark.parametrize(
    ("front", "middle", "back"),
    [
        (b"", b"", b""),
        (id3v2(noise(2000)), id3v1() + id3v2(noise(30_000)), id3v1()),
        (b"", ape(noise(300)) + id3v2(noise(20)), ape(noise(9))),
        (b"\0", id3v1(), b""),
        (b"", id3v2(noise(99)) + bytes(500), bytes(500)),
    ],
    ids=["cat", "id3", "ape", "id3v1", "padding"],
)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("variable", "variable"),
        ("variable", "bare"),
        ("bare", "variable"),
        ("constant", "variable"),
        ("bare", "bare"),
    ],
)
def test_joined_files_are_heard_to_the_end_of_the_last(
    one: str, other: str, front: bytes, middle: bytes, back: bytes
) -> None:
    joined = front + FILES[one] + middle + FILES[other] + back
    samples = heard(joined)
    assert 0 <= len(samples) - 2 * len(SPEECH) <= 6 * FRAME
    first = heard(FILES[one])[: len(SPEECH) - 2 * FRAME]
    np.testing.assert_allclose(samples[: len(first)], first, atol=1e-5)  # either decoder may have read them
    ending = heard(FILES[other])[-RATE:]
    # The padding at the end may be there or not; the last second is found where it fits.
    fits = [
        np.abs(samples[end - RATE : end] - ending).max()
        for end in range(len(samples) - 1200, len(samples) + 1)
    ]
    assert min(fits) < 1e-3


def test_three_joined_files_are_probed_as_of_unknown_length() -> None:
    data = 3 * (id3v2(noise(500)) + VARIABLE + id3v1())
    assert stated(data) is None
    assert 0 <= measure(data, "x") - 3 * len(SPEECH) <= 6 * FRAME


def test_each_of_joined_files_must_be_whole() -> None:
    for cut in (1, 40, len(VARIABLE) // 2):
        assert reason_of(VARIABLE[:-cut] + VARIABLE) == "truncated"
        assert reason_of(VARIABLE + id3v2(noise(9)) + VARIABLE[:-cut]) == "truncated"


@pytest.mark.parametrize("between", [b"", id3v1() + id3v2(noise(100))])
def test_files_of_other_rate_or_channels_that_were_joined_are_refused_with_the_place(between: bytes) -> None:
    other_rate = with_lame(speech_like(1, 44_100), 44_100)
    stereo = with_soundfile(np.stack([SPEECH, SPEECH / 2], 1), RATE, "MP3", subtype="MPEG_LAYER_III")
    for other, named in ((other_rate, "44100 Hz"), (stereo, "2 channels"), (LAYER_II, "layer II")):
        with pytest.raises(AudioError, match=f"changes from .* to .*{named}.* at byte {len(BARE + between)}"):
            heard(BARE + between + other)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "rest",
    [bytes(5000), bytes(1), b"<html></html>\n" * 40, noise(3000)],
    ids=["zeros", "zero", "html", "noise"],
)
def test_bytes_behind_the_last_frame_change_nothing(name: str, rest: bytes) -> None:
    np.testing.assert_array_equal(heard(FILES[name] + rest), heard(FILES[name]))


@pytest.mark.parametrize("between", [b"", bytes(200), id3v1() + id3v2(noise(100))])
@pytest.mark.parametrize("name", FILES)
def test_audio_of_another_format_behind_the_last_frame_is_refused(name: str, between: bytes) -> None:
    for container, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        other = with_soundfile(SPEECH, RATE, container, subtype=subtype)
        assert reason_of(FILES[name] + between + other) == "trailing_data"
    for container, codec in (
        ("mpegts", "aac"),
        ("mpeg", "mp2"),
        ("matroska", "aac"),
        ("mp4", "aac"),
        ("asf", "wmav2"),
    ):
        other = with_ffmpeg(SPEECH, RATE, container, codec)
        # Frames that are found within it are reported as such.
        assert reason_of(FILES[name] + between + other) in ("trailing_data", "truncated", "undecodable")


def test_a_tag_of_the_kind_that_stands_in_front_changes_nothing_behind_the_last_frame() -> None:
    np.testing.assert_array_equal(heard(BARE + id3v2(noise(30))), heard(BARE))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "front",
    [b"\0", bytes(700), noise(1, 1), noise(3000, 2), b"\r\n<html>"],
    ids=["zero", "zeros", "byte", "noise", "html"],
)
def test_bytes_in_front_of_the_first_frame_change_nothing(name: str, front: bytes) -> None:
    np.testing.assert_array_equal(heard(front + FILES[name]), heard(FILES[name]))


def test_the_rest_of_a_damaged_frame_at_the_end_is_no_harmless_tail() -> None:
    for rest in (noise(30), b"U" * 30, noise(30) + bytes(4000), bytes(4000) + noise(30)):
        assert reason_of(BARE + rest) == "truncated"
    np.testing.assert_array_equal(
        heard(VARIABLE + noise(30)), heard(VARIABLE)
    )  # its table says that all is there


def test_frames_of_free_format_are_read_by_their_distance() -> None:
    free = bytearray(BARE)
    position = 0
    while position < len(free):
        free[position + 2] &= 0x0F  # no bit rate
        position += 288
    assert len(BARE) % 288 == 0
    np.testing.assert_array_equal(heard(bytes(free)), heard(BARE))
    assert reason_of(bytes(free[:-10])) == "truncated"
    assert reason_of(bytes(free[:5000] + free[5100:])) == "truncated"


def test_a_vbri_table_is_no_audio_but_a_promise() -> None:
    size = 288
    frame = bytearray(BARE[:4].ljust(size, b"\0"))
    frame[36:54] = (
        b"VBRI" + bytes(6) + (len(BARE) + size).to_bytes(4, "big") + (len(BARE) // size).to_bytes(4, "big")
    )
    np.testing.assert_array_equal(heard(bytes(frame) + BARE), heard(BARE))
    assert reason_of(bytes(frame) + BARE[: -2 * size]) == "truncated"


def test_both_decoders_return_as_many_samples_as_were_counted() -> None:
    for data in (VARIABLE, CONSTANT, BARE, VARIABLE + id3v1() + id3v2(noise(900)) + VARIABLE, BARE_VARIABLE):
        extent = locate_mpeg(io.BytesIO(data), Span(0, len(data)), "x", is_whole=True)
        source = io.BytesIO(extent.header + data[extent.begin : extent.end])
        reader = FfmpegReader(source, "x", "mp3")
        assert sum(map(len, reader.blocks())) == extent.num_samples
        assert measure(data, "x") == extent.num_samples


def test_a_segment_is_found_where_it_is_in_joined_files() -> None:
    data = VARIABLE + id3v1() + id3v2(noise(300)) + VARIABLE
    whole = heard(data)
    for start, end in itertools.pairwise((0, 1000, 40_000, 60_000, len(whole))):
        np.testing.assert_array_equal(load_audio(data, "x", start=start, end=end).waveform, whole[start:end])


def test_any_bytes_are_audio_or_an_audio_error() -> None:
    rng = np.random.default_rng(0)
    for seed in range(60):
        data = bytearray(FILES[sorted(FILES)[seed % len(FILES)]][: int(rng.integers(1, 9000))])
        for _ in range(seed % 7):
            place = int(rng.integers(len(data)))
            data[place : place + 40] = rng.bytes(int(rng.integers(80)))
        for is_whole in (False, True):
            try:
                locate_mpeg(io.BytesIO(bytes(data)), Span(0, len(data)), "x", is_whole)
            except AudioError as error:
                assert error.detail
