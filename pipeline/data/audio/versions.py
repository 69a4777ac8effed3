"""The versions of everything that can change the samples or bytes that are stored."""

from __future__ import annotations

import av
import soundfile
import soxr

from pipeline.data.audio import dr_flac

POLICY = "2"
"""Version of the conversion to waveforms; raised when the same file would give different samples."""


def codec_versions() -> dict[str, str]:
    """Return the versions of everything that can change decoded samples or stored bytes."""
    ffmpeg = av.library_versions
    return {
        "policy": POLICY,
        "miniaudio": dr_flac.VERSION,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__libsoxr_version__,
        "libavcodec": ".".join(map(str, ffmpeg["libavcodec"])),
        "libavformat": ".".join(map(str, ffmpeg["libavformat"])),
    }
