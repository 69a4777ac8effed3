"""Audio files of every format become waveforms, or an error that states why not."""

from __future__ import annotations

import io
import pickle
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from pipeline.data.audio.containers.names import AUDIO_SUFFIXES, is_audio_name
from pipeline.data.audio.convert import RESAMPLERS
from pipeline.data.audio.errors import REASONS, AudioError
from pipeline.data.audio.load import load_audio, probe
from pipeline.data.audio.reader import Samples
from pipeline.data.audio.versions import codec_versions
from pipeline.data.audio.waveform import Waveform
from tests.data.audio.formats import speech_like

RATE = 48_000


def tone(num_samples: int, sample_rate: int = RATE, num_channels: int = 1) -> np.ndarray:
    """Speech-like enough for every codec: harmonics, a slow envelope, a little noise."""
    time = np.arange(num_samples) / sample_rate
    voice = sum(np.sin(2 * np.pi * hz * time + hz) for hz in (120, 240, 500, 1500, 2500))
    noise = np.random.default_rng(7).standard_normal(num_samples)
    mono = 0.08 * voice * (0.6 + 0.4 * np.sin(6 * np.pi * time)) + 0.005 * noise
    return np.stack([mono * 0.9**channel for channel in range(num_channels)], axis=1).astype(np.float32)


def encode(samples: np.ndarray, sample_rate: int, file_format: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format=file_format, subtype=subtype)
    return file.getvalue()


def encode_ffmpeg(
    path: Path, samples: np.ndarray, sample_rate: int, file_format: str, codec: str, **options: str
) -> bytes:
    pcm = np.round(samples * 32767).astype(np.int16).reshape(1, -1)
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    with av.open(path, "w", format=file_format, options=options) as output:
        stream = output.add_stream(codec, rate=sample_rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 96_000
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return path.read_bytes()


def decode_ffmpeg(data: bytes) -> Samples:
    """The samples of a file that FFmpeg reads as planar floats, [num_samples, num_channels]."""
    with av.open(io.BytesIO(data)) as file:
        return np.concatenate([frame.to_ndarray().T for frame in file.decode(audio=0)])


def mono16(num_samples: int = 16_000) -> np.ndarray:
    return tone(num_samples, 16_000)[:, 0]


def load_waveform(data: bytes, **options: Any) -> Waveform:
    return load_audio(data, "clip", **options).waveform


def read_samples(data: bytes) -> Samples:
    """The samples of a file that libsndfile reads, [num_samples, num_channels]."""
    samples: Samples = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
    return samples


def reason_of(data: bytes, **options: Any) -> str:
    with pytest.raises(AudioError) as caught:
        load_waveform(data, **options)
    return caught.value.reason


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A little more than one second of stereo at 48 kHz in every format."""
    samples, path = tone(RATE + 123, num_channels=2), tmp_path_factory.mktemp("audio") / "file"
    return {
        "wav": encode(samples, RATE, "WAV", "PCM_16"),
        "wav24": encode(samples, RATE, "WAV", "PCM_24"),
        "wavfloat": encode(samples, RATE, "WAV", "FLOAT"),
        "ulaw": encode(samples, RATE, "WAV", "ULAW"),
        "flac": encode(samples, RATE, "FLAC"),
        "mp3": encode(samples, RATE, "MP3"),
        "vorbis": encode(samples, RATE, "OGG", "VORBIS"),
        "opus": encode(samples, RATE, "OGG", "OPUS"),
        "m4a": encode_ffmpeg(path, samples, RATE, "mp4", "aac"),
        "aac": encode_ffmpeg(path, samples, RATE, "adts", "aac"),
        "wma": encode_ffmpeg(path, samples, RATE, "asf", "wmav2"),
        "webm": encode_ffmpeg(path, samples, RATE, "webm", "libopus"),
    }


@pytest.mark.parametrize(
    ("kind", "container", "encoding", "bit_depth", "decoder"),
    [
        ("wav", "wav", "PCM_S", 16, "libsndfile"),
        ("wav24", "wav", "PCM_S", 24, "libsndfile"),
        ("wavfloat", "wav", "PCM_F", 32, "libsndfile"),
        ("ulaw", "wav", "ULAW", 8, "libsndfile"),
        ("flac", "flac", "FLAC", 16, "dr_flac"),
        ("mp3", "mp3", "MP3", None, "libsndfile"),
        ("vorbis", "ogg", "VORBIS", None, "libsndfile"),
        ("opus", "ogg", "OPUS", None, "libsndfile"),
        ("m4a", "mp4", "AAC", None, "ffmpeg"),
        ("aac", "adts", "AAC", None, "ffmpeg"),
        ("wma", "asf", "WMAV2", None, "ffmpeg"),
        ("webm", "matroska", "OPUS", None, "ffmpeg"),
    ],
)
def test_every_format_is_recognised_by_content_and_decodes_to_the_same_audio(
    files: dict[str, bytes], kind: str, container: str, encoding: str, bit_depth: int | None, decoder: str
) -> None:
    loaded = load_audio(files[kind], "a name without an extension")
    header = loaded.header
    assert (header.container, header.encoding, header.bit_depth) == (container, encoding, bit_depth)
    assert (header.sample_rate, header.num_channels) == (RATE, 2)
    assert header.seconds == pytest.approx(1.0026, abs=0.05)
    assert loaded.decoder == decoder
    assert loaded.waveform.dtype == np.float32
    assert len(loaded.waveform) == pytest.approx(16_041, abs=1_000)
    original = load_waveform(files["wavfloat"])
    shared = min(len(original), len(loaded.waveform)) - 4_000
    # AAC without a container and WMA do not state the delay of their encoder, so search for it.
    window = loaded.waveform[2_000 : 2_000 + shared]
    lags = (1_000, 3_000) if kind in ("aac", "wma") else (1_990, 2_011)
    correlations = [np.corrcoef(original[lag : lag + shared], window)[0, 1] for lag in range(*lags)]
    assert max(correlations) > 0.98
    if kind not in ("aac", "wma"):
        assert lags[0] + int(np.argmax(correlations)) == 2_000


def test_lossless_formats_decode_to_the_exact_samples() -> None:
    pcm = np.round(tone(16_000, 16_000) * 32_767).astype(np.int16)
    for file_format in ("WAV", "FLAC"):
        waveform = load_waveform(encode(pcm, 16_000, file_format))
        np.testing.assert_array_equal(waveform, pcm[:, 0] / np.float32(32_768))


def test_probing_a_large_file_reads_only_a_few_bytes() -> None:
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.num_bytes += len(data)
            return data

    samples = tone(20 * RATE)
    for file_format in ("WAV", "FLAC", "MP3"):
        file = Counting(encode(samples, RATE, file_format))
        header = probe(file, "large")
        assert header.num_samples == 20 * RATE
        assert file.num_bytes < 20_000


def test_an_io_error_of_the_storage_passes_through() -> None:
    class Broken(io.RawIOBase):
        def __init__(self, data: bytes, allowed: int) -> None:
            self.file, self.allowed = io.BytesIO(data), allowed

        def seek(self, offset: int, whence: int = 0, /) -> int:
            return self.file.seek(offset, whence)

        def tell(self) -> int:
            return self.file.tell()

        def read(self, size: int = -1, /) -> bytes:
            self.allowed -= 1
            if self.allowed < 0:
                raise ConnectionError("503 Slow Down")
            return self.file.read(size)

    data = encode(tone(RATE), RATE, "FLAC")
    outcomes = []
    for allowed in range(6):
        try:
            outcomes.append(probe(Broken(data, allowed), "x.flac").num_samples)  # type: ignore[arg-type]
        except ConnectionError:
            outcomes.append(None)
    assert outcomes[0] is None
    assert set(outcomes) <= {None, RATE}


def test_a_wrong_suffix_does_not_matter(files: dict[str, bytes]) -> None:
    assert probe(io.BytesIO(files["mp3"]), "speech.wav").encoding == "MP3"


def test_names_with_an_audio_suffix_in_any_case_are_audio() -> None:
    assert all(
        is_audio_name(f"a/b{suffix}") and is_audio_name(f"B{suffix.upper()}") for suffix in AUDIO_SUFFIXES
    )
    assert not any(map(is_audio_name, ("a/wav", "a.txt", "a.wav/readme", "a.wav.txt", "")))


def test_downmix_is_the_mean_of_the_channels() -> None:
    samples = tone(16_000, 16_000, num_channels=3)
    waveform = load_waveform(encode(samples, 16_000, "WAV", "FLOAT"))
    np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=1e-6)


def test_of_an_impulse_response_the_first_channel_is_kept_whole_and_scaled_to_full_scale() -> None:
    response = np.zeros((40, 2), np.float32)
    response[[3, 10], 0] = 0.25, -0.125
    response[5, 1] = 0.75
    file = io.BytesIO()
    soundfile.write(file, response, 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="too_short"):
        load_audio(file.getvalue(), "room.wav")
    loaded = load_audio(file.getvalue(), "room.wav", is_impulse_response=True)
    np.testing.assert_array_equal(loaded.waveform, 4 * response[:, 0])


def test_downmix_depends_on_neither_processor_nor_block_size() -> None:
    samples = tone(100_003, 16_000, num_channels=6)
    summed = samples[:, 0].copy()
    for channel in range(1, 6):
        summed += samples[:, channel]
    waveform = load_waveform(encode(samples, 16_000, "WAV", "FLOAT"))
    np.testing.assert_array_equal(waveform, summed * np.float32(1 / 6))


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_every_sample_rate_is_resampled_to_16_khz_at_the_same_pitch(sample_rate: int) -> None:
    time = np.arange(2 * sample_rate) / sample_rate
    data = encode(0.5 * np.sin(2 * np.pi * 1000 * time).astype(np.float32), sample_rate, "WAV", "FLOAT")
    waveform = load_waveform(data)
    assert len(waveform) == 32_000
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(32_000)))
    assert np.argmax(spectrum) == 2_000


def test_both_resamplers_agree_below_the_band_edge() -> None:
    data = encode(tone(RATE), RATE, "WAV", "FLOAT")
    soxr_hq, torchaudio = (load_waveform(data, resampler=name) for name in ("soxr_hq", "torchaudio"))
    assert len(soxr_hq) == len(torchaudio) == 16_000
    np.testing.assert_allclose(soxr_hq[500:-500], torchaudio[500:-500], atol=0.01)
    with pytest.raises(ValueError, match="known: soxr_hq, torchaudio"):
        load_waveform(data, resampler="sinc")


def test_resampling_block_by_block_equals_resampling_at_once() -> None:
    samples = tone(12 * RATE)
    whole = load_waveform(encode(samples, RATE, "WAV", "FLOAT"))
    import soxr

    np.testing.assert_array_equal(whole, soxr.resample(samples[:, 0], RATE, 16_000, "HQ"))


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "vorbis", "opus", "m4a", "webm"])
def test_a_segment_holds_exactly_the_samples_of_the_file(files: dict[str, bytes], kind: str) -> None:
    # libsndfile does not read m4a and webm; there the samples are those of FFmpeg.
    samples = decode_ffmpeg(files[kind]) if kind in ("m4a", "webm") else read_samples(files[kind])
    start, end = 12_345, 40_000
    mono = encode(samples[start:end].mean(axis=1), RATE, "WAV", "FLOAT")
    segment = load_waveform(files[kind], start=start, end=end)
    np.testing.assert_allclose(segment, load_waveform(mono), atol=2e-6)


def test_a_segment_beyond_the_end_is_rejected_as_outside(files: dict[str, bytes]) -> None:
    assert reason_of(files["flac"], start=RATE, end=RATE + 200_000) == "outside"
    assert reason_of(files["flac"], start=RATE + 123) == "outside"
    assert reason_of(files["m4a"], start=10 * RATE, end=11 * RATE) == "outside"


@pytest.mark.parametrize("kind", ["wav", "wav24", "flac", "mp3", "vorbis", "opus", "m4a", "aac"])
def test_half_a_file_is_rejected(files: dict[str, bytes], kind: str) -> None:
    assert reason_of(files[kind][: len(files[kind]) // 2]) in ("truncated", "undecodable")


@pytest.mark.parametrize("kind", ["wav", "flac", "m4a", "vorbis"])
def test_100_bytes_missing_at_the_end_are_noticed(files: dict[str, bytes], kind: str) -> None:
    assert reason_of(files[kind][:-100]) == "truncated"


def test_files_that_are_not_audio_are_rejected() -> None:
    assert reason_of(b"") == "empty"
    assert reason_of(b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 9) == "not_audio"
    assert reason_of(np.random.default_rng(0).bytes(50_000)) == "not_audio"


def test_a_wav_with_an_unknown_codec_or_without_channels_is_undecodable() -> None:
    for offset, value in ((20, 0x7777), (22, 0)):
        data = bytearray(encode(mono16(), 16_000, "WAV", "PCM_16"))
        struct.pack_into("<H", data, offset, value)
        assert reason_of(bytes(data)) == "undecodable"
        with pytest.raises(AudioError, match="undecodable"):
            probe(io.BytesIO(data), "x.wav")


def test_silence_and_a_constant_offset_are_silent_but_faint_speech_is_not() -> None:
    constant = np.full(16_000, 0.25, dtype=np.float32)
    assert reason_of(encode(np.zeros(48_000), RATE, "FLAC")) == "silent"
    assert reason_of(encode(constant, 16_000, "WAV", "FLOAT")) == "silent"
    assert reason_of(encode(np.stack([constant, -constant], axis=1), 16_000, "WAV", "FLOAT")) == "silent"
    assert len(load_waveform(encode(mono16() / 1000, 16_000, "WAV", "FLOAT"))) == 16_000


@pytest.mark.parametrize("gain", [-1.0, -0.9999, -0.97, -0.85])
def test_channels_that_cancel_each_other_have_a_reason_of_their_own(gain: float) -> None:
    stereo = np.stack([mono16(), gain * mono16()], axis=1)
    offset = stereo + np.float32(0.05)  # a constant in both channels survives the mean, but is no speech
    for samples in (stereo, stereo / 200, offset):
        assert reason_of(encode(samples, 16_000, "WAV", "FLOAT")) == "cancelling"
    assert reason_of(encode(np.tile(stereo, 3), 16_000, "WAV", "FLOAT")) == "cancelling"


@pytest.mark.parametrize("gain", [-1.0, -0.9999, -0.97])
@pytest.mark.parametrize(
    ("file_format", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 16_000),
        ("FLAC", "PCM_16", RATE),
        ("MP3", None, 44_100),
        ("OGG", "VORBIS", 22_050),
        ("AIFF", "PCM_24", 8_000),
    ],
)
def test_channels_that_cancel_each_other_are_noticed_in_every_format(
    file_format: str, subtype: str | None, rate: int, gain: float
) -> None:
    mono = tone(2 * rate, rate)[:, 0]
    assert (
        reason_of(encode(np.stack([mono, gain * mono], axis=1), rate, file_format, subtype)) == "cancelling"
    )
    assert len(load_waveform(encode(np.stack([mono, mono], axis=1), rate, file_format, subtype))) > 31_000


def test_channels_that_only_differ_do_not_cancel() -> None:
    one, other = speech_like(1, 16_000, seed=1), speech_like(1, 16_000, seed=2)
    silence = np.zeros_like(one)
    for channels in (
        [one, other],
        [one, silence],
        [one, 0.5 * one],
        [one, -0.5 * one],
        [one] + 63 * [silence],
    ):
        assert len(load_waveform(encode(np.stack(channels, axis=1), 16_000, "WAV", "FLOAT"))) == 16_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [8_000, 16_000, RATE, 384_000])
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_one_value_that_is_not_finite_rejects_the_file(value: float, rate: int, resampler: str) -> None:
    for position in (0, 1, rate // 2, rate - 1):
        samples = tone(rate, num_channels=2)
        samples[position, 1] = value
        with pytest.raises(AudioError) as raised:
            load_audio(encode(samples, rate, "WAV", "FLOAT"), "a", resampler=resampler)
        assert raised.value.reason == "not_finite"


def test_audio_without_any_finite_value_is_not_called_silent() -> None:
    samples = np.full(RATE, np.nan, np.float32)
    assert reason_of(encode(samples, RATE, "WAV", "FLOAT")) == "not_finite"


def test_absurd_sample_rates_and_very_short_audio_are_rejected() -> None:
    assert reason_of(encode(mono16(), 1_000, "WAV")) == "absurd_rate"
    assert reason_of(encode(mono16(), 500_000, "WAV")) == "absurd_rate"
    assert reason_of(encode(mono16(300), 16_000, "WAV")) == "too_short"
    assert reason_of(encode(mono16(0), 16_000, "WAV")) == "too_short"


def test_ten_hours_are_rejected_from_the_header_but_a_short_segment_is_decoded() -> None:
    data = bytearray(encode(mono16(), 16_000, "FLAC"))
    ten_hours = 36_000 * 16_000
    # STREAMINFO: after 4 + 4 bytes, 10 bytes of sizes, 20 + 3 + 5 bits, then 36 bits of length.
    data[21] = data[21] & 0xF0 | ten_hours >> 32
    data[22:26] = (ten_hours & 0xFFFFFFFF).to_bytes(4, "big")
    assert probe(io.BytesIO(data), "x").seconds == 36_000
    assert reason_of(bytes(data)) == "too_long"
    assert len(load_waveform(bytes(data), start=4_000, end=8_000)) == 4_000


def test_a_flac_without_a_stated_length_is_read_to_its_end() -> None:
    data = bytearray(encode(mono16(), 16_000, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert probe(io.BytesIO(data), "x").num_samples is None
    assert len(load_waveform(bytes(data))) == 16_000


def test_a_wav_from_a_pipe_without_a_length_is_read_to_its_end() -> None:
    data = bytearray(encode(mono16(), 16_000, "WAV", "PCM_16"))
    begin = data.index(b"data")
    struct.pack_into("<I", data, begin + 4, 0xFFFFFFFF)
    struct.pack_into("<I", data, 4, 0xFFFFFFFF)
    assert len(load_waveform(bytes(data))) == 16_000


def test_an_mp3_of_variable_bit_rate_without_a_table_of_contents_is_read_to_its_end() -> None:
    quiet_then_loud = np.concatenate(
        [np.zeros(5 * RATE), 0.3 * np.random.default_rng(0).standard_normal(5 * RATE)]
    )
    file = io.BytesIO()
    soundfile.write(file, quiet_then_loud, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    data = file.getvalue()
    assert load_audio(data, "x").decoder == "libsndfile"
    loaded = load_audio(data.replace(b"Xing", b"none"), "x")
    assert loaded.decoder == "ffmpeg"
    assert len(loaded.waveform) == pytest.approx(160_000, abs=1_600)


def test_a_damaged_flac_frame_is_never_decoded_to_noise(files: dict[str, bytes]) -> None:
    for position in range(9_000, len(files["flac"]), 7_001):
        data = bytearray(files["flac"])
        data[position] ^= 0x10
        assert reason_of(bytes(data)) in ("truncated", "undecodable")


def test_ffmpeg_decodes_a_wav_that_libsndfile_rejects(tmp_path: Path) -> None:
    samples = tone(2 * 8_000, 8_000)
    data = encode_ffmpeg(tmp_path / "x", samples, 8_000, "wav", "adpcm_yamaha")
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(io.BytesIO(data))
    loaded = load_audio(data, "x.wav")
    assert loaded.decoder == "ffmpeg"
    assert len(loaded.waveform) == pytest.approx(32_000, abs=2_100)


def test_a_float_file_beyond_full_scale_is_scaled_down_without_clipping() -> None:
    loud = load_waveform(encode(20 * mono16(), 16_000, "WAV", "FLOAT"))
    assert np.abs(loud).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(loud, mono16() / np.abs(mono16()).max(), atol=1e-6)


def test_an_audio_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(AudioError("truncated", "a.wav", "12 bytes")))  # noqa: S301
    assert (error.reason, str(error)) == ("truncated", "a.wav: truncated: 12 bytes")
    assert error.reason in REASONS


def test_codec_versions_name_every_library_that_can_change_samples() -> None:
    assert {"policy", "miniaudio", "libsndfile", "soxr", "libavcodec"} <= codec_versions().keys()
    assert all(codec_versions().values())


@pytest.mark.parametrize(
    "kind", ["wav", "wavfloat", "flac", "mp3", "vorbis", "opus", "m4a", "aac", "wma", "webm"]
)
def test_a_damaged_file_gives_valid_audio_or_an_audio_error(files: dict[str, bytes], kind: str) -> None:
    rng = np.random.default_rng(3)
    for turn in range(24):
        data = bytearray(files[kind])
        offset = int(rng.integers(len(data)))
        match turn % 4:
            case 0:
                del data[offset:]
            case 1:
                data[offset] ^= 1 << int(rng.integers(8))
            case 2:  # the header
                data[offset % 100] = int(rng.integers(256))
            case 3:
                data[offset : offset + 500] = rng.bytes(int(rng.integers(1_000)))
        for start, end in ((None, None), (1_000, 30_000)):
            try:
                waveform = load_waveform(bytes(data), start=start, end=end)
            except AudioError as error:
                assert error.reason in REASONS
            else:
                assert np.isfinite(waveform).all()
                assert np.abs(waveform).max() <= 1
