"""Three decoders behind one interface: libsndfile, FFmpeg in process through PyAV, and dr_flac for whole FLAC files.

All decode from front to back and never seek, because a seek changes what some decoders return: they yield float32
blocks [num_samples, num_channels] and provide a `Header`. Errors that their libraries raise about a file become an
`AudioError`; I/O errors of the storage pass through unchanged.
"""

from __future__ import annotations

import io
from typing import BinaryIO

from pipeline.data.audio import dr_flac, ffmpeg, sndfile
from pipeline.data.audio.reader import Reader


def decoders(container: str, *, length_shows_damage: bool) -> tuple[str, ...]:
    """Return the decoders of a container, the preferred one first.

    Args:
        container: container of the file.
        length_shows_damage: whether the file is in memory and decoded to its end, and any damage would make it shorter;
            only then dr_flac, which passes over damaged frames, can be relied on.
    """
    is_known = {
        "dr_flac": length_shows_damage and container in dr_flac.CONTAINERS,
        "libsndfile": container in sndfile.CONTAINERS,
        "ffmpeg": container in ffmpeg.DEMUXERS,
    }
    return tuple(decoder for decoder, known in is_known.items() if known)


def open_reader(decoder: str, source: BinaryIO, name: str, container: str, codec: str) -> Reader:
    """Open an audio file with one of its `decoders`.

    Args:
        decoder: one of `decoders(container)`.
        source: the file, or the part of it that the decoder is given; for dr_flac in memory.
        name: file name for error messages.
        container: container of the source.
        codec: codec of the source; empty if only the decoder can tell.

    Raises:
        AudioError: not_audio, undecodable, absurd_rate, truncated.
    """
    if decoder == "dr_flac":
        assert isinstance(source, io.BytesIO)
        return dr_flac.DrFlacReader(source, name)
    if decoder == "libsndfile":
        return sndfile.SndfileReader(source, name, container, codec)
    return ffmpeg.FfmpegReader(source, name, container)
