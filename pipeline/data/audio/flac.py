"""The FLAC stored in shards: 16 kHz mono PCM16, encoded from a waveform and decoded to PCM16 or to a waveform.

Imports neither FFmpeg nor the resampler, so that a loader worker starts quickly.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.waveform import MAX_SECONDS, PCM16_SCALE, SAMPLE_RATE, Pcm, Waveform

_NAME = "flac in a shard"


def quantise(waveform: Waveform) -> Pcm:
    """Convert a waveform to PCM16: round half to even, saturate beyond ±1."""
    scaled = waveform * np.float32(PCM16_SCALE)
    np.rint(scaled, out=scaled)
    pcm: Pcm = np.clip(scaled, -PCM16_SCALE, PCM16_SCALE - 1, out=scaled).astype(np.int16)
    return pcm


def encode_flac(pcm: Pcm) -> bytes:
    """Encode 16 kHz mono PCM16 as FLAC; equal samples give equal bytes.

    Args:
        pcm: [num_samples], contiguous.
    """
    assert pcm.dtype == np.int16 and pcm.ndim == 1
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as sound:
        sound.buffer_write(pcm, "int16")  # 8 % faster than `write`
    return file.getvalue()


def decode_flac(
    data: bytes | BinaryIO, *, start: int = 0, end: int | None = None, out: Waveform | None = None
) -> Waveform:
    """Decode the FLAC of one utterance to a float waveform, or only its samples from `start` up to `end`.

    Only the frames of the segment are decoded.

    Args:
        data: FLAC written by `encode_flac`; of a seekable file, only what the segment needs is read.
        start: first sample.
        end: one past the last sample; None: the end of the audio.
        out: [≥ num_samples] buffer to decode into. If it is long enough, the result is a view of its beginning,
            which saves the first touch of new memory (a fifth of the decoding time).

    Raises:
        AudioError: undecodable, truncated, too_long.
    """
    waveform: Waveform = _decode(data, start, end, out, np.float32)
    return waveform


def decode_pcm(data: bytes) -> Pcm:
    """Decode the FLAC of one utterance to the PCM16 that was encoded, without a detour through floats.

    Raises:
        AudioError: undecodable, truncated, too_long.
    """
    pcm: Pcm = _decode(data, 0, None, None, np.int16)
    return pcm


def pcm_digest(pcm: Pcm) -> str:
    """SHA-256 of PCM16 as little-endian bytes; equal for equal audio, independent of the FLAC encoder."""
    return hashlib.sha256(pcm.astype("<i2", copy=False).data).hexdigest()


def _decode(
    data: bytes | BinaryIO, start: int, end: int | None, out: NDArray[Any] | None, dtype: type[np.generic]
) -> NDArray[Any]:
    try:
        with soundfile.SoundFile(io.BytesIO(data) if isinstance(data, bytes) else data) as sound:
            wanted = (sound.frames if end is None else end) - start
            # A damaged header can state any length; allocating for it could exhaust the memory.
            if wanted > MAX_SECONDS * SAMPLE_RATE:
                raise AudioError("too_long", _NAME, f"{wanted} samples")
            if start:
                sound.seek(start)
            if out is None or len(out) < wanted:
                out = np.empty(wanted, dtype)
            samples: NDArray[Any] = sound.read(out=out[:wanted])
    except soundfile.SoundFileError as error:
        raise AudioError("undecodable", _NAME, str(error)) from error
    if len(samples) != wanted:
        raise AudioError("truncated", _NAME, f"{len(samples)} of {wanted} samples")
    return samples
