"""Decode an audio file of any common format to a 16 kHz mono waveform.

The format is recognised from the content, never from the file name. The structure of the container tells where its
audio is and how long it must be (`containers.locate`); a decoder reads those bytes from front to back, and the next one
is asked where it refuses. A file whose samples are not as many as its structure promises is rejected, so what is kept
is what the file holds.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

import numpy as np

from pipeline.data.audio.containers.extent import Extent
from pipeline.data.audio.containers.locate import locate
from pipeline.data.audio.convert import RESAMPLERS, to_waveform
from pipeline.data.audio.cursor import Cursor
from pipeline.data.audio.decode import decoders, open_reader
from pipeline.data.audio.errors import AudioError, Reason
from pipeline.data.audio.reader import Header
from pipeline.data.audio.waveform import MAX_SECONDS, Waveform
from pipeline.data.audio.window import window, window_of_bytes

T = TypeVar("T")

_SECOND_OPINION: frozenset[Reason] = frozenset({"undecodable", "truncated", "length_mismatch", "absurd_rate"})
"""Verdicts of one decoder after which the next one is asked."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A waveform, the header of its file, and the decoder that read it."""

    waveform: Waveform
    header: Header
    decoder: str
    """One of `decoders`."""


def probe(file: BinaryIO, name: str) -> Header:
    """Read the header of a seekable file and little else, so that ranged reads of a remote file are enough.

    Args:
        file: open for reading.
        name: file name for error messages.

    Raises:
        AudioError: empty, not_audio, undecodable, absurd_rate, or truncated if the header already shows it.
    """
    container, extent = locate(file, name, is_whole=False)
    failures: list[AudioError] = []
    for decoder in decoders(extent.container, length_shows_damage=False):
        try:
            reader = open_reader(decoder, window(file, extent), name, extent.container, extent.codec)
        except AudioError as error:
            failures.append(error)
            continue
        reader.close()
        return _completed(reader.header, container, extent)
    raise _most_telling(failures)


class OpenAudio:
    """A file in memory that is decoded from front to back; ascending segments share one decode.

    Can be pickled: the copy starts again from the first sample.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self._located: tuple[str, Extent] | None = None
        self._cursor: Cursor | None = None
        self._rate = 0  # of the decoder that opened the file first

    def __reduce__(self) -> tuple[type[OpenAudio], tuple[bytes, str]]:
        return OpenAudio, (self.data, self.name)

    def load(
        self, start: int, end: int | None, resampler: str, max_seconds: float, is_impulse_response: bool
    ) -> Loaded:
        """Decode one segment; see `load_audio`."""

        def consume(cursor: Cursor) -> Loaded:
            blocks = cursor.segment(start, end, max_seconds)
            waveform = to_waveform(
                blocks, cursor.header, self.name, resampler, is_impulse_response=is_impulse_response
            )
            return Loaded(waveform, cursor.header, cursor.decoder)

        return self._decode(start, consume, is_counted=start > 0 or end is not None)

    def measure(self) -> int:
        """Decode the whole file and count its samples per channel, at its own rate."""

        def consume(cursor: Cursor) -> int:
            for _ in cursor.segment(0, None, np.inf):
                pass
            return cursor.position

        return self._decode(0, consume, is_counted=True)

    def close(self) -> None:
        """Free the decoder."""
        if self._cursor is not None:
            self._cursor.reader.close()
            self._cursor = None

    def _decode(self, start: int, consume: Callable[[Cursor], T], *, is_counted: bool) -> T:
        """Pass a decoder that has not passed `start` to `consume`; ask the next decoder where one refuses.

        Where samples are counted, a decoder of another rate than the first one (Opus) would count other samples.
        """
        if self._located is None:
            self._located = locate(io.BytesIO(self.data), self.name, is_whole=True)
        extent = self._located[1]
        shows_damage = extent.damage_shortens and not is_counted
        remaining = decoders(extent.container, length_shows_damage=shows_damage)
        if self._cursor is not None and (
            self._cursor.position > start or self._cursor.decoder not in remaining
        ):
            self.close()
        if self._cursor is not None:
            remaining = remaining[remaining.index(self._cursor.decoder) :]
        failures: list[AudioError] = []
        for decoder in remaining:
            try:
                if self._cursor is None:
                    self._cursor = self._open(decoder, *self._located)
                rate = self._cursor.header.sample_rate
                self._rate = self._rate or rate
                if is_counted and rate != self._rate:
                    detail = f"{decoder} decodes it at {rate} Hz, but positions count at {self._rate} Hz"
                    raise AudioError("undecodable", self.name, detail)
                return consume(self._cursor)
            except AudioError as error:
                self.close()
                if error.reason not in _SECOND_OPINION:
                    raise
                failures.append(error)
        raise _most_telling(failures)

    def _open(self, decoder: str, container: str, extent: Extent) -> Cursor:
        source = window_of_bytes(self.data, extent)
        reader = open_reader(decoder, source, self.name, extent.container, extent.codec)
        return Cursor(reader, decoder, _completed(reader.header, container, extent), extent)


def load_audio(
    source: bytes | OpenAudio,
    name: str,
    *,
    start: int | None = None,
    end: int | None = None,
    resampler: str = "soxr_hq",
    max_seconds: float = MAX_SECONDS,
    is_impulse_response: bool = False,
) -> Loaded:
    """Decode, downmix and resample a file, or one segment of it, to a 16 kHz mono waveform.

    With soxr, memory holds the result and one block of the source, whatever the length of the file.

    Args:
        source: the whole file; an `OpenAudio` if several segments of the file are loaded, in ascending order.
        name: file name for error messages.
        start: first sample of the segment, at the file's own rate.
        end: one past the last sample of the segment, at the file's own rate.
        resampler: one of `RESAMPLERS`.
        max_seconds: longest audio to accept.
        is_impulse_response: see `to_waveform`.

    Raises:
        AudioError: the file is not complete, valid audio, or the segment is too short, silent or outside of it.
    """
    if resampler not in RESAMPLERS:
        raise ValueError(f"unknown resampler {resampler!r}; known: {', '.join(RESAMPLERS)}")
    if isinstance(source, OpenAudio):
        return source.load(start or 0, end, resampler, max_seconds, is_impulse_response)
    audio = OpenAudio(source, name)
    try:
        return audio.load(start or 0, end, resampler, max_seconds, is_impulse_response)
    finally:
        audio.close()


def measure(data: bytes, name: str) -> int:
    """Count the samples per channel of a file, at its own rate, by decoding it.

    Raises:
        AudioError: the file is not complete, valid audio.
    """
    audio = OpenAudio(data, name)
    try:
        return audio.measure()
    finally:
        audio.close()


def _completed(header: Header, container: str, extent: Extent) -> Header:
    """Return the header that a decoder has read, with what the structure of the file knows better."""
    header = replace(header, container=container)
    if extent.num_samples is None:
        return header
    num_samples = extent.num_samples
    if extent.rate:
        num_samples = round(num_samples * header.sample_rate / extent.rate)
    return replace(header, num_samples=num_samples, seconds=num_samples / header.sample_rate)


def _most_telling(failures: Sequence[AudioError]) -> AudioError:
    """Return the first failure that says more than that a decoder gave up."""
    return next((failure for failure in failures if failure.reason != "undecodable"), failures[0])
