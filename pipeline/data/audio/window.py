"""A part of a file as a file of its own, with other bytes in front: what a decoder is given of an audio file."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

from pipeline.data.audio.containers.extent import Extent

PROBED_BYTES = 2**25
"""Most bytes that a decoder may read for the header of a file; FFmpeg would search a huge one to its end."""


def window(file: BinaryIO, extent: Extent) -> BinaryIO:
    """Return the bytes of an extent as a seekable file that starts with its header; shares `file`.

    The file seems to end after `PROBED_BYTES` have been read.
    """
    size = file.seek(0, io.SEEK_END)
    if not extent.header and (extent.begin, extent.end) == (0, size) and size <= PROBED_BYTES:
        return file
    return cast("BinaryIO", io.BufferedReader(_Window(file, extent)))


def window_of_bytes(data: bytes, extent: Extent) -> io.BytesIO:
    """Return the bytes of an extent as a file in memory; a copy only if the extent is not the whole of `data`."""
    if not extent.header and (extent.begin, extent.end) == (0, len(data)):
        return io.BytesIO(data)
    return io.BytesIO(b"".join([extent.header, memoryview(data)[extent.begin : extent.end]]))


class _Window(io.RawIOBase):
    def __init__(self, file: BinaryIO, extent: Extent) -> None:
        self._file, self._extent, self._position = file, extent, 0
        self._num_read = 0
        self._size = len(extent.header) + extent.end - extent.begin

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        header = self._extent.header[self._position : self._position + len(buffer)]
        if header:
            data = header
        elif self._num_read >= PROBED_BYTES:
            data = b""
        else:
            num_bytes = max(min(len(buffer), self._size - self._position), 0)
            self._file.seek(self._extent.begin + self._position - len(self._extent.header))
            data = self._file.read(num_bytes)
        buffer[: len(data)] = data
        self._position += len(data)
        self._num_read += len(data)
        return len(data)
