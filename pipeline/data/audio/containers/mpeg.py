"""The structure of MPEG audio (mp1, mp2, mp3): frames, each with its length in its header."""

from __future__ import annotations

from functools import lru_cache
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span

_MPEG_SEARCH = 4096

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


def locate_mpeg(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:  # noqa: ARG001
    """Find the frames of an MPEG audio file, and count their samples if the file is whole."""
    num_samples = None
    if is_whole:
        file.seek(span.begin)
        num_samples = _count_samples(file.read(span.end - span.begin))
    return Extent(span.begin, span.end, "mp3", num_samples=num_samples, tolerance=4800)


def _count_samples(data: bytes) -> int:
    """Count the samples of an mp3 file frame by frame; a table of contents counts as a frame."""
    begin = find_mpeg_frame(data)
    total = 0
    while begin is not None:
        frame = _mpeg_frame(data[begin : begin + 3])
        if frame is None:
            begin = find_mpeg_frame(data, begin + 1)
            continue
        total += frame[1]
        begin += frame[0]
    return total


def find_mpeg_frame(data: bytes, begin: int = 0) -> int | None:
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
