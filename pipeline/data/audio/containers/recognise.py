"""Recognise the container of a file by its first bytes; the name never counts."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.ac3 import is_ac3
from pipeline.data.audio.containers.adts import is_adts
from pipeline.data.audio.containers.extent import Span
from pipeline.data.audio.containers.mpeg import NUM_HEAD_BYTES, has_mpeg_frame
from pipeline.data.audio.containers.mpeg_system import transport_packet
from pipeline.data.audio.containers.tolerances import LEADING_JUNK_BYTES

_RIFF_KINDS = {b"WAVE": "wav", b"AVI ": "avi", b"XWMA": "xwma"}
_IFF_KINDS = {b"AIFF": "aiff", b"AIFC": "aiff", b"8SVX": "svx", b"16SV": "svx"}
_MP4_BOXES = frozenset(b"ftyp moov mdat wide free skip pnot styp moof uuid".split())
_MAGIC = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"\x1a\x45\xdf\xa3": "matroska",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"): "asf",
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
    b"#!AMR\n": "amr",
    b"#!AMR-WB\n": "amr",
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
"""First bytes of a container; further ones have a mark behind a length, or only frames."""


def recognise(file: BinaryIO, span: Span) -> str | None:
    """Return the container of a file; None if the format is not supported."""
    file.seek(span.begin)
    head = file.read(64)
    container = _recognise_magic(head)
    if container is not None:
        return container
    file.seek(span.begin)
    head = file.read(NUM_HEAD_BYTES)
    if transport_packet(head[:1024]) is not None:
        return "ts"
    for most_junk in (0, LEADING_JUNK_BYTES):
        if is_adts(head, most_junk):
            return "adts"
        if is_ac3(head, most_junk):
            return "ac3"
        if has_mpeg_frame(head, most_junk):
            return "mp3"
    return None


def _recognise_magic(head: bytes) -> str | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX"):
        return _RIFF_KINDS.get(head[8:12])
    if head[:4] == b"FORM":
        return _IFF_KINDS.get(head[8:12])
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    return next((container for magic, container in _MAGIC.items() if head.startswith(magic)), None)
