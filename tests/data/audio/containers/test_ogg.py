"""Every page of an Ogg file is there, undamaged and in its place, or the file is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.ogg import locate_ogg
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, measure, probe
from tests.data.audio.containers.files import RATE, SPEECH, heard, id3v1, id3v2, noise, reason_of, stated
from tests.data.audio.formats import FORMATS, speech_like, with_ffmpeg, with_soundfile

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
LAST = 4
"""Flag of the page that ends a stream."""


def sealed(page: bytes) -> bytes:
    """Return a page with its checksum."""
    bare = page[:22] + bytes(4) + page[26:]
    checksum = zlib.crc32(bare.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return bare[:22] + checksum.to_bytes(4, "big").translate(REVERSED) + bare[26:]


def page(flags: int, granule: int, serial: int, sequence: int, packets: list[bytes]) -> bytes:
    lacing = b"".join(bytes([255] * (len(packet) // 255) + [len(packet) % 255]) for packet in packets)
    header = struct.pack("<4sBBqIII", b"OggS", 0, flags, granule, serial, sequence, 0)
    return sealed(header + bytes([len(lacing)]) + lacing + b"".join(packets))


def pages(data: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(data):
        body = position + 27 + data[position + 26]
        end = body + sum(data[position + 27 : body])
        found.append(data[position:end])
        position = end
    return found


def without_end_mark(data: bytes) -> bytes:
    *others, last = pages(data)
    return b"".join(others) + sealed(last[:5] + bytes([last[5] & ~LAST]) + last[6:])


def renumbered(selected: list[bytes]) -> bytes:
    return b"".join(
        sealed(one[:18] + number.to_bytes(4, "little") + one[22:]) for number, one in enumerate(selected)
    )


def speex(num_packets: int) -> bytes:
    """Narrow-band Speex of random parameters: there is no encoder."""
    header = b"Speex   " + b"1.2.0".ljust(20, b"\0")
    header += struct.pack("<13i", 1, 80, 8000, 0, 4, 1, -1, 160, 0, 1, 0, 0, 0)
    comment = struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0)
    packets = [bytes([3 << 3]) + noise(19, seed) for seed in range(num_packets)]  # mode 3: 8 kbit/s
    data = page(2, 0, 9, 0, [header]) + page(0, 0, 9, 1, [comment])
    for begin in range(0, num_packets, 50):
        end = min(begin + 50, num_packets)
        flags = LAST if end == num_packets else 0
        data += page(flags, end * 160 - 80, 9, 2 + begin // 50, packets[begin:end])
    return data


FILES = {
    "vorbis": FORMATS["vorbis"](SPEECH, RATE),
    "opus": FORMATS["opus"](SPEECH, RATE),
    "opus by ffmpeg": with_ffmpeg(speech_like(3, 48_000), 48_000, "ogg", "libopus"),
    "flac": FORMATS["flac in ogg"](SPEECH, RATE),
    "speex": speex(150),
}
EVERY = pytest.mark.parametrize("name", FILES)


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_rate_is_heard_and_probed_to_the_sample(rate: int, num_channels: int, subtype: str) -> None:
    if subtype == "OPUS" and rate in (22_050, 44_100):
        return  # Opus does not have them
    mono = speech_like(1.234, rate)
    samples = np.stack([mono * 0.8**channel for channel in range(num_channels)], axis=1)
    data = with_soundfile(samples, rate, "OGG", subtype=subtype)
    assert stated(data) == measure(data, "x") == len(samples)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 30])
@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_short_and_long_files_are_heard_to_the_sample(name: str, seconds: float) -> None:
    samples = speech_like(seconds, RATE)
    assert len(heard(FORMATS[name](samples, RATE))) == len(samples)


def test_codec_and_decoder_are_recorded() -> None:
    found = {name: load_audio(data, "x") for name, data in FILES.items()}
    assert [loaded.header.container for loaded in found.values()] == 5 * ["ogg"]
    assert [loaded.header.codec for loaded in found.values()] == ["vorbis", "opus", "opus", "flac", "speex"]
    assert [loaded.header.encoding for loaded in found.values()] == [
        "VORBIS",
        "OPUS",
        "OPUS",
        "FLAC",
        "SPEEX",
    ]


@EVERY
def test_one_flipped_bit_anywhere_is_noticed(name: str) -> None:
    data = FILES[name]
    for place in range(0, len(data), len(data) // 150):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(AudioError):
            heard(bytes(damaged))


@EVERY
def test_a_stream_without_an_end_mark_is_whole_if_its_last_page_is(name: str) -> None:
    data = without_end_mark(FILES[name])
    assert data != FILES[name]
    np.testing.assert_array_equal(heard(data), heard(FILES[name]))
    assert stated(data) == stated(FILES[name])
    assert reason_of(data[:-1]) == "truncated"


@EVERY
def test_a_missing_page_is_noticed(name: str) -> None:
    whole = pages(FILES[name])
    for index in range(1, len(whole) - 1):
        assert reason_of(b"".join(whole[:index] + whole[index + 1 :])) == "truncated"


@EVERY
def test_a_cut_file_is_truncated(name: str) -> None:
    data = FILES[name]
    for num_bytes in (1, 20, len(data) // 2, len(data) - 60):
        assert reason_of(data[:-num_bytes]) in ("truncated", "not_audio")
        with pytest.raises(AudioError):
            probe(io.BytesIO(data[:-num_bytes]), "x")


def test_a_stream_that_ends_within_a_packet_is_truncated() -> None:
    long_packet = noise(255)
    *others, last = pages(FILES["vorbis"])
    sequence = int.from_bytes(last[18:22], "little")
    serial = int.from_bytes(last[14:18], "little")
    granule = int.from_bytes(last[6:14], "little")
    cut = page(0, granule, serial, sequence, [long_packet])
    cut = sealed(cut[:26] + b"\1\xff" + cut[29:])  # the packet continues in a page that is missing
    assert reason_of(b"".join(others) + cut) == "truncated"


@EVERY
def test_joined_files_are_refused_by_name_of_the_place(name: str) -> None:
    for other in (name, "vorbis"):
        with pytest.raises(
            AudioError, match=f"trailing_data: another stream begins at byte {len(FILES[name])}"
        ):
            heard(FILES[name] + FILES[other])
    if name != "vorbis":
        with pytest.raises(AudioError, match="trailing_data"):
            probe(io.BytesIO(FILES[name] + FILES["vorbis"]), "x")


@EVERY
def test_tags_and_zeros_around_the_pages_change_nothing(name: str) -> None:
    for front, back in ((b"", bytes(3000)), (id3v2(noise(90)), id3v1()), (b"\0", id3v1() + bytes(70))):
        np.testing.assert_array_equal(heard(front + FILES[name] + back), heard(FILES[name]))


@EVERY
def test_other_bytes_behind_or_between_the_pages_are_refused(name: str) -> None:
    whole = pages(FILES[name])
    assert reason_of(FILES[name] + b"<html></html>") == "trailing_data"
    assert reason_of(without_end_mark(FILES[name]) + noise(40)) == "truncated"
    assert reason_of(b"".join(whole[:-1]) + noise(40) + whole[-1]) == "undecodable"


@pytest.mark.parametrize("name", ["vorbis", "opus", "flac"])
def test_the_audio_beside_other_streams_is_heard(name: str) -> None:
    first, second, *rest = pages(FILES[name])
    skeleton = b"fishead\0" + struct.pack("<HH", 3, 0) + bytes(52)
    data = page(2, 0, 77, 0, [skeleton]) + first + second + page(LAST, 0, 77, 1, []) + b"".join(rest)
    assert measure(data, "x") == pytest.approx(len(SPEECH) * (3 if name == "opus" else 1), abs=1)
    assert reason_of(data.replace(b"fishead", b"fishhed")) == "undecodable"


def test_two_audio_streams_or_none_are_refused() -> None:
    vorbis, opus = pages(FILES["vorbis"]), pages(FILES["opus"])
    both = b"".join([vorbis[0], opus[0], *vorbis[1:], *opus[1:]])
    assert reason_of(both) == "undecodable"
    assert (
        reason_of(page(2, 0, 1, 0, [b"\x80theora" + bytes(30)]) + page(LAST, 5, 1, 1, [b"x"])) == "not_audio"
    )


@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_a_stream_that_was_cut_out_of_a_longer_one_is_heard(name: str) -> None:
    whole = pages(FORMATS[name](speech_like(12, RATE), RATE))
    num_headers = next(
        number for number, one in enumerate(whole) if int.from_bytes(one[6:14], "little", signed=True) > 0
    )
    data = renumbered(whole[:num_headers] + whole[num_headers + 2 :])
    assert 5 * RATE < len(heard(data)) < 12 * RATE


def test_a_probe_reads_little_of_a_large_file_with_a_picture() -> None:
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.num_bytes += len(data)
            return data

    data = FORMATS["vorbis"](speech_like(60, RATE), RATE)
    file = Counting(data)
    extent = locate_ogg(file, Span(0, len(data)), "x", is_whole=False)
    assert extent.num_samples == 60 * RATE
    assert file.num_bytes < 150_000


def test_any_bytes_are_audio_or_an_audio_error() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        data = bytearray(FILES[sorted(FILES)[seed % len(FILES)]][: int(rng.integers(1, 9000))])
        place = int(rng.integers(len(data)))
        data[place : place + 40] = rng.bytes(int(rng.integers(80)))
        if seed % 2:  # damage that the checksums agree with
            data = bytearray(b"OggS\0" + rng.bytes(int(rng.integers(300))))
            data = bytearray(sealed(bytes(data))) if len(data) > 30 else data
        for is_whole in (False, True):
            try:
                locate_ogg(io.BytesIO(bytes(data)), Span(0, len(data)), "x", is_whole)
            except AudioError as error:
                assert error.detail
