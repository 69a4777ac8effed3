"""Decode an audio file of any common format to a 16 kHz mono waveform.

The format is recognised from the content, never from the file name. The structure of the container tells where its
audio is and how long it must be (`containers.locate`); libsndfile or FFmpeg decodes those bytes from front to back, and
the second is asked where the first one refuses. A file whose samples are not as many as its structure promises is
rejected, so what is kept is what the file holds.

A waveform that exceeds full scale is scaled down to fit. Clipping would add an artefact that is not in the recording,
and detectors normalise the level of each utterance anyway. Channels are averaged; channels that cancel each other are
rejected.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

import av
import numpy as np
import soundfile
import soxr

from pipeline.data.audio.containers.extent import Extent
from pipeline.data.audio.containers.locate import locate
from pipeline.data.audio.containers.tolerances import ENCODER_DELAY_S
from pipeline.data.audio.decode import LOSSLESS, Header, Reader, Samples, decoders, open_reader
from pipeline.data.audio.errors import AudioError, Reason
from pipeline.data.audio.waveform import MAX_SECONDS, MIN_SAMPLES, PCM16_SCALE, SAMPLE_RATE, Waveform
from pipeline.data.audio.window import window, window_of_bytes

T = TypeVar("T")

POLICY = "2"
"""Version of the conversion to waveforms; raised when the same file would give different samples."""
RESAMPLERS = ("soxr_hq", "torchaudio")

CANCELLING_RATIO = 0.1
"""Channels cancel each other if the downmix keeps less than this share of their level (−20 dB). Two independent
channels keep 0.7 of it, and one active channel among sixty-four silent ones keeps 0.125."""

_SECOND_OPINION: frozenset[Reason] = frozenset({"undecodable", "truncated", "length_mismatch", "absurd_rate"})
"""Verdicts of one decoder after which the next one is asked."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A waveform, the header of its file, and the decoder that read it."""

    waveform: Waveform
    header: Header
    decoder: str
    """`libsndfile` or `ffmpeg`."""


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
    for decoder in decoders(extent.container):
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
        self._cursor: _Cursor | None = None
        self._rate = 0  # of the decoder that opened the file first

    def __reduce__(self) -> tuple[type[OpenAudio], tuple[bytes, str]]:
        return OpenAudio, (self.data, self.name)

    def load(self, start: int, end: int | None, resampler: str, max_seconds: float) -> Loaded:
        """Decode one segment; see `load_audio`."""

        def consume(cursor: _Cursor) -> Loaded:
            blocks = cursor.segment(start, end, max_seconds)
            waveform = _to_waveform(blocks, cursor.header, self.name, resampler)
            return Loaded(waveform, cursor.header, cursor.decoder)

        return self._decode(start, consume, is_counted=start > 0 or end is not None)

    def measure(self) -> int:
        """Decode the whole file and count its samples per channel, at its own rate."""

        def consume(cursor: _Cursor) -> int:
            for _ in cursor.segment(0, None, np.inf):
                pass
            return cursor.position

        return self._decode(0, consume, is_counted=True)

    def close(self) -> None:
        """Free the decoder."""
        if self._cursor is not None:
            self._cursor.reader.close()
            self._cursor = None

    def _decode(self, start: int, consume: Callable[[_Cursor], T], *, is_counted: bool) -> T:
        """Pass a decoder that has not passed `start` to `consume`; ask the next decoder where one refuses.

        Where samples are counted, a decoder of another rate than the first one (Opus) would count other samples.
        """
        if self._located is None:
            self._located = locate(io.BytesIO(self.data), self.name, is_whole=True)
        remaining = decoders(self._located[1].container)
        if self._cursor is not None and self._cursor.position > start:
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

    def _open(self, decoder: str, container: str, extent: Extent) -> _Cursor:
        source = window_of_bytes(self.data, extent)
        reader = open_reader(decoder, source, self.name, extent.container, extent.codec)
        return _Cursor(reader, decoder, _completed(reader.header, container, extent), extent)


class _Cursor:
    """A decoder and how far it has come."""

    def __init__(self, reader: Reader, decoder: str, header: Header, extent: Extent) -> None:
        self.reader, self.decoder, self.header, self.extent = reader, decoder, header, extent
        self.position = 0
        """Samples per channel that have been returned or passed over."""
        self._blocks = reader.blocks()
        self._block: Samples | None = None

    def segment(self, start: int, end: int | None, max_seconds: float) -> Iterator[Samples]:
        """Yield the samples of a segment; check its length against the structure of the file and the limit.

        Raises:
            AudioError: outside, too_long, truncated, length_mismatch, too_short, or what the decoder raises.
        """
        header, name = self.header, self.reader.name
        if start < 0 or (end is not None and end <= start):
            raise ValueError(f"{name}: no segment from {start} to {end}")
        stated = header.num_samples
        if stated is not None and 0 < stated <= start:
            raise AudioError("outside", name, f"the segment begins at {start}, the audio ends at {stated}")
        # An estimate of the decoder is no reason to refuse a file; the samples are counted below.
        seconds = header.seconds if stated is not None else 0.0
        if end is not None:
            seconds = (end - start) / header.sample_rate
        if seconds > max_seconds:
            raise AudioError("too_long", name, f"{seconds:.0f} s; the limit is {max_seconds:.0f} s")
        count = 0
        for block in self._read(start, end):
            count += len(block)
            if count > max_seconds * header.sample_rate:
                raise AudioError("too_long", name, f"more than {max_seconds:.0f} s")
            yield block
        self._check_length(start, end)

    def _read(self, start: int, end: int | None) -> Iterator[Samples]:
        """Decode up to `end`, or the end of the audio, and yield what follows `start`."""
        while end is None or self.position < end:
            block = next(self._blocks, None) if self._block is None else self._block
            self._block = None
            if block is None:
                return
            first = min(max(start - self.position, 0), len(block))
            last = len(block) if end is None else min(end - self.position, len(block))
            if last < len(block):
                self._block = block[last:]
            self.position += last
            if first < last:
                yield block[first:last]

    def _check_length(self, start: int, end: int | None) -> None:
        """Compare the end of the audio, or of the segment, with what the file promises."""
        name, promised, decoded = self.reader.name, self.header.num_samples, self.position
        tolerance = self._tolerance()
        if end is not None and decoded + tolerance < end:
            reason: Reason = "truncated" if promised is not None and end <= promised else "outside"
            raise AudioError(reason, name, f"the segment ends at {end}, the audio at {decoded}")
        if end is None and promised is not None and abs(decoded - promised) > tolerance:
            reason = "truncated" if decoded < promised else "length_mismatch"
            raise AudioError(reason, name, f"{decoded} samples; {promised} expected from the header")
        if decoded <= start:
            raise AudioError("too_short" if start == 0 else "outside", name, "no samples")

    def _tolerance(self) -> int:
        if self.extent.num_samples is not None:
            return self.extent.tolerance
        return 0 if self.extent.container in LOSSLESS else int(ENCODER_DELAY_S * self.header.sample_rate)


def load_audio(
    source: bytes | OpenAudio,
    name: str,
    *,
    start: int | None = None,
    end: int | None = None,
    resampler: str = "soxr_hq",
    max_seconds: float = MAX_SECONDS,
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

    Raises:
        AudioError: the file is not complete, valid audio, or the segment is too short, silent or outside of it.
    """
    if resampler not in RESAMPLERS:
        raise ValueError(f"unknown resampler {resampler!r}; known: {', '.join(RESAMPLERS)}")
    if isinstance(source, OpenAudio):
        return source.load(start or 0, end, resampler, max_seconds)
    audio = OpenAudio(source, name)
    try:
        return audio.load(start or 0, end, resampler, max_seconds)
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


def codec_versions() -> dict[str, str]:
    """Return the versions of everything that can change decoded samples or stored bytes."""
    ffmpeg = av.library_versions
    return {
        "policy": POLICY,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__libsoxr_version__,
        "libavcodec": ".".join(map(str, ffmpeg["libavcodec"])),
        "libavformat": ".".join(map(str, ffmpeg["libavformat"])),
    }


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


def _to_waveform(blocks: Iterator[Samples], header: Header, name: str, resampler: str) -> Waveform:
    mono = _checked_values(_downmixed(blocks, header.num_channels, name), name)
    if header.sample_rate == SAMPLE_RATE:
        parts = list(mono)
    elif resampler == "soxr_hq":
        parts = list(_resampled(mono, header.sample_rate))
    else:
        parts = [_resample_torchaudio(np.concatenate(list(mono)), header.sample_rate)]
    waveform = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if len(waveform) < MIN_SAMPLES:
        raise AudioError(
            "too_short",
            name,
            f"{len(waveform)} samples at {SAMPLE_RATE} Hz; at least {MIN_SAMPLES} are needed",
        )
    peak = max(float(waveform.max()), -float(waveform.min()))
    if not np.isfinite(peak):
        raise AudioError("not_finite", name, "exceeds float32 after resampling")
    if peak > 1:
        waveform = waveform / np.float32(peak)
    return waveform


def _downmixed(blocks: Iterator[Samples], num_channels: int, name: str) -> Iterator[Waveform]:
    """Yield the mean of the channels.

    Raises:
        AudioError: cancelling: the mean has a small share of the channels' own level.
    """
    if num_channels == 1:
        for block in blocks:
            yield block[:, 0]
        return
    share = np.float32(1 / num_channels)
    mixed, channels = _Level(), [_Level() for _ in range(num_channels)]
    for block in blocks:
        # Channel by channel: the last bit of a matrix product depends on the processor and the block size, and
        # numpy's mean over the short axis is five times slower. A sum beyond float32 becomes infinite, which
        # `_checked_values` rejects.
        with np.errstate(all="ignore"):
            mono = block[:, 0] + block[:, 1]
            for channel in range(2, num_channels):
                mono += block[:, channel]
            mono *= share
            mixed.add(mono)
            for channel, level in enumerate(channels):
                level.add(block[:, channel])
        yield mono
    own = float(np.sqrt(np.mean([level.variance for level in channels])))
    kept = float(np.sqrt(mixed.variance))
    if own * PCM16_SCALE >= 1 and kept < CANCELLING_RATIO * own:
        detail = f"the mean of {num_channels} channels keeps {kept / own:.1%} of their level"
        raise AudioError("cancelling", name, detail)


class _Level:
    """The variance of samples that arrive in blocks."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, samples: Waveform) -> None:
        self._count += len(samples)
        self._sum += float(samples.sum(dtype=np.float64))
        self._squares += float(np.dot(samples, samples))

    @property
    def variance(self) -> float:
        return max(self._squares - self._sum**2 / self._count, 0.0) / self._count if self._count else 0.0


def _checked_values(blocks: Iterator[Waveform], name: str) -> Iterator[Waveform]:
    """Yield the blocks; reject values that are not finite, and audio that varies by less than one step of PCM16."""
    lowest, highest = np.inf, -np.inf
    for block in blocks:
        low, high = float(block.min()), float(block.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise AudioError("not_finite", name, "NaN or infinity among the samples")
        lowest, highest = min(lowest, low), max(highest, high)
        yield block
    if highest - lowest < 1 / PCM16_SCALE:
        raise AudioError(
            "silent", name, f"all samples are within {max(highest - lowest, 0):.1e} of each other"
        )


def _resampled(blocks: Iterator[Waveform], sample_rate: int) -> Iterator[Waveform]:
    stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _resample_torchaudio(waveform: Waveform, sample_rate: int) -> Waveform:
    import torch
    import torchaudio.functional

    resampled = torchaudio.functional.resample(torch.from_numpy(waveform), sample_rate, SAMPLE_RATE)
    return np.asarray(resampled.numpy(), dtype=np.float32)
