"""Find the audio of a file in its bytes, by the rules of its container."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

from pipeline.data.audio.containers.ac3 import locate_ac3
from pipeline.data.audio.containers.adts import locate_adts
from pipeline.data.audio.containers.amr import locate_amr
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.flac_frames import locate_flac
from pipeline.data.audio.containers.mp4 import locate_mp4
from pipeline.data.audio.containers.mpeg import locate_mpeg
from pipeline.data.audio.containers.ogg import locate_ogg
from pipeline.data.audio.containers.recognise import recognise
from pipeline.data.audio.containers.riff import locate_wav
from pipeline.data.audio.containers.tags import audio_span
from pipeline.data.audio.errors import AudioError

Locator = Callable[[BinaryIO, Span, str, bool], Extent]
"""Finds the audio of one container, given file, span, name for messages, and whether all bytes may be read."""

LOCATORS: dict[str, Locator] = {
    "wav": locate_wav,
    "flac": locate_flac,
    "adts": locate_adts,
    "amr": locate_amr,
    "ac3": locate_ac3,
    "eac3": locate_ac3,
    "ogg": locate_ogg,
    "mp3": locate_mpeg,
    "mp4": locate_mp4,
}


def locate(file: BinaryIO, name: str, *, is_whole: bool) -> tuple[str, str, Extent]:
    """Return container and codec of a file, and where its audio is.

    Args:
        file: open for reading, seekable.
        name: file name for error messages.
        is_whole: whether all bytes are at hand, so that they may all be checked; otherwise only the headers and the
            ends are read.

    Raises:
        AudioError: empty, not_audio, truncated, trailing_data, undecodable.
    """
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError("empty", name, "the file has no bytes")
    span = audio_span(file)
    recognised = recognise(file, span)
    if recognised is None:
        file.seek(0)
        raise AudioError("not_audio", name, f"no known audio format begins with {file.read(16)!r}")
    container, codec = recognised
    if container not in LOCATORS:
        return container, codec, Extent(span.begin, span.end, container)
    extent = LOCATORS[container](file, span, name, is_whole)
    return container, extent.codec or codec, extent
