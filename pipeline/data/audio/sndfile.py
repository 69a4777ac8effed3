"""Decode with libsndfile; see `decode` for what all decoders have in common."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile

from pipeline.data.audio.codec_names import PCM_CONTAINERS, sndfile_codec
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.reader import Header, Samples, checked_rate, error_message
from pipeline.data.audio.waveform import PCM16_SCALE

CONTAINERS = PCM_CONTAINERS | {"flac", "ogg", "mp3"}
"""Containers that libsndfile reads."""

_BLOCK_SAMPLES = 1 << 16  # blocks of half the size make building a shard 3 % slower; larger ones gain nothing
_PCM16_STEP = np.float32(1 / PCM16_SCALE)
_UNKNOWN_LENGTH = 1 << 40  # libsndfile reports a larger number if it does not know the length


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
        codec, encoding, bit_depth = sndfile_codec(self._sound.subtype, container, codec)
        rate = checked_rate(int(self._sound.samplerate), name)
        seconds = num_samples / rate
        self.header = Header(
            container=container,
            codec=codec,
            encoding=encoding,
            sample_rate=rate,
            num_channels=int(self._sound.channels),
            num_samples=num_samples if num_samples and container != "mp3" else None,
            bit_depth=bit_depth,
            bitrate=round(8 * size / seconds) if seconds else 0,
            seconds=seconds,
        )

    def blocks(self) -> Iterator[Samples]:
        """Decode from the first sample to the last."""
        num_channels = self.header.num_channels
        shape = max(_BLOCK_SAMPLES // num_channels, 1), num_channels
        dtype = "int16" if self.header.codec == "pcm_16" else "float32"
        try:
            while True:
                block = np.empty(shape, dtype)
                count = self._sound.buffer_read_into(block, dtype)  # 6 % faster than `read`
                if self._recorder is not None and self._recorder.error is not None:
                    raise self._recorder.error
                if count == 0:
                    return
                # libsndfile would convert to the same floats, but four times as slowly.
                yield block[:count] * _PCM16_STEP if dtype == "int16" else block[:count]
        except soundfile.SoundFileError as error:
            raise self._to_error(error) from error

    def close(self) -> None:
        """Free the decoder."""
        self._sound.close()

    def _to_error(self, error: Exception) -> Exception:
        """Return the I/O error behind an error of libsndfile, or an `AudioError` if there is none."""
        if self._recorder is not None and self._recorder.error is not None:
            return self._recorder.error
        return AudioError("undecodable", self.name, f"libsndfile: {error_message(error)}")


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
