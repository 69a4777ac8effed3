"""Which file names are taken to be audio."""

from __future__ import annotations

from pathlib import PurePosixPath

AUDIO_SUFFIXES = frozenset(
    {
        *(".wav", ".wave", ".flac"),
        *(".ogg", ".oga", ".opus"),
        *(".mp3", ".mp2", ".mpga"),
        *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".3g2", ".aac"),
        *(
            ".wma",
            ".asf",
            ".wmv",
            ".avi",
            ".flv",
            ".f4v",
            ".m2ts",
            ".mts",
            ".mpg",
            ".mpeg",
            ".vob",
            ".rm",
            ".ra",
        ),
        *(".wv", ".tta", ".ape", ".tak", ".mpc", ".dsf", ".qoa"),
        *(".webm", ".weba", ".mka", ".mkv"),
        *(".aiff", ".aif", ".sph"),
    }
)
"""File name suffixes, in lower case, that are taken to be audio."""


def is_audio_name(path: str) -> bool:
    """Whether a file name has an audio suffix."""
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES
