"""Codecs of telephony and of social media, each at a random one of its bit rates, in this process.

The delay of each codec is known, so no search for it is needed: `test_codecs.py` measures it. Encoders are opened anew
for each utterance, because their state would make the result depend on the utterances before.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pipeline.data.audio.flac import quantise
from pipeline.data.audio.transcode import has_encoder, transcode
from pipeline.data.audio.waveform import PCM16_SCALE, SAMPLE_RATE, Pcm, Waveform
from pipeline.data.loading.augment.step import Augmentation, fit_length
from pipeline.errors import InputError
from pipeline.fields import Range

CodecName = Literal["ulaw", "alaw", "gsm", "g722", "g726", "amr_nb", "mp3", "aac", "opus"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a codec is called, and what it can do."""

    sample_rate: int
    """Hz."""
    kbits: tuple[float, ...]
    """Bit rates, kbit/s."""
    delay: int = 0
    """Samples at 16 kHz by which the decoded waveform is late."""
    code: Callable[[Waveform, float], tuple[Waveform, int]]
    """Encodes and decodes samples at `sample_rate` at a bit rate in kbit/s; returns samples and their rate in Hz."""
    encoder: str = ""
    """FFmpeg's name of the encoder; empty if FFmpeg is not needed."""


@dataclass(frozen=True, kw_only=True)
class Ffmpeg:
    """A codec of FFmpeg."""

    encoder: str
    decoder: str
    sample_rate: int
    options: Mapping[str, str] = field(default_factory=dict)
    bits_per_sample: bool = False
    """Whether the decoder has to be told how many bits a sample has."""

    def __call__(self, samples: Waveform, kbits: float) -> tuple[Waveform, int]:
        """Encode and decode."""
        bits = str(round(1000 * kbits / self.sample_rate))
        return transcode(
            samples,
            self.encoder,
            self.decoder,
            sample_rate=self.sample_rate,
            bit_rate=round(1000 * kbits),
            options=self.options,
            decoder_options={"bits_per_coded_sample": bits} if self.bits_per_sample else None,
        )


def code_gsm(samples: Waveform, kbits: float) -> tuple[Waveform, int]:  # noqa: ARG001 - it has one bit rate
    """Pass samples at 8 kHz through GSM 06.10 with libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, 8_000, format="WAV", subtype="GSM610")
    file.seek(0)
    decoded, rate = soundfile.read(file, dtype="float32")
    return decoded, rate


def code_ulaw(samples: Waveform, kbits: float) -> tuple[Waveform, int]:  # noqa: ARG001 - it has one bit rate
    """Pass samples at 8 kHz through μ-law, with a table of all samples."""
    return _ulaw_table()[quantise(samples).view(np.uint16)], 8_000


def code_alaw(samples: Waveform, kbits: float) -> tuple[Waveform, int]:  # noqa: ARG001 - it has one bit rate
    """Pass samples at 8 kHz through A-law, with a table of all samples."""
    return _alaw_table()[quantise(samples).view(np.uint16)], 8_000


def _all_pcm() -> Pcm:
    """Every sample of PCM16, in the order of its bits as an unsigned number."""
    return np.arange(2**16, dtype=np.uint16).view(np.int16)


@functools.cache
def _ulaw_table() -> NDArray[np.float32]:
    """[65536] What μ-law (ITU-T G.711) makes of each sample: 4 bits after the leading one of the magnitude plus 33."""
    pcm = _all_pcm().astype(np.int32)
    magnitude = np.minimum((np.abs(pcm) >> 2) + 33, 8191)
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    mantissa = magnitude >> (exponent + 1) & 15
    decoded = ((2 * mantissa + 33 << exponent) - 33) * 4
    table: NDArray[np.float32] = (np.where(pcm < 0, -decoded, decoded) / PCM16_SCALE).astype(np.float32)
    return table


@functools.cache
def _alaw_table() -> NDArray[np.float32]:
    """[65536] What A-law (ITU-T G.711) makes of each sample: 4 bits after the leading one of 13-bit magnitude."""
    pcm = _all_pcm().astype(np.int32)
    magnitude = np.where(pcm < 0, -pcm - 1, pcm) >> 4
    exponent = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 4, 0)
    step = magnitude >> exponent
    decoded = (2 * step + 1 << exponent) * 8
    table: NDArray[np.float32] = (np.where(pcm < 0, -decoded, decoded) / PCM16_SCALE).astype(np.float32)
    return table


def _from_ffmpeg(codec: Ffmpeg, kbits: tuple[float, ...], delay: int = 0) -> Format:
    return Format(sample_rate=codec.sample_rate, kbits=kbits, delay=delay, code=codec, encoder=codec.encoder)


CODECS: Mapping[str, Format] = {
    "ulaw": Format(sample_rate=8_000, kbits=(64,), code=code_ulaw),
    "alaw": Format(sample_rate=8_000, kbits=(64,), code=code_alaw),
    "gsm": Format(sample_rate=8_000, kbits=(13,), code=code_gsm),
    "g722": _from_ffmpeg(
        # Frames of 0.1 s instead of 20 ms, with the same result: each frame costs a call of Python.
        Ffmpeg(encoder="g722", decoder="g722", sample_rate=16_000, options={"frame_size": "1600"}),
        (64,),
        delay=22,
    ),
    "g726": _from_ffmpeg(
        Ffmpeg(encoder="g726", decoder="g726", sample_rate=8_000, bits_per_sample=True), (16, 24, 32, 40)
    ),
    "amr_nb": _from_ffmpeg(
        Ffmpeg(encoder="libopencore_amrnb", decoder="amrnb", sample_rate=8_000),
        (4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2, 12.2),
        delay=80,
    ),
    "mp3": _from_ffmpeg(
        Ffmpeg(
            encoder="libmp3lame", decoder="mp3float", sample_rate=16_000, options={"compression_level": "9"}
        ),
        (16, 24, 32, 40, 48, 56, 64, 80, 96, 128),
    ),
    "aac": _from_ffmpeg(
        Ffmpeg(encoder="aac", decoder="aac", sample_rate=16_000, options={"aac_coder": "fast"}),
        (12, 16, 24, 32, 48, 64, 96),
        delay=1024,
    ),
    "opus": _from_ffmpeg(
        Ffmpeg(
            encoder="libopus",
            decoder="libopus",
            sample_rate=16_000,
            options={"compression_level": "0", "frame_duration": "60"},
        ),
        (6, 8, 12, 16, 24, 32, 48, 64),
    ),
}
"""The codecs by name."""


@dataclass(frozen=True, kw_only=True)
class Codec(Augmentation):
    """Encode and decode with a random codec, at a random one of its bit rates."""

    artifact: ClassVar[str] = "codec"

    name: Literal["codec"] = "codec"
    codecs: tuple[CodecName, ...] = get_args(CodecName)
    """One of them is drawn for each utterance."""
    bit_rate: Annotated[tuple[float, float], Range(1, 1000)] = (4.0, 64.0)
    """Limits in kbit/s. A rate of the codec between them is drawn; if it has none there, the nearest is used."""
    label_preserving: bool = False  # type: ignore[misc]  # a constant of other augmentations
    """Whether a codec leaves bona fide speech bona fide, although the recipe counts the artifact codec as spoof."""

    def __post_init__(self) -> None:
        for name in self.codecs:
            encoder = CODECS[name].encoder
            if encoder and not has_encoder(encoder):
                raise InputError(f"codecs: this build of PyAV has no encoder {encoder}; leave out {name}")

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform after encoding and decoding, without delay."""
        codec = CODECS[self.codecs[int(rng.integers(len(self.codecs)))]]
        kbits = _rates_within(codec.kbits, *self.bit_rate)
        return pass_through(waveform, codec, kbits[int(rng.integers(len(kbits)))])


def pass_through(waveform: Waveform, codec: Format, kbits: float) -> Waveform:
    """Encode and decode a waveform at a bit rate in kbit/s, and remove the delay of the codec."""
    narrow = np.clip(soxr.resample(waveform, SAMPLE_RATE, codec.sample_rate, "HQ"), -1, 1)
    decoded, rate = codec.code(narrow, kbits)
    # A decoder with an output of 16 bits saturates; the float decoder of FFmpeg does not.
    decoded = soxr.resample(np.clip(decoded, -1, 1), rate, SAMPLE_RATE, "HQ")
    return fit_length(decoded[codec.delay :], len(waveform))


def _rates_within(kbits: tuple[float, ...], low: float, high: float) -> list[float]:
    """The bit rates between two limits, or the nearest one."""
    inside = [rate for rate in kbits if low <= rate <= high]
    return inside or [min(kbits, key=lambda rate: max(low - rate, rate - high))]
