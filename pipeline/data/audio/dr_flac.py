"""Decode whole FLAC files with dr_flac, through miniaudio; see `decode` for what all decoders have in common.

It is twice as fast as the libsndfile that comes with soundfile, which spends half of its time on copying samples. But
it passes over damaged frames without an error, so that only the length of the whole file shows them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from pipeline.data.audio.containers.flac_frames import read_stream_info
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.reader import Header, Samples, checked_rate

try:
    import miniaudio
except ModuleNotFoundError:  # Linux on ARM, for which there are no wheels
    miniaudio = None

CONTAINERS = frozenset({"flac"} if miniaudio else ())
"""Containers that dr_flac reads; none where it is not installed."""

VERSION = miniaudio.lib_version() if miniaudio else "not installed"
"""Version of the C library miniaudio, which contains dr_flac."""

_BLOCK_SAMPLES = 1 << 16
_BITS = (8, 16, 24)  # those that libsndfile writes, so that a test can compare the samples


class DrFlacReader:
    """A FLAC file in memory, opened by dr_flac."""

    def __init__(self, source: io.BytesIO, name: str) -> None:
        self.name = name
        self._data = source.getvalue()
        info = read_stream_info(source, name)
        if info.bits not in _BITS:
            raise AudioError("undecodable", name, f"dr_flac: {info.bits} bits per sample")
        rate = checked_rate(info.sample_rate, name)
        seconds = (info.num_samples or 0) / rate
        self.header = Header(
            container="flac",
            codec="flac",
            encoding="FLAC",
            sample_rate=rate,
            num_channels=info.num_channels,
            num_samples=info.num_samples,
            bit_depth=info.bits,
            bitrate=round(8 * len(self._data) / seconds) if seconds else 0,
            seconds=seconds,
        )

    def blocks(self) -> Iterator[Samples]:
        """Decode from the first sample to the last."""
        num_channels = self.header.num_channels
        try:
            parts = miniaudio.stream_memory(
                self._data,
                miniaudio.SampleFormat.FLOAT32,
                num_channels,
                self.header.sample_rate,
                max(_BLOCK_SAMPLES // num_channels, 1),
            )
            for part in parts:
                yield np.frombuffer(part, np.float32).reshape(-1, num_channels)
        except miniaudio.DecodeError as error:
            raise AudioError("undecodable", self.name, f"dr_flac: {error}") from error

    def close(self) -> None:
        """Free nothing: the decoder exists only while `blocks` runs."""
