"""Find the audio of a file in its bytes, by the rules of its container."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from pipeline.data.audio.containers.ac3 import locate_ac3
from pipeline.data.audio.containers.adts import locate_adts
from pipeline.data.audio.containers.amr import locate_amr
from pipeline.data.audio.containers.asf import locate_asf
from pipeline.data.audio.containers.avi import locate_avi
from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.flac_frames import locate_flac
from pipeline.data.audio.containers.flv import locate_flv
from pipeline.data.audio.containers.iff import locate_aiff, locate_caf, locate_svx
from pipeline.data.audio.containers.lossless import (
    locate_ape,
    locate_dsf,
    locate_mpc8,
    locate_qoa,
    locate_tta,
    locate_wavpack,
)
from pipeline.data.audio.containers.matroska import locate_matroska
from pipeline.data.audio.containers.mp4 import locate_mp4
from pipeline.data.audio.containers.mpeg import locate_mpeg
from pipeline.data.audio.containers.mpeg_system import locate_ps, locate_ts
from pipeline.data.audio.containers.ogg import locate_ogg
from pipeline.data.audio.containers.pcm_headers import HEADED, locate_headed, locate_voc
from pipeline.data.audio.containers.realmedia import locate_realmedia
from pipeline.data.audio.containers.recognise import recognise
from pipeline.data.audio.containers.riff import locate_w64, locate_wav
from pipeline.data.audio.containers.tags import audio_span
from pipeline.data.audio.errors import AudioError

Locator = Callable[[BinaryIO, Span, str, bool], Extent]
"""Finds the audio of one container, given file, span, name for messages, and whether all bytes may be read."""

LOCATORS: dict[str, Locator] = {
    "wav": locate_wav,
    "w64": locate_w64,
    "aiff": locate_aiff,
    "caf": locate_caf,
    "svx": locate_svx,
    "voc": locate_voc,
    **{container: partial(locate_headed, container) for container in HEADED},
    "flac": locate_flac,
    "adts": locate_adts,
    "amr": locate_amr,
    "ac3": locate_ac3,
    "eac3": locate_ac3,
    "ogg": locate_ogg,
    "mp3": locate_mpeg,
    "mp4": locate_mp4,
    "matroska": locate_matroska,
    "asf": locate_asf,
    "avi": locate_avi,
    "flv": locate_flv,
    "ts": locate_ts,
    "ps": locate_ps,
    "rm": locate_realmedia,
    "wavpack": locate_wavpack,
    "tta": locate_tta,
    "ape": locate_ape,
    "dsf": locate_dsf,
    "qoa": locate_qoa,
    "mpc8": locate_mpc8,
}


def locate(file: BinaryIO, name: str, *, is_whole: bool) -> tuple[str, Extent]:
    """Return the container of a file, and where its audio is.

    Args:
        file: open for reading, seekable.
        name: file name for error messages.
        is_whole: whether all bytes are at hand, so that they may all be checked; otherwise only the headers and the
            ends are read.

    Raises:
        AudioError: empty, not_audio, truncated, trailing_data, undecodable.
    """
    container, span = recognise_or_refuse(file, name)
    if container not in LOCATORS:
        return container, Extent(span.begin, span.end, container)
    return container, LOCATORS[container](file, span, name, is_whole)


def recognise_or_refuse(file: BinaryIO, name: str) -> tuple[str, Span]:
    """Return the container of a file, and the bytes between its tags; reads little more than its first bytes.

    Raises:
        AudioError: empty, not_audio.
    """
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError("empty", name, "the file has no bytes")
    span = audio_span(file)
    container = recognise(file, span)
    if container is None:
        file.seek(0)
        raise AudioError("not_audio", name, f"no known audio format begins with {file.read(16)!r}")
    return container, span
