"""Two decoders behind one interface: libsndfile, and FFmpeg in process through PyAV.

Both yield blocks [num_samples, num_channels] of float32 and state a `Header`; whatever their libraries raise about
a file becomes an `AudioError`, and what the storage below raises passes through untouched.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal, Protocol, get_args

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.data.audio.containers import (
    EXTENSIONS,
    ends_ogg_stream,
    has_mpeg_contents,
    missing_mp4_bytes,
    missing_riff_bytes,
)

Reason = Literal[
    "empty",  # no bytes at all
    "not_audio",  # no audio format we know, or a container without an audio stream
    "undecodable",  # the decoder gave up
    "truncated",  # fewer samples than the file promises
    "length_mismatch",  # more samples than the file promises
    "absurd_rate",  # outside MIN_SAMPLE_RATE … MAX_SAMPLE_RATE
    "too_long",  # longer than the caller wants to hold in memory
    "too_short",  # less than one frame of a front end
    "outside",  # the segment begins or ends after the audio does
    "silent",  # the downmix moves by less than one step of PCM16
    "not_finite",  # NaN or infinity among the samples
    "crashes_decoder",  # the process that decoded it died
    "hangs_decoder",  # no result after minutes
]
REASONS: tuple[str, ...] = get_args(Reason)

MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 384_000
LOSSLESS = frozenset({"wav", "flac"})
"""Containers whose stated length is exact and whose samples any correct decoder agrees on."""

Samples = NDArray[np.float32]

_BLOCK_SAMPLES = 1 << 16  # half of it costs a thirtieth of a shard's time in calls, twice of it is no faster
_GATHERED_SAMPLES = 1 << 16
_ESTIMATED_LENGTHS = frozenset({"adts", "mp3"})  # FFmpeg divides their size by the bit rate
_UNKNOWN_LENGTH = 1 << 40  # above it libsndfile means "I do not know"

# Encoding names as the AntiDeepfake protocol spells them, and bits per sample where that means something.
_ENCODINGS: dict[str, tuple[str, int | None]] = {
    "PCM_S8": ("PCM_S", 8),
    "PCM_16": ("PCM_S", 16),
    "PCM_24": ("PCM_S", 24),
    "PCM_32": ("PCM_S", 32),
    "PCM_U8": ("PCM_U", 8),
    "FLOAT": ("PCM_F", 32),
    "DOUBLE": ("PCM_F", 64),
    "ULAW": ("ULAW", 8),
    "ALAW": ("ALAW", 8),
    "VORBIS": ("VORBIS", None),
    "OPUS": ("OPUS", None),
    "MPEG_LAYER_I": ("MP1", None),
    "MPEG_LAYER_II": ("MP2", None),
    "MPEG_LAYER_III": ("MP3", None),
}
_FFMPEG_FORMATS = {
    "mp4": "mov",
    "adts": "aac",
    "asf": "asf",
    "matroska": "matroska",
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
}


class AudioError(ValueError):
    """A file that cannot become a waveform: `reason` is one of REASONS, the message adds file and detail."""

    def __init__(self, reason: Reason, name: str, detail: str) -> None:
        super().__init__(reason, name, detail)
        self.reason: Reason = reason
        self.name = name
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself."""

    container: str
    codec: str
    encoding: str
    """As in AntiDeepfake protocols: PCM_S, FLAC, MP3 …"""
    sample_rate: int
    num_channels: int
    num_samples: int | None
    """None where only decoding can tell."""
    bit_depth: int | None
    """None for lossy codecs."""
    bitrate: int
    """Mean bits per second over the whole file; 0 if unknown."""
    seconds: float
    """num_samples / sample_rate, or the decoder's estimate where num_samples is None."""
    is_misnamed: bool
    """The extension belongs to another container."""


class Reader(Protocol):
    """An open file."""

    name: str
    header: Header

    def blocks(self, start: int, end: int | None) -> Iterator[Samples]:
        """Decode from sample `start` to `end` (exclusive; None: to the end of the audio)."""

    def close(self) -> None:
        """Free the decoder."""


class SndfileReader:
    """A file opened by libsndfile."""

    def __init__(self, file: BinaryIO, name: str, container: str, codec: str) -> None:
        self.name = name
        size = _check_ends(file, name, container)
        is_exact = container != "mp3" or has_mpeg_contents(file)
        # Memory does not fail, and one call less for each of many small reads is worth a tenth of an mp3.
        self._watched = None if isinstance(file, io.BytesIO) else _Watched(file)
        file.seek(0)
        try:
            self._sound = soundfile.SoundFile(self._watched or file)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise self._refusal(error) from error
        num_samples = int(self._sound.frames) if 0 < self._sound.frames < _UNKNOWN_LENGTH else 0
        encoding, bit_depth = _ENCODINGS.get(self._sound.subtype, ("UNKNOWN", None))
        rate = _checked_rate(int(self._sound.samplerate), name)
        seconds = num_samples / rate
        self.header = Header(
            container=container,
            codec=self._sound.subtype.lower() if container == "wav" else codec,
            encoding="FLAC" if container == "flac" else encoding,
            sample_rate=rate,
            num_channels=int(self._sound.channels),
            num_samples=num_samples if is_exact and num_samples else None,
            bit_depth=bit_depth,
            bitrate=round(8 * size / seconds) if seconds else 0,
            seconds=seconds,
            is_misnamed=_is_misnamed(name, container),
        )

    def blocks(self, start: int, end: int | None) -> Iterator[Samples]:
        """Decode from sample `start` to `end`, seeking to `start`."""
        position = start
        longest = max(_BLOCK_SAMPLES // self.header.num_channels, 1)
        try:
            if start:
                self._sound.seek(start)
            while end is None or position < end:
                wanted = longest if end is None else min(longest, end - position)
                block = self._sound.read(wanted, dtype="float32", always_2d=True)
                if self._watched is not None and self._watched.error is not None:
                    raise self._watched.error
                if len(block) == 0:
                    return
                position += len(block)
                yield block
        except soundfile.SoundFileError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Free the decoder."""
        self._sound.close()

    def _refusal(self, error: Exception) -> Exception:
        if self._watched is not None and self._watched.error is not None:
            return self._watched.error
        return AudioError("undecodable", self.name, f"libsndfile: {_reason_of(error)}")


class FfmpegReader:
    """A file opened by FFmpeg."""

    def __init__(self, file: BinaryIO, name: str, container: str) -> None:
        self.name = name
        self._size = _check_ends(file, name, container)
        file.seek(0)
        try:
            # The format is forced: a playlist that calls itself audio must not make FFmpeg open other files.
            self._input = av.open(
                file, mode="r", format=_FFMPEG_FORMATS[container], metadata_errors="replace"
            )
        except av.error.FFmpegError as error:
            raise AudioError("undecodable", name, f"ffmpeg: {error}") from error
        try:
            self.header = self._read_header(container)
        except AudioError:
            self.close()
            raise

    def _read_header(self, container: str) -> Header:
        if not self._input.streams.audio:
            raise AudioError("not_audio", self.name, f"{container} without an audio stream")
        self._stream = self._input.streams.audio[0]
        context: Any = self._stream.codec_context  # None for a codec that FFmpeg does not have
        if context is None or context.channels < 1:
            raise AudioError("undecodable", self.name, "ffmpeg: no decoder for it, or no channels")
        context.thread_count = 1  # the processes around us already fill the cores
        # Otherwise a damaged FLAC frame is decoded to noise; lossy codecs know no such check.
        context.options = {"err_detect": "crccheck+explode"} if container in LOSSLESS else {}
        rate = _checked_rate(context.sample_rate or 0, self.name)
        seconds = (self._input.duration or 0) / av.time_base
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        is_known = seconds > 0 and container not in _ESTIMATED_LENGTHS
        is_lossless = container in LOSSLESS
        return Header(
            container=container,
            codec=context.name,
            encoding=context.name.upper(),
            sample_rate=rate,
            num_channels=context.channels,
            num_samples=round(seconds * rate) if is_known else None,
            bit_depth=8 * context.format.bytes if is_lossless and context.format else None,
            bitrate=round(8 * self._size / seconds) if seconds > 0 else 0,
            seconds=max(seconds, 0.0),
            is_misnamed=_is_misnamed(self.name, container),
        )

    def blocks(self, start: int, end: int | None) -> Iterator[Samples]:
        """Decode from sample `start` to `end`; what stands before `start` is decoded and dropped."""
        position = 0
        for frame in self._gathered():
            if end is not None and position >= end:
                return
            samples = _to_float(frame)
            first, last = max(start - position, 0), len(samples) if end is None else end - position
            position += len(samples)
            if first < len(samples):
                yield samples[first:last]

    def _gathered(self) -> Iterator[Any]:
        """Frames of some seconds: FFmpeg hands out 20 ms at a time, which costs more in Python than in FFmpeg."""
        gathered = av.AudioFifo()
        for frame in self._frames():
            channels, rate = frame.layout.nb_channels, frame.sample_rate
            if channels != self.header.num_channels or rate != self.header.sample_rate:
                raise AudioError(
                    "undecodable", self.name, f"changes to {channels} channels at {rate} Hz on the way"
                )
            frame.pts = None  # or a gap in time stamps would be an error
            gathered.write(frame)
            if gathered.samples >= _GATHERED_SAMPLES:
                yield gathered.read()
        if gathered.samples:
            yield gathered.read()

    def _frames(self) -> Iterator[Any]:
        try:
            for packet in self._input.demux(self._stream):
                try:
                    yield from packet.decode()
                except av.error.FFmpegError as error:
                    # The exact length of a lossless file tells whether samples or mere trailing bytes are lost.
                    if self.header.container in LOSSLESS:
                        return
                    raise self._refusal(error, (packet.pos or 0) + packet.size) from error
        except av.error.FFmpegError as error:
            raise self._refusal(error, 0) from error

    def _refusal(self, error: Exception, position: int) -> AudioError:
        reason: Reason = "truncated" if position >= self._size else "undecodable"
        return AudioError(reason, self.name, f"ffmpeg: {_reason_of(error)}")

    def close(self) -> None:
        """Free the decoder."""
        self._input.close()


class _Watched:
    """A file that keeps the error which the C library above it would swallow."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file = file
        self.error: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as error:  # raised again by SndfileReader as soon as libsndfile returns
            self.error = error
            return 0
        buffer[: len(data)] = data
        return len(data)


def _check_ends(file: BinaryIO, name: str, container: str) -> int:
    """Refuse a file whose structure shows that it is cut, which decoders overlook; return its size in bytes."""
    missing = missing_riff_bytes(file) if container == "wav" else 0
    missing = missing_mp4_bytes(file) if container == "mp4" else missing
    if missing:
        raise AudioError("truncated", name, f"{missing} bytes are missing")
    if container == "ogg" and not ends_ogg_stream(file):
        raise AudioError("truncated", name, "the last page does not end the stream")
    return file.seek(0, io.SEEK_END)


def _checked_rate(rate: int, name: str) -> int:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError("absurd_rate", name, f"{rate} Hz")
    return rate


def _is_misnamed(name: str, container: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix != "" and suffix not in EXTENSIONS[container]


def _reason_of(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)


def _to_float(frame: Any) -> Samples:
    """The samples of an FFmpeg frame as float32 [num_samples, num_channels] within ±1."""
    raw: NDArray[Any] = frame.to_ndarray()
    samples = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    floats: Samples = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        floats = (floats - np.float32(128)) / np.float32(128)
    elif samples.dtype.kind == "i":
        floats *= np.float32(0.5 ** (8 * samples.dtype.itemsize - 1))
    return floats
