"""Recognise container and codec of a file by its first bytes; the name never counts."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.ac3 import is_ac3
from pipeline.data.audio.containers.adts import is_adts
from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.frames import MOST_JUNK
from pipeline.data.audio.containers.mpeg import NUM_HEAD_BYTES, has_mpeg_frame

_ASF_GUID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def recognise(file: BinaryIO, span: Span) -> tuple[str, str] | None:
    """Return container and codec of a file; None if the format is not supported.

    The codec is "" for containers whose codec only their decoder can tell.
    """
    file.seek(span.begin)
    head = file.read(64)
    recognised = _recognise_magic(head)
    if recognised is not None:
        return recognised
    file.seek(span.begin)
    head = file.read(NUM_HEAD_BYTES)
    for most_junk in (0, MOST_JUNK):
        if is_adts(head, most_junk):
            return "adts", "aac"
        if is_ac3(head, most_junk):
            return "ac3", ""
        if has_mpeg_frame(head, most_junk):
            return "mp3", ""
    return None


def _recognise_magic(head: bytes) -> tuple[str, str] | None:
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav", "pcm"
    if head[:4] == b"fLaC":
        return "flac", "flac"
    if head[:4] == b"OggS":
        return "ogg", ""
    if head[:6] == b"#!AMR\n" or head[:9] == b"#!AMR-WB\n":
        return "amr", ""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mp4", ""
    if head[:16] == _ASF_GUID:
        return "asf", ""
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska", ""
    return None
