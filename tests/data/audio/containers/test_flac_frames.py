"""A FLAC file ends with its last frame, at the sample that it states, or is refused."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.flac_frames import locate_flac
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, measure
from tests.data.audio.containers.files import RATE, SPEECH, heard, id3v1, id3v2, noise, reason_of, stated
from tests.data.audio.formats import speech_like, to_pcm, with_ffmpeg, with_soundfile


def with_length(data: bytes, num_samples: int) -> bytes:
    """Return a FLAC file that states another length; 0: none, as from an encoder that writes to a pipe."""
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | num_samples
    digest = data[26:42] if num_samples else bytes(16)
    return data[:18] + packed.to_bytes(8, "big") + digest + data[42:]


WHOLE = with_soundfile(SPEECH, RATE, "FLAC", subtype="PCM_16")
STREAMED = with_length(WHOLE, 0)
FILES = {
    "whole": WHOLE,
    "streamed": STREAMED,
    "of 24 bit": with_soundfile(SPEECH, RATE, "FLAC", subtype="PCM_24"),
    "by ffmpeg": with_ffmpeg(SPEECH, RATE, "flac", "flac"),
}
EVERY = pytest.mark.parametrize("name", FILES)


@pytest.mark.parametrize(
    ("rate", "num_channels", "subtype"),
    [
        *(
            (rate, 1, "PCM_16")
            for rate in (8_000, 11_025, 16_000, 22_050, 37_800, 44_100, 48_000, 65_530, 96_000)
        ),
        *((RATE, num_channels, "PCM_16") for num_channels in range(2, 9)),
        *((RATE, 2, subtype) for subtype in ("PCM_S8", "PCM_24")),
    ],
)
@pytest.mark.parametrize("num_samples", [1_000, 4_096, 30_000])
def test_every_kind_of_file_is_heard_to_the_sample(
    rate: int, num_channels: int, subtype: str, num_samples: int
) -> None:
    mono = speech_like(num_samples / rate, rate)[:num_samples]
    samples = np.stack([mono * 0.8**channel for channel in range(num_channels)], axis=1)
    data = with_soundfile(samples, rate, "FLAC", subtype=subtype)
    assert stated(data) == measure(data, "x") == measure(with_length(data, 0), "x") == len(samples)


@pytest.mark.parametrize("level", ["0", "5", "12"])
@pytest.mark.parametrize(
    ("sample_format", "scale", "bits"), [("s16", 1, 16), ("s32", 65_536, 24), ("s32", 65_536, 32)]
)
def test_every_depth_and_block_size_of_ffmpeg_is_heard_to_the_sample(
    sample_format: str, scale: int, bits: int, level: str
) -> None:
    file, numbers = io.BytesIO(), to_pcm(SPEECH).astype(np.int32) * scale
    with av.open(file, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        strict = {"strict": "experimental"} if bits == 32 else {}
        stream.codec_context.options = {"compression_level": level, **strict}
        stream.codec_context.format = av.AudioFormat(sample_format)
        row = numbers.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            row.astype(np.int16) if sample_format == "s16" else row, sample_format, "mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    data = file.getvalue()
    assert (int.from_bytes(data[18:26], "big") >> 36 & 31) + 1 == bits
    np.testing.assert_array_equal(heard(data), to_pcm(SPEECH) / np.float32(32_768))
    np.testing.assert_array_equal(heard(with_length(data, 0)), heard(data))


@EVERY
def test_one_flipped_bit_anywhere_in_the_frames_is_noticed(name: str) -> None:
    data = FILES[name]
    for place in range(8400, len(data), len(data) // 100):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        assert reason_of(bytes(damaged)) in ("truncated", "undecodable")


@EVERY
def test_a_cut_file_is_truncated(name: str) -> None:
    data = FILES[name]
    for num_bytes in (*range(1, 30), 100, 5_000, len(data) // 2):
        assert reason_of(data[:-num_bytes]) == "truncated"


@EVERY
def test_a_hole_is_noticed(name: str) -> None:
    data, rng = FILES[name], np.random.default_rng(3)
    for _ in range(20):
        begin = int(rng.integers(8400, len(data) - 200))
        end = begin + int(rng.integers(1, min(4096, len(data) - begin)))
        assert reason_of(data[:begin] + data[end:]) in ("truncated", "undecodable")


def test_whole_frames_that_are_missing_are_noticed_by_the_number_of_the_last() -> None:
    first = WHOLE.index(b"\xff\xf8", 8300)
    begins = [WHOLE.index(WHOLE[first : first + 4] + bytes([number])) for number in range(7)]
    for begin, end in itertools.combinations(begins, 2):
        for data in (WHOLE, STREAMED):
            assert reason_of(data[:begin] + data[end:]) == "truncated"
            assert reason_of(data[:end] + data[begin:]) == "undecodable"  # repeated


@EVERY
def test_joined_files_are_refused_by_name_of_the_place(name: str) -> None:
    for other in (name, "whole", "streamed"):
        with pytest.raises(
            AudioError, match=f"trailing_data: another FLAC file begins at byte {len(FILES[name])}"
        ):
            heard(FILES[name] + FILES[other])
        with pytest.raises(AudioError, match="trailing_data: another FLAC file"):
            heard(FILES[name] + id3v1() + id3v2(noise(30)) + FILES[other])


@EVERY
def test_tags_and_zeros_around_the_file_change_nothing(name: str) -> None:
    for front, back in (
        (b"", bytes(3000)),
        (b"", b"\0"),
        (id3v2(noise(90)), id3v1()),
        (b"\0", id3v1() + bytes(70)),
    ):
        np.testing.assert_array_equal(heard(front + FILES[name] + back), heard(FILES[name]))


def test_a_checksum_that_ends_in_zero_belongs_to_the_last_frame() -> None:
    """One FLAC file in 256 ends so; without its last byte, every decoder refuses the last frame."""
    samples = np.linspace(-0.5, 0.5, 1_000, dtype=np.float32)
    files = []
    for step in range(1_000):
        samples[-1] = step / 32768
        files.append(with_soundfile(samples, RATE, "FLAC", subtype="PCM_16"))
    ending_in_zero = [data for data in files if data[-1] == 0]
    assert ending_in_zero
    for data, num_zeros in itertools.product([*ending_in_zero, files[0]], (0, 1, 2, 3, 500)):
        assert measure(data + bytes(num_zeros), "x") == len(samples)
        assert measure(with_length(data, 0) + bytes(num_zeros), "x") == len(samples)


@EVERY
def test_text_behind_the_last_frame_is_named(name: str) -> None:
    assert reason_of(FILES[name] + b"<html><body>404 Not Found</body></html>") == "trailing_data"
    assert reason_of(FILES[name] + noise(2000)) in ("truncated", "trailing_data")


def test_frames_beyond_the_stated_length_are_refused() -> None:
    for num_samples in (1, len(SPEECH) // 2, len(SPEECH) - 1):
        assert reason_of(with_length(WHOLE, num_samples)) == "trailing_data"


def test_frames_that_lack_are_named() -> None:
    assert reason_of(with_length(WHOLE, len(SPEECH) + 1)) == "truncated"
    assert reason_of(WHOLE[: WHOLE.index(b"\xff\xf8", 8300)]) == "truncated"
    assert reason_of(WHOLE[:30]) == "truncated"


def test_a_segment_of_a_streamed_file_is_exact() -> None:
    whole = heard(STREAMED)
    segment = load_audio(STREAMED, "x", start=5_000, end=20_001).waveform
    np.testing.assert_array_equal(segment, whole[5_000:20_001])
    assert stated(STREAMED) is None


def test_any_bytes_are_audio_or_an_audio_error() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        data = bytearray(FILES[sorted(FILES)[seed % len(FILES)]][: int(rng.integers(4, 20_000))])
        place = int(rng.integers(4, len(data) + 1))
        data[place : place + 40] = rng.bytes(int(rng.integers(80)))
        if seed % 2:
            data = bytearray(b"fLaC" + rng.bytes(int(rng.integers(300))))
        for is_whole in (False, True):
            try:
                locate_flac(io.BytesIO(bytes(data)), Span(0, len(data)), "x", is_whole)
            except AudioError as error:
                assert error.detail
