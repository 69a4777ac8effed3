"""What every decoder provides: a header, and blocks of samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.audio.errors import AudioError

MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 384_000

Samples = NDArray[np.float32]
"""[num_samples, num_channels] at the file's own rate, nominally within ±1."""


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


def checked_rate(rate: int, name: str) -> int:
    """Return a sample rate in Hz.

    Raises:
        AudioError: absurd_rate.
    """
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError("absurd_rate", name, f"{rate} Hz")
    return rate


def error_message(error: Exception) -> str:
    """Return what a library says about an error, without number and file name."""
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)
