"""dr_flac gives the samples of libsndfile, damage is found, and what it does not read is left to the next decoder."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import soundfile

from pipeline.data.audio import dr_flac
from pipeline.data.audio.containers.flac_checksums import crc8, crc16
from pipeline.data.audio.containers.locate import locate
from pipeline.data.audio.decode import decoders
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import OpenAudio, load_audio, probe

RATE = 48_000


def flac(
    num_channels: int = 1, subtype: str = "PCM_16", rate: int = RATE, num_samples: int = 70_001
) -> bytes:
    rng = np.random.default_rng(num_channels)
    samples = np.clip(0.2 * rng.standard_normal((num_samples, num_channels)), -1, 1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


def blocks(data: bytes) -> np.ndarray:
    return np.concatenate(list(dr_flac.DrFlacReader(io.BytesIO(data), "x").blocks()))


@pytest.mark.parametrize("num_channels", range(1, 9))
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_every_channel_and_depth_gives_the_samples_of_libsndfile(num_channels: int, subtype: str) -> None:
    data = flac(num_channels, subtype)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(blocks(data), expected)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 44_100, 192_000, 384_000])
def test_every_rate_is_decoded_at_that_rate(rate: int) -> None:
    data = flac(rate=rate)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(blocks(data), expected)


def test_the_header_is_that_of_libsndfile() -> None:
    for data in (flac(2, "PCM_24"), flac(1, "PCM_S8", 8_000)):
        stated = probe(io.BytesIO(data), "x")
        assert dr_flac.DrFlacReader(io.BytesIO(data), "x").header == stated
        assert load_audio(data, "x").header == stated


def test_whole_files_are_decoded_by_dr_flac_and_segments_by_libsndfile() -> None:
    audio = OpenAudio(flac(), "x")
    assert load_audio(audio, "x").decoder == "dr_flac"
    assert load_audio(audio, "x", start=0, end=60_000).decoder == "libsndfile"
    with pytest.raises(AudioError, match="outside"):
        load_audio(audio, "x", start=80_000, end=90_000)
    assert load_audio(audio, "x").decoder == "dr_flac"


def test_a_frame_that_dr_flac_passes_over_is_noticed_by_its_missing_samples() -> None:
    data = bytearray(flac())
    data[len(data) // 2] ^= 1
    assert len(blocks(bytes(data))) < 70_001
    with pytest.raises(AudioError) as caught:
        load_audio(bytes(data), "x")
    assert caught.value.reason == "truncated"


def test_what_dr_flac_does_not_read_is_left_to_the_next_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    data = flac()
    monkeypatch.setattr(dr_flac, "_BITS", (24,))
    with pytest.raises(AudioError, match="dr_flac: 16 bits"):
        blocks(data)
    assert load_audio(data, "x").decoder == "libsndfile"


def test_without_miniaudio_libsndfile_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dr_flac, "CONTAINERS", frozenset())
    assert load_audio(flac(), "x").decoder == "libsndfile"


def test_only_flac_files_whose_length_shows_damage_go_to_dr_flac() -> None:
    assert decoders("flac", length_shows_damage=True) == ("dr_flac", "libsndfile", "ffmpeg")
    assert decoders("flac", length_shows_damage=False) == ("libsndfile", "ffmpeg")
    assert decoders("ogg", length_shows_damage=True) == ("libsndfile", "ffmpeg")


def begins_of_frames(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(data[data.index(b"\xff\xf8") :][:3]), data)]


def with_header(frame: bytes, second: int, third: int) -> bytes:
    """A frame with other bytes in its header, and with the checksums that belong to them."""
    header = bytes([frame[0], second, third, *frame[3:5]])
    body = header + bytes([crc8(header)]) + frame[6:-2]
    return body + crc16(body).to_bytes(2, "big")


@pytest.mark.parametrize(
    "kind", ["same", "of variable length", "of another rate", "of another depth", "stereo"]
)
def test_a_frame_within_a_damaged_one_is_not_taken_for_it(kind: str) -> None:
    data, num_samples = flac(num_samples=20 * 4_096), 20 * 4_096
    others = {"of another depth": flac(1, "PCM_24"), "stereo": flac(2)}
    other = others.get(kind, data)
    begin, end = begins_of_frames(other)[3:5]
    frame = other[begin:end]
    if kind == "of variable length":
        frame = with_header(frame, frame[1] | 1, frame[2])
    elif kind == "of another rate":
        frame = with_header(frame, frame[1], frame[2] & 0xF0 | 9)
    begins = begins_of_frames(data)
    assert len(begins) == 20
    wrong = bytes([data[begins[9] - 1] ^ 1])  # in the checksum of frame 8
    damaged = data[: begins[9] - 1] + wrong + frame + bytes([1, 2, 3]) + data[begins[9] :]
    # dr_flac passes over frame 8, and takes a frame of as many channels and bits in its place.
    assert (len(blocks(damaged)) == num_samples) == (kind not in others)
    with pytest.raises(AudioError) as caught:
        load_audio(damaged, "x")
    assert caught.value.reason in ("undecodable", "truncated")
    if kind not in others:
        assert not locate(io.BytesIO(damaged), "x", is_whole=True)[1].damage_shortens
    assert locate(io.BytesIO(data), "x", is_whole=True)[1].damage_shortens
