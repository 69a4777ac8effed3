"""Decode an audio file of any common format to a 16 kHz mono waveform.

Each codec has one fixed decoder: libsndfile for wav, flac, ogg (vorbis, opus) and mp3; FFmpeg for m4a, aac, wma and
webm, for wav and flac that libsndfile rejects, and for mp3 whose length libsndfile would underestimate. The format is
recognised from the content, never from the file name.

The decoded length must match the length that the header states: exactly for wav and flac, within LOSSY_TOLERANCE_S for
codecs with encoder delay and padding. Formats that state no length are checked otherwise: an ogg stream by its
end-of-stream flag, an mp3 by counting its frames.

A waveform that exceeds full scale is scaled down to fit. Clipping would add an artefact that is not in the recording,
and detectors normalise the level of each utterance anyway.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, TypeVar

import av
import numpy as np
import soundfile
import soxr

from pipeline.data.audio.containers import mpeg_num_samples, recognise
from pipeline.data.audio.decode import LOSSLESS, FfmpegReader, Header, Reader, Samples, SndfileReader
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.waveform import MAX_SECONDS, MIN_SAMPLES, PCM16_SCALE, SAMPLE_RATE, Waveform

POLICY = "1"
"""Version of the conversion to waveforms; raised when the same file would give different samples."""
RESAMPLERS = ("soxr_hq", "torchaudio")
LOSSY_TOLERANCE_S = 0.1

T = TypeVar("T")
_SNDFILE_CONTAINERS = frozenset({"wav", "flac", "ogg", "mp3"})


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
    container, codec = _recognise(file, name)
    if container in _SNDFILE_CONTAINERS:
        try:
            with closing(SndfileReader(file, name, container, codec)) as reader:
                return reader.header
        except AudioError as error:
            if not _should_try_ffmpeg(error, container):
                raise
    with closing(FfmpegReader(file, name, container)) as fallback:
        return fallback.header


def load_audio(
    data: bytes,
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
        data: the whole file.
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
    consume = partial(_to_waveform, name=name, resampler=resampler)
    (waveform, header), decoder = _decode_into(consume, data, name, start, end, max_seconds)
    return Loaded(waveform, header, decoder)


def measure(data: bytes, name: str) -> int:
    """Decode a whole file to count its samples per channel, at its own rate.

    Raises:
        AudioError: the file is not complete, valid audio.
    """

    def count(_reader: Reader, blocks: Iterator[Samples]) -> int:
        return sum(map(len, blocks))

    num_samples, _ = _decode_into(count, data, name, None, None, MAX_SECONDS)
    return num_samples


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


def _recognise(file: BinaryIO, name: str) -> tuple[str, str]:
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError("empty", name, "the file has no bytes")
    recognised = recognise(file)
    if recognised is None:
        file.seek(0)
        raise AudioError("not_audio", name, f"no known audio format begins with {file.read(16)!r}")
    return recognised


def _should_try_ffmpeg(error: AudioError, container: str) -> bool:
    return container in LOSSLESS and error.reason == "undecodable"


def _decode_into(
    consume: Callable[[Reader, Iterator[Samples]], T],
    data: bytes,
    name: str,
    start: int | None,
    end: int | None,
    max_seconds: float,
) -> tuple[T, str]:
    """Pass the checked blocks of a file to `consume`; return its result and the name of the decoder.

    If libsndfile fails partway and FFmpeg may be tried, `consume` is called again from the start.
    """
    container, codec = _recognise(io.BytesIO(data), name)
    if container in _SNDFILE_CONTAINERS:
        try:
            with closing(SndfileReader(io.BytesIO(data), name, container, codec)) as reader:
                if not _stops_early(reader.header, data):
                    blocks = _checked_blocks(reader, start or 0, end, max_seconds)
                    return consume(reader, blocks), "libsndfile"
        except AudioError as error:
            if not _should_try_ffmpeg(error, container):
                raise
    with closing(FfmpegReader(io.BytesIO(data), name, container)) as fallback:
        return consume(fallback, _checked_blocks(fallback, start or 0, end, max_seconds)), "ffmpeg"


def _stops_early(header: Header, data: bytes) -> bool:
    """Whether libsndfile would leave the end of an mp3 unread.

    It stops at the length that the first frame states, or that it estimates from the bit rate. Concatenated files and
    files of variable bit rate can be longer.
    """
    if header.container != "mp3":
        return False
    return mpeg_num_samples(data) > (header.seconds + LOSSY_TOLERANCE_S) * header.sample_rate


def _checked_blocks(reader: Reader, start: int, end: int | None, max_seconds: float) -> Iterator[Samples]:
    """Yield the blocks of a segment; check its length against the header and the limit."""
    header, name = reader.header, reader.name
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"{name}: no segment from {start} to {end}")
    if header.num_samples is not None and 0 < header.num_samples <= start:
        raise AudioError(
            "outside", name, f"the segment begins at {start}, the audio ends at {header.num_samples}"
        )
    seconds = header.seconds if end is None else (end - start) / header.sample_rate
    if seconds > max_seconds:
        raise AudioError("too_long", name, f"{seconds:.0f} s; the limit is {max_seconds:.0f} s")
    count = 0
    for block in reader.blocks(start, end):
        count += len(block)
        if count > max_seconds * header.sample_rate:
            raise AudioError("too_long", name, f"more than {max_seconds:.0f} s")
        yield block
    _check_length(header, name, start, end, count)


def _check_length(header: Header, name: str, start: int, end: int | None, count: int) -> None:
    tolerance = 0 if header.container in LOSSLESS else int(LOSSY_TOLERANCE_S * header.sample_rate)
    if end is not None:
        if count + tolerance < end - start:
            is_stated = header.num_samples is not None and end <= header.num_samples
            detail = f"the segment ends at {end}, the audio at {start + count}"
            raise AudioError("truncated" if is_stated else "outside", name, detail)
    elif header.num_samples is not None:
        expected = header.num_samples - start
        if count + tolerance < expected:
            raise AudioError("truncated", name, f"{count} samples; {expected} expected from the header")
        if count - tolerance > expected:
            raise AudioError("length_mismatch", name, f"{count} samples; {expected} expected from the header")
    if count == 0:
        raise AudioError("too_short", name, "no samples")


def _to_waveform(
    reader: Reader, blocks: Iterator[Samples], name: str, resampler: str
) -> tuple[Waveform, Header]:
    header = reader.header
    mono = _checked_values(_downmixed(blocks, header.num_channels), name)
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
    return waveform, header


def _downmixed(blocks: Iterator[Samples], num_channels: int) -> Iterator[Waveform]:
    share = np.float32(1 / num_channels)
    for block in blocks:
        if num_channels == 1:
            yield block[:, 0]
            continue
        # Channel by channel: the last bit of a matrix product depends on the processor and the block size, and
        # numpy's mean over the short axis is five times slower. A sum beyond float32 becomes infinite, which
        # `_checked_values` rejects.
        with np.errstate(all="ignore"):
            mono = block[:, 0] + block[:, 1]
            for channel in range(2, num_channels):
                mono += block[:, channel]
            mono *= share
        yield mono


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
