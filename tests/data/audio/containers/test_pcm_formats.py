"""Aiff, caf, au, sphere, voc and their like are heard whole, or refused where they are cut or another file follows."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from pipeline.data.audio.containers.locate import locate
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import Loaded, load_audio, probe
from tests.data.audio.formats import speech_like, to_pcm, with_ffmpeg, with_soundfile

RATE = 16_000
SPEECH = speech_like(2.0, RATE)
NUM_SAMPLES = len(SPEECH)

CONTAINERS = {
    "AIFF": "aiff",
    "AU": "au",
    "CAF": "caf",
    "NIST": "nist",
    "VOC": "voc",
    "IRCAM": "ircam",
    "AVR": "avr",
    "SVX": "svx",
    "PAF": "paf",
    "PVF": "pvf",
    "WVE": "wve",
}
"""libsndfile's names of formats, and those of bonafide."""
WITHOUT_LENGTH = ("IRCAM", "PAF", "PVF")
"""Formats whose headers do not state how long the audio is."""
ENCODED = [
    (file_format, subtype, endian)
    for file_format in CONTAINERS
    for subtype in soundfile.available_subtypes(file_format)
    for endian in ("FILE", "LITTLE", "BIG")
    if soundfile.check_format(file_format, subtype, endian) and not subtype.startswith("DWVW")
]


def encode(file_format: str, subtype: str = "PCM_16", endian: str = "FILE", num_channels: int = 1) -> bytes:
    samples = np.stack([SPEECH] * num_channels, axis=1) if num_channels > 1 else SPEECH
    rate = 8_000 if file_format == "WVE" else RATE
    return with_soundfile(samples, rate, file_format, subtype=subtype, endian=endian)


def load(data: bytes) -> Loaded:
    """Load a file; the probe must state the same length."""
    loaded = load_audio(data, "clip")
    assert probe(io.BytesIO(data), "clip").num_samples == loaded.header.num_samples
    return loaded


def reason(data: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(data, "clip")
    return caught.value.reason


@pytest.mark.parametrize(("file_format", "subtype", "endian"), ENCODED)
def test_every_subtype_is_heard_in_full_and_nothing_else(file_format: str, subtype: str, endian: str) -> None:
    data = encode(file_format, subtype, endian)
    header = load(data).header
    assert header.container == CONTAINERS[file_format]
    assert header.codec == subtype.lower()
    assert header.encoding != "UNKNOWN"
    assert header.num_samples is not None
    assert NUM_SAMPLES <= header.num_samples < NUM_SAMPLES + 360
    rejected = (
        [] if file_format in WITHOUT_LENGTH else [data[:-2_001], data + b"<html>not found</html>", data[:60]]
    )
    assert {reason(damaged) for damaged in rejected} <= {"truncated", "trailing_data", "undecodable"}
    assert reason(data + data) in ("trailing_data", "truncated")


@pytest.mark.parametrize("file_format", sorted(CONTAINERS.keys() - set(WITHOUT_LENGTH)))
def test_zeros_behind_the_samples_are_padding(file_format: str) -> None:
    subtype = "ALAW" if file_format == "WVE" else "PCM_16"
    header = load(encode(file_format, subtype) + bytes(1_001)).header
    assert header.num_samples == NUM_SAMPLES


def test_linear_formats_give_the_samples_that_were_encoded() -> None:
    expected = to_pcm(SPEECH) / np.float32(32_768)
    for file_format in CONTAINERS.keys() - {"WVE"}:
        for subtype in ("PCM_16", "PCM_24", "PCM_32"):
            if subtype in soundfile.available_subtypes(file_format):
                np.testing.assert_array_equal(load(encode(file_format, subtype)).waveform, expected)


class Pipe(io.RawIOBase):
    """A file that can only be written from front to back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: object) -> int:
        written = bytes(data)  # type: ignore[call-overload]
        self.data += written
        return len(written)


def piped(file_format: str, codec: str) -> bytes:
    """Encode with FFmpeg into a pipe, so that it cannot go back to state lengths."""
    pipe = Pipe()
    with av.open(pipe, "w", format=file_format) as output:
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(to_pcm(SPEECH).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return bytes(pipe.data)


@pytest.mark.parametrize(
    ("file_format", "codec"),
    [
        ("aiff", "pcm_s16be"),
        ("aiff", "pcm_s24be"),
        ("aiff", "pcm_s16le"),
        ("aiff", "adpcm_ima_qt"),
        ("au", "pcm_s16be"),
        ("au", "pcm_mulaw"),
        ("caf", "pcm_s16le"),
        ("caf", "adpcm_ima_qt"),
        ("w64", "pcm_s16le"),
        ("w64", "adpcm_ms"),
        ("wav", "pcm_s24le"),
        ("voc", "pcm_s16le"),
        ("ircam", "pcm_s16le"),
    ],
)
def test_what_ffmpeg_writes_into_a_pipe_is_read_whole(file_format: str, codec: str) -> None:
    assert NUM_SAMPLES <= load(piped(file_format, codec)).header.num_samples < NUM_SAMPLES + 2_048  # type: ignore[operator]


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_placeholders_of_au_are_read_whole(length: int) -> None:
    data = bytearray(encode("AU"))
    struct.pack_into(">I", data, 8, length)
    assert load(bytes(data)).header.num_samples == NUM_SAMPLES


@pytest.mark.parametrize("num_bytes", [0, 0x7F000000, 0xFFFFFFFF])
def test_placeholders_of_aiff_are_read_whole(num_bytes: int) -> None:
    data = bytearray(encode("AIFF"))
    for frames in (0, num_bytes // 2):
        struct.pack_into(">I", data, 4, min(num_bytes + 46, 0xFFFFFFFF))
        struct.pack_into(">I", data, data.index(b"COMM") + 10, frames)
        struct.pack_into(">I", data, data.index(b"SSND") + 4, min(num_bytes + 8, 0xFFFFFFFF))
        assert load(bytes(data)).header.num_samples == NUM_SAMPLES


def test_a_caf_of_open_length_is_read_whole() -> None:
    data = bytearray(encode("CAF"))
    place = data.index(b"data") + 4
    struct.pack_into(">q", data, place, -1)
    assert load(bytes(data)).header.num_samples == NUM_SAMPLES


def test_a_sphere_file_without_a_count_is_read_whole() -> None:
    data = encode("NIST").replace(b"sample_count -i 32000\n", b"speaker_id -s5 abcde \n")
    assert load(data).header.num_samples == NUM_SAMPLES


def test_headers_that_count_frames_for_bytes_or_a_few_bytes_too_many_are_read_whole() -> None:
    au = bytearray(encode("AU"))
    for length in (NUM_SAMPLES, 2 * NUM_SAMPLES + 24, 2 * NUM_SAMPLES + 2):
        struct.pack_into(">I", au, 8, length)
        assert load(bytes(au)).header.num_samples == NUM_SAMPLES
    aiff = bytearray(encode("AIFF"))
    struct.pack_into(">I", aiff, aiff.index(b"SSND") + 4, 2 * NUM_SAMPLES + 8 + 12)
    assert load(bytes(aiff)).header.num_samples == NUM_SAMPLES


def test_fields_of_aiff_that_contradict_each_other_are_refused() -> None:
    for offset, value in ((8, 3), (14, 24), (10, 77)):  # channels, bits, frames
        data = bytearray(encode("AIFF"))
        struct.pack_into(">H" if offset != 10 else ">I", data, data.index(b"COMM") + offset, value)
        assert reason(bytes(data)) == "undecodable"


def test_chunks_of_aiff_and_caf_around_the_samples_are_passed_over() -> None:
    aiff, note = encode("AIFF"), struct.pack(">4sI", b"ANNO", 5) + b"hello"
    for data in (
        aiff[:12] + note + b"\0" + aiff[12:],
        aiff[:12] + note + aiff[12:],
        aiff + note,
        aiff + note + b"\0",
    ):
        assert load(data).header.num_samples == NUM_SAMPLES
    begin = aiff.index(b"SSND")
    assert (
        load(aiff[:12] + aiff[begin:] + aiff[12:begin]).header.num_samples == NUM_SAMPLES
    )  # COMM behind SSND
    caf = encode("CAF") + struct.pack(">4sq", b"info", 5) + b"hello"
    assert load(caf).header.num_samples == NUM_SAMPLES


def test_an_id3_tag_in_front_loses_nothing() -> None:
    tag = b"ID3\x04\0\0\0\0\x07\x76" + bytes(1014)
    for file_format in ("AIFF", "AU", "CAF"):
        assert load(tag + encode(file_format)).header.num_samples == NUM_SAMPLES


@pytest.mark.parametrize("num_channels", [1, 2])
def test_alac_in_caf_keeps_the_end_that_ffmpeg_takes_off_twice(num_channels: int) -> None:
    for extra in (0, 1, 1_234):
        samples = np.concatenate([SPEECH, SPEECH[:extra]])
        data = with_ffmpeg(samples, RATE, "caf", "alac")
        np.testing.assert_array_equal(load(data).waveform, to_pcm(samples) / np.float32(32_768))


def test_a_voc_of_several_blocks_is_heard_in_full() -> None:
    pcm = to_pcm(SPEECH).tobytes()
    new_sound = struct.pack("<IBBHI", RATE, 16, 1, 4, 0) + pcm[:40_000]
    rest = pcm[40_000:]
    blocks = b"".join(
        bytes([kind]) + len(content).to_bytes(3, "little") + content
        for kind, content in ((9, new_sound), (5, b"a text\0"), (2, rest))
    )
    data = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x0114, 0x111F) + blocks + b"\0"
    np.testing.assert_array_equal(load(data).waveform, to_pcm(SPEECH) / np.float32(32_768))
    assert reason(data[:-5_000]) == "truncated"


def test_a_voc_whose_last_block_is_eight_bytes_longer_than_stated_is_heard_in_full() -> None:
    data = bytearray(encode("VOC"))
    stated = int.from_bytes(data[27:30], "little")
    data[27:30] = (stated - 8).to_bytes(3, "little")  # as sox writes it
    np.testing.assert_array_equal(load(bytes(data)).waveform, to_pcm(SPEECH) / np.float32(32_768))
    data[27:30] = (stated - 16).to_bytes(3, "little")
    assert reason(bytes(data)) in ("truncated", "trailing_data")


def test_alac_in_caf_whose_table_counts_whole_packets_is_heard_in_full() -> None:
    data = bytearray(with_ffmpeg(SPEECH, RATE, "caf", "alac"))
    table = data.index(b"pakt") + 12
    num_packets = int.from_bytes(data[table : table + 8], "big")
    data[table + 8 : table + 24] = struct.pack(">qii", num_packets * 4096, 0, 0)
    np.testing.assert_array_equal(load(bytes(data)).waveform, to_pcm(SPEECH) / np.float32(32_768))


def test_channels_of_sphere_that_are_not_interleaved_are_refused() -> None:
    data = encode("NIST").replace(b"sample_count", b"channels_interleaved -s5 FALSE\nsample_count")
    assert reason(data) == "undecodable"


def test_damaged_headers_never_raise_anything_but_an_audio_error() -> None:
    rng = np.random.default_rng(2)
    for file_format in CONTAINERS:
        data = encode(file_format, "ALAW" if file_format == "WVE" else "PCM_16")[:5_000]
        for _ in range(60):
            damaged = bytearray(data[: int(rng.integers(4, len(data)))])
            for place in rng.integers(len(damaged), size=3):
                damaged[min(int(place), 2 + int(place) % 120, len(damaged) - 1)] = int(rng.integers(256))
            for is_whole in (True, False):
                try:
                    locate(io.BytesIO(damaged), "clip", is_whole=is_whole)
                except AudioError:
                    continue


def shorten(samples: list[int]) -> bytes:
    """Encode PCM16 as a Shorten stream of version 2, without prediction, in blocks of 256."""
    parts: list[str] = []

    def put(number: int, num_bits: int) -> None:
        low = format(number & (1 << num_bits) - 1, f"0{num_bits}b") if num_bits else ""
        parts.append("0" * (number >> num_bits) + "1" + low)

    def put_long(number: int) -> None:
        num_bits = max(number.bit_length(), 1)
        put(num_bits, 2)
        put(number, num_bits)

    for field in (
        5,
        1,
        256,
        0,
        0,
        0,
    ):  # 16 bits with the low byte first, channels, block, no prediction, no skipping
        put_long(field)
    for begin in range(0, len(samples), 256):
        block = samples[begin : begin + 256]
        if len(block) < 256:
            put(5, 2)
            put_long(len(block))
        put(0, 2)
        put(11, 3)
        for sample in block:
            put(sample << 1 if sample >= 0 else ~sample << 1 | 1, 12)
    put(4, 2)
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 32)
    return b"ajkg\x02" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_shorten_inside_sphere_is_heard_in_full_or_refused() -> None:
    pcm = to_pcm(SPEECH[:16_100])
    fields = (
        b"NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i 16000\nsample_n_bytes -i 2\nsample_byte_format -s2 01\n"
        b"sample_coding -s26 pcm,embedded-shorten-v2.00\nsample_count -i 16100\nend_head\n"
    )
    data = fields.ljust(1024) + shorten(pcm.tolist())
    loaded = load(data)
    assert (loaded.decoder, loaded.header.codec) == ("ffmpeg", "shorten")
    np.testing.assert_array_equal(loaded.waveform, pcm / np.float32(32_768))
    assert reason(data[:-3_000]) == "truncated"
    assert reason(data + data) == "trailing_data"
