"""The structure of wav files: RIFF, RF64 and RIFX."""

from __future__ import annotations

import struct
from typing import BinaryIO

from pipeline.data.audio.containers.extent import Extent, Span
from pipeline.data.audio.errors import AudioError

_STREAMING_SIZE = 0x7FFFF000  # a writer to a pipe states a size of 0, or one from here upwards


def locate_wav(file: BinaryIO, span: Span, name: str, is_whole: bool) -> Extent:  # noqa: ARG001
    """Find the samples of a wav file.

    Raises:
        AudioError: truncated.
    """
    missing = _missing_bytes(file, span.end)
    if missing:
        raise AudioError("truncated", name, f"{missing} bytes are missing")
    return Extent(span.begin, span.end, "wav")


def _missing_bytes(file: BinaryIO, size: int) -> int:
    """Return how many bytes of samples a wav file lacks; 0 for complete files and for piped ones."""
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
