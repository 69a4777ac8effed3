"""The structure of AAC without a container (ADTS): frames, each with its length in its header."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.frames import (
    Frame,
    Syntax,
    find_frames,
    refuse_partial_frame,
    walk,
)

_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_BLOCK_SAMPLES = 1024
_SHORTEST_FRAME = 7


def locate_adts(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the frames of an AAC file, and count their samples if the file is whole.

    Raises:
        AudioError: truncated: a frame is cut or missing. undecodable: no frames, or frames of several kinds.
    """
    if not is_whole:
        return Extent(span.begin, span.end, "adts", "aac")
    row = walk(file, span, ADTS, name)
    file.seek(0)
    refuse_partial_frame(file.read(span.end), row, name)
    # HE-AAC does not show here: its frames hold twice as many samples at twice the rate.
    rate = int(row.kind.split()[0])
    return Extent(row.begin, row.end, "adts", "aac", num_samples=row.num_samples, rate=rate)


def is_adts(head: bytes, most_junk: int) -> bool:
    """Whether the first bytes of a file are frames of AAC, after so much junk at most."""
    return find_frames(head, ADTS, 0, most_junk + 1) is not None


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> Frame | None:
    if len(header) < _SHORTEST_FRAME or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return None
    rate_index, channels = header[2] >> 2 & 15, (header[2] & 1) << 2 | header[3] >> 6
    num_bytes = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    num_blocks = (header[6] & 3) + 1
    if rate_index >= len(_RATES) or num_bytes < _SHORTEST_FRAME:
        return None
    return Frame(
        num_bytes, num_blocks * _BLOCK_SAMPLES, f"{_RATES[rate_index]} Hz, channel layout {channels}"
    )


ADTS = Syntax(re.compile(rb"\xff[\xf0\xf1\xf8\xf9]", re.DOTALL), _SHORTEST_FRAME, _parse)
"""Headers of ADTS frames."""
