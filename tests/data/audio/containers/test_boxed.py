"""Files of containers that only FFmpeg reads: good ones are accepted whichever tool wrote them, damaged ones never."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.locate import LOCATORS, locate
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import load_audio, measure, probe
from tests.data.audio.containers.test_pcm_formats import piped
from tests.data.audio.formats import Samples, speech_like, to_pcm

RATE = 16_000
SPEECH = speech_like(3.0, RATE)
_OF_16_BITS = {"tta": "s16", "wavpack": "s16p"}


def encode(
    file_format: str,
    codec: str,
    rate: int = RATE,
    channels: int = 1,
    samples: Samples = SPEECH,
    **options: str,
) -> bytes:
    """Encode with FFmpeg, the same samples in all channels, without tags behind."""
    file = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(file, "w", format=file_format, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 96_000
        if codec in _OF_16_BITS:  # otherwise PyAV chooses 8 bits
            stream.format = av.AudioFormat(_OF_16_BITS[codec])
        pcm = np.repeat(to_pcm(samples), channels).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    data = file.getvalue()
    tag = data.rfind(b"APETAGEX", 0, data.rfind(b"APETAGEX"))
    return data if tag < 0 else data[:tag]


def reason_of(data: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(data, "clip")
    return caught.value.reason


def dsf() -> bytes:
    """Sixteen blocks of one-bit samples, as nothing that tests may use can encode."""
    body = np.random.default_rng(0).bytes(65_536)
    form = struct.pack("<QIIIIIIQII", 52, 1, 0, 1, 1, 2_822_400, 1, 8 * len(body), 4096, 0)
    head = b"DSD " + struct.pack("<QQQ", 28, 92 + len(body), 0)
    return head + b"fmt " + form + b"data" + struct.pack("<Q", 12 + len(body)) + body


def qoa(num_frames: int = 4) -> bytes:
    """Frames of 5120 samples each, whose residuals are random."""
    rng = np.random.default_rng(0)
    size = 8 + 16 + 8 * 256
    frames = [struct.pack(">BBHHH", 1, 0, RATE, 5120, size) + rng.bytes(size - 8) for _ in range(num_frames)]
    return b"qoaf" + struct.pack(">I", 5120 * num_frames) + b"".join(frames)


LOSSLESS: dict[str, tuple[str, str, str, int | None]] = {
    "pcm in mov": ("mov", "pcm_s16le", "PCM_S", 16),
    "big-endian pcm in mov": ("mov", "pcm_s16be", "PCM_S", 16),
    "24-bit pcm in mov": ("mov", "pcm_s24le", "PCM_S", 24),
    "float pcm in mov": ("mov", "pcm_f32le", "PCM_F", 32),
    "alac in m4a": ("ipod", "alac", "ALAC", 16),
    "flac in mp4": ("mp4", "flac", "FLAC", 16),
    "flac in matroska": ("matroska", "flac", "FLAC", 16),
    "pcm in matroska": ("matroska", "pcm_s24le", "PCM_S", 24),
    "pcm in avi": ("avi", "pcm_s16le", "PCM_S", 16),
    "flac in asf": ("asf", "flac", "FLAC", 16),
    "wavpack": ("wv", "wavpack", "WAVPACK", None),
    "tta": ("tta", "tta", "TTA", 16),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_codecs_give_the_samples_that_were_encoded(kind: str) -> None:
    file_format, codec, encoding, bit_depth = LOSSLESS[kind]
    loaded = load_audio(encode(file_format, codec), kind)
    np.testing.assert_array_equal(loaded.waveform, to_pcm(SPEECH) / np.float32(32_768))
    assert loaded.header.encoding == encoding
    assert kind == "alac in m4a" or loaded.header.bit_depth == bit_depth


@pytest.mark.parametrize(
    ("file_format", "codec", "rate", "encoding"),
    [
        ("mp4", "aac", 8_000, "AAC"),
        ("mp4", "aac", 96_000, "AAC"),
        ("mp4", "libmp3lame", 16_000, "MP3"),
        ("mp4", "libopus", 48_000, "OPUS"),
        ("mov", "adpcm_ima_qt", 22_050, "ADPCM_IMA_QT"),
        ("3gp", "libopencore_amrnb", 8_000, "AMR_NB"),
        ("ismv", "aac", 44_100, "AAC"),
        ("webm", "libopus", 48_000, "OPUS"),
        ("matroska", "libmp3lame", 44_100, "MP3"),
        ("matroska", "ac3", 48_000, "AC3"),
        ("asf", "wmav1", 22_050, "WMAV1"),
        ("asf", "wmav2", 44_100, "WMAV2"),
        ("avi", "libmp3lame", 44_100, "MP3"),
        ("avi", "adpcm_ms", 48_000, "ADPCM_MS"),
        ("flv", "aac", 44_100, "AAC"),
        ("flv", "nellymoser", 22_050, "NELLYMOSER"),
        ("mpegts", "aac", 44_100, "AAC"),
        ("mpegts", "ac3", 48_000, "AC3"),
        ("mpegts", "libopus", 48_000, "OPUS"),
        ("vob", "ac3", 48_000, "AC3"),
        ("mpeg", "mp2", 48_000, "MP2"),
        ("rm", "ac3", 48_000, "AC3"),
        ("rm", "real_144", 8_000, "RA_144"),
    ],
)
def test_lossy_codecs_give_all_of_the_audio_and_refuse_every_lost_byte(
    file_format: str, codec: str, rate: int, encoding: str
) -> None:
    samples = speech_like(2.0, rate)
    data = encode(file_format, codec, rate, samples=samples)
    loaded = load_audio(data, codec)
    assert loaded.header.encoding == encoding
    assert loaded.header.sample_rate == rate
    # Priming and padding: AAC at 8 kHz and the frames of ADPCM are the longest.
    assert len(loaded.waveform) == pytest.approx(32_000, abs=4_400)
    estimate = probe(io.BytesIO(data), codec).seconds
    assert estimate == 0 or abs(estimate - 2) < 0.5
    rng = np.random.default_rng(0)
    for _ in range(6):
        end = int(rng.integers(1, len(data))) | 1  # not between two packets of a transport stream
        assert reason_of(data[:end]) in ("truncated", "undecodable", "trailing_data", "not_audio")
        begin = int(rng.integers(len(data) - 1500))
        assert reason_of(data[:begin] + data[begin + 1500 :])
    assert reason_of(data + b"<!DOCTYPE html><html>404</html>") in ("trailing_data", "truncated")


@pytest.mark.parametrize("channels", [2, 6])
def test_more_channels_than_the_container_states_are_averaged(channels: int) -> None:
    # FLV states one or two channels, whatever its AAC has.
    loaded = load_audio(encode("flv", "aac", 44_100, channels), "flv")
    assert loaded.header.num_channels == channels


@pytest.mark.parametrize(
    "flags",
    [
        "frag_keyframe",
        "frag_keyframe+empty_moov",
        "frag_every_frame+empty_moov",
        "frag_keyframe+empty_moov+default_base_moof",
        "frag_keyframe+separate_moof",
        "frag_keyframe+delay_moov",
        "frag_keyframe+empty_moov+omit_tfhd_offset",
        "frag_keyframe+empty_moov+skip_trailer",
        "isml+frag_keyframe+empty_moov",
        "dash",
        "cmaf",
    ],
)
def test_fragmented_mp4_of_every_kind_is_read_whole_and_refused_when_cut(flags: str) -> None:
    data = encode("mp4", "aac", movflags=flags, frag_duration="500000")
    assert measure(data, flags) == pytest.approx(len(SPEECH), abs=2_100)
    assert probe(io.BytesIO(data), flags).sample_rate == RATE
    assert reason_of(data[: len(data) // 2]) == "truncated"
    assert reason_of(data + data) == "trailing_data"


def test_the_index_of_an_mp4_may_be_in_front_or_behind(tmp_path: Path) -> None:
    file = tmp_path / "clip"
    behind = encode("mp4", "aac")
    with (
        av.open(io.BytesIO(behind)) as source,
        av.open(file, "w", format="mp4", options={"movflags": "faststart"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    front = file.read_bytes()
    assert front.index(b"moov") < front.index(b"mdat")
    np.testing.assert_array_equal(load_audio(front, "a").waveform, load_audio(behind, "b").waveform)
    assert reason_of(front[:-1]) == "truncated"


def test_known_boxes_and_zeros_behind_an_mp4_are_padding_and_anything_else_is_refused() -> None:
    data = encode("mp4", "aac")
    for tail in (bytes(3), bytes(5000), struct.pack(">I4s", 108, b"free") + b"x" * 100, b"\0\0\0\x08skip"):
        assert len(load_audio(data + tail, "clip").waveform) > 47_000
    for tail in (b"x", b"garbage of no kind", data):
        assert reason_of(data + tail) == "trailing_data"


def test_media_data_that_extends_to_the_end_of_an_mp4_states_no_size() -> None:
    data = encode(
        "mov", "pcm_s16le", movflags="empty_moov+frag_keyframe+skip_trailer", frag_duration="9000000"
    )
    place = data.rindex(b"mdat") - 4
    open_ended = data[:place] + bytes(4) + data[place + 4 :]
    np.testing.assert_array_equal(load_audio(open_ended, "a").waveform, load_audio(data, "b").waveform)


def test_an_index_that_points_outside_of_the_data_is_refused() -> None:
    data = bytearray(encode("mp4", "aac"))
    place = data.index(b"stco") + 12
    for offset, reason in ((len(data) + 1000, "truncated"), (4, "undecodable")):
        data[place : place + 4] = struct.pack(">I", offset)
        assert reason_of(bytes(data)) == reason


def test_samples_of_a_mov_in_another_file_are_refused_and_never_opened(tmp_path: Path) -> None:
    other = tmp_path / "secret.mov"
    other.write_bytes(encode("mov", "pcm_s16le"))
    data = bytearray(encode("mov", "pcm_s16le"))
    place = data.rindex(b"url ", 0, data.index(b"stbl"))
    assert data[place + 4 : place + 8] == b"\0\0\0\1"
    data[place + 7] = 0
    assert reason_of(bytes(data)) == "undecodable"


def test_playlists_are_not_audio(tmp_path: Path) -> None:
    file = tmp_path / "clip.ts"
    file.write_bytes(encode("mpegts", "ac3", 48_000))
    for text in (
        f"#EXTM3U\n#EXTINF:3,\n{file}\n",
        f"ffconcat version 1.0\nfile {file}\n",
        "v=0\no=- 0 0 IN IP4\n",
    ):
        assert reason_of(text.encode()) == "not_audio"


def test_an_encrypted_track_is_refused() -> None:
    data = encode("mp4", "aac").replace(b"mp4a", b"enca", 1)
    assert reason_of(data) == "undecodable"


def test_only_the_audio_of_a_video_is_read_and_may_be_shorter_or_begin_later() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        video = output.add_stream("mpeg4", rate=5)
        assert isinstance(video, av.VideoStream)
        video.width = video.height = 32
        audio = output.add_stream("flac", rate=RATE, layout="mono")
        assert isinstance(audio, av.AudioStream)
        for _ in range(50):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray(to_pcm(SPEECH).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 4 * RATE, Fraction(1, RATE)
        output.mux([*audio.encode(frame), *audio.encode(None), *video.encode(None)])
    waveform = load_audio(file.getvalue(), "video").waveform
    np.testing.assert_array_equal(waveform, to_pcm(SPEECH) / np.float32(32_768))


def as_of_a_browser(data: bytes) -> bytes:
    """Remove the sizes of segment and clusters and all behind the last cluster, as browsers write while recording."""
    cues = data.rindex(b"\x1c\x53\xbb\x6b")
    head = data.index(b"\x18\x53\x80\x67") + 4
    live = bytearray(data[:cues])
    live[head : head + 8] = b"\x01" + b"\xff" * 7
    place = live.find(b"\x1f\x43\xb6\x75")
    while place >= 0:
        width = 9 - live[place + 4].bit_length()
        live[place + 4 : place + 4 + width] = (2 ** (7 * width + 1) - 1).to_bytes(width, "big")
        place = live.find(b"\x1f\x43\xb6\x75", place + 4)
    return bytes(live)


def test_webm_without_sizes_is_read_to_its_end_and_a_cut_block_is_truncated() -> None:
    samples = speech_like(8.0, 48_000)
    stated = encode("webm", "libopus", 48_000, samples=samples)
    live = as_of_a_browser(stated)
    np.testing.assert_array_equal(load_audio(live, "a").waveform, load_audio(stated, "b").waveform)
    assert reason_of(live[:-5]) == "truncated"
    assert reason_of(live + live) == "trailing_data"
    assert len(load_audio(live + bytes(700), "zeros").waveform) == 8 * RATE


def test_a_wrong_checksum_in_matroska_is_damage_even_where_the_codec_has_none() -> None:
    data = bytearray(encode("matroska", "pcm_s16le"))
    data[len(data) // 2] ^= 1
    assert reason_of(bytes(data)) == "undecodable"


def test_a_counter_of_a_transport_stream_tells_that_a_packet_is_missing() -> None:
    data = encode("mpegts", "aac", 44_100)
    place = len(data) // 2 // 188 * 188
    assert reason_of(data[:place] + data[place + 188 :]) == "undecodable"


@pytest.mark.parametrize("make", [dsf, qoa])
def test_simple_formats_are_read_whole_or_refused(make: Callable[[], bytes]) -> None:
    data = make()
    loaded = load_audio(data, "clip")
    assert loaded.header.num_samples == measure(data, "clip")
    assert reason_of(data[:-9]) == "truncated"
    assert reason_of(data + b"tail") in ("trailing_data", "length_mismatch")


def test_every_bit_of_tta_and_wavpack_is_covered_by_a_checksum_or_a_length() -> None:
    rng = np.random.default_rng(0)
    for file_format, codec in (("tta", "tta"), ("wv", "wavpack")):
        original = encode(file_format, codec)
        for _ in range(40):
            data = bytearray(original)
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            try:
                waveform = load_audio(bytes(data), codec).waveform
            except AudioError:
                continue
            np.testing.assert_array_equal(waveform, to_pcm(SPEECH) / np.float32(32_768))


LOCATED = {
    "mp4": ("mp4", "aac"),
    "fragments": ("ismv", "aac"),
    "matroska": ("matroska", "pcm_s16le"),
    "asf": ("asf", "flac"),
    "avi": ("avi", "pcm_s16le"),
    "flv": ("flv", "libmp3lame"),
    "ts": ("mpegts", "mp2"),
    "ps": ("mpeg", "mp2"),
    "rm": ("rm", "ac3"),
    "wavpack": ("wv", "wavpack"),
    "tta": ("tta", "tta"),
}


@pytest.mark.parametrize("kind", LOCATED)
def test_no_bytes_make_a_locator_fail_otherwise_than_with_an_audio_error(kind: str) -> None:
    file_format, codec = LOCATED[kind]
    original = encode(file_format, codec, 44_100, samples=SPEECH[:20_000])
    rng = np.random.default_rng(0)
    for turn in range(120):
        data = bytearray(original[: int(rng.integers(17, len(original)))] if turn % 3 == 0 else original)
        for place in rng.integers(min(16, len(data) - 1), min(len(data), 1500), 4):
            data[place : place + 4] = b"\xff" * 4 if turn % 2 else rng.bytes(4)
        if turn % 10 == 9:
            data = bytearray(original[:16] + rng.bytes(2000))
        for is_whole in (True, False):
            with contextlib.suppress(AudioError):
                locate(io.BytesIO(bytes(data)), kind, is_whole=is_whole)


@pytest.mark.parametrize(
    "container", ["mp4", "matroska", "asf", "avi", "ts", "ps", "flv", "rm", "ape", "mpc8"]
)
def test_a_file_of_its_first_bytes_alone_is_an_audio_error_or_left_to_the_decoder(container: str) -> None:
    locator: Callable[[BinaryIO, Span, str, bool], Extent] = LOCATORS[container]
    for size in range(24):
        try:
            extent = locator(io.BytesIO(bytes(size)), Span(0, size), "clip", True)
        except AudioError:
            continue
        assert extent.end == size


def test_a_wma_file_from_a_pipe_ends_with_its_end_mark() -> None:
    data = piped("asf", "wmav2")
    loaded = load_audio(data, "clip")
    assert len(loaded.waveform) / 16_000 == pytest.approx(2.0, abs=0.05)
    for damaged in (data[:-100], data[: len(data) // 2], data[:-12] + b"U" * 12):
        assert reason_of(damaged) in ("truncated", "trailing_data")


def test_wavpack_from_a_pipe_states_no_length() -> None:
    whole = load_audio(piped("wav", "pcm_s16le"), "clip").waveform
    data = piped("wv", "wavpack")
    assert probe(io.BytesIO(data), "clip").num_samples is None
    assert measure(data, "clip") == len(whole)
    assert reason_of(data[: len(data) // 2]) == "truncated"
