"""Two decoders behind one interface: libsndfile, and FFmpeg in process through PyAV.

Both decode from front to back and never seek, because a seek changes what some decoders return: they yield float32
blocks [num_samples, num_channels] and provide a `Header`. Errors that their libraries raise about a file become an
`AudioError`; I/O errors of the storage pass through unchanged.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.data.audio.errors import AudioError, Reason

MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 384_000
LOSSLESS = frozenset({"wav", "flac"})
"""Containers whose stated length is exact, and whose samples are the same from every correct decoder."""

Samples = NDArray[np.float32]
"""[num_samples, num_channels] at the file's own rate, nominally within ±1."""

_BLOCK_SAMPLES = 1 << 16  # blocks of half the size make building a shard 3 % slower; larger ones gain nothing
_GATHERED_SAMPLES = 1 << 16
_ESTIMATED_LENGTHS = frozenset(
    {"ac3", "adts", "amr", "eac3", "mp3"}
)  # FFmpeg estimates them as file size / bit rate
_UNKNOWN_LENGTH = 1 << 40  # libsndfile reports a larger number if it does not know the length

# Encoding names as AntiDeepfake protocols spell them, and bits per sample where that is meaningful.
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
    "ogg": "ogg",
    "amr": "amr",
    "ac3": "ac3",
    "eac3": "eac3",
}
_SNDFILE_CONTAINERS = frozenset({"wav", "flac", "ogg", "mp3"})


@dataclass(frozen=True, slots=True)
class Header:
    """Properties of an audio file, read without decoding it."""

    container: str
    codec: str
    encoding: str
    """As in AntiDeepfake protocols: PCM_S, FLAC, MP3 …"""
    sample_rate: int
    """Hz."""
    num_channels: int
    num_samples: int | None
    """Samples per channel; None if the length is known only after decoding."""
    bit_depth: int | None
    """Bits per sample; None for lossy codecs."""
    bitrate: int
    """Mean bits per second over the whole file; 0 if unknown."""
    seconds: float
    """num_samples / sample_rate, or the decoder's estimate if num_samples is None."""


class Reader(Protocol):
    """An open audio file."""

    name: str
    header: Header

    def blocks(self) -> Iterator[Samples]:
        """Decode from the first sample to the last; may be called once."""

    def close(self) -> None:
        """Free the decoder."""


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A `SoundFile` that is read from front to back.

    The base class seeks after every read of a seekable file. In an MP3, that empties the bit reservoir, which changes
    samples; in a damaged Ogg file, it repeats the tail until the stated length is reached.
    """

    def seekable(self) -> bool:
        return False


class SndfileReader:
    """An audio file opened by libsndfile."""

    def __init__(self, source: BinaryIO, name: str, container: str, codec: str) -> None:
        self.name = name
        size = source.seek(0, io.SEEK_END)
        # A BytesIO cannot raise I/O errors, so it needs no wrapper; skipping it makes mp3 decoding about 10 % faster.
        self._recorder = None if isinstance(source, io.BytesIO) else _ErrorRecorder(source)
        source.seek(0)
        try:
            self._sound = _SequentialFile(self._recorder or source)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise self._to_error(error) from error
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
            num_samples=num_samples if num_samples and container != "mp3" else None,
            bit_depth=bit_depth,
            bitrate=round(8 * size / seconds) if seconds else 0,
            seconds=seconds,
        )

    def blocks(self) -> Iterator[Samples]:
        """Decode from the first sample to the last."""
        block_samples = max(_BLOCK_SAMPLES // self.header.num_channels, 1)
        try:
            while True:
                block = self._sound.read(block_samples, dtype="float32", always_2d=True)
                if self._recorder is not None and self._recorder.error is not None:
                    raise self._recorder.error
                if len(block) == 0:
                    return
                yield block
        except soundfile.SoundFileError as error:
            raise self._to_error(error) from error

    def close(self) -> None:
        """Free the decoder."""
        self._sound.close()

    def _to_error(self, error: Exception) -> Exception:
        """Return the I/O error behind an error of libsndfile, or an `AudioError` if there is none."""
        if self._recorder is not None and self._recorder.error is not None:
            return self._recorder.error
        return AudioError("undecodable", self.name, f"libsndfile: {_message(error)}")


class FfmpegReader:
    """An audio file opened by FFmpeg."""

    def __init__(self, source: BinaryIO, name: str, container: str) -> None:
        self.name = name
        self._size = source.seek(0, io.SEEK_END)
        source.seek(0)
        try:
            # The format is forced, so that a playlist disguised as audio cannot make FFmpeg open other files.
            self._input = av.open(
                source, mode="r", format=_FFMPEG_FORMATS[container], metadata_errors="replace"
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
        context: Any = self._stream.codec_context  # None if FFmpeg does not have the codec
        if context is None or context.channels < 1:
            raise AudioError("undecodable", self.name, "ffmpeg: no decoder for its codec, or no channels")
        context.thread_count = 1  # other processes already use the remaining cores
        # Without these flags a damaged FLAC frame is decoded to noise. Lossy codecs have no such check.
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
        )

    def blocks(self) -> Iterator[Samples]:
        """Decode from the first sample to the last."""
        return map(_to_float, self._gathered())

    def _gathered(self) -> Iterator[Any]:
        """Yield frames of a few seconds. FFmpeg returns about 20 ms at a time: slower in Python than the decoding."""
        gathered = av.AudioFifo()
        for frame in self._frames():
            channels, rate = frame.layout.nb_channels, frame.sample_rate
            if channels != self.header.num_channels or rate != self.header.sample_rate:
                raise AudioError(
                    "undecodable", self.name, f"changes to {channels} channels at {rate} Hz within the stream"
                )
            frame.pts = None  # otherwise a gap in the time stamps would be an error
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
                    # Stop here: the stated length, exact for lossless files, then shows whether samples are missing.
                    if self.header.container in LOSSLESS:
                        return
                    raise self._to_error(error, (packet.pos or 0) + packet.size) from error
        except av.error.FFmpegError as error:
            raise self._to_error(error, 0) from error

    def _to_error(self, error: Exception, position: int) -> AudioError:
        """Convert an error of FFmpeg at a byte position: at the end of the file it means that the file is cut."""
        reason: Reason = "truncated" if position >= self._size else "undecodable"
        return AudioError(reason, self.name, f"ffmpeg: {_message(error)}")

    def close(self) -> None:
        """Free the decoder."""
        self._input.close()


def decoders(container: str) -> tuple[str, ...]:
    """Return the decoders of a container, the preferred one first."""
    has_sndfile, has_ffmpeg = container in _SNDFILE_CONTAINERS, container in _FFMPEG_FORMATS
    return ("libsndfile",) * has_sndfile + ("ffmpeg",) * has_ffmpeg


def open_reader(decoder: str, source: BinaryIO, name: str, container: str, codec: str) -> Reader:
    """Open an audio file with one of its `decoders`.

    Args:
        decoder: one of `decoders(container)`.
        source: the file, or the part of it that the decoder is given.
        name: file name for error messages.
        container: container of the source.
        codec: codec of the source; empty if only the decoder can tell.

    Raises:
        AudioError: not_audio, undecodable, absurd_rate.
    """
    if decoder == "libsndfile":
        return SndfileReader(source, name, container, codec)
    return FfmpegReader(source, name, container)


class _ErrorRecorder:
    """A file wrapper that records I/O errors, which libsndfile would otherwise swallow."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file = file
        self.error: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as error:  # SndfileReader raises it as soon as libsndfile returns
            self.error = error
            return 0
        buffer[: len(data)] = data
        return len(data)


def _checked_rate(rate: int, name: str) -> int:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError("absurd_rate", name, f"{rate} Hz")
    return rate


def _message(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)


def _to_float(frame: Any) -> Samples:
    """Convert an FFmpeg frame to float32 [num_samples, num_channels] within ±1."""
    raw: NDArray[Any] = frame.to_ndarray()
    samples = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    floats: Samples = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        floats = (floats - np.float32(128)) / np.float32(128)
    elif samples.dtype.kind == "i":
        floats *= np.float32(0.5 ** (8 * samples.dtype.itemsize - 1))
    return floats
