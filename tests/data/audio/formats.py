"""Every format that tests can encode: one maker a name, from mono samples to the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Maker = Callable[[Samples, int], bytes]


def speech_like(seconds: float, sample_rate: int, seed: int = 0) -> Samples:
    """Syllables of harmonics and noise with pauses: loud and quiet parts, as codecs of variable bit rate like them."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = 110 + 30 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voice = sum(np.sin(number * phase + number) / number for number in range(1, 12))
    noise = rng.standard_normal(len(time))
    syllable = np.clip(np.sin(2 * np.pi * 3.1 * time), 0, None)
    hiss = np.clip(np.sin(2 * np.pi * 1.3 * time + 2), 0, None) ** 4
    pause = np.sin(2 * np.pi * 0.31 * time) > -0.6
    mixed = (0.12 * voice * syllable + 0.05 * noise * hiss) * pause + 0.0005 * noise
    return mixed.astype(np.float32)


def to_pcm(samples: Samples) -> NDArray[np.int16]:
    """Round to PCM16, so that every encoder is given the same numbers."""
    return np.round(samples * 32_767).astype(np.int16)


def with_soundfile(samples: Samples, sample_rate: int, file_format: str, **options: Any) -> bytes:
    """Encode with libsndfile."""
    file = io.BytesIO()
    # libsndfile scales integers to other integers, but not to floats.
    numbers = to_pcm(samples) / np.float32(32_768) if options["subtype"] == "FLOAT" else to_pcm(samples)
    soundfile.write(file, numbers, sample_rate, format=file_format, **options)
    return file.getvalue()


def with_ffmpeg(
    samples: Samples, sample_rate: int, file_format: str, codec: str, bit_rate: int = 64_000, **options: str
) -> bytes:
    """Encode with FFmpeg."""
    file = io.BytesIO()
    with av.open(file, "w", format=file_format, options=options) as output:
        stream = output.add_stream(codec, rate=sample_rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(to_pcm(samples).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


LOSSLESS: dict[str, Maker] = {
    "wav": partial(with_soundfile, file_format="WAV", subtype="PCM_16"),
    "wav of 24 bit": partial(with_soundfile, file_format="WAV", subtype="PCM_24"),
    "wav of 8 bit": partial(with_soundfile, file_format="WAV", subtype="PCM_U8"),
    "wav of floats": partial(with_soundfile, file_format="WAV", subtype="FLOAT"),
    "wav extensible": partial(with_soundfile, file_format="WAVEX", subtype="PCM_16"),
    "wav big-endian": partial(with_soundfile, file_format="WAV", subtype="PCM_16", endian="BIG"),
    "rf64": partial(with_soundfile, file_format="RF64", subtype="PCM_16"),
    "w64": partial(with_soundfile, file_format="W64", subtype="PCM_16"),
    "aiff": partial(with_soundfile, file_format="AIFF", subtype="PCM_16"),
    "au": partial(with_soundfile, file_format="AU", subtype="PCM_16"),
    "caf": partial(with_soundfile, file_format="CAF", subtype="PCM_16"),
    "caf with alac": partial(with_soundfile, file_format="CAF", subtype="ALAC_16"),
    "sphere": partial(with_soundfile, file_format="NIST", subtype="PCM_16"),
    "voc": partial(with_soundfile, file_format="VOC", subtype="PCM_16"),
    "flac": partial(with_soundfile, file_format="FLAC", subtype="PCM_16"),
    "flac of 24 bit": partial(with_soundfile, file_format="FLAC", subtype="PCM_24"),
    "flac in ogg": partial(with_ffmpeg, file_format="ogg", codec="flac"),
    "flac in matroska": partial(with_ffmpeg, file_format="matroska", codec="flac"),
    "alac in mp4": partial(with_ffmpeg, file_format="ipod", codec="alac"),
    "pcm in mov": partial(with_ffmpeg, file_format="mov", codec="pcm_s16le"),
}
"""Formats whose decoded samples are those that were encoded, as far as their bits reach."""

LOSSY: dict[str, Maker] = {
    "wav with a-law": partial(with_soundfile, file_format="WAV", subtype="ALAW"),
    "wav with µ-law": partial(with_soundfile, file_format="WAV", subtype="ULAW"),
    "wav with ima adpcm": partial(with_soundfile, file_format="WAV", subtype="IMA_ADPCM"),
    "wav with ms adpcm": partial(with_soundfile, file_format="WAV", subtype="MS_ADPCM"),
    "wav with gsm": partial(with_soundfile, file_format="WAV", subtype="GSM610"),
    "mp3 of constant rate": partial(
        with_soundfile,
        file_format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=0.7,
    ),
    "mp3 of variable rate": partial(
        with_soundfile,
        file_format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.7,
    ),
    "mp2": partial(with_ffmpeg, file_format="mp2", codec="mp2"),
    "vorbis": partial(with_soundfile, file_format="OGG", subtype="VORBIS"),
    "opus": partial(with_soundfile, file_format="OGG", subtype="OPUS"),
    "aac in mp4": partial(with_ffmpeg, file_format="ipod", codec="aac"),
    "aac in fragmented mp4": partial(
        with_ffmpeg, file_format="mp4", codec="aac", movflags="frag_keyframe+empty_moov"
    ),
    "aac in adts": partial(with_ffmpeg, file_format="adts", codec="aac"),
    "wma": partial(with_ffmpeg, file_format="asf", codec="wmav2"),
    "opus in webm": partial(with_ffmpeg, file_format="webm", codec="libopus"),
    "aac in matroska": partial(with_ffmpeg, file_format="matroska", codec="aac"),
}

FORMATS = LOSSLESS | LOSSY
