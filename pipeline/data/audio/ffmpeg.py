"""Decode with FFmpeg in process, through PyAV; see `decode` for what all decoders have in common."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.codec_names import ffmpeg_codec
from pipeline.data.audio.containers.tolerances import CLOCK_JUMP_S, LEADING_LOSS_S
from pipeline.data.audio.errors import AudioError, Reason
from pipeline.data.audio.reader import Header, Samples, checked_rate, error_message

DEMUXERS = {
    "ac3": "ac3",
    "adts": "aac",
    "aiff": "aiff",
    "amr": "amr",
    "ape": "ape",
    "asf": "asf",
    "au": "au",
    "avi": "avi",
    "avr": "avr",
    "caf": "caf",
    "dsf": "dsf",
    "eac3": "eac3",
    "flac": "flac",
    "flv": "flv",
    "ircam": "ircam",
    "matroska": "matroska",
    "mp3": "mp3",
    "mp4": "mov",
    "mpc": "mpc",
    "mpc8": "mpc8",
    "nist": "nistsphere",
    "ogg": "ogg",
    "paf": "epaf",
    "ps": "mpeg",
    "pvf": "pvf",
    "qoa": "qoa",
    "rm": "rm",
    "svx": "iff",
    "tak": "tak",
    "ts": "mpegts",
    "tta": "tta",
    "voc": "voc",
    "w64": "w64",
    "wav": "wav",
    "wavpack": "wv",
    "wve": "wve",
    "xwma": "xwma",
}
"""FFmpeg's demuxer of each container that it reads. None of them is a playlist or opens other files."""

_GATHERED_SAMPLES = 1 << 16
_SAMPLE_FORMATS = frozenset({"u8", "s16", "s32", "flt", "dbl"})  # what NumPy receives from PyAV
_CLOCKED = frozenset({"ps", "ts"})
"""Containers of broadcasts: no length and no index, but a precise clock."""
_STATED_LENGTHS = frozenset({"flac", "tak"})
"""Containers whose length FFmpeg reads from the header; of the others, their structure tells it."""
_ERROR_CHECKS = "crccheck+explode"
"""What decoders verify. Without it, a damaged frame of a codec with checksums is decoded to noise."""
_LIBRARY_DECODERS = {"amr_nb": "libopencore_amrnb", "amr_wb": "libopencore_amrwb"}
"""Decoders that know the frames of pauses (DTX), at which FFmpeg's own give up."""


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
                format=DEMUXERS[container],
                container_options={"protocol_whitelist": "none"},
                metadata_errors="replace",
            )
        except av.error.FFmpegError as error:
            raise AudioError("undecodable", name, f"ffmpeg: {error_message(error)}") from error
        try:
            self.header = self._read_header(container)
        except Exception:
            self.close()
            raise

    def _read_header(self, container: str) -> Header:
        self._stream = self._first_decodable_stream(container)
        self._context = context = _decoding_context(self._stream)
        context.thread_count = 1  # other processes already use the remaining cores
        context.options = {"err_detect": _ERROR_CHECKS}
        # Many containers state a wrong rate or number of channels, so those of the first frame count.
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            raise AudioError("truncated", self.name, "ffmpeg: no audio behind the header")
        if first.format.packed.name not in _SAMPLE_FORMATS:
            raise AudioError("undecodable", self.name, f"samples of the format {first.format.name}")
        self._decoded = itertools.chain([first], frames)
        rate = checked_rate(first.sample_rate, self.name)
        seconds = self._estimated_seconds()
        codec, encoding, bit_depth = ffmpeg_codec(
            context.codec.canonical_name, container, context.extradata or b""
        )
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

    def _first_decodable_stream(self, container: str) -> Any:
        if not self._input.streams.audio:
            raise AudioError("not_audio", self.name, f"{container} without an audio stream")
        stream = next(filter(_is_decodable, self._input.streams.audio), None)
        if stream is None:
            raise AudioError("undecodable", self.name, "ffmpeg: no decoder for its codec, or no channels")
        return stream

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
        return AudioError(reason, self.name, f"ffmpeg: {error_message(error)}")

    def close(self) -> None:
        """Free the decoder."""
        self._input.close()


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
