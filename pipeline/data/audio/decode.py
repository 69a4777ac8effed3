"""Two decoders behind one interface: libsndfile, and FFmpeg in process through PyAV.

Both decode from front to back and never seek, because a seek changes what some decoders return: they yield float32
blocks [num_samples, num_channels] and provide a `Header`. Errors that their libraries raise about a file become an
`AudioError`; I/O errors of the storage pass through unchanged.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.data.audio.containers.tolerances import CLOCK_JUMP_S, LEADING_LOSS_S
from pipeline.data.audio.errors import AudioError, Reason

MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 384_000
Samples = NDArray[np.float32]
"""[num_samples, num_channels] at the file's own rate, nominally within ±1."""

_BLOCK_SAMPLES = 1 << 16  # blocks of half the size make building a shard 3 % slower; larger ones gain nothing
_GATHERED_SAMPLES = 1 << 16
_SAMPLE_FORMATS = frozenset({"u8", "s16", "s32", "flt", "dbl"})  # what NumPy receives from PyAV
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
    "IMA_ADPCM": ("IMA_ADPCM", None),
    "MS_ADPCM": ("MS_ADPCM", None),
    "NMS_ADPCM_16": ("NMS_ADPCM", None),
    "NMS_ADPCM_24": ("NMS_ADPCM", None),
    "NMS_ADPCM_32": ("NMS_ADPCM", None),
    "GSM610": ("GSM", None),
    "G721_32": ("G721", None),
    "G723_24": ("G723", None),
    "G723_40": ("G723", None),
    "ALAC_16": ("ALAC", 16),
    "ALAC_20": ("ALAC", 20),
    "ALAC_24": ("ALAC", 24),
    "ALAC_32": ("ALAC", 32),
    "VORBIS": ("VORBIS", None),
    "OPUS": ("OPUS", None),
    "MPEG_LAYER_I": ("MP1", None),
    "MPEG_LAYER_II": ("MP2", None),
    "MPEG_LAYER_III": ("MP3", None),
}
_PCM = re.compile(r"pcm_([suf])(\d+)(?:le|be)?(?:_planar)?")
_FFMPEG_SUBTYPES = {
    "pcm_alaw": "ALAW",
    "pcm_mulaw": "ULAW",
    "adpcm_ima_wav": "IMA_ADPCM",
    "adpcm_ima_qt": "IMA_ADPCM",
    "adpcm_ms": "MS_ADPCM",
    "gsm": "GSM610",
    "gsm_ms": "GSM610",
}
_PCM_FORMATS = {
    "wav": "wav",
    "w64": "w64",
    "aiff": "aiff",
    "caf": "caf",
    "au": "au",
    "nist": "nistsphere",
    "voc": "voc",
    "ircam": "ircam",
    "svx": "iff",
    "avr": "avr",
    "paf": "epaf",
    "pvf": "pvf",
    "wve": "wve",
}
"""Containers that libsndfile knows for PCM and its like, and FFmpeg's names for them."""
_FFMPEG_FORMATS = {
    **_PCM_FORMATS,
    "ac3": "ac3",
    "adts": "aac",
    "amr": "amr",
    "ape": "ape",
    "asf": "asf",
    "avi": "avi",
    "dsf": "dsf",
    "eac3": "eac3",
    "flac": "flac",
    "flv": "flv",
    "matroska": "matroska",
    "mp3": "mp3",
    "mp4": "mov",
    "mpc": "mpc",
    "mpc8": "mpc8",
    "ogg": "ogg",
    "ps": "mpeg",
    "qoa": "qoa",
    "rm": "rm",
    "tak": "tak",
    "ts": "mpegts",
    "tta": "tta",
    "wavpack": "wv",
    "xwma": "xwma",
}
"""FFmpeg's demuxer of each container. None of them is a playlist or opens other files."""
_SNDFILE_CONTAINERS = frozenset({*_PCM_FORMATS, "flac", "ogg", "mp3"})

LOSSLESS = frozenset({*_PCM_FORMATS, "flac"})
"""Containers whose stated length is exact, and whose samples are the same from every correct decoder."""

_CLOCKED = frozenset({"ps", "ts"})
"""Containers of broadcasts: no length and no index, but a precise clock."""
_STATED_LENGTHS = frozenset({"flac", "tak"})
"""Containers whose length FFmpeg reads from the header; of the others, their structure tells it."""
_ERROR_CHECKS = "crccheck+explode"
"""What decoders verify. Without it, a damaged frame of a codec with checksums is decoded to noise."""
_LIBRARY_DECODERS = {"amr_nb": "libopencore_amrnb", "amr_wb": "libopencore_amrwb"}
"""Decoders that know the frames of pauses (DTX), at which FFmpeg's own give up."""
_FFMPEG_ENCODINGS = {"pcm_mulaw": ("ULAW", 8), "pcm_alaw": ("ALAW", 8)}
_BITS_IN_EXTRADATA = {"alac": (17, 8, 0xFF, 0), "flac": (12, 4, 0x1F, 1), "tta": (8, 8, 0xFF, 0)}
"""Bits per sample in the headers of lossless codecs: offset of a big-endian 16-bit word, shift, mask, addend."""


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
            codec=self._sound.subtype.lower() if container in _PCM_FORMATS else codec,
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
    """The first audio stream with a known codec in a file opened by FFmpeg."""

    def __init__(self, source: BinaryIO, name: str, container: str) -> None:
        self.name = name
        self._clock_s: float | None = None
        self._size = source.seek(0, io.SEEK_END)
        source.seek(0)
        try:
            # The format is forced, so that a playlist disguised as audio cannot make FFmpeg open other files; without
            # protocols, no reference inside a file can either.
            self._input = av.open(
                source,
                mode="r",
                format=_FFMPEG_FORMATS[container],
                container_options={"protocol_whitelist": "none"},
                metadata_errors="replace",
            )
        except av.error.FFmpegError as error:
            raise AudioError("undecodable", name, f"ffmpeg: {_message(error)}") from error
        try:
            self.header = self._read_header(container)
        except Exception:
            self.close()
            raise

    def _read_header(self, container: str) -> Header:
        if not self._input.streams.audio:
            raise AudioError("not_audio", self.name, f"{container} without an audio stream")
        known = (stream for stream in self._input.streams.audio if _is_decodable(stream))
        stream = next(known, None)
        if stream is None:
            raise AudioError("undecodable", self.name, "ffmpeg: no decoder for its codec, or no channels")
        self._stream = stream
        self._context = context = _decoding_context(stream)
        context.thread_count = 1  # other processes already use the remaining cores
        context.options = {"err_detect": _ERROR_CHECKS}
        # Many containers know neither rate nor channels of what they hold, so the first frame counts.
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            raise AudioError("truncated", self.name, "ffmpeg: no audio behind the header")
        if first.format.packed.name not in _SAMPLE_FORMATS:
            raise AudioError("undecodable", self.name, f"samples of the format {first.format.name}")
        self._decoded = itertools.chain([first], frames)
        rate = _checked_rate(first.sample_rate, self.name)
        seconds = self._estimated_seconds()
        codec, encoding, bit_depth = _codec(context, container)
        return Header(
            container=container,
            codec=codec,
            encoding=encoding,
            sample_rate=rate,
            num_channels=first.layout.nb_channels,
            num_samples=round(seconds * rate) if seconds > 0 and container in _STATED_LENGTHS else None,
            bit_depth=bit_depth,
            bitrate=round(8 * self._size / seconds) if seconds > 0 else 0,
            seconds=seconds,
        )

    def _estimated_seconds(self) -> float:
        stream = self._stream
        if stream.duration and stream.time_base:
            return max(float(stream.duration * stream.time_base), 0.0)
        begin = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
        return max((self._input.duration or 0) / av.time_base - max(begin, 0.0), 0.0)

    def blocks(self) -> Iterator[Samples]:
        """Decode from the first sample to the last."""
        return map(_to_float, self._gathered())

    def _gathered(self) -> Iterator[Any]:
        """Yield frames of a few seconds. FFmpeg returns about 20 ms at a time: slower in Python than the decoding."""
        gathered, kind = av.AudioFifo(), None
        for frame in self._decoded:
            channels, rate = frame.layout.nb_channels, frame.sample_rate
            if channels != self.header.num_channels or rate != self.header.sample_rate:
                raise AudioError(
                    "undecodable", self.name, f"changes to {channels} channels at {rate} Hz within the stream"
                )
            self._check_clock(frame)
            frame.pts = None  # otherwise a gap in the time stamps would be an error
            if kind != (frame.format.name, frame.layout.name):  # a fifo accepts frames of one kind only
                if gathered.samples:
                    yield gathered.read()
                gathered, kind = av.AudioFifo(), (frame.format.name, frame.layout.name)
            gathered.write(frame)
            if gathered.samples >= _GATHERED_SAMPLES:
                yield gathered.read()
        if gathered.samples:
            yield gathered.read()

    def _check_clock(self, frame: Any) -> None:
        """Compare the time stamp of a frame with the end of the one before, where nothing else shows a loss."""
        if self.header.container not in _CLOCKED or frame.pts is None or not frame.time_base:
            return
        begin_s = float(frame.pts * frame.time_base)
        if self._clock_s is not None and abs(begin_s - self._clock_s) > CLOCK_JUMP_S:
            detail = f"ffmpeg: the time stamps jump from {self._clock_s:.3f} s to {begin_s:.3f} s"
            raise AudioError("undecodable", self.name, detail)
        self._clock_s = begin_s + frame.samples / frame.sample_rate

    def _frames(self) -> Iterator[Any]:
        """Decode packet by packet; an error is damage, except in packets before the first one that decodes."""
        has_begun, lost_s = False, 0.0
        try:
            for packet in self._input.demux(self._stream):
                try:
                    frames = self._decode(packet)
                except av.error.FFmpegError as error:
                    lost_s += float(packet.duration * packet.time_base) if packet.duration else LEADING_LOSS_S
                    if has_begun or lost_s > LEADING_LOSS_S:
                        raise self._to_error(error, (packet.pos or 0) + packet.size) from error
                    continue
                has_begun = has_begun or bool(frames)
                yield from frames
        except av.error.FFmpegError as error:
            raise self._to_error(error, 0) from error

    def _decode(self, packet: Any) -> list[Any]:
        if packet.is_corrupt:
            reason: Reason = "truncated" if (packet.pos or 0) + packet.size >= self._size else "undecodable"
            raise AudioError(reason, self.name, f"ffmpeg: the packet at byte {packet.pos} is incomplete")
        frames: list[Any] = self._context.decode(packet)
        if any(frame.is_corrupt for frame in frames):
            raise AudioError("undecodable", self.name, f"ffmpeg: damaged packet at byte {packet.pos}")
        return frames

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


def _is_decodable(stream: Any) -> bool:
    context = stream.codec_context  # None if FFmpeg does not have the codec
    return context is not None and context.channels >= 1


def _decoding_context(stream: Any) -> Any:
    """Return what decodes a stream: FFmpeg's own decoder of its codec, or the better one of a library."""
    library = _LIBRARY_DECODERS.get(stream.codec_context.codec.canonical_name)
    if library is None:
        return stream.codec_context
    context: Any = av.CodecContext.create(library, "r")
    context.sample_rate, context.layout = stream.codec_context.sample_rate, stream.codec_context.layout
    return context


def _codec(context: Any, container: str) -> tuple[str, str, int | None]:
    """Return the name of a codec, its encoding, and bits per sample where that is meaningful.

    In the containers of libsndfile the name is libsndfile's, whichever decoder reads the file; elsewhere FFmpeg's.
    """
    codec = str(context.codec.canonical_name)  # not that of the decoder, such as mp3float
    subtype = _subtype(codec) if container in _PCM_FORMATS else ""
    if subtype:
        return subtype.lower(), *_ENCODINGS[subtype]
    pcm = _PCM.fullmatch(codec)
    if pcm:
        return codec, f"PCM_{pcm[1].upper()}", int(pcm[2])
    encoding, bit_depth = _FFMPEG_ENCODINGS.get(codec, (codec.upper(), None))
    if codec in _BITS_IN_EXTRADATA:
        offset, low, mask, plus = _BITS_IN_EXTRADATA[codec]
        extra = (context.extradata or b"")[offset : offset + 2]
        bit_depth = (int.from_bytes(extra, "big") >> low & mask) + plus if len(extra) == 2 else None
    return codec, encoding, bit_depth


def _subtype(codec: str) -> str:
    """Return libsndfile's name of a codec of FFmpeg; empty if libsndfile does not know it."""
    if match := _PCM.fullmatch(codec):
        kind, bits = match.groups()
        if kind == "f":
            return {"32": "FLOAT", "64": "DOUBLE"}.get(bits, "")
        return f"PCM_{bits}" if int(bits) > 8 else f"PCM_{kind.upper()}8"
    return _FFMPEG_SUBTYPES.get(codec, "")


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
