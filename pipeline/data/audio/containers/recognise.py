"""Recognise container and codec of a file by its first bytes; the name never counts."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.mpeg import find_mpeg_frame
from pipeline.data.audio.containers.mpeg_system import transport_packet

_ASF_GUID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MP4_BOXES = frozenset(b"ftyp moov mdat wide free skip pnot styp moof uuid".split())
_RIFF_KINDS = {b"AVI ": "avi", b"XWMA": "xwma"}
_MAGIC = {
    _ASF_GUID: "asf",
    b"\x1a\x45\xdf\xa3": "matroska",
    b"FLV\x01": "flv",
    b"\0\0\1\xba": "ps",
    b".RMF": "rm",
    b"wvpk": "wavpack",
    b"TTA1": "tta",
    b"MAC ": "ape",
    b"tBaK": "tak",
    b"MP+": "mpc",
    b"MPCK": "mpc8",
    b"DSD ": "dsf",
    b"qoaf": "qoa",
}
_MPEG_SEARCH = 4096
_IFF_FORMS = {b"AIFF": "aiff", b"AIFC": "aiff", b"8SVX": "svx", b"16SV": "svx"}
_PCM_MAGIC = {
    bytes.fromhex("726966662e91cf11a5d628db04c10000"): "w64",
    b".snd\0": "au",
    b"dns.": "au",
    b"caff\0": "caf",
    b"NIST_1A\n": "nist",
    b"Creative Voice File\x1a": "voc",
    b"2BIT": "avr",
    b" paf\0": "paf",
    b"fap ": "paf",
    b"PVF1\n": "pvf",
    b"ALawSoundFile**\0": "wve",
    **{bytes([0x64, 0xA3, machine, 0]): "ircam" for machine in range(1, 5)},
    **{bytes([0, machine, 0xA3, 0x64]): "ircam" for machine in range(1, 5)},
}
"""First bytes of files that are samples with one header or a row of chunks, and their container."""


def recognise(file: BinaryIO, span: Span) -> tuple[str, str] | None:
    """Return container and codec of a file; None if the format is not supported.

    The codec is "" for containers whose codec only their decoder can tell.
    """
    file.seek(span.begin)
    head = file.read(64)
    recognised = _recognise_magic(head)
    if recognised is not None:
        return recognised
    if head[:1] == b"\x47" or head[4:5] == b"\x47":
        file.seek(span.begin)
        if transport_packet(file.read(1024)) is not None:
            return "ts", ""
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "adts", "aac"  # MPEG layer 0: AAC frames without a container
    file.seek(span.begin)
    if find_mpeg_frame(file.read(_MPEG_SEARCH)) is not None:
        return "mp3", "mp3"
    return None


def _recognise_magic(head: bytes) -> tuple[str, str] | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav", ""
    if head[:4] == b"FORM" and head[8:12] in _IFF_FORMS:
        return _IFF_FORMS[head[8:12]], ""
    for magic, container in _PCM_MAGIC.items():
        if head.startswith(magic):
            return container, ""
    if head[:4] == b"fLaC":
        return "flac", "flac"
    if head[:4] == b"OggS":
        return "ogg", "opus" if b"OpusHead" in head else "flac" if b"FLAC" in head else "vorbis"
    if head[4:8] in _MP4_BOXES:
        return "mp4", ""
    if head[:4] == b"RIFF" and head[8:12] in _RIFF_KINDS:
        return _RIFF_KINDS[head[8:12]], ""
    return next(((container, "") for magic, container in _MAGIC.items() if head.startswith(magic)), None)
