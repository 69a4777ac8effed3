"""Wav files of every writer are heard whole or refused, whatever their headers state."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from pipeline.data.audio.containers.locate import locate
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, probe
from tests.data.audio.formats import speech_like, with_ffmpeg, with_soundfile

RATE = 16_000
SPEECH = speech_like(6.0, RATE)
NUM_BYTES = 2 * len(SPEECH)


def encode(subtype: str = "PCM_16", file_format: str = "WAV", num_channels: int = 1, **options: str) -> bytes:
    samples = np.stack([SPEECH] * num_channels, axis=1)
    return with_soundfile(samples, RATE, file_format, subtype=subtype, **options)


WAV = encode()


def seconds(data: bytes) -> float:
    """The length that is kept; the probe must state the same."""
    loaded = load_audio(data, "clip.wav")
    assert probe(io.BytesIO(data), "clip.wav").num_samples == loaded.header.num_samples
    return len(loaded.waveform) / RATE


def reason(data: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(data, "clip.wav")
    return caught.value.reason


def stating(data: bytes, data_size: int | None = None, riff_size: int | None = None) -> bytes:
    """Return a wav file with other lengths in its header."""
    changed = bytearray(data)
    if data_size is not None:
        struct.pack_into("<I", changed, changed.index(b"data") + 4, data_size)
    if riff_size is not None:
        struct.pack_into("<I", changed, 4, riff_size)
    return bytes(changed)


def with_format(content: bytes) -> bytes:
    """Return a wav file with another fmt chunk."""
    return WAV[:16] + struct.pack("<I", len(content)) + content + WAV[36:]


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk without a pad byte."""
    return struct.pack("<4sI", name, len(content)) + content


LIST = chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf58.29.100\0")


@pytest.mark.parametrize("unit", [2, 4, 8])
def test_a_header_that_counts_samples_or_frames_for_bytes_is_read_whole(unit: int) -> None:
    data = {2: WAV, 4: encode(num_channels=2), 8: encode("FLOAT", num_channels=2)}[unit]
    begin = data.index(b"data") + 8
    for counted in {(len(data) - begin) // unit, (len(data) - begin) // (unit // 2)} - {len(data) - begin}:
        assert seconds(stating(data, counted)) == 6
        assert seconds(stating(data, counted, counted + begin - 8)) == 6


def test_a_header_that_states_only_the_first_chunk_is_read_whole_or_refused() -> None:
    assert seconds(stating(WAV, 3_200)) == 6  # the RIFF size tells the rest
    assert reason(stating(WAV, 3_200, 3_236)) == "trailing_data"
    assert reason(stating(WAV, 3_200, 0)) == "trailing_data"


@pytest.mark.parametrize("riff_size", [None, 0, 36])
def test_a_length_of_zero_with_audio_behind_is_read_whole(riff_size: int | None) -> None:
    assert seconds(stating(WAV, 0, riff_size)) == 6
    assert seconds(stating(WAV + LIST, 0, riff_size)) == 6


def test_an_empty_wav_is_too_short_even_with_chunks_behind() -> None:
    assert reason(stating(WAV[:44], 0)) == "too_short"
    assert reason(stating(WAV[:44], 0) + LIST) == "too_short"


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW"])
@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_the_placeholders_of_writers_to_a_pipe_are_read_whole(subtype: str, num_channels: int) -> None:
    data = encode(subtype, num_channels=num_channels)
    block_bytes = struct.unpack("<H", data[32:34])[0]
    for length in (0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFFFFF, 0x80000000, 0x7FFFF000, 0x7FFFEFFF, 0x7FFFF024):
        assert seconds(stating(data, length // block_bytes * block_bytes, length & 0xFFFFFFFF)) == 6
        assert seconds(stating(data, length)) == 6


def test_what_ffmpeg_writes_into_a_pipe_is_read_whole() -> None:
    piped = stating(WAV[:36] + LIST + WAV[36:], 0xFFFFFFFF, 0xFFFFFFFF)
    assert seconds(piped) == 6
    assert seconds(piped + LIST) == 6


def test_a_wav_behind_an_id3_tag_loses_nothing() -> None:
    for size in (5, 1014, 9000):
        tag = (
            b"ID3\x04\0\0"
            + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
            + bytes(size)
        )
        assert seconds(tag + WAV) == 6
        assert reason(tag + WAV[:-50]) == "truncated"


@pytest.mark.parametrize(
    ("subtype", "num_channels"), [("PCM_U8", 1), ("PCM_16", 1), ("PCM_24", 1), ("FLOAT", 2)]
)
def test_a_header_up_to_44_bytes_too_long_is_right_and_one_that_is_longer_is_cut(
    subtype: str, num_channels: int
) -> None:
    data = encode(subtype, num_channels=num_channels)
    length = len(data) - data.index(b"data") - 8
    for excess in (2, 4, 8, 12, 36, 44):
        assert seconds(stating(data, length + excess)) == 6
        assert seconds(stating(data, length + excess, len(data) - 8 + excess)) == 6
        assert seconds(stating(data + LIST, length + excess)) == 6
    for excess in (46, 100, 4096):
        assert reason(stating(data, length + excess)) == "truncated"


@pytest.mark.parametrize(
    "name", ["LIST", "id3 ", "bext", "cue ", "smpl", "fact", "PEAK", "JUNK", "_PMX", "iXML"]
)
def test_chunks_behind_the_samples_are_not_audio(name: str) -> None:
    tail = chunk(name.encode(), b"1234567")
    for behind in (tail, tail + b"\0", tail + b"\0" + tail, tail + tail, tail + bytes(300), tail[:-3]):
        assert seconds(WAV + behind) == 6


def test_padding_and_known_tags_behind_the_samples_are_not_audio() -> None:
    assert seconds(WAV + bytes(1)) == 6
    assert seconds(WAV + bytes(100_000)) == 6


def test_unknown_bytes_and_other_files_behind_the_samples_are_refused() -> None:
    rng = np.random.default_rng(0)
    for behind in (
        WAV,
        b"x",
        b"<html>404</html>",
        rng.bytes(5_000),
        bytes(50) + b"x",
        chunk(b"data", bytes(64)),
    ):
        assert reason(WAV + behind) == "trailing_data"
    joined = stating(WAV, None, 2 * len(WAV) - 8) + WAV
    assert reason(joined) == "trailing_data"


def test_two_data_chunks_are_refused() -> None:
    half = NUM_BYTES // 2
    data = WAV[:36] + chunk(b"data", WAV[44 : 44 + half]) + chunk(b"data", WAV[44 + half :])
    assert reason(stating(data, None, len(data) - 8)) == "trailing_data"


def test_a_riff_size_that_is_wrong_alone_does_not_matter() -> None:
    for riff_size in (0, 1000, len(WAV) + 5_000, 0xFFFFFFFF):
        assert seconds(stating(WAV, None, riff_size)) == 6


def test_chunks_before_the_samples_are_passed_over_with_and_without_a_pad_byte() -> None:
    junk = chunk(b"junk", b"1234567")
    for place in (12, 36):
        assert seconds(WAV[:place] + junk + b"\0" + WAV[place:]) == 6
        assert seconds(WAV[:place] + junk + WAV[place:]) == 6
        assert seconds(WAV[:place] + chunk(b"id3 ", bytes(300_000)) + WAV[place:]) == 6


def test_fmt_chunks_of_every_length_are_understood() -> None:
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    extensible = b"\xfe\xff" + WAV[22:36] + struct.pack("<HHI", 22, 16, 4) + guid
    for content in (WAV[20:34], WAV[20:36], WAV[20:36] + b"\0\0", WAV[20:36] + bytes(24), extensible):
        assert seconds(with_format(content)) == 6


def test_a_wrong_block_align_is_mended_from_the_other_fields() -> None:
    for block_align in (0, 1, 3):
        assert seconds(WAV[:32] + struct.pack("<H", block_align) + WAV[34:]) == 6
    assert seconds(WAV[:28] + bytes(6) + WAV[34:]) == 6
    assert seconds(WAV[:28] + bytes(4) + WAV[32:]) == 6


@pytest.mark.parametrize(
    ("offset", "mask"),
    [(20, 2), (20, 16), (20, 64), (22, 1), (22, 2), (24, 1), (25, 8), (26, 1), (34, 8), (34, 16), (34, 32)],
)
def test_a_flipped_bit_of_the_format_is_never_heard(offset: int, mask: int) -> None:
    data = bytearray(WAV)
    data[offset] ^= mask
    assert reason(bytes(data)) == "undecodable"


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "RF64", "W64"])
def test_every_subtype_is_heard_in_full_and_refused_when_cut(file_format: str) -> None:
    for subtype in soundfile.available_subtypes(file_format):
        if subtype == "MPEG_LAYER_III":  # libsndfile reads but does not write it
            continue
        data = encode(subtype, file_format)
        loaded = load_audio(data, "clip")
        assert 96_000 <= len(loaded.waveform) < 96_000 + 1024
        assert loaded.header.codec == subtype.lower()
        assert loaded.header.encoding != "UNKNOWN"
        assert reason(data[:-3_000]) == "truncated"
        assert reason(data + data) == "trailing_data"


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("num_blocks", [10, 11])
def test_gsm_never_ends_in_a_block_that_is_not_there(endian: str, num_blocks: int) -> None:
    data = with_soundfile(SPEECH[: 320 * num_blocks - 9], 8_000, "WAV", subtype="GSM610", endian=endian)
    loaded = load_audio(data, "clip")
    assert loaded.header.num_samples == 320 * num_blocks
    assert np.abs(loaded.waveform[-320:]).max() < 0.5


def test_bw64_is_heard_as_rf64() -> None:
    assert seconds(b"BW64" + encode(file_format="RF64")[4:]) == 6
    assert seconds(b"BW64" + WAV[4:]) == 6


def test_long_rf64_placeholders_are_read_whole() -> None:
    data = bytearray(encode(file_format="RF64"))
    place = data.index(b"ds64") + 8
    for length in (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
        struct.pack_into("<QQ", data, place, length, length)
        assert seconds(bytes(data)) == 6


@pytest.mark.parametrize(("codec", "name"), [("libmp3lame", "mp3"), ("mp2", "mp2")])
def test_mpeg_audio_inside_wav_is_heard_in_full_under_its_own_name(codec: str, name: str) -> None:
    loaded = load_audio(with_ffmpeg(SPEECH, RATE, "wav", codec), "clip.wav")
    assert (loaded.header.container, loaded.header.codec, loaded.header.encoding) == (
        "wav",
        name,
        name.upper(),
    )
    assert 6 <= len(loaded.waveform) / RATE < 6.2


def test_mp3_of_variable_rate_inside_wav_is_heard_in_full() -> None:
    mp3 = with_soundfile(
        SPEECH, RATE, "MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.7
    )
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8_000, 1, 0, 12, 1, 2, 576, 1, 1393)
    body = b"WAVE" + chunk(b"fmt ", form) + chunk(b"data", mp3)
    data = chunk(b"RIFF", body)
    loaded = load_audio(data, "clip.wav")
    assert 6 <= len(loaded.waveform) / RATE < 6.2
    assert loaded.header.codec == "mp3"
    assert reason(data[:-2_000]) == "truncated"


def test_adpcm_whose_last_block_is_cut_is_refused_even_without_a_length() -> None:
    data = encode("IMA_ADPCM")
    assert seconds(stating(data, 0xFFFFFFFF)) == pytest.approx(6, abs=0.1)
    assert reason(stating(data[:-100], 0xFFFFFFFF)) == "truncated"


def test_samples_of_64_bit_integers_are_refused_with_a_reason() -> None:
    assert reason(with_ffmpeg(SPEECH, RATE, "wav", "pcm_s64le")) == "undecodable"


def test_random_bytes_behind_the_magic_never_raise_anything_else() -> None:
    rng = np.random.default_rng(1)
    heads = [WAV[:size] for size in (12, 20, 36, 44)] + [
        encode(file_format="W64")[:size] for size in (16, 40, 100)
    ]
    for head in heads:
        for size in (0, 1, 7, 100, 3_000):
            data = io.BytesIO(head + rng.bytes(size))
            for is_whole in (True, False):
                try:
                    locate(data, "clip", is_whole=is_whole)
                except AudioError:
                    continue


def test_a_wav_that_is_cut_anywhere_in_its_header_is_refused() -> None:
    for size in range(12, 46):
        assert reason(WAV[:size]) in ("undecodable", "truncated", "too_short")


def test_probing_reads_only_headers() -> None:
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.num_bytes += len(data)
            return data

    large = chunk(b"id3 ", bytes(1_000_000))
    for data in (
        WAV,
        WAV[:36] + large + WAV[36:],
        WAV + large,
        WAV + bytes(1_000_000),
        stating(WAV + WAV, 0),
    ):
        file = Counting(data)
        locate(file, "clip", is_whole=False)
        assert file.num_bytes < 200_000


def test_codecs_that_only_ffmpeg_knows_are_heard() -> None:
    for codec, length in (("adpcm_yamaha", 6.016), ("g722", 6.0), ("flac", 6.0)):
        assert load_audio(with_ffmpeg(SPEECH, RATE, "wav", codec), "clip").header.seconds == pytest.approx(
            length, abs=0.1
        )
