"""Two decoders behind one interface: libsndfile, and FFmpeg in process through PyAV.

Both decode from front to back and never seek, because a seek changes what some decoders return: they yield float32
blocks [num_samples, num_channels] and provide a `Header`. Errors that their libraries raise about a file become an
`AudioError`; I/O errors of the storage pass through unchanged.
"""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio import ffmpeg, sndfile
from pipeline.data.audio.reader import Reader


def decoders(container: str) -> tuple[str, ...]:
    """Return the decoders of a container, the preferred one first."""
    has_sndfile, has_ffmpeg = container in sndfile.CONTAINERS, container in ffmpeg.DEMUXERS
    return ("libsndfile",) * has_sndfile + ("ffmpeg",) * has_ffmpeg


def open_reader(decoder: str, source: BinaryIO, name: str, container: str, codec: str) -> Reader:
    """Open an audio file with one of its `decoders`.

    Args:
        decoder: one of `decoders(container)`.
        source: the file, or the part of it that the decoder is given.
        name: file name for error messages.
        container: container of the source.
        codec: codec of the source; empty if only the decoder can tell.

    Raises:
        AudioError: not_audio, undecodable, absurd_rate.
    """
    if decoder == "libsndfile":
        return sndfile.SndfileReader(source, name, container, codec)
    return ffmpeg.FfmpegReader(source, name, container)
