"""A file of any common format becomes a 16 kHz mono waveform, and a waveform becomes the FLAC that shards hold.

One pinned decoder per codec: libsndfile for wav, flac, ogg (vorbis, opus) and mp3; FFmpeg for m4a, aac, wma and
webm, for the wav and flac that libsndfile refuses, and for the mp3 whose length it would guess too short. The
format is recognised from content, never from the extension.

What a file says about its length is held against what comes out of it: to the sample for wav and flac, within
LOSSY_TOLERANCE_S for codecs with encoder delay and padding. Where a format states no length, other evidence serves:
the end mark of an ogg stream, the frames of an mp3.

Level: a waveform that exceeds full scale is scaled down to it. Clipping would write an artefact that was not there,
and detectors normalise the level of each utterance anyway.
"""

from __future__ import annotations

import hashlib
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
from numpy.typing import NDArray

from pipeline.data.audio.containers import mpeg_num_samples, recognise
from pipeline.data.audio.decode import (
    LOSSLESS,
    REASONS,
    AudioError,
    FfmpegReader,
    Header,
    Reader,
    Samples,
    SndfileReader,
)
from pipeline.data.audio.waveform import SAMPLE_RATE, Waveform

__all__ = [
    "MAX_SECONDS",
    "REASONS",
    "RESAMPLERS",
    "SAMPLE_RATE",
    "AudioError",
    "Decoded",
    "Header",
    "Loaded",
    "Pcm",
    "Waveform",
    "codec_versions",
    "decode",
    "decode_flac",
    "encode_flac",
    "load_audio",
    "load_waveform",
    "pcm_digest",
    "probe",
    "quantise",
]

POLICY = "1"
"""Changes whenever the same file would give other samples."""
RESAMPLERS = ("soxr_hq", "torchaudio")
MAX_SECONDS = 4 * 3600.0
MIN_SAMPLES = 400
"""25 ms: what a wav2vec 2.0 front end needs for its first frame."""
LOSSY_TOLERANCE_S = 0.1

Pcm = NDArray[np.int16]
"""[num_samples] at 16 kHz."""

T = TypeVar("T")
_PCM_SCALE = 32_768.0
_BY_LIBSNDFILE = frozenset({"wav", "flac", "ogg", "mp3"})


@dataclass(frozen=True, slots=True)
class Decoded:
    """Samples as they lie in the file."""

    samples: Samples
    """[num_samples, num_channels], nominally within ±1."""
    sample_rate: int
    decoder: str
    """libsndfile or ffmpeg."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A waveform and where it came from."""

    waveform: Waveform
    header: Header
    decoder: str
    """libsndfile or ffmpeg."""


def probe(file: BinaryIO, name: str) -> Header:
    """Read the header of a seekable file, and little else: ranged reads of a remote file are enough.

    Raises:
        AudioError: empty, not_audio, undecodable, absurd_rate, and truncated where the header already shows it.
    """
    container, codec = _recognise(file, name)
    if container in _BY_LIBSNDFILE:
        try:
            with closing(SndfileReader(file, name, container, codec)) as reader:
                return reader.header
        except AudioError as error:
            if not _has_second_chance(error, container):
                raise
    with closing(FfmpegReader(file, name, container)) as fallback:
        return fallback.header


def decode(data: bytes, name: str, *, max_seconds: float = MAX_SECONDS) -> Decoded:
    """Decode a whole file. `name` serves messages only.

    Raises:
        AudioError: the file is no whole, sane piece of audio.
    """
    (samples, sample_rate), decoder = _decode_into(_collect, data, name, None, None, max_seconds)
    return Decoded(samples, sample_rate, decoder)


def load_audio(
    data: bytes,
    name: str,
    *,
    start: int | None = None,
    end: int | None = None,
    resampler: str = "soxr_hq",
    max_seconds: float = MAX_SECONDS,
) -> Loaded:
    """Decode, downmix and resample a file, or the segment from `start` to `end` (samples at its own rate).

    With soxr, memory holds the result and one block of the source, whatever the length of the file.

    Raises:
        AudioError: the file is no whole, sane piece of audio, or nothing of use is left of it.
    """
    if resampler not in RESAMPLERS:
        raise ValueError(f"unknown resampler {resampler!r}; known: {', '.join(RESAMPLERS)}")
    consume = partial(_to_waveform, name=name, resampler=resampler)
    (waveform, header), decoder = _decode_into(consume, data, name, start, end, max_seconds)
    return Loaded(waveform, header, decoder)


def load_waveform(
    data: bytes,
    name: str,
    *,
    start: int | None = None,
    end: int | None = None,
    resampler: str = "soxr_hq",
) -> Waveform:
    """The waveform alone of `load_audio`."""
    return load_audio(data, name, start=start, end=end, resampler=resampler).waveform


def quantise(waveform: Waveform) -> Pcm:
    """PCM16 of a waveform: rounded half to even, saturated beyond ±1."""
    scaled = waveform * np.float32(_PCM_SCALE)
    np.rint(scaled, out=scaled)
    pcm: Pcm = np.clip(scaled, -_PCM_SCALE, _PCM_SCALE - 1, out=scaled).astype(np.int16)
    return pcm


def encode_flac(pcm: Pcm) -> bytes:
    """FLAC of 16 kHz mono PCM16; the same bytes for the same samples."""
    file = io.BytesIO()
    soundfile.write(file, pcm, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return file.getvalue()


def decode_flac(
    data: bytes, *, start: int = 0, end: int | None = None, out: Waveform | None = None
) -> Waveform:
    """The waveform of PCM16 that `encode_flac` stored, or its samples from `start` up to `end`.

    Only the frames of the segment are decoded. The result is the beginning of `out` where that is long enough, and
    spares new memory, whose first touch costs a fifth of decoding.

    Raises:
        AudioError: undecodable, truncated, too_long.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            wanted = (sound.frames if end is None else end) - start
            if (
                wanted > MAX_SECONDS * SAMPLE_RATE
            ):  # a damaged header: memory for that many would not be there
                raise AudioError("too_long", "flac in a shard", f"{wanted} samples in {len(data)} bytes")
            if start:
                sound.seek(start)
            if out is None or len(out) < wanted:
                out = np.empty(wanted, np.float32)
            waveform: Waveform = sound.read(out=out[:wanted])
    except soundfile.SoundFileError as error:
        raise AudioError("undecodable", "flac in a shard", str(error)) from error
    if len(waveform) != wanted:
        raise AudioError("truncated", "flac in a shard", f"{len(waveform)} of {wanted} samples")
    return waveform


def pcm_digest(pcm: Pcm) -> str:
    """SHA-256 of PCM16, little-endian: equal for equal audio, whatever FLAC writes."""
    return hashlib.sha256(pcm.astype("<i2", copy=False).data).hexdigest()


def codec_versions() -> dict[str, str]:
    """Everything whose change may change samples or bytes; part of a shard's identity."""
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
    found = recognise(file)
    if found is None:
        file.seek(0)
        raise AudioError("not_audio", name, f"begins with {file.read(16)!r}, as no audio format we know does")
    return found


def _has_second_chance(error: AudioError, container: str) -> bool:
    return container in LOSSLESS and error.reason == "undecodable"


def _decode_into(
    consume: Callable[[Reader, Iterator[Samples]], T],
    data: bytes,
    name: str,
    start: int | None,
    end: int | None,
    max_seconds: float,
) -> tuple[T, str]:
    """Feed the checked blocks of a file to `consume`; return its result and the name of the decoder.

    Where libsndfile gives up half-way and FFmpeg may try, `consume` is called again from the start.
    """
    container, codec = _recognise(io.BytesIO(data), name)
    if container in _BY_LIBSNDFILE:
        try:
            with closing(SndfileReader(io.BytesIO(data), name, container, codec)) as reader:
                if not _stops_early(reader.header, data):
                    blocks = _checked_blocks(reader, start or 0, end, max_seconds)
                    return consume(reader, blocks), "libsndfile"
        except AudioError as error:
            if not _has_second_chance(error, container):
                raise
    with closing(FfmpegReader(io.BytesIO(data), name, container)) as fallback:
        return consume(fallback, _checked_blocks(fallback, start or 0, end, max_seconds)), "ffmpeg"


def _stops_early(header: Header, data: bytes) -> bool:
    """Whether libsndfile would leave the end of an mp3 unread.

    It stops at the length that the first frame states, and guesses from the bit rate where none does; joined files
    and variable bit rates go on after that.
    """
    if header.container != "mp3":
        return False
    return mpeg_num_samples(data) > (header.seconds + LOSSY_TOLERANCE_S) * header.sample_rate


def _checked_blocks(reader: Reader, start: int, end: int | None, max_seconds: float) -> Iterator[Samples]:
    """The blocks of a segment, held against the header and the limit."""
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
            is_promised = header.num_samples is not None and end <= header.num_samples
            detail = f"the segment ends at {end}, the audio at {start + count}"
            raise AudioError("truncated" if is_promised else "outside", name, detail)
    elif header.num_samples is not None:
        expected = header.num_samples - start
        if count + tolerance < expected:
            raise AudioError("truncated", name, f"{count} samples where {expected} are promised")
        if count - tolerance > expected:
            raise AudioError("length_mismatch", name, f"{count} samples where {expected} are promised")
    if count == 0:
        raise AudioError("too_short", name, "no samples")


def _collect(reader: Reader, blocks: Iterator[Samples]) -> tuple[Samples, int]:
    samples = np.concatenate(list(blocks))
    if not np.isfinite(samples).all():
        raise AudioError("not_finite", reader.name, "NaN or infinity among the samples")
    return samples, reader.header.sample_rate


def _to_waveform(
    reader: Reader, blocks: Iterator[Samples], name: str, resampler: str
) -> tuple[Waveform, Header]:
    header = reader.header
    mono = _alive(_downmixed(blocks, header.num_channels), name)
    if header.sample_rate == SAMPLE_RATE:
        parts = list(mono)
    elif resampler == "soxr_hq":
        parts = list(_resampled(mono, header.sample_rate))
    else:
        parts = [_resample_torchaudio(np.concatenate(list(mono)), header.sample_rate)]
    waveform = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if len(waveform) < MIN_SAMPLES:
        raise AudioError(
            "too_short", name, f"{len(waveform)} samples at {SAMPLE_RATE} Hz; {MIN_SAMPLES} are needed"
        )
    peak = max(float(waveform.max()), -float(waveform.min()))
    if not np.isfinite(peak):
        raise AudioError("not_finite", name, "beyond float32 after resampling")
    if peak > 1:
        waveform = waveform / np.float32(peak)
    return waveform, header


def _downmixed(blocks: Iterator[Samples], num_channels: int) -> Iterator[Waveform]:
    share = np.float32(1 / num_channels)
    for block in blocks:
        if num_channels == 1:
            yield block[:, 0]
            continue
        # Channel by channel: the product with a vector depends on the processor and on the size of the block in its
        # last bit, and numpy's mean over the short axis is five times slower.
        with np.errstate(all="ignore"):  # a sum beyond float32 becomes an infinity, which is found below
            mono = block[:, 0] + block[:, 1]
            for channel in range(2, num_channels):
                mono += block[:, channel]
            mono *= share
        yield mono


def _alive(blocks: Iterator[Waveform], name: str) -> Iterator[Waveform]:
    """Pass finite blocks on; at the end refuse audio that never moved by a step of PCM16."""
    lowest, highest = np.inf, -np.inf
    for block in blocks:
        low, high = float(block.min()), float(block.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise AudioError("not_finite", name, "NaN or infinity among the samples")
        lowest, highest = min(lowest, low), max(highest, high)
        yield block
    if highest - lowest < 1 / _PCM_SCALE:
        raise AudioError("silent", name, f"all samples lie within {max(highest - lowest, 0):.1e}")


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
