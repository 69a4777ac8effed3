"""Recognise audio files by name or content, and check their structure without a decoder.

The checks count what decoders only guess: libsndfile silently shortens a truncated wav, and estimates the length of an
mp3 without a table of contents from its first frames.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from pathlib import PurePosixPath
from typing import BinaryIO

AUDIO_SUFFIXES = frozenset(
    {
        *(".wav", ".wave", ".flac"),
        *(".ogg", ".oga", ".opus"),
        *(".mp3", ".mp2", ".mpga"),
        *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac"),
        *(".wma", ".asf"),
        *(".webm", ".weba", ".mka", ".mkv"),
        *(".aiff", ".aif", ".sph"),  # not decoded yet: such files are listed, then rejected as `not_audio`
    }
)
"""File name suffixes, in lower case, that are taken to be audio."""

_ASF_GUID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_STREAMING_SIZE = 0x7FFFF000  # a writer to a pipe states a size of 0, or one from here upwards
_MPEG_SEARCH = 4096
_LONGEST_OGG_PAGE = 65_307

# Indexed by bits of the frame header: version (0: MPEG 2.5, 2: MPEG 2, 3: MPEG 1) and layer (1: III, 2: II, 3: I).
_MPEG_RATES = {0: (11025, 12000, 8000), 2: (22050, 24000, 16000), 3: (44100, 48000, 32000)}
_MPEG1_KBITS = {
    3: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_MPEG2_KBITS = {
    3: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    1: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def is_audio_name(path: str) -> bool:
    """Whether a file name has an audio suffix."""
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES


def recognise(file: BinaryIO) -> tuple[str, str] | None:
    """Return container and codec of a file by its first bytes; None if the format is not supported.

    The codec is "" for mp4, asf and matroska: only their decoder can tell.
    """
    begin = _after_id3(file)
    file.seek(begin)
    head = file.read(64)
    recognised = _recognise_magic(head)
    if recognised is not None:
        return recognised
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "adts", "aac"  # MPEG layer 0: AAC frames without a container
    file.seek(begin)
    if _find_mpeg_frame(file.read(_MPEG_SEARCH)) is not None:
        return "mp3", "mp3"
    return None


def _recognise_magic(head: bytes) -> tuple[str, str] | None:
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav", "pcm"
    if head[:4] == b"fLaC":
        return "flac", "flac"
    if head[:4] == b"OggS":
        return "ogg", "opus" if b"OpusHead" in head else "flac" if b"FLAC" in head else "vorbis"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mp4", ""
    if head[:16] == _ASF_GUID:
        return "asf", ""
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska", ""
    return None


def _after_id3(file: BinaryIO) -> int:
    """Return the offset of the audio after any ID3v2 tags, which can precede flac and mp3."""
    begin = 0
    while True:
        file.seek(begin)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            return begin
        size = (tag[6] & 127) << 21 | (tag[7] & 127) << 14 | (tag[8] & 127) << 7 | (tag[9] & 127)
        begin += 10 + size + (10 if tag[5] & 0x10 else 0)


def missing_riff_bytes(file: BinaryIO) -> int:
    """Return how many bytes of samples a wav file lacks; 0 for complete files and for piped ones."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    position, wide = 12, None
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        position += 8
        if name == b"ds64" and length >= 16:
            wide = struct.unpack("<8xQ", file.read(16))[0]
        if name == b"data":
            if length == 0xFFFFFFFF and wide is not None:
                length = wide
            elif length == 0 or length >= _STREAMING_SIZE:
                return 0
            return max(position + int(length) - size, 0)
        position += length + length % 2
    return 0


def missing_mp4_bytes(file: BinaryIO) -> int:
    """Return how many bytes the last top-level box of an mp4 file lacks."""
    size = file.seek(0, io.SEEK_END)
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0 means up to the end of the file; other values are invalid
            return 0
        position += length
    return max(position - size, 0)


def ends_ogg_stream(file: BinaryIO) -> bool:
    """Whether an ogg file ends in a complete page with the end-of-stream flag, which every encoder sets."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 2 * _LONGEST_OGG_PAGE, 0))
    tail = file.read()
    begin = tail.rfind(b"OggS\x00")
    if begin < 0 or begin + 27 > len(tail):
        return False
    num_segments = tail[begin + 26]
    segments = tail[begin + 27 : begin + 27 + num_segments]
    return bool(tail[begin + 5] & 4) and begin + 27 + num_segments + sum(segments) <= len(tail)


def mpeg_num_samples(data: bytes) -> int:
    """Count the samples of an mp3 file frame by frame; a table of contents counts as a frame."""
    begin = _find_mpeg_frame(data, _after_id3(io.BytesIO(data)))
    total = 0
    while begin is not None:
        frame = _mpeg_frame(data[begin : begin + 3])
        if frame is None:
            begin = _find_mpeg_frame(data, begin + 1)
            continue
        total += frame[1]
        begin += frame[0]
    return total


def has_mpeg_contents(file: BinaryIO) -> bool:
    """Whether the first frame of an mp3 is a table of contents (Xing, Info or VBRI), which states the length."""
    file.seek(_after_id3(file))
    head = file.read(_MPEG_SEARCH)
    begin = _find_mpeg_frame(head)
    return begin is not None and any(mark in head[begin : begin + 64] for mark in (b"Xing", b"Info", b"VBRI"))


def _find_mpeg_frame(data: bytes, begin: int = 0) -> int | None:
    """Return the offset of the first MPEG audio frame that another one follows.

    A frame at `begin` is accepted without a follower if it reaches the end of `data`.
    """
    position = begin
    while (position := data.find(b"\xff", position)) >= 0:
        frame = _mpeg_frame(data[position : position + 3])
        if frame is not None:
            follower = position + frame[0]
            is_last = position == begin and follower >= len(data)
            if is_last or _mpeg_frame(data[follower : follower + 3]) is not None:
                return position
        position += 1
    return None


@lru_cache(maxsize=1024)  # a file has tens of frames per second, but only about ten different headers
def _mpeg_frame(header: bytes) -> tuple[int, int] | None:
    """Return bytes and samples of the MPEG audio frame with this 3-byte header; None if the header is invalid."""
    if len(header) < 3 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbits_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 0 or rate_index == 3 or kbits_index in (0, 15):
        return None
    rate = _MPEG_RATES[version][rate_index]
    bits = 1000 * (_MPEG1_KBITS if version == 3 else _MPEG2_KBITS)[layer][kbits_index]
    if layer == 3:
        return (12 * bits // rate + padding) * 4, 384
    num_samples = 576 if layer == 1 and version != 3 else 1152
    return num_samples // 8 * bits // rate + padding, num_samples
