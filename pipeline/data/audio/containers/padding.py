"""Zero bytes behind the last element of a file: padding of block devices, downloads and recorders."""

from __future__ import annotations

from typing import BinaryIO

_CHUNK_BYTES = 1 << 16


def is_padding(file: BinaryIO, begin: int, end: int) -> bool:
    """Whether all bytes of a file between two positions are zero; true if there are none."""
    file.seek(begin)
    while begin < end:
        chunk = file.read(min(_CHUNK_BYTES, end - begin))
        if not chunk or chunk.count(0) < len(chunk):
            return False
        begin += len(chunk)
    return True
