"""The structure of AC-3 and E-AC-3 without a container: frames, each with its length in its header.

The checksums of the frames are verified by the decoder.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.containers.frames import (
    Frame,
    Syntax,
    find_frames,
    first_frame,
    refuse_partial_frame,
    walk,
)
from pipeline.data.audio.containers.tolerances import LEADING_JUNK_BYTES
from pipeline.data.audio.errors import AudioError

_RATES = (48000, 44100, 32000)
_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_BLOCK_SAMPLES, _FRAME_BLOCKS = 256, 6
_LAST_AC3, _LAST_EAC3 = 10, 16  # versions of the bit stream


def locate_ac3(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Find the frames of an AC-3 or E-AC-3 file, and count their samples if the file is whole.

    Raises:
        AudioError: truncated: a frame is cut or missing. undecodable: no frames, or frames of several kinds.
    """
    file.seek(span.begin)
    head = file.read(2 * LEADING_JUNK_BYTES)
    begin = first_frame(head, AC3, 0)
    if begin is None:
        raise AudioError(
            "undecodable", name, f"no frame in the first {LEADING_JUNK_BYTES} bytes of the audio"
        )
    container = "eac3" if head[begin + 5] >> 3 > _LAST_AC3 else "ac3"
    if not is_whole:
        return Extent(span.begin + begin, span.end, container, container)
    row = walk(file, span, AC3, name)
    file.seek(0)
    refuse_partial_frame(file.read(span.end), row, name)
    return Extent(row.begin, row.end, container, container, num_samples=row.num_samples)


def is_ac3(head: bytes, most_junk: int) -> bool:
    """Whether the first bytes of a file are frames of AC-3 or E-AC-3, after so much junk at most."""
    return find_frames(head, AC3, 0, most_junk + 1) is not None


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> Frame | None:
    if len(header) < 7 or header[:2] != b"\x0b\x77":
        return None
    version = header[5] >> 3
    if version <= _LAST_AC3:
        return _parse_ac3(header, version)
    return _parse_eac3(header) if version <= _LAST_EAC3 else None


def _parse_ac3(header: bytes, version: int) -> Frame | None:
    rate_code, size_code = header[4] >> 6, header[4] & 63
    if rate_code == 3 or size_code >= 2 * len(_KBITS):
        return None
    rate, kbits = _RATES[rate_code], _KBITS[size_code // 2]
    num_words = 96_000 * kbits // rate + (size_code % 2 if rate == 44100 else 0)
    kind = f"AC-3, {rate >> max(version - 8, 0)} Hz, channel layout {header[6] >> 5}"
    return Frame(2 * num_words, _FRAME_BLOCKS * _BLOCK_SAMPLES, kind)


def _parse_eac3(header: bytes) -> Frame | None:
    is_dependent, substream = header[2] >> 6 == 1, header[2] >> 3 & 7
    num_bytes = 2 * (((header[2] & 7) << 8 | header[3]) + 1)
    rate_code, blocks_code = header[4] >> 6, header[4] >> 4 & 3
    if rate_code == 3 and blocks_code == 3:
        return None
    num_blocks = _FRAME_BLOCKS if rate_code == 3 else (1, 2, 3, _FRAME_BLOCKS)[blocks_code]
    rate = _RATES[blocks_code] // 2 if rate_code == 3 else _RATES[rate_code]
    is_main = not is_dependent and substream == 0  # other frames add channels or programmes at the same time
    return Frame(num_bytes, num_blocks * _BLOCK_SAMPLES if is_main else 0, f"E-AC-3, {rate} Hz")


AC3 = Syntax(re.compile(rb"\x0b\x77", re.DOTALL), 7, _parse)
"""Headers of AC-3 and E-AC-3 frames."""
