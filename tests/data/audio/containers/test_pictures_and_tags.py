"""Sound beside pictures, tags of players and a doubled rate: what else a container holds never shortens the audio."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.data.audio.load import load_audio, measure
from tests.data.audio.containers.files import RATE, SPEECH, ape, heard, id3v1, id3v2, noise, reason_of
from tests.data.audio.containers.test_boxed import encode
from tests.data.audio.formats import FORMATS, Samples, speech_like, to_pcm

VIDEO_RATE = 5
PCM = to_pcm(SPEECH) / np.float32(32_768)


def beside_pictures(
    file_format: str, codec: str, video_codec: str, rate: int, begin_s: int, pictures_s: int
) -> bytes:
    """Three seconds of speech that begin after `begin_s`, beside a picture of `pictures_s`."""
    file, samples = io.BytesIO(), speech_like(3, rate)
    with av.open(file, "w", format=file_format) as output:
        video = output.add_stream(video_codec, rate=VIDEO_RATE)
        assert isinstance(video, av.VideoStream)
        video.width = video.height = 32
        audio = output.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(audio, av.AudioStream)
        for _ in range(pictures_s * VIDEO_RATE):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(to_pcm(samples).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, begin_s * rate, Fraction(1, rate)
        output.mux([*audio.encode(frame), *audio.encode(None)])
    return file.getvalue()


WITH_PICTURES = {
    "webm of opus": ("webm", "libopus", "libvpx", 48_000),
    "matroska of flac": ("matroska", "flac", "mpeg4", RATE),
    "matroska of aac": ("matroska", "aac", "mpeg4", RATE),
    "mp4 of aac": ("mp4", "aac", "mpeg4", RATE),
    "mov of pcm": ("mov", "pcm_s16le", "mpeg4", RATE),
    "avi of pcm": ("avi", "pcm_s16le", "mpeg4", RATE),
    "avi of mp3": ("avi", "libmp3lame", "mpeg4", RATE),  # FFmpeg fills the time before with empty packets
    "avi of aac": ("avi", "aac", "mpeg4", RATE),
}


@pytest.mark.parametrize(
    ("kind", "begin_s", "pictures_s"),
    [
        (kind, begin_s, pictures_s)
        for kind in WITH_PICTURES
        for begin_s, pictures_s in ((0, 6), (2, 6), (2, 2), (0, 1))
    ],
)
def test_sound_that_is_shorter_than_its_picture_or_begins_later_is_heard_in_full(
    kind: str, begin_s: int, pictures_s: int
) -> None:
    file_format, codec, video_codec, rate = WITH_PICTURES[kind]
    data = beside_pictures(file_format, codec, video_codec, rate, begin_s, pictures_s)
    waveform = heard(data)
    if codec in ("flac", "pcm_s16le"):
        np.testing.assert_array_equal(waveform, PCM)
    assert len(waveform) == pytest.approx(len(SPEECH), abs=2_200)
    assert reason_of(data[: len(data) // 2]) in ("truncated", "undecodable")


TAGGED = {
    "m4a of aac": encode("ipod", "aac"),
    "m4a of alac": encode("ipod", "alac"),
    "fragmented mp4": encode("mp4", "aac", movflags="frag_keyframe+empty_moov", frag_duration="500000"),
    "matroska": encode("matroska", "flac"),
    "webm": encode("webm", "libopus", 48_000),
    "wma": encode("asf", "wmav2"),
    "flv": encode("flv", "aac", 44_100),
    "avi": encode("avi", "pcm_s16le"),
}


@pytest.mark.parametrize("kind", TAGGED)
@pytest.mark.parametrize(
    "tag",
    [id3v1(), id3v1() + bytes(300), ape(noise(400)), ape(noise(400)) + id3v1()],
    ids=["id3v1", "id3v1 and zeros", "ape", "ape and id3v1"],
)
def test_a_tag_behind_the_file_changes_nothing(kind: str, tag: bytes) -> None:
    data = TAGGED[kind]
    np.testing.assert_array_equal(heard(data + tag), heard(data))
    assert measure(data + tag, kind) == measure(data, kind)


SIZES = (100, 288, 500, 3_000, 70_000)
"""Of tags: all but the first are another number if their bytes are read with eight bits each."""


@pytest.mark.parametrize("kind", sorted(TAGGED.keys() | FORMATS.keys()))
def test_a_tag_in_front_of_the_file_changes_nothing(kind: str) -> None:
    data = TAGGED[kind] if kind in TAGGED else FORMATS[kind](SPEECH, RATE)
    tags = [id3v2(noise(size)) for size in SIZES]
    for tag in (*tags, id3v2(noise(90), footer=True), id3v2(noise(20)) + id3v2(noise(300))):
        np.testing.assert_array_equal(heard(tag + data), heard(data))


@pytest.mark.parametrize("kind", ["m4a of aac", "m4a of alac"])
def test_a_cut_file_with_a_tag_behind_it_is_still_refused(kind: str) -> None:
    assert reason_of(TAGGED[kind][:-100] + id3v1()) in ("truncated", "trailing_data", "undecodable")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def with_itunes_tag(data: bytes, priming: int, padding: int, num_samples: int) -> bytes:
    """Append the tag to the index, which must be the last box, in place of the tags that FFmpeg writes."""
    text = f" 00000000 {priming:08X} {padding:08X} {num_samples:016X}" + 8 * " 00000000"
    entry = box(
        b"----",
        box(b"mean", bytes(4) + b"com.apple.iTunes")
        + box(b"name", bytes(4) + b"iTunSMPB")
        + box(b"data", struct.pack(">II", 1, 0) + text.encode()),
    )
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    tags = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", entry)))
    place = data.index(b"moov") - 4
    size = int.from_bytes(data[place : place + 4], "big")
    assert place + size == len(data)
    index = data[place + 8 :].replace(b"udta", b"free")
    return data[:place] + box(b"moov", index + tags)


PRIMING = 2_112
"""Samples that iTunes puts in front; FFmpeg puts 1024, so that silence makes up the rest."""
SILENCE = np.zeros(PRIMING - 1_024, np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100])
@pytest.mark.parametrize("use_editlist", ["0", "1"])
def test_the_gapless_tag_of_itunes_takes_no_audio_and_refuses_no_file(rate: int, use_editlist: str) -> None:
    samples = speech_like(3, rate)
    data = encode("mp4", "aac", rate, samples=np.concatenate([SILENCE, samples]), use_editlist=use_editlist)
    padding = -(len(samples) + PRIMING) % 1_024
    tagged = with_itunes_tag(data, PRIMING, padding, len(samples))
    num_samples = measure(tagged, "clip")
    assert 0 <= num_samples - len(samples) <= PRIMING + 1_024
    assert len(heard(tagged)) == pytest.approx(num_samples * RATE / rate, abs=1)
    assert reason_of(tagged[:-10]) == "truncated"


def test_the_priming_that_the_gapless_tag_states_is_no_audio() -> None:
    samples = np.concatenate([SILENCE, SPEECH])
    untagged = heard(encode("mp4", "aac", samples=samples, use_editlist="0"))
    tagged = heard(
        with_itunes_tag(
            encode("mp4", "aac", samples=samples, use_editlist="0"),
            PRIMING,
            -(len(SPEECH) + PRIMING) % 1_024,
            len(SPEECH),
        )
    )
    np.testing.assert_array_equal(tagged, untagged[PRIMING:][: len(tagged)])


RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
"""Sample rates by their number in the description of AAC."""
WITHOUT_SBR = b"\x56\xe5\0"
"""The end of the description that FFmpeg writes: an extension for SBR, which is absent."""


def of_doubled_rate(rate: int, samples: Samples, is_fragmented: bool) -> bytes:
    """AAC whose description states HE-AAC: decoders return twice as many samples at twice the rate."""
    if is_fragmented:
        flags = "frag_keyframe+empty_moov"
        data = encode("mp4", "aac", rate, samples=samples, movflags=flags, frag_duration="500000")
    else:
        data = encode("mp4", "aac", rate, samples=samples)
    assert data.count(WITHOUT_SBR) == 1
    return data.replace(WITHOUT_SBR, WITHOUT_SBR[:2] + bytes([0x80 | RATES.index(2 * rate) << 3]))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000])
@pytest.mark.parametrize("is_fragmented", [False, True])
def test_he_aac_is_heard_in_full_at_twice_the_rate_of_its_core(is_fragmented: bool, rate: int) -> None:
    data = of_doubled_rate(rate, speech_like(3, rate), is_fragmented)
    loaded = load_audio(data, "clip")
    assert loaded.header.sample_rate == 2 * rate
    assert 0 <= len(loaded.waveform) / RATE - 3 <= 3 * 1_024 / rate
    assert reason_of(data[: len(data) // 2]) == "truncated"


PICTURE = noise(3_000_000)
"""As large as a cover that was scanned; somewhere in it stands every pattern that begins a frame of MPEG audio."""


@pytest.mark.parametrize(
    "name", ["mp3 of variable rate", "mp3 of constant rate", "mp2", "flac", "vorbis", "aac in adts", "wav"]
)
def test_a_picture_of_megabytes_in_front_changes_nothing(name: str) -> None:
    data = FORMATS[name](SPEECH, RATE)
    np.testing.assert_array_equal(heard(id3v2(PICTURE) + data), heard(data))


@pytest.mark.parametrize("name", ["mp3 of variable rate", "mp3 of constant rate", "aac in adts", "flac"])
def test_a_picture_of_megabytes_behind_changes_nothing(name: str) -> None:
    data = FORMATS[name](SPEECH, RATE)
    for tag in (ape(PICTURE), id3v2(PICTURE, footer=True), ape(PICTURE) + id3v1()):
        np.testing.assert_array_equal(heard(data + tag), heard(data))


def test_a_picture_of_megabytes_within_a_flac_file_changes_nothing() -> None:
    data = FORMATS["flac"](SPEECH, RATE)
    assert not data[4] & 0x80, "more blocks follow the first"
    picture = b"\x06" + len(PICTURE).to_bytes(3, "big") + PICTURE
    np.testing.assert_array_equal(heard(data[:42] + picture + data[42:]), heard(data))
