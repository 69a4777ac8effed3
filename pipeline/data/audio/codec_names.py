"""How codecs are named, whichever decoder reads the file.

In the containers of `PCM_CONTAINERS` a codec has libsndfile's name (a subtype, such as `pcm_16`), elsewhere FFmpeg's.
Encodings are spelled as in AntiDeepfake protocols.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PCM_CONTAINERS = frozenset(
    {"wav", "w64", "aiff", "caf", "au", "nist", "voc", "ircam", "svx", "avr", "paf", "pvf", "wve"}
)
"""Containers that libsndfile knows for PCM and its like."""

LOSSLESS = PCM_CONTAINERS | {"flac"}
"""Containers whose stated length is exact, and whose samples are the same from every correct decoder."""

_SUBTYPES: dict[str, tuple[str, int | None]] = {
    "PCM_S8": ("PCM_S", 8),
    "PCM_16": ("PCM_S", 16),
    "PCM_24": ("PCM_S", 24),
    "PCM_32": ("PCM_S", 32),
    "PCM_U8": ("PCM_U", 8),
    "FLOAT": ("PCM_F", 32),
    "DOUBLE": ("PCM_F", 64),
    "ULAW": ("ULAW", 8),
    "ALAW": ("ALAW", 8),
    "IMA_ADPCM": ("IMA_ADPCM", None),
    "MS_ADPCM": ("MS_ADPCM", None),
    "NMS_ADPCM_16": ("NMS_ADPCM", None),
    "NMS_ADPCM_24": ("NMS_ADPCM", None),
    "NMS_ADPCM_32": ("NMS_ADPCM", None),
    "GSM610": ("GSM", None),
    "G721_32": ("G721", None),
    "G723_24": ("G723", None),
    "G723_40": ("G723", None),
    "ALAC_16": ("ALAC", 16),
    "ALAC_20": ("ALAC", 20),
    "ALAC_24": ("ALAC", 24),
    "ALAC_32": ("ALAC", 32),
    "VORBIS": ("VORBIS", None),
    "OPUS": ("OPUS", None),
    "MPEG_LAYER_I": ("MP1", None),
    "MPEG_LAYER_II": ("MP2", None),
    "MPEG_LAYER_III": ("MP3", None),
}
"""Encoding of libsndfile's subtypes, and bits per sample where that is meaningful."""

_FFMPEG_PCM = re.compile(r"pcm_([suf])(\d+)(?:le|be)?(?:_planar)?")
_FFMPEG_SUBTYPES = {
    "pcm_alaw": "ALAW",
    "pcm_mulaw": "ULAW",
    "adpcm_ima_wav": "IMA_ADPCM",
    "adpcm_ima_qt": "IMA_ADPCM",
    "adpcm_ms": "MS_ADPCM",
    "gsm": "GSM610",
    "gsm_ms": "GSM610",
}
"""libsndfile's names of FFmpeg's codecs other than linear PCM."""

_FFMPEG_ENCODINGS = {"pcm_mulaw": ("ULAW", 8), "pcm_alaw": ("ALAW", 8)}

_BITS_IN_EXTRADATA = {"alac": (17, 8, 0xFF, 0), "flac": (12, 4, 0x1F, 1), "tta": (8, 8, 0xFF, 0)}
"""Bits per sample in the headers of lossless codecs: offset of a big-endian 16-bit word, shift, mask, addend."""


class Codec(NamedTuple):
    """The names of a codec."""

    name: str
    encoding: str
    bit_depth: int | None
    """Bits per sample; None for lossy codecs."""


def sndfile_codec(subtype: str, container: str, stated: str) -> Codec:
    """Name the codec that libsndfile reports.

    Args:
        subtype: libsndfile's name.
        container: container of the file.
        stated: the codec according to the structure of the file.
    """
    encoding, bit_depth = _SUBTYPES.get(subtype, ("UNKNOWN", None))
    name = subtype.lower() if container in PCM_CONTAINERS else stated
    return Codec(name, "FLAC" if container == "flac" else encoding, bit_depth)


def ffmpeg_codec(codec: str, container: str, extradata: bytes) -> Codec:
    """Name the codec that FFmpeg reports.

    Args:
        codec: FFmpeg's name of the codec, not that of the decoder, such as mp3float.
        container: container of the file.
        extradata: header of the codec.
    """
    subtype = _subtype(codec) if container in PCM_CONTAINERS else ""
    if subtype:
        return Codec(subtype.lower(), *_SUBTYPES[subtype])
    if pcm := _FFMPEG_PCM.fullmatch(codec):
        return Codec(codec, f"PCM_{pcm[1].upper()}", int(pcm[2]))
    if codec in _BITS_IN_EXTRADATA:
        return Codec(codec, codec.upper(), _bits_in_extradata(codec, extradata))
    return Codec(codec, *_FFMPEG_ENCODINGS.get(codec, (codec.upper(), None)))


def _bits_in_extradata(codec: str, extradata: bytes) -> int | None:
    offset, shift, mask, addend = _BITS_IN_EXTRADATA[codec]
    word = extradata[offset : offset + 2]
    return (int.from_bytes(word, "big") >> shift & mask) + addend if len(word) == 2 else None


def _subtype(codec: str) -> str:
    """Return libsndfile's name of a codec of FFmpeg; empty if libsndfile does not know it."""
    if match := _FFMPEG_PCM.fullmatch(codec):
        kind, bits = match.groups()
        if kind == "f":
            return {"32": "FLOAT", "64": "DOUBLE"}.get(bits, "")
        return f"PCM_{bits}" if int(bits) > 8 else f"PCM_{kind.upper()}8"
    return _FFMPEG_SUBTYPES.get(codec, "")
