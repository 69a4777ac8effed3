"""The structure of AMR files (RFC 4867, section 5): a magic, then frames whose first byte tells their length."""

from __future__ import annotations

from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError

_FRAME_S = 0.02
_NO_FRAME = 0
# Bytes of a frame by its type, 0 for types that are not defined: speech modes, silence descriptors, lost, no data.
_NARROW = (
    13,
    14,
    16,
    18,
    20,
    21,
    27,
    32,
    6,
    _NO_FRAME,
    _NO_FRAME,
    _NO_FRAME,
    _NO_FRAME,
    _NO_FRAME,
    _NO_FRAME,
    1,
)
_WIDE = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, _NO_FRAME, _NO_FRAME, _NO_FRAME, _NO_FRAME, 1, 1)
_PADDING_BITS, _IS_GOOD = 0x83, 0x04

MAGICS = {b"#!AMR\n": ("amr_nb", 8000, _NARROW), b"#!AMR-WB\n": ("amr_wb", 16000, _WIDE)}
"""Codec, sample rate and frame sizes by the first bytes of a file."""


def locate_amr(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:
    """Walk the frames of an AMR file if it is whole, and count their samples.

    Raises:
        AudioError: truncated: the last frame is cut. undecodable: bytes that are no frame. trailing_data: another file
            follows.
    """
    file.seek(0)
    data = file.read(span.end if is_whole else span.begin + 16)
    magic = next(magic for magic in MAGICS if data.startswith(magic, span.begin))
    codec, rate, sizes = MAGICS[magic]
    if not is_whole:
        return Extent(span.begin, span.end, "amr", codec)
    position, num_frames = span.begin + len(magic), 0
    content = len(data.rstrip(b"\0"))
    while position < len(data):
        first = data[position]
        size = sizes[first >> 3 & 15]
        if first & _PADDING_BITS or size == _NO_FRAME or (size > 1 and not first & _IS_GOOD):
            if position >= content:  # padding
                break
            _raise_no_frame(data, position, name)
        if position + size > len(data):
            missing = position + size - len(data)
            raise AudioError("truncated", name, f"the last frame lacks {missing} of {size} bytes")
        position += size
        num_frames += 1
    num_samples = round(num_frames * _FRAME_S * rate)
    return Extent(span.begin, position, "amr", codec, num_samples=num_samples)


def _raise_no_frame(data: bytes, position: int, name: str) -> None:
    if data.startswith(tuple(MAGICS), position):
        raise AudioError("trailing_data", name, f"another AMR file begins at byte {position}")
    raise AudioError("undecodable", name, f"no frame at byte {position}")
