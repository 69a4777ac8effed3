"""Zero bytes behind the last element of a file: padding of block devices, downloads and recorders."""

from __future__ import annotations

from typing import BinaryIO

_CHUNK_BYTES = 1 << 16


def is_padding(file: BinaryIO, begin: int, end: int, *, is_whole: bool) -> bool:
    """Whether a part of a file is all zeros; if not the whole file is at hand, the ends of the part count."""
    file.seek(begin)
    while begin < end:
        chunk = file.read(min(_CHUNK_BYTES, end - begin))
        if not chunk or chunk.count(0) < len(chunk):
            return False
        begin += len(chunk)
        if not is_whole and end - begin > _CHUNK_BYTES:
            begin = file.seek(end - _CHUNK_BYTES)
    return True
